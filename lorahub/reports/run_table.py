"""The table of runs that `lorahub runs` and the app show: columns, conditions and order.

To add a column, add a line to `COLUMNS`. Any field of the record may be used in a condition, as a sort key and as a
column; a name that no run has is an error that suggests the nearest field. A condition is parsed, never executed.
"""

import difflib
import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorahub import records
from lorahub.errors import ConfigError, LorahubError
from lorahub.records import RunRecord
from lorahub.reports import tables
from lorahub.reports.report import Table


def _best_baseline(run: RunRecord) -> str:
    name = tables.best_baseline(run)
    return f"{run.results[run.scored_split][name].f1_macro:.3f} ({name.replace('_', ' ')})"


def _difference(run: RunRecord) -> str:
    row = run.adapter().paired[tables.best_baseline(run)]["f1_macro"]
    difference = tables.signed(row.difference, row.interval)
    return f"{difference}, too few claims to tell" if tables.is_wide(row) else difference


# The columns by heading. Before, best baseline and after: macro F1 on test.
COLUMNS: dict[str, Callable[[RunRecord], str]] = {
    "run": lambda run: run.name,
    "data": lambda run: run.environment.data.id,
    "claims": lambda run: f"{run.adapter().n:,}",
    "labels": lambda run: str(len(run.labels)),
    "before": lambda run: f"{run.results[run.scored_split]['untrained'].f1_macro:.3f}",
    "best baseline": _best_baseline,
    "after": lambda run: tables.with_interval(run.adapter().f1_macro, run.adapter().interval["f1_macro"]),
    "after: weighted F1": lambda run: f"{run.adapter().f1_weighted:.3f}",
    "difference": _difference,
}
# Further columns of `--memory`: field and heading.
MEMORY = {"memory.cpu_peak_bytes": "CPU memory", "memory.gpu_peak_bytes": "GPU memory"}
# Prefixes that a field name may leave out, in the order in which they are tried.
_PREFIXES = ("", "asked.", "happened.", "environment.", "results.test.adapter.", "results.test.", "results.")
_SHORT = {"data": "environment.data.id", "base": "environment.base_id", "method": "asked.adapter.method"}
_CONDITION = re.compile(r"\s*([^\s=!<>~]+)\s*(>=|<=|!=|=|>|<|~)(.*)", re.S)
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    ">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le,
}  # fmt: skip
Fields = Mapping[str, Any]


def cells(run: RunRecord) -> tuple[str, ...]:
    """Return the cells of a run under `COLUMNS`; `-` for what its record lacks."""
    return tuple(_if_recorded(cell, run) or "-" for cell in COLUMNS.values())


def verdict(run: RunRecord) -> str:
    """Return `tables.verdict`, or that the record lacks what it needs."""
    return _if_recorded(tables.verdict, run) or "Its record lacks a system or a metric of the comparison."


def _if_recorded(describe: Callable[[RunRecord], str], run: RunRecord) -> str | None:
    """Return a description of a run; None if its record, which may be a downloaded one, lacks what is described."""
    try:
        with records.shown(run):
            return describe(run)
    except LorahubError:
        return None


def table(runs: Sequence[RunRecord], fields: Sequence[str] = (), *, memory: bool = False) -> Table:
    """Return a row per run: under `COLUMNS`, or the name and `fields`; `memory` adds the peak memory."""
    more = [*fields, *(MEMORY if memory else ())]
    header = (*(("run",) if fields else COLUMNS), *(MEMORY.get(name, name) for name in more))
    rows = []
    for run in runs:
        values = (_format(name, field) for name, field in zip(more, pick(run, more), strict=True))
        rows.append((*((run.name,) if fields else cells(run)), *values))
    return Table(header=header, rows=rows)


def pick(run: RunRecord, names: Sequence[str]) -> list[Any]:
    """Return the named fields of a run: each by its dotted name, full or without a prefix; None if it is missing."""
    fields = _fields(run)
    return [_value(fields, name) for name in names]


