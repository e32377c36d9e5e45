"""The base class of what experiments return; the command line imports it for `--help`, so it is light."""

from typing import Any


class Result:
    """Base of the results, which are dataclasses: their JSON form, as `--json` prints it."""

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data, ready for JSON."""
        from pydantic import TypeAdapter

        return dict(TypeAdapter(type(self)).dump_python(self, mode="json", by_alias=True, exclude_unset=True))
