"""Errors on the page: one that the user can fix is shown as its sentence, a bug as a bug with a logged traceback."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from html import escape
from typing import ParamSpec

import gradio as gr

from lorahub.app import html
from lorahub.errors import LorahubError

log = logging.getLogger(__name__)
Arguments = ParamSpec("Arguments")


@contextmanager
def shown() -> Iterator[None]:
    """Turn any exception into gr.Error: a LorahubError into its sentence, anything else, once logged, into a bug.

    Also a decorator. A gr.Error passes through: a Space raises one when a visitor's GPU quota is used up.
    """
    try:
        yield
    except gr.Error:
        raise
    except LorahubError as error:
        raise _error(str(error), "This does not work") from error
    except Exception as error:
        log.exception("the app failed")
        text = f"This is a bug in lorahub ({type(error).__name__}); the server's log has the details."
        raise _error(text, "A bug") from error


def in_place(render: Callable[Arguments, str]) -> Callable[Arguments, str]:
    """Decorate a function that returns HTML: a LorahubError is returned as HTML too, others become gr.Error."""

    @wraps(render)
    def rendered(*args: Arguments.args, **kwargs: Arguments.kwargs) -> str:
        with shown():
            try:
                return render(*args, **kwargs)
            except LorahubError as error:
                return html.problem(str(error))

    return rendered


def _error(text: str, title: str) -> gr.Error:
    """Return a gr.Error that shows `text` as text: gradio renders messages as HTML, and a label may look like a tag."""
    return gr.Error(escape(text, quote=False), title=title, print_exception=False)
