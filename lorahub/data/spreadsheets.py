"""Sheets of xlsx files as tables, read with openpyxl as streams of rows.

An xlsx file is a zip archive of XML, and is not trusted: its unpacked size, its rows and its columns have limits, and
entities are refused (defusedxml). Formulas are never computed: the values that the spreadsheet program stored are read.
Links to other files are not followed. openpyxl reads rows as they come and unpacks no more of a part than the archive
declares; calamine allocates the whole sheet, which a single cell in its last corner makes 550 GB (docs/log.md).
"""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorahub.data.delimited import check_names, check_number, looks_like_data
from lorahub.data.rows import Row, Table
from lorahub.errors import DataError, LorahubError, need, one_line

# The rows that a sheet can have.
_MOST_ROWS = 2**20
# Unpacked: all parts, and each part that is neither a sheet nor the table of texts. Reading a part as a whole, which
# is done for the latter, takes many times its size in memory.
_LARGEST = 2**28
_LARGEST_PART = 2**23
_STREAMED = ("xl/worksheets/", "xl/sharedStrings.xml", "xl/media/")
_SAMPLE_ROWS = 1000


def open_table(path: Path, sheet: str | None = None) -> Table:
    """Return a sheet as a table, by default the first one; raises DataError, or names the package that is missing."""
    names = _check(path)
    if not names:
        raise DataError(f"{path} has no sheet with cells. Add one, or save it as csv.")
    if sheet is not None and sheet not in names:
        raise DataError(f"{path} has no sheet {sheet!r}; it has {', '.join(names)}. Name one of them with data.sheet.")
    chosen = sheet or names[0]
    header: list[str] = []
    sample: list[list[str]] = []
    for cells in _rows(path, chosen):
        if not sample:
            header = ["" if cell is None else str(cell).strip() for cell in cells]
        sample.append(["" if cell is None else str(cell) for cell in cells + [None] * (len(header) - len(cells))])
        if len(sample) == _SAMPLE_ROWS:
            break
    note = f"{path.name}: read from the sheet {chosen!r}"
    if sheet is None and len(names) > 1:
        note += f", the first of {len(names)} ({', '.join(names)}); data.sheet names another one"
    table = Table(
        title=str(path), columns=tuple(header), rows=lambda: _named(path, chosen, header, skip=1), notes=(note,)
    )
    if not looks_like_data(sample):
        return table
    positions = [str(place) for place in range(1, len(header) + 1)]
    without = Table(
        title=str(path),
        columns=tuple(positions),
        rows=lambda: _named(path, chosen, positions, skip=0),
        notes=(note, f"{path.name}: read without a header, because its first row looks like data"),
    )
    return Table(**{**vars(table), "headerless": without})


def _named(path: Path, sheet: str, columns: list[str], *, skip: int) -> Iterator[Row]:
    check_names(path, columns)
    for number, cells in enumerate(_rows(path, sheet), start=1 - skip):
        if number == 0:
            continue
        if len(cells) > len(columns):
            raise DataError(
                f"{path}, row {number} of the sheet {sheet!r} has {len(cells)} cells, the first row has "
                f"{len(columns)}. Give each column a name, or remove the cells."
            )
        yield dict(zip(columns, cells + [None] * (len(columns) - len(cells)), strict=True))


def _check(path: Path) -> list[str]:
    """Check the sizes that the archive declares before anything is unpacked; return the names of its sheets."""
    need("openpyxl", extra="excel")
    need("defusedxml", extra="excel")
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(
            f"{path} is not a readable xlsx file ({one_line(error)}). Save it again as xlsx without a password, or as "
            "csv."
        ) from None
    large = [part for part in parts if not part.filename.startswith(_STREAMED) and part.file_size > _LARGEST_PART]
    if large or sum(part.file_size for part in parts) > _LARGEST:
        what = f"its part {large[0].filename}" if large else "it"
        limit = (_LARGEST_PART if large else _LARGEST) // 2**20
        raise DataError(f"{path}: {what} unpacks to more than {limit} MB. Save the sheet as csv.")
    with _open(path) as book:
        return [sheet.title for sheet in book.worksheets]


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a workbook; raises DataError for whatever is wrong in it."""
    openpyxl = need("openpyxl", extra="excel")
    book = None
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True, keep_links=False)
        yield book
    except LorahubError:
        raise
    except Exception as error:  # a damaged part raises anything: KeyError, ParseError, zlib.error, …
        raise DataError(f"{path} is not a readable xlsx file ({one_line(error)}). Save it again, or as csv.") from None
    finally:
        if book is not None:
            book.close()


def _rows(path: Path, sheet: str) -> Iterator[list[Any]]:
    """Yield the cells of each row that is not empty, without the empty ones at its end."""
    with _open(path) as book:
        cells = book[sheet]
        cells.reset_dimensions()  # they are declared by the file, and rows would be filled up to them
        for number, row in enumerate(cells.iter_rows(values_only=True), start=1):
            if number > _MOST_ROWS:
                raise DataError(f"{path}, sheet {sheet!r}: more than {_MOST_ROWS:,} rows. Split it, or save it as csv.")
            used = list(row)
            while used and (used[-1] is None or used[-1] == ""):
                used.pop()
            check_number(path, len(used))
            if used:
                yield used
