"""Columns and cells: which column holds the claim, the label or the evidence, and the text of a cell.

Training, evaluation and classification all read rows through these functions, so a row is the same text everywhere.
`title` and `where` are the names that error messages give to the file, or to the row and column.
"""

import datetime
import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from lorahub import printable
from lorahub.data.rows import Table
from lorahub.errors import DataError

# Names of columns in published data sets; the first that a table has is used.
CLAIMS = ("claim", "text", "sentence", "statement", "claim_text", "tweet_text", "tweet", "headline")
LABELS = (
    "label", "labels", "gold_label", "class_label", "claim_label", "verdict", "rating", "our_rating", "review_rating",
    "veracity", "truthfulness", "truth", "factuality", "credibility", "check_worthiness", "claim_worthiness", "stance",
    "class", "target",
)  # fmt: skip
EVIDENCE = ("evidence",)
# Rows in which the kinds of columns are looked at.
_SAMPLE_ROWS = 200
_NAMES_SHOWN = 4
_FLAGS = ("", "true", "false", "yes", "no", "t", "f", "y", "n", "none", "null", "nan", "na", "n/a")
_WHOLE_NUMBER = re.compile(r"(-?\d+)(?:\.0*)?")
_BOOLEANS = ("true", "false")
_NUMBER = re.compile(r"-?\d+(?:\.\d*)?")


def guess(columns: Sequence[str], candidates: Sequence[str]) -> str | None:
    """Return the first of `candidates` that is a column; None if none of them is.

    An exact match wins; without one, a match that ignores case and surrounding spaces counts if it is unique.
    """
    for name in candidates:
        if name in columns:
            return name
    for name in candidates:
        alike = [column for column in columns if column.strip().casefold() == name.casefold()]
        if len(alike) == 1:
            return alike[0]
    return None


def choose(table: Table, wanted: str | None, candidates: Sequence[str], *, flag: str) -> str:
    """Return the column `wanted`, else the first of `candidates`; raises DataError that suggests `flag`.

    `wanted` is the name of a column, the dotted name of a field in it, or the position of a column from 1 on. Spaces,
    hyphens and underscores in the names of `candidates` make no difference.
    """
    if wanted is None:
        column = guess_known(table.columns, candidates)
    else:
        column = guess(table.columns, (wanted,)) or _field(table, wanted) or _at_position(table, wanted)
    if column is not None:
        return column
    if not table.columns:
        raise DataError(f"{table.title} has no rows. Add some.")
    if wanted is None and table.headerless is not None:
        shown = ", ".join(repr(name[:40]) for name in table.columns[:4])
        raise DataError(
            f"{table.title}: the first row looks like data: add a header, or name columns by position, as in "
            f"{flag.replace('COLUMN', '1')} for the first of {len(table.columns)}. The row is: {shown}."
        )
    more = " or another known name" if len(candidates) > _NAMES_SHOWN else ""
    missing = repr(wanted) if wanted is not None else " or ".join(candidates[:_NAMES_SHOWN]) + more
    near = difflib.get_close_matches(wanted, table.columns, n=1) if wanted is not None else []
    hint = f"Did you mean {near[0]!r}? " if near else ""
    assumed = "".join(f" ({note}.)" for note in table.notes)
    raise DataError(
        f"{table.title} has no column {missing}; it has {_listed(table)}. {hint}Name one with {flag}.{assumed}"
    )


def guess_known(columns: Sequence[str], candidates: Sequence[str]) -> str | None:
    """Return the column of `guess`, else one that differs from a candidate in spaces, hyphens or underscores only."""
    column = guess(columns, candidates)
    for name in () if column else candidates:
        alike = [column for column in columns if _plain(column) == _plain(name)]
        if len(alike) == 1:
            return alike[0]
    return column


def known(columns: Sequence[str], candidates: Sequence[str]) -> list[str]:
    """Return the columns with a name of `candidates`, in the order of these."""
    found = (guess_known(columns, (name,)) for name in candidates)
    return list(dict.fromkeys(name for name in found if name is not None))


def without_header(table: Table, wanted: Iterable[str | None]) -> Table:
    """Return the table with its first row as data, if it looks like data and all of `wanted` are positions."""
    named = [name for name in wanted if name is not None]
    if table.headerless is None or not named or not all(name in table.headerless.columns for name in named):
        return table
    return table if any(name in table.columns for name in named) else table.headerless


