"""Cells that a spreadsheet would run as formulas: how lorahub writes them to csv and tsv files and reads them back.

A spreadsheet runs a cell that begins with one of these signs as a formula, unless it is a plain number; it skips byte
order marks and NULs at the start. The writer of csv and tsv puts an apostrophe before the sign, and one more where
apostrophes stand before it already; the reader takes one away there, so that any text comes back as it was. The same
within a cell, behind a character that separates cells where the list separator is a semicolon: there a quote in the
middle of a line quotes nothing.
"""

import re
from typing import Any

_SIGNS = r"=+\-@\uff1d\uff0b\uff0d\uff20\ufeff\x00"
_FORMULA = re.compile(rf"'*[{_SIGNS}\t\r\n]")
_QUOTED_FORMULA = re.compile(rf"'+[{_SIGNS}\t\r\n]")
_INNER_FORMULA = re.compile(rf"([;\t\r\n]'*)(?=[{_SIGNS}])")
_QUOTED_INNER_FORMULA = re.compile(rf"([;\t\r\n]'*)'(?=[{_SIGNS}])")
# No two parts of it can match the same character, so that it takes linear time.
_NUMBER = re.compile(r"'*[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?\s*")


def neutralized(cell: Any) -> Any:
    """Return a cell as it is written to csv and tsv: text that a spreadsheet would run has an apostrophe before it."""
    if not isinstance(cell, str):
        return cell
    formula = _FORMULA.match(cell) and not _NUMBER.fullmatch(cell)
    cell = _INNER_FORMULA.sub(r"\1'", cell)
    return f"'{cell}" if formula else cell


def original(cell: str) -> str:
    """Return a cell of a csv or tsv file without the apostrophes of `neutralized`."""
    formula = _QUOTED_FORMULA.match(cell) and not _NUMBER.fullmatch(cell)
    cell = _QUOTED_INNER_FORMULA.sub(r"\1", cell)
    return cell[1:] if formula else cell
