"""Errors on the page: what a person can mend is shown as a sentence, a bug as a bug with its traceback in the log."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from lorahub.errors import LorahubError

log = logging.getLogger(__name__)


@contextmanager
def shown() -> Iterator[None]:
    """Turn a LorahubError into gr.Error; anything else is logged and raised as it is."""
    try:
        yield
    except LorahubError as error:
        raise gr.Error(str(error), title="This does not work") from error
    except Exception:
        log.exception("the app failed")
        raise