def cell(row: Mapping[str, Any], column: str) -> Any:
    """Return the value of a column, or of a field in it by its dotted name; None if the row has none."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            return None
    return value


def check_holds_texts(table: Table, column: str, *, named: bool, flag: str) -> str | None:
    """Return a note if a claim column has numbers or flags alone while another one has texts; None if not.

    Raises DataError instead if the user did not name the column.
    """
    rows = list(islice(table.rows(), _SAMPLE_ROWS))
    values = [cell(row, column) for row in rows]
    if not rows or not all(map(_is_flag, values)):
        return None
    texts = next((name for name in table.columns if _are_texts([row.get(name) for row in rows])), None)
    if texts is None:
        return None
    shown = [str(value) for value in dict.fromkeys(map(str, values))]
    message = (
        f"{table.title}: the column {column!r} holds {', '.join(map(repr, shown[:3]))}"
        f"{', …' if len(shown) > 3 else ''} and no texts, while {texts!r} holds texts"
    )
    if not named:
        raise DataError(f"{message}. Name the column of the claims: {flag.replace('COLUMN', texts)}.")
    return f"{message}; check the choice of the claim column"


def _is_flag(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().casefold() in _FLAGS or _NUMBER.fullmatch(value.strip()) is not None
    return value is None or isinstance(value, bool | int | float)


def _are_texts(values: Sequence[Any]) -> bool:
    """Return whether most values are texts of several words that differ from each other."""
    texts = [value for value in values if isinstance(value, str) and len(value.split()) >= 3]
    return 2 * len(set(texts)) > len(values)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.casefold())


def _field(table: Table, wanted: str) -> str | None:
    """Return `wanted` if it is the dotted name of a field that one of the first rows has."""
    if "." not in wanted:
        return None
    rows = islice(table.rows(), _SAMPLE_ROWS)
    return wanted if any(cell(row, wanted) is not None for row in rows) else None


def _at_position(table: Table, wanted: str) -> str | None:
    place = int(wanted) if wanted.isdecimal() else 0
    return table.columns[place - 1] if 1 <= place <= len(table.columns) else None


def _listed(table: Table) -> str:
    """Return the columns for a message, each with the fields in it."""
    first = next(table.rows(), {}) if len(set(table.columns)) == len(table.columns) else {}
    names = []
    for name in table.columns:
        value = first.get(name)
        names += [f"{name}.{field}" for field in value] if isinstance(value, dict) and value else [name]
    return ", ".join(names)


def clean_text(value: Any, where: str, *, empty_ok: bool = False) -> str:
    """Return the text of a cell: stripped, and a list of sentences joined.

    With `empty_ok`, as for evidence, a missing value is the empty text. Raises DataError starting with `where`.
    """
    if value is None and empty_ok:
        return ""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = " ".join(value)
    if not isinstance(value, str):
        raise DataError(f"{where} holds {value!r}, not text. Remove or fix the row.")
    stripped = value.replace("\x00", "").strip()
    if printable.has_surrogate(stripped):
        raise DataError(f"{where} holds half a character (a lone surrogate). Remove or fix it.")
    if not stripped and not empty_ok:
        raise DataError(f"{where} is empty. Remove the row or fill it in.")
    return stripped


def label_text(value: Any, where: str) -> str:
    """Return a label as text. Class indexes are numbers in parquet and jsonl files and digits in csv files."""
    if isinstance(value, bool):
        return str(value).lower()  # as JSON writes it
    if isinstance(value, list):
        raise DataError(
            f"{where} holds {value!r:.80}, a list. A claim has one label, as text or class index; several labels of a "
            "claim are not read. Name another column, or fix the row."
        )
    if value is None or not isinstance(value, str | int | float):
        raise DataError(f"{where} holds {value!r}. Labels are text or class indexes: fix or remove the row.")
    if isinstance(value, float):
        if not value.is_integer():
            raise DataError(
                f"{where} holds {value!r}, which is not a class. If it is a score, choose another data.label; "
                "otherwise fix the row."
            )
        value = int(value)
    text = str(value).strip()
    if not text:
        raise DataError(f"{where} is empty. Remove the row.")
    return text


def label_form(values: Iterable[str]) -> Callable[[str], str]:
    """Return the function that gives the labels of a column, as texts, the same form in every file format.

    A csv file has no types, so the type is that of all values together: `1.0` of a column of whole numbers becomes `1`,
    and `True` of a column of booleans becomes `true`, as in a parquet or jsonl file. Other columns keep their texts.
    """
    found = set(values)
    if all(map(_WHOLE_NUMBER.fullmatch, found)):
        return _whole_number
    if all(value.casefold() in _BOOLEANS for value in found):
        return lambda text: text.casefold() if text.casefold() in _BOOLEANS else text
    return lambda text: text


def _whole_number(text: str) -> str:
    match = _WHOLE_NUMBER.fullmatch(text)
    return text if match is None else "0" if match[1] == "-0" else match[1]


def date_value(value: Any, where: str) -> float:
    """Return a date as a number that grows with time: seconds since 1970 (UTC), or a number such as a year as it is.

    Reads numbers, ISO 8601 texts and the dates of parquet files. Raises DataError.
    """
    if isinstance(value, str):
        text = value.strip()
        try:
            return float(text) if _NUMBER.fullmatch(text) else date_value(datetime.datetime.fromisoformat(text), where)
        except ValueError:
            pass
    elif isinstance(value, datetime.datetime):
        return (value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp()
    elif isinstance(value, datetime.date):
        return date_value(datetime.datetime(value.year, value.month, value.day, tzinfo=datetime.UTC), where)
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise DataError(f"{where} holds {value!r:.60}, not a date such as 2026-11-30 or a number. Fix or remove the row.")
