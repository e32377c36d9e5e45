"""Finished runs as a list: filtered by what their records say, sorted, and as a table of any of their fields.

In: records, and conditions as a person types them. Out: records, and rows of text. A condition is read, never
evaluated, and a field that no record has is an error that names its nearest neighbour.
"""

import difflib
import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorahub.errors import ConfigError
from lorahub.records import RunRecord

# A field may be named without the part of the record that it stands in: the first part that has it counts.
_PARTS = ("", "asked.", "happened.", "environment.", "results.test.adapter.", "results.test.", "results.")
_SHORT = {"data": "environment.data.id", "base": "environment.base_id", "method": "asked.adapter.method"}
_CONDITION = re.compile(r"\s*([^\s=!<>~]+)\s*(>=|<=|!=|=|>|<|~)\s*(.*?)\s*", re.S)
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    ">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le,
}  # fmt: skip
# Peak memory of a training, and what a table calls it.
MEMORY = {"memory.cpu_peak_bytes": "CPU memory", "memory.gpu_peak_bytes": "GPU memory"}
_MB = 1e6


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What a field is to be: an operator (= != < <= > >=, or ~ for "contains", in any case) and a value."""

    field: str
    sign: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Read a condition; raises ConfigError."""
        found = _CONDITION.fullmatch(text)
        if found is None:
            raise ConfigError(
                f"--where takes FIELD, one of = != < <= > >= ~, and VALUE, as in 'f1_macro>=0.5'; found {text!r}."
            )
        return cls(field=found[1], sign=found[2], value=found[3])

    def holds(self, found: Any) -> bool:
        """Whether a field's value meets it; raises ConfigError where a number is compared with none."""
        if self.sign in ("=", "!="):
            return self._equals(found) == (self.sign == "=")
        if self.sign == "~":
            return self.value.lower() in _text(found).lower()
        if isinstance(found, str):
            # Dates in ISO 8601 stand in order as text.
            return _ORDER[self.sign](found, self.value)
        return _is_number(found) and _ORDER[self.sign](found, self._number())

    def _equals(self, found: Any) -> bool:
        by_number = _is_number(found) and self.value != "null"
        return found == self._number() if by_number else _text(found) == self.value

    def _number(self) -> float:
        try:
            return float(self.value)
        except ValueError:
            raise ConfigError(f"--where: {self.field} is a number, and {self.value!r} is none.") from None


def select(
    runs: Sequence[RunRecord], *, where: Sequence[str] = (), sort: str | None = None, limit: int | None = None
) -> list[RunRecord]:
    """The runs that meet all conditions, in the order of a field (`-FIELD`: from high to low), at most `limit`.

    Runs that lack the field come last. Raises ConfigError.
    """
    conditions = [Condition.parse(item) for item in where]
    check(runs, [item.field for item in conditions])
    kept = [run for run in runs if all(item.holds(value(run, item.field)) for item in conditions)]
    if sort is not None:
        key = sort.removeprefix("-")
        check(runs, [key])
        have = [run for run in kept if value(run, key) is not None]
        have.sort(key=lambda run: _rank(value(run, key)), reverse=key != sort)
        kept = have + [run for run in kept if value(run, key) is None]
    return kept[:limit]


def check(runs: Sequence[RunRecord], names: Sequence[str]) -> None:
    """Raise ConfigError for a name that is a field of none of the runs."""
    for name in names:
        if runs and all(_find(run, name) is None for run in runs):
            near = _nearest(runs, name)
            hint = f" Did you mean {near}?" if near else ""
            raise ConfigError(f"no run has a field {name!r}.{hint} docs/record.md names all of them.")


def value(run: RunRecord, name: str) -> Any:
    """The value of a field by its dotted name, whole or without its first parts; None where the run lacks it."""
    found = _find(run, name)
    return None if found is None else found[0]


def rows(runs: Sequence[RunRecord], names: Sequence[str]) -> list[tuple[str, ...]]:
    """One row a run, with the fields that are named."""
    return [tuple(_shown(name, value(run, name)) for name in names) for run in runs]


def _shown(name: str, found: Any) -> str:
    """A field's value as a table shows it: memory in MB, fractions with three decimals."""
    if found is None:
        return "-"
    if _is_number(found) and name.endswith("_bytes"):
        return f"{found / _MB:,.0f} MB"
    if isinstance(found, float):
        return f"{found:.3f}" if 0.001 <= abs(found) < 1000 else f"{found:g}"
    return _text(found)


def _text(found: Any) -> str:
    """A value as text: a text as it is, all else as JSON writes it."""
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _rank(found: Any) -> tuple[bool, Any]:
    """Where a value stands in an order: numbers first, all else as text."""
    return (False, found) if _is_number(found) else (True, _text(found))


def _find(run: RunRecord, name: str) -> tuple[Any] | None:
    """The value, in a tuple since it may be null; None where there is no such field."""
    for part in _PARTS:
        found: Any = run.to_dict()
        for key in f"{part}{_SHORT.get(name, name)}".split("."):
            if not isinstance(found, Mapping) or key not in found:
                break
            found = found[key]
        else:
            return (found,)
    return None


def _nearest(runs: Sequence[RunRecord], name: str) -> str | None:
    """The field that a name may have meant: one that ends with it, else one that is written nearly so."""
    known = dict.fromkeys(field for run in runs for field in _fields(run.to_dict()))
    short = [*_SHORT, *(field.removeprefix(part) for field in known for part in _PARTS if field.startswith(part))]
    ending = [field for field in short if field.endswith(f".{name}")]
    return min(ending, key=len) if ending else next(iter(difflib.get_close_matches(name, short, n=1)), None)


def _fields(values: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for key, found in values.items():
        if isinstance(found, Mapping):
            yield from _fields(found, f"{before}{key}.")
        else:
            yield f"{before}{key}"


def _is_number(found: Any) -> bool:
    return isinstance(found, int | float) and not isinstance(found, bool)
