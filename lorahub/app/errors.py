"""Errors on the page: what a person can mend is shown as a sentence, a bug as a bug with its traceback in the log."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

import gradio as gr

from lorahub.errors import LorahubError

log = logging.getLogger(__name__)


@contextmanager
def shown() -> Iterator[None]:
    """Turn any exception into gr.Error: a LorahubError into its sentence, anything else, once logged, into a bug.

    A gr.Error is passed on: so says a Space that a visitor's share of its GPU is used up.
    """
    try:
        yield
    except gr.Error:
        raise
    except LorahubError as error:
        raise _sentence(str(error), "This does not work") from error
    except Exception as error:
        log.exception("the app failed")
        text = f"This is a bug in lorahub ({type(error).__name__}); the server's log has the details."
        raise _sentence(text, "A bug") from error


def _sentence(text: str, title: str) -> gr.Error:
    """A gr.Error that shows `text` as text: gradio renders messages as HTML, and a label may look like a tag."""
    return gr.Error(escape(text, quote=False), title=title, print_exception=False)
