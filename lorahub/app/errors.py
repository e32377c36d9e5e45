"""Errors on the page: one that the user can fix is shown as its sentence, a bug as a bug with a logged traceback."""

import inspect
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from html import escape
from typing import Any, ParamSpec, TypeVar, get_type_hints

import gradio as gr
from pydantic import TypeAdapter, ValidationError

from lorahub.app import html
from lorahub.errors import ConfigError, LorahubError

log = logging.getLogger(__name__)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
_JSON_NAMES = {
    str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object",
    type(None): "null",
}  # fmt: skip


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


def endpoint(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorate a function that programs call with JSON: arguments of a wrong type are refused with what they must be.

    None stands for an argument that has a default and was not given. Errors are shown as by `shown`.
    """
    signature, hints = inspect.signature(function), get_type_hints(function)
    types = {name: TypeAdapter(hints[name]) for name in signature.parameters}

    @wraps(function)
    def called(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with shown():
            given = signature.bind(*args, **kwargs)
            for name, value in given.arguments.items():
                default = signature.parameters[name].default
                missing = value is None and default is not inspect.Parameter.empty
                given.arguments[name] = default if missing else _of_type(types[name], value, name)
            return function(*given.args, **given.kwargs)

    return called


def _of_type(adapter: TypeAdapter[Any], value: Any, name: str) -> Any:
    """Return a value from JSON in its type; raises ConfigError with the argument and what it must be."""
    try:
        checked = adapter.validate_python(value, strict=True)
        json.dumps(value, ensure_ascii=False).encode()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = "".join(f"[{part}]" for part in first["loc"] if isinstance(part, int))
        problem = first["msg"].removeprefix("Input ")
    except UnicodeEncodeError:
        place, problem = "", "should be valid Unicode, without half of a surrogate pair"
    else:
        return checked
    raise ConfigError(f"{name}{place} {problem}; found {_JSON_NAMES.get(type(value), 'something else')}.")


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
