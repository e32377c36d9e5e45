"""The Gradio app: adapters side by side on one claim, and the runs that made them."""

from typing import Any, TypeAlias

# What an endpoint returns, and an event of `lorahub train --events`.
Json: TypeAlias = dict[str, Any]
