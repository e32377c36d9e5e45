"""Columns and cells: which column holds the claim, the label or the evidence, and the text of a cell.

Training, evaluation and classification all read rows through these functions, so a row is the same text everywhere.
`title` and `where` are the names that error messages give to the file, or to the row and column.
"""

import datetime
import difflib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lorahub import printable
from lorahub.data import tables
from lorahub.errors import DataError

CLAIMS = ("claim", "text", "sentence", "statement")
LABELS = ("label", "labels", "verdict", "class")
EVIDENCE = ("evidence",)
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


def choose(title: str, columns: Sequence[str], wanted: str | None, candidates: Sequence[str], *, flag: str) -> str:
    """Return the column `wanted`, else the first of `candidates`; raises DataError that suggests `flag`."""
    column = guess(columns, candidates if wanted is None else (wanted,))
    if column is not None:
        return column
    if not columns:
        raise DataError(f"{title} has no rows. Add some.")
    delimiter = tables.other_delimiter(columns)
    if delimiter is not None:
        raise DataError(
            f"{title} has {delimiter} between its columns ({columns[0]}). Save it with commas, or tabs as .tsv."
        )
    missing = repr(wanted) if wanted is not None else " or ".join(dict.fromkeys(candidates))
    near = difflib.get_close_matches(wanted, columns, n=1) if wanted is not None else []
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise DataError(f"{title} has no column {missing}; it has {', '.join(columns)}. {hint}Name one with {flag}.")


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