def select(
    runs: Sequence[RunRecord], *, where: Sequence[str] = (), sort: str | None = None, limit: int | None = None
) -> list[RunRecord]:
    """Return the runs that meet all conditions, sorted by a field (`-FIELD`: descending), at most `limit`.

    Runs without the field come last. Raises ConfigError.
    """
    conditions = [Condition.parse(item) for item in where]
    key = sort.removeprefix("-") if sort else None
    check(runs, [*(item.field for item in conditions), *([key] if key else [])])
    kept = [(run, _fields(run)) for run in runs]
    kept = [(run, fields) for run, fields in kept if all(item.matches(fields) for item in conditions)]
    if key is not None:
        kept.sort(key=lambda pair: _sort_key(_value(pair[1], key)), reverse=key != sort)
        kept.sort(key=lambda pair: _value(pair[1], key) is None)
    return [run for run, _ in kept][:limit]


def check(runs: Sequence[RunRecord], names: Sequence[str]) -> None:
    """Raise ConfigError for a name that is a field of none of the runs."""
    known = {field: None for run in runs for field in _fields(run)} if names else {}
    for name in names:
        if known and _full_name(known, name) is None:
            nearest = _nearest(known, name)
            hint = f" Did you mean {nearest}?" if nearest else ""
            raise ConfigError(f"no run has a field {name!r}.{hint} docs/record.md lists all fields.")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A condition on a field: an operator (= != < <= > >=, or ~ for "contains", ignoring case) and a value."""

    field: str
    sign: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Parse a condition; raises ConfigError."""
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise ConfigError(
                f"--where takes FIELD, one of = != < <= > >= ~, and VALUE, as in 'f1_macro>=0.5'; found {text!r}."
            )
        return cls(field=match[1], sign=match[2], value=match[3].strip())

    def matches(self, fields: Fields) -> bool:
        """Return whether the fields of a run meet the condition; raises ConfigError if VALUE must be a number."""
        field = _value(fields, self.field)
        if self.sign in ("=", "!="):
            return self._equals(field) == (self.sign == "=")
        if self.sign == "~":
            return self.value.lower() in _text(field).lower()
        if isinstance(field, str):  # dates in ISO 8601 sort as text
            return _ORDER[self.sign](field, self.value)
        return _is_number(field) and _ORDER[self.sign](field, self._number())

    def _equals(self, field: Any) -> bool:
        by_number = _is_number(field) and self.value != "null"
        return field == self._number() if by_number else _text(field) == self.value

    def _number(self) -> float:
        try:
            return float(self.value)
        except ValueError:
            raise ConfigError(f"--where: {self.field} is a number, but {self.value!r} is not.") from None


def _fields(run: RunRecord) -> Fields:
    """Return every field of a run by its dotted name: values, and mappings of values."""
    return dict(_flatten(run.to_dict()))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, field in values.items():
        yield f"{prefix}{key}", field
        if isinstance(field, Mapping):
            yield from _flatten(field, f"{prefix}{key}.")


def _value(fields: Fields, name: str) -> Any:
    full = _full_name(fields, name)
    return None if full is None else fields[full]


def _full_name(fields: Fields, name: str) -> str | None:
    names = (f"{prefix}{_SHORT.get(name, name)}" for prefix in _PREFIXES)
    return next((full for full in names if full in fields), None)


def _nearest(fields: Fields, name: str) -> str | None:
    """Return the field most like a name: one that ends with it, else one with a similar spelling."""
    short = [*_SHORT, *(field.removeprefix(part) for field in fields for part in _PREFIXES if field.startswith(part))]
    ending = [field for field in short if field.endswith(f".{name}")]
    return min(ending, key=len) if ending else next(iter(difflib.get_close_matches(name, short, n=1)), None)


def _format(name: str, field: Any) -> str:
    """Format a field for the table: bytes in MB, fractions with three decimals."""
    if field is None:
        return "-"
    if _is_number(field) and name.endswith("_bytes"):
        return f"{field / 1e6:,.0f} MB"
    if isinstance(field, float):
        return f"{field:.3f}" if 0.001 <= abs(field) < 1000 else f"{field:g}"
    return _text(field)


def _text(field: Any) -> str:
    return field if isinstance(field, str) else json.dumps(field, ensure_ascii=False)


def _sort_key(field: Any) -> tuple[bool, Any]:
    """Sort numbers first and everything else as text."""
    return (False, field) if _is_number(field) else (True, _text(field))


def _is_number(field: Any) -> bool:
    return isinstance(field, int | float) and not isinstance(field, bool)
