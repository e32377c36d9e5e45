"""csv and tsv files as tables: the separator, the quotes and the header are found, and what was assumed is said.

The separator is the one of `, ; tab |` with which the csv module reads every row of a sample to the same number of
cells, at least two. Where the first row looks like data, the table can also be read without a header. Rows that a
quote swallows, and text behind a closing quote, are errors with their row.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pyarrow as pa

from lorahub.data import encodings
from lorahub.data.columns import CLAIMS, EVIDENCE, LABELS, known
from lorahub.data.formulas import original
from lorahub.data.rows import Row, Table
from lorahub.errors import DataError

if TYPE_CHECKING:
    import _csv

DELIMITERS = {".csv": ",", ".tsv": "\t"}
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_ONE = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}
# The default limit of the csv module, 131,072, is shorter than an article; a longer cell than this is an open quote.
_MAX_CELL = 2**24
_MOST_COLUMNS = 2000
_SAMPLE_LINES, _SAMPLE_CHARACTERS = 1000, 2**18
# A cell of the first row with so many words is a sentence, not a name.
_SENTENCE_WORDS = 5
# From this many rows on a label column repeats its values, so that the first row shows by them whether it is data.
_MANY_ROWS = 20
_SWALLOWS = (
    "a quote at the start of a cell continues past the end of the line, so that it would swallow rows. Double the "
    "quote and put quotes around the cell; text with tabs and line breaks needs a .csv file."
)
_NUMBER = re.compile(r"\s*[+-]?\d+(?:[.,]\d*)?\s*")
_LONGEST_VALUE = 100
_KNOWN = (*CLAIMS, *LABELS, *EVIDENCE)


def open_table(path: Path) -> Table:
    """Return a csv or tsv file as a table; raises DataError if its encoding or separator is ambiguous."""
    encoding, assumed = encodings.detect(path)
    sample, whole = _sample(path, encoding)
    if not sample:
        raise DataError(f"{path} is empty. It needs a header and at least one row.")
    own = DELIMITERS[path.suffix.lower()]
    delimiter = _delimiter(path, sample, own, whole=whole)
    literal = _is_literal(sample, delimiter, whole=whole)
    rows, _ = _parse(sample, delimiter, literal=literal, whole=whole)
    file = _File(path=path, encoding=encoding, delimiter=delimiter, literal=literal, values=_values(rows))
    notes = [assumed] if assumed else []
    notes += [f"{_NAMES[delimiter]} between columns"] if delimiter != own else []
    notes += ["quotes as characters of the text"] if literal else []
    header = [original(name) for name in next(file.cells(), [])]
    check_number(path, len(header))
    read = f"{path.name}: read as {', '.join(notes)}" if assumed else f"{path.name}: read with {', '.join(notes)}"
    table = Table(
        title=str(path),
        columns=tuple(header),
        rows=lambda: file.rows(header),
        notes=(read,) if notes else (),
        schema=lambda: _schema(path, header),
    )
    if not looks_like_data(rows):
        return table
    positions = [str(place) for place in range(1, len(header) + 1)]
    without = Table(
        title=str(path),
        columns=tuple(positions),
        rows=lambda: file.rows(positions, header=False),
        notes=(*table.notes, f"{path.name}: read without a header, because its first row looks like data"),
        schema=lambda: _schema(path, positions),
    )
    return Table(**{**vars(table), "headerless": without})


def check_number(path: Path, number: int) -> None:
    """Raise DataError if a table has too many columns: many steps take time for each of them in every row."""
    if number > _MOST_COLUMNS:
        raise DataError(f"{path} has more than {_MOST_COLUMNS:,} columns. Keep those that are needed.")


def check_names(path: Path, header: Sequence[str]) -> None:
    """Raise DataError if two columns have one name."""
    if len(set(header)) != len(header):
        repeated = sorted({name for name in header if header.count(name) > 1})
        raise DataError(f"{path}: the header repeats {', '.join(repeated)}. Rename one of the columns.")


def looks_like_data(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first of these rows looks like data, not like a header.

    It does if one of its cells occurs again in its column (a label, as a rule), or if it has a sentence and either the
    rows are few, a name is repeated, or another column holds numbers only.
    """
    if not rows:
        return False
    first, rest = rows[0], [row for row in rows[1:] if row != rows[0] and len(row) == len(rows[0])]
    columns = list(zip(*rest, strict=True))
    if any(cell.strip() and len(cell) <= _LONGEST_VALUE and cell in column
           for cell, column in zip(first, columns, strict=False)):  # fmt: skip
        return True
    sentence = any(len(cell.split()) >= _SENTENCE_WORDS and not cell.rstrip().endswith(("?", ":")) for cell in first)
    numbers = any(
        _NUMBER.fullmatch(cell) and all(map(_NUMBER.fullmatch, column))
        for cell, column in zip(first, columns, strict=False)
    )
    return sentence and (len(rows) < _MANY_ROWS or len(first) == 1 or numbers or len(set(first)) < len(first))


