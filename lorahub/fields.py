"""A field of the configuration: its default and help, what it accepts, and how a value is read.

In: what YAML or a flag gave. Out: a value of the field's own type, or a ConfigError that names the field and what it
takes. YAML's guesses (`2e-4` is a string, `no` is False) never decide.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lorahub.errors import ConfigError


def opt(
    default: Any,
    help: str,  # noqa: A002 - the field's word for it everywhere
    *,
    choices: Sequence[str] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> Any:
    """A config field: its default, its help text, and what it accepts (`low` and `high` included, `above` not)."""
    metadata = {"help": help, "choices": tuple(choices), "low": low, "high": high, "above": above}
    return (
        dataclasses.field(default_factory=dict, metadata=metadata)
        if default is dict
        else dataclasses.field(default=default, metadata=metadata)
    )


def known(key: Any, names: Mapping[str, Any], what: str, prefix: str = "") -> None:
    """Raise ConfigError where `key` is none of the names; it tells the nearest."""
    if key in names:
        return
    near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
    hint = f"Did you mean {prefix}{near[0]}?" if near else f"Known: {', '.join(names)}."
    raise ConfigError(f"there is no {what} {prefix}{key}. {hint}")


def convert(value: Any, kind: Any, where: str) -> Any:
    """Convert by the field's type; `where` names the field."""
    kind, words = alternatives(kind)
    if value in words:
        return value
    origin = typing.get_origin(kind)
    if origin is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise ConfigError(f"{where} takes a list; found {value!r}.")
        return tuple(convert(item.strip() if isinstance(item, str) else item, str, where) for item in items)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} takes a mapping, as in {{a: b}}; found {value!r}.")
        return {str(key): convert(item, str, where) for key, item in value.items()}
    return _convert_scalar(value, kind, where, [word for word in words if word is not None])


def alternatives(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """What a field's type takes, and what else may stand there: `int | Literal["auto"]` gives int and ("auto",)."""
    if typing.get_origin(kind) not in (types.UnionType, typing.Union):
        return kind, ()
    options = typing.get_args(kind)
    words = [word for option in options if typing.get_origin(option) is Literal for word in typing.get_args(option)]
    found = next(item for item in options if item is not type(None) and typing.get_origin(item) is not Literal)
    return found, (*words, *([None] if type(None) in options else []))


def _convert_scalar(value: Any, kind: type, where: str, words: Sequence[str] = ()) -> Any:
    expected = {bool: "true or false", int: "a whole number", float: "a number", str: "text (put it in quotes)"}[kind]
    wrong = ConfigError(f"{where} takes {' or '.join([expected, *words])}; found {value!r}.")
    if kind is bool:
        if not isinstance(value, bool):
            raise wrong
        return value
    if isinstance(value, bool):
        raise wrong
    if kind is str:
        # A label such as 0 or a rank such as 8 is unambiguous as text; True, a date or a list is not.
        if not isinstance(value, str | int):
            raise wrong
        return str(value)
    if not isinstance(value, int | float | str):
        raise wrong
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise wrong from None
    if number != number or number in (float("inf"), float("-inf")):
        raise wrong
    if kind is int:
        if number != int(number):
            raise wrong
        return int(number)
    return number


def check(item: "dataclasses.Field[Any]", value: Any, where: str) -> Any:
    """Return the value if it is among the field's choices and within its limits; else raise ConfigError."""
    choices, low, high, above = (item.metadata[key] for key in ("choices", "low", "high", "above"))
    if choices and value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{where} is one of {', '.join(choices)}; found {value!r}.{hint}")
    if isinstance(value, str):
        return value
    if low is not None and value < low:
        raise ConfigError(f"{where} must be at least {low}; found {value}.")
    if above is not None and value <= above:
        raise ConfigError(f"{where} must be above {above}; found {value}.")
    if high is not None and value > high:
        raise ConfigError(f"{where} must be at most {high}; found {value}.")
    return value
