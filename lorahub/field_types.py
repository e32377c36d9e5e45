"""The types of the configuration's fields, which convert what YAML and flags make of a value.

In: a value of a recipe or a flag. Out: a value of the field's type, or pydantic's error.
"""

from typing import Annotated, Any

from pydantic import AllowInfNan, BeforeValidator, Strict
from pydantic_core import PydanticCustomError


def _number(value: Any) -> Any:
    """Convert text such as `2e-4`, which YAML does not read as a number; refuse a boolean, an int in Python."""
    if isinstance(value, bool):
        raise PydanticCustomError("bool", "a boolean")
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _text(value: Any) -> Any:
    """Return a whole number, such as the label 0, as text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _list(value: Any) -> Any:
    """Return the list of a flag, which is text with commas."""
    return [item.strip() for item in value.split(",")] if isinstance(value, str) else value


def no_is_text(value: Any) -> Any:
    """Return `no`, which YAML reads as False, as text."""
    return "no" if value is False else value


Text = Annotated[str, BeforeValidator(_text)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_list)]
Whole = Annotated[int, BeforeValidator(_number)]
Number = Annotated[float, AllowInfNan(False), BeforeValidator(_number)]
Flag = Annotated[bool, Strict()]
