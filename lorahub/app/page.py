"""`Page`: a gr.Blocks that refuses, with a sentence, the files that an endpoint cannot read.

Gradio reads them before it calls the function, and answers what it cannot read with an error without a message.
"""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from lorahub.app import errors
from lorahub.app.uploads import Uploads
from lorahub.errors import ConfigError

_MISSING = "{name}: give a file that was uploaded to this page. It may be deleted already; then upload it again."


class Page(gr.Blocks):  # type: ignore[misc]
    """The page; visitors of a page that `fetches` may also give a file as the address of a public one."""

    fetches = True
    # Set when the page is served.
    files: Uploads | None = None

    def check_room(self) -> None:
        """Raise ConfigError if the files of visitors are as many as may be."""
        if self.files is not None:
            self.files.check_room()

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> Any:
        """Return the arguments of the function; raises gr.Error where there are too few, or a file cannot be read."""
        with errors.shown():
            _check_count(block_fn.inputs, inputs)
            for component, value in zip(block_fn.inputs, inputs, strict=False):
                if isinstance(component, gr.File):
                    self._check_file(str(component.label), value)
            try:
                return await super().preprocess_data(block_fn, inputs, *args, **kwargs)
            except Exception as error:
                files = [str(one.label) for one in block_fn.inputs if isinstance(one, gr.File)]
                if not files or isinstance(error, gr.Error):
                    raise
                raise ConfigError(_MISSING.format(name=files[0])) from None

    def _check_file(self, name: str, value: Any) -> None:
        if value is None:
            return
        if not isinstance(value, dict) or not isinstance(value.get("path"), str):
            raise ConfigError(f"{name} should be an uploaded file: an object with its path.")
        if not self.fetches and any(str(value.get(key)).startswith(("http:", "https:")) for key in ("path", "url")):
            raise ConfigError(f"{name}: this page fetches nothing from other servers. Upload the file.")


def _check_count(components: Sequence[Any], inputs: Sequence[Any]) -> None:
    if len(inputs) < len(components):
        raise ConfigError(f"{len(inputs)} arguments are too few; this endpoint has {len(components)}.")
