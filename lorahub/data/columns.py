"""Columns and cells: which column holds the claim, the label or the evidence, and what a cell of it says.

Training, judging and classifying read through these functions, so that one row is one text everywhere. Knows nothing
of files or splits: `title` and `where` are what an error calls them.
"""

import difflib
from collections.abc import Sequence
from typing import Any

from lorahub.errors import DataError

CLAIMS = ("claim", "text", "sentence", "statement")
LABELS = ("label", "labels", "verdict", "class")
EVIDENCE = ("evidence",)
# What stands between the cells of files that are no csv; a whole header with one of them is one column.
_OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def guess(columns: Sequence[str], candidates: Sequence[str]) -> str | None:
    """The first of `candidates` that is a column; None where none is.

    An exact name goes first; without one, a name that differs only in case is taken where there is one such column.
    """
    found = next((name for name in candidates if name in columns), None)
    if found is not None:
        return found
    for name in candidates:
        alike = [column for column in columns if column.strip().casefold() == name.casefold()]
        if len(alike) == 1:
            return alike[0]
    return None


def choose(title: str, columns: Sequence[str], wanted: str | None, candidates: Sequence[str], *, flag: str) -> str:
    """Return the column `wanted`, else the first of `candidates`; raises DataError telling how `flag` names another."""
    found = guess(columns, candidates if wanted is None else (wanted,))
    if found is not None:
        return found
    if not columns:
        raise DataError(f"{title} has no row. Add some.")
    other = next((word for sign, word in _OTHER_DELIMITERS.items() if len(columns) == 1 and sign in columns[0]), None)
    if other is not None:
        raise DataError(
            f"{title} has {other} between its columns ({columns[0]}). Save it with commas, or tabs as .tsv."
        )
    looked_for = repr(wanted) if wanted is not None else " or ".join(dict.fromkeys(candidates))
    near = difflib.get_close_matches(wanted, columns, n=1) if wanted is not None else []
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise DataError(f"{title} has no column {looked_for}; it has {', '.join(columns)}. {hint}Name one with {flag}.")


def clean_text(value: Any, where: str, *, empty_ok: bool = False) -> str:
    """One text as it is trained on and judged: stripped, a list of sentences joined; DataErrors begin with `where`.

    With `empty_ok`, as for evidence, nothing at all is the empty text.
    """
    if value is None and empty_ok:
        return ""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = " ".join(value)
    if not isinstance(value, str):
        raise DataError(f"{where} holds {value!r}, not text. Remove or mend the row.")
    stripped = value.replace("\x00", "").strip()
    if not stripped and not empty_ok:
        raise DataError(f"{where} is empty. Remove the row or fill it in.")
    return stripped


def label_text(value: Any, where: str) -> str:
    """A label as a string: class indexes come as numbers from parquet and jsonl, as digits from csv."""
    if isinstance(value, bool):
        # As JSON writes it.
        return str(value).lower()
    if value is None or not isinstance(value, str | int | float):
        raise DataError(f"{where} holds {value!r}. Labels are text or class indexes: mend or remove the row.")
    if isinstance(value, float):
        if not value.is_integer():
            raise DataError(
                f"{where} holds {value!r}, which is no class. Is it a score? Mend the row or choose another data.label."
            )
        value = int(value)
    text = str(value).strip()
    if not text:
        raise DataError(f"{where} is empty. Remove the row.")
    return text