def spans_rows(cell: str, columns: int) -> bool:
    """Return whether a tsv cell contains whole rows: programs differ in whether a quote starts a quoted cell."""
    return "\n" in cell and ("\t" in cell or columns == 1)


@dataclass(frozen=True, kw_only=True)
class _File:
    """A file and how it is read. `values` are those of each column in the sample, except those of long cells."""

    path: Path
    encoding: str
    delimiter: str
    literal: bool
    values: list[set[str]]

    def cells(self, *, header: bool = True) -> Iterator[list[str]]:
        """Yield the rows as lists of cells, without blank lines; the first one is the header, unless there is none."""
        csv.field_size_limit(_MAX_CELL)
        taken: list[str] = []  # the lines of the next row

        def lines() -> Iterator[str]:
            for line in encodings.lines(self.path, self.encoding):
                taken.append(line)
                yield line

        reader = _reader(lines(), self.delimiter, literal=self.literal)
        row = 0 if header else 1
        while True:
            where = f"{self.path}, row {row}" if row else f"{self.path}: the header"
            taken.clear()
            try:
                cells = next(reader, None)
            except csv.Error as error:
                _refuse_quote(where, error, taken)
            if cells is None:
                return
            if not cells:
                continue
            if len(taken) > 1 and self._swallows(cells, taken):
                raise DataError(f"{where}: {_SWALLOWS}")
            yield cells
            row += 1

    def rows(self, columns: Sequence[str], *, header: bool = True) -> Iterator[Row]:
        """Yield the rows with these names of columns; raises DataError naming a row that does not fit them."""
        check_names(self.path, columns)
        cells = self.cells(header=header)
        for row, found in enumerate(islice(cells, 1 if header else 0, None), start=1):
            if len(found) != len(columns):
                raise DataError(
                    f"{self.path}, row {row} has {len(found)} cells, the header has {len(columns)}. "
                    f"Put quotes around text that contains {_ONE[self.delimiter]}."
                    if header
                    else f"{self.path}, row {row} has {len(found)} cells, the first row has {len(columns)}. "
                    f"Put quotes around text that contains {_ONE[self.delimiter]}."
                )
            yield dict(zip(columns, map(original, found), strict=True))

    def _swallows(self, cells: Sequence[str], lines: Sequence[str]) -> bool:
        """Return whether a row of several lines holds other rows: one of its lines is a row with a known value.

        Only the parts of a line count that are inside of quotes. Any tab there is a row of a tsv file.
        """
        if self.delimiter == "\t":
            return any(spans_rows(cell, len(cells)) for cell in cells)
        inside = [place for place, cell in enumerate(cells) if "\n" in cell or "\r" in cell]
        for number, line in enumerate(lines):
            parts = line.rstrip("\r\n").split(self.delimiter)
            low = inside[0] + 1 if number == 0 and inside else 0
            high = inside[-1] if number == len(lines) - 1 and inside else len(parts)
            if len(parts) == len(self.values) and any(
                parts[place].strip('"') in self.values[place] for place in range(low, min(high, len(parts)))
            ):
                return True
        return False


