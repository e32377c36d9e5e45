"""JSON files as tables: one object per line, or one array of objects."""

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from lorahub.data import encodings
from lorahub.data.delimited import check_number
from lorahub.data.rows import Row, Table
from lorahub.errors import DataError, one_line

# An array is read as a whole; a larger one is refused.
_LARGEST_ARRAY = 2**28
_OBJECT = 'Write it as {"claim": …, "label": …}.'


def open_table(path: Path) -> Table:
    """Return a json or jsonl file as a table; its columns are the keys of its first row. Raises DataError."""
    encoding, assumed = encodings.detect(path)

    def rows() -> Iterator[Row]:
        for number, row in _values(path, encoding):
            if not isinstance(row, dict):
                raise DataError(f"{path}, row {number} is not a JSON object. {_OBJECT}")
            check_number(path, len(row))
            yield row

    notes = (f"{path.name}: read as {assumed}",) if assumed else ()
    return Table(title=str(path), columns=tuple(next(rows(), {})), rows=rows, notes=notes)


def _values(path: Path, encoding: str) -> Iterator[tuple[int, Any]]:
    """Yield the values of the file with their numbers from 1 on: of a jsonl file the number of the line."""
    lines = enumerate(encodings.lines(path, encoding), start=1)
    for number, line in lines:
        if line.lstrip()[:1] == "[":
            yield from _whole(path, encoding, chain([(number, line)], lines))
            return
        if line.strip():
            yield number, _decoded(path, number, line)
            break
    for number, line in lines:
        if line.strip():
            yield number, _decoded(path, number, line)


def _whole(path: Path, encoding: str, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, Any]]:
    """Yield the items of an array; if its first line is a value itself, yield the values of all lines."""
    if path.stat().st_size > _LARGEST_ARRAY:
        raise DataError(
            f"{path} is a JSON array of more than {_LARGEST_ARRAY // 2**20} MB, which is read as a whole. Save it as "
            "jsonl, with one object per line."
        )
    text = "".join(line for _, line in lines)
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a JSON array ({_why(error)}). Fix it, or write one object per line.") from None
    if "\\u" in text and not _is_unicode(items):
        for number, item in enumerate(items, start=1):
            _check_unicode(path, number, item)
    yield from enumerate(items, start=1)


def _decoded(path: Path, number: int, line: str) -> Any:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and deep nesting
        raise DataError(
            f"{path}, row {number} is not JSON ({_why(error)}). A row is one line, or all rows are one array."
        ) from None
    if "\\u" in line:
        _check_unicode(path, number, value)
    return value


def _why(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else one_line(error)


def _check_unicode(path: Path, number: int, value: Any) -> None:
    if not _is_unicode(value):
        raise DataError(f"{path}, row {number} contains a lone surrogate (half a character). Remove or fix it.")


def _is_unicode(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