def _refuse_quote(where: str, error: csv.Error, lines: Sequence[str]) -> NoReturn:
    """Raise the DataError for a row that the csv module cannot read."""
    if "expected after" not in str(error):
        raise DataError(f"{where} opens a quote that is never closed. Close or remove it.") from None
    if len(lines) > 1:
        raise DataError(f"{where}: {_SWALLOWS}") from None
    raise DataError(
        f"{where}: text stands behind a closing quote. Double the quotes inside of a cell, and put quotes around it."
    ) from None


def _reader(lines: Iterable[str], delimiter: str, *, literal: bool) -> "_csv.Reader":
    if literal:
        return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    return csv.reader(lines, delimiter=delimiter, strict=True)


def _sample(path: Path, encoding: str) -> tuple[list[str], bool]:
    """Return the first lines of a file, and whether these are all."""
    sample: list[str] = []
    size = 0
    for line in encodings.lines(path, encoding):
        if len(sample) == _SAMPLE_LINES or size >= _SAMPLE_CHARACTERS:
            return sample, False
        sample.append(line)
        size += len(line)
    return sample, True


def _parse(
    sample: Sequence[str], delimiter: str, *, literal: bool = False, whole: bool = True
) -> tuple[list[list[str]], str | None]:
    """Return the rows of the sample up to an error, and the error.

    An open quote at the end of a sample that is not the whole file is none.
    """
    csv.field_size_limit(_MAX_CELL)
    reader, rows = _reader(sample, delimiter, literal=literal), []
    try:
        for row in reader:
            if row:
                rows.append(row)
    except csv.Error as error:
        cut = not whole and "expected after" not in str(error)
        return rows, None if cut else str(error)
    return rows, None


def _delimiter(path: Path, sample: Sequence[str], own: str, *, whole: bool) -> str:
    """Return the separator of a sample: of several, the one with most known names; raises DataError if none has."""
    parsed = {sign: _parse(sample, sign, whole=whole) for sign in _NAMES}
    in_header = [sign for sign, (rows, _) in parsed.items() if rows and len(rows[0]) > 1]
    fitting = [
        sign for sign in in_header if parsed[sign][1] is None and len({len(row) for row in parsed[sign][0]}) == 1
    ]
    # A header without rows, or with rows that do not fit it, is read by the separator of the file's ending.
    candidates = fitting or ([own] if own in in_header or not in_header else in_header)
    names = {sign: len(known(parsed[sign][0][0], _KNOWN)) if parsed[sign][0] else 0 for sign in candidates}
    best = [sign for sign in candidates if names[sign] == max(names.values())]
    if len(best) > 1:
        raise DataError(
            f"{path}: its separator is ambiguous: {' and '.join(_NAMES[sign] for sign in best)} both give each row as "
            "many cells as the header. Put quotes around text that contains one of them."
        )
    return best[0]


def _is_literal(sample: Sequence[str], delimiter: str, *, whole: bool) -> bool:
    """Return whether quotes are characters of the text: a file of a program that quotes no cells.

    With them as quotes, a row of one line has text behind a closing quote; as text, every row has as many cells as the
    header, which has no quote. No quote is doubled.
    """
    _, error = _parse(sample, delimiter, whole=whole)
    if error is None or "expected after" not in error or '"' in sample[0] or any('""' in line for line in sample):
        return False
    reader = _reader(sample, delimiter, literal=False)
    before = 0
    try:
        for _ in reader:
            before = reader.line_num
    except csv.Error:
        if reader.line_num - before > 1:
            return False
    rows, failed = _parse(sample, delimiter, literal=True, whole=whole)
    return failed is None and len({len(row) for row in rows}) == 1


def _values(rows: Sequence[Sequence[str]]) -> list[set[str]]:
    """Return the values of each column in rows of one line, without empty and long ones."""
    known: list[set[str]] = [set() for _ in (rows[0] if rows else ())]
    for row in rows[1:]:
        if len(row) == len(known) and not any("\n" in cell or "\r" in cell for cell in row):
            for values, cell in zip(known, row, strict=True):
                if cell.strip() and len(cell) <= _LONGEST_VALUE:
                    values.add(cell)
    return known


def _schema(path: Path, columns: Sequence[str]) -> pa.Schema:
    check_names(path, columns)
    return pa.schema([(name, pa.string()) for name in columns])
