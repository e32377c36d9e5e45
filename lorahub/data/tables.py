"""Tables on disk as streams of rows: csv, tsv, jsonl and parquet.

In: a path. Out: an iterator of dicts, so that a file of a million rows needs the memory of one. Independent of claims
and labels. Every error names the file and, where it applies, the row (the first row after a header is row 1).
"""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from lorahub import runfiles
from lorahub.errors import DataError, one_line

Row = dict[str, Any]

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_DELIMITER_NAMES = {",": "a comma", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_CHUNK = 4096
# A spreadsheet runs a cell that begins with one of these signs as a formula, unless it is a plain number; it skips byte
# order marks and NULs at the start. The writer of csv and tsv puts an apostrophe before the sign, and one more where
# apostrophes stand before it already; the reader takes one away there, so that any text comes back as it was. The same
# within a cell, behind a character that separates cells where the list separator is a semicolon: there a quote in the
# middle of a line quotes nothing.
_SIGNS = r"=+\-@\uff1d\uff0b\uff0d\uff20\ufeff\x00"
_FORMULA = re.compile(rf"'*[{_SIGNS}\t\r\n]")
_QUOTED_FORMULA = re.compile(rf"'+[{_SIGNS}\t\r\n]")
_INNER_FORMULA = re.compile(rf"([;\t\r\n]'*)(?=[{_SIGNS}])")
_QUOTED_INNER_FORMULA = re.compile(rf"([;\t\r\n]'*)'(?=[{_SIGNS}])")
# No two parts of it can match the same character, so that it takes linear time.
_NUMBER = re.compile(r"'*[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?\s*")
# Rows of a file are streamed, but nothing that is read to its end may be endless.
_LARGEST_FILE = 2**38
# The default limit of the csv module, 131,072, is shorter than an article; a longer cell than this is an open quote.
_MAX_CELL = 2**24
_LONGEST_LINE = 2**26
_MOST_COLUMNS = 2000


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows on demand, their columns, and the name of the table in error messages.

    `unread` are columns of files (images, sounds, …), which the rows do not have.
    """

    title: str
    columns: tuple[str, ...]
    rows: Callable[[], Iterator[Row]]
    unread: tuple[str, ...] = ()


def check(path: Path, *, folder: Path | None = None) -> Path:
    """Return `path` if it is a readable table; else raise DataError with the fix.

    A symbolic link that is named itself is followed; in a data `folder`, only inside of it.
    """
    if not path.exists():
        raise DataError(f"there is no file {path}. Check the path; relative paths start at {Path.cwd().name}/.")
    if path.is_dir():
        raise DataError(f"{path} is a folder; this needs one file ({', '.join(SUFFIXES)}).")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{path} has the ending {path.suffix!r}; lorahub reads {', '.join(SUFFIXES)}. Save it as one of them."
        )
    try:
        with runfiles.open_file(path, limit=_LARGEST_FILE, folder=folder or path.resolve().parent):
            pass
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}. Check the path.") from None
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty. It needs a header and at least one row.")
    return path


def check_writable(path: Path) -> Path:
    """Return `path` if a table can be written there; else raise DataError with the fix."""
    if path.is_dir():
        raise DataError(f"{path} is a folder; the output is one file ({', '.join(SUFFIXES)}).")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path} has the ending {path.suffix!r}; lorahub writes {', '.join(SUFFIXES)}.")
    return path


def read(path: Path) -> Iterator[Row]:
    """Yield the rows of a table in order."""
    suffix = check(path).suffix.lower()
    if suffix == ".parquet":
        return _read_parquet(path)
    return _read_jsonl(path) if suffix == ".jsonl" else _read_delimited(path)


def columns(path: Path) -> list[str]:
    """Return the column names of a table (for jsonl: the keys of its first row)."""
    suffix = check(path).suffix.lower()
    if suffix == ".parquet":
        return list(schema(path).names)
    return list(next(_read_jsonl(path), {})) if suffix == ".jsonl" else _header(path, _cells(path))


def schema(path: Path) -> pa.Schema:
    """Return the columns and types of a table; a jsonl file is read once for it.

    A jsonl column whose types differ is text. The columns of csv and tsv files are always text.
    """
    suffix = check(path).suffix.lower()
    if suffix == ".parquet":
        with _open_parquet(path) as file:
            _check_number(path, len(file.schema_arrow.names))
            return file.schema_arrow.remove_metadata()
    if suffix != ".jsonl":
        return pa.schema([(name, pa.string()) for name in columns(path)])
    types: dict[str, pa.DataType] = {}
    rows = _read_jsonl(path)
    while chunk := list(islice(rows, _CHUNK)):
        values: dict[str, list[Any]] = {}
        for row in chunk:
            for name, value in row.items():
                values.setdefault(name, []).append(value)
        _check_number(path, len(types.keys() | values.keys()))
        for name, found in values.items():
            types[name] = _common_type(types.get(name, pa.null()), _infer_type(found))
    return pa.schema(list(types.items()))


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


def other_delimiter(columns: Sequence[str]) -> str | None:
    """Return the name of the delimiter if the only column is a whole header with another one than its suffix says."""
    if len(columns) != 1:
        return None
    return next((name for sign, name in _DELIMITER_NAMES.items() if sign != "," and sign in columns[0]), None)


class _Lines:
    """The lines of a file; `ended` is set when a line is requested after the last one."""

    def __init__(self, path: Path) -> None:
        self._path, self.ended = path, False

    def __iter__(self) -> Iterator[str]:
        try:
            with self._path.open(encoding="utf-8-sig", newline="") as file:
                while line := file.readline(_LONGEST_LINE):
                    if len(line) == _LONGEST_LINE:
                        raise DataError(f"{self._path} has a line of more than {_LONGEST_LINE:,} characters. Split it.")
                    yield line
        except UnicodeDecodeError:
            raise _wrong_encoding(self._path) from None
        self.ended = True


def _cells(path: Path) -> Iterator[list[str]]:
    """Yield the header and the rows of a csv or tsv file as lists of cells, without blank lines."""
    csv.field_size_limit(_MAX_CELL)
    lines = _Lines(path)
    reader = csv.reader(lines, delimiter=_DELIMITERS[path.suffix.lower()])
    row = 0
    while True:
        where = f"{path}, row {row}" if row else f"{path}: the header"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{where} cannot be read ({one_line(error)}). Is a quote left open? Close it.") from None
        if cells is None:
            return
        if not cells:
            continue
        if lines.ended:  # a row that needs a line after the last one is still inside quotes
            raise DataError(f"{where} opens a quote that is never closed. Close or remove it.")
        yield cells
        row += 1


def _header(path: Path, rows: Iterator[list[str]]) -> list[str]:
    header = [original(name) for name in next(rows, [])]
    _check_number(path, len(header))
    if len(set(header)) != len(header):
        repeated = sorted({name for name in header if header.count(name) > 1})
        raise DataError(f"{path}: the header repeats {', '.join(repeated)}. Rename one of the columns.")
    return header


def _check_number(path: Path, number: int) -> None:
    """Raise DataError if a table has too many columns: many steps take time for each of them in every row."""
    if number > _MOST_COLUMNS:
        raise DataError(f"{path} has more than {_MOST_COLUMNS:,} columns. Keep those that are needed.")


def _read_delimited(path: Path) -> Iterator[Row]:
    delimiter, rows = _DELIMITERS[path.suffix.lower()], _cells(path)
    header = _header(path, rows)
    for number, cells in enumerate(rows, start=1):
        if delimiter == "\t" and any(_spans_rows(cell, len(header)) for cell in cells):
            raise DataError(
                f"{path}, row {number}: a quote at the start of a cell continues past the end of the line, so that it "
                "would swallow rows. Double the quote and put quotes around the cell, or save the file as .csv."
            )
        if len(cells) != len(header):
            name = "a tab" if delimiter == "\t" else _DELIMITER_NAMES[delimiter]
            raise DataError(
                f"{path}, row {number} has {len(cells)} cells, the header has {len(header)}. "
                f"Put quotes around text that contains {name}."
            )
        yield dict(zip(header, map(original, cells), strict=True))


def _spans_rows(cell: str, columns: int) -> bool:
    """Return whether a tsv cell contains whole rows: programs differ in whether a quote starts a quoted cell."""
    return "\n" in cell and ("\t" in cell or columns == 1)


def _read_jsonl(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_Lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and deep nesting
            why = error.msg if isinstance(error, json.JSONDecodeError) else one_line(error)
            raise DataError(f"{path}, row {number} is not JSON ({why}). A jsonl row is one line.") from None
        if not isinstance(row, dict):
            raise DataError(f'{path}, row {number} is not a JSON object. Write it as {{"claim": …, "label": …}}.')
        _check_number(path, len(row))
        if "\\u" in line and not _is_unicode(row):
            raise DataError(f"{path}, row {number} contains a lone surrogate (half a character). Remove or fix it.")
        yield row


def _is_unicode(row: Row) -> bool:
    try:
        _json(row).encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable parquet file ({one_line(error)}). Write it again.") from None


def _read_parquet(path: Path) -> Iterator[Row]:
    with _open_parquet(path) as file:
        _check_number(path, len(file.schema_arrow.names))
        for batch in file.iter_batches(batch_size=_CHUNK):
            yield from batch.to_pylist()


def _wrong_encoding(path: Path) -> DataError:
    """Return the error for a file that is not UTF-8, with its line: the text reader decodes in blocks."""
    where, byte = f"{path}", ""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                where, byte = f"{path}, line {number}", f" (byte 0x{line[error.start]:02x})"
                break
    return DataError(
        f"{where} is not UTF-8{byte}. Save it as UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW."
    )


class Writer:
    """Writes rows to a csv, tsv, jsonl or parquet file as they arrive.

    The columns are those of `schema`, followed by those that only the first rows have. A row may lack columns; a row
    that does not fit them raises DataError. `kind` is the format; `path` may have a temporary name.
    """

    def __init__(self, path: Path, *, kind: str, schema: pa.Schema | None = None) -> None:
        if kind not in SUFFIXES:
            raise DataError(f"cannot write {path} as {kind or 'a file without an ending'}; use {', '.join(SUFFIXES)}.")
        self._kind = kind
        self._path = path
        self._schema = pa.schema([]) if schema is None else schema
        self._done = 0
        self._parquet: pq.ParquetWriter | None = None
        self._csv: csv.DictWriter[str] | None = None
        # Parquet is binary and is opened with its schema when the first rows arrive.
        self._file = None if kind == ".parquet" else path.open("w", encoding="utf-8", newline="")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for handle in (self._parquet, self._file):
            if handle is not None:
                handle.close()

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append `rows`; raises DataError naming the first one that does not fit the columns."""
        if not rows:
            return
        if self._file is not None and self._kind == ".jsonl":
            self._file.writelines(_json(row) + "\n" for row in rows)
            return
        if not self._done:
            self._start(rows)
        known = set(self._schema.names)
        for number, row in enumerate(rows, start=self._done + 1):
            if new := [name for name in row if name not in known]:
                raise DataError(f"output row {number} has the new column {new[0]!r}. Write .jsonl instead.")
            if self._kind == ".tsv" and any(isinstance(x, str) and _spans_rows(x, len(row)) for x in row.values()):
                raise DataError(f"output row {number} has a cell with tabs and line breaks. Write .csv, not .tsv.")
        if self._parquet is not None:
            arrays = [self._array(column, [row.get(column.name) for row in rows]) for column in self._schema]
            self._parquet.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        if self._csv is not None:
            self._csv.writerows({name: neutralized(cell) for name, cell in row.items()} for row in rows)
        self._done += len(rows)

    def write_none(self, columns: Sequence[str]) -> None:
        """Write a table with these text columns and no rows; a jsonl file stays empty."""
        if self._kind != ".jsonl":
            self._start([dict.fromkeys(columns, "")])

    def _start(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Complete the schema from the first rows and open the writer of the format."""
        for name in dict.fromkeys(name for row in rows for name in row):
            if name not in self._schema.names:
                self._schema = self._schema.append(pa.field(name, _infer_type([row.get(name) for row in rows])))
        if self._file is None:
            self._parquet = pq.ParquetWriter(self._path, self._schema)
        else:
            self._csv = csv.DictWriter(self._file, self._schema.names, delimiter=_DELIMITERS[self._kind])
            self._csv.writerow({name: neutralized(name) for name in self._schema.names})

    def _array(self, column: pa.Field, values: list[Any]) -> pa.Array:
        if pa.types.is_string(column.type):
            values = [value if value is None or isinstance(value, str) else _json(value) for value in values]
        array = _exact_array(values, column.type)
        if array is None:
            index = next(index for index, value in enumerate(values) if _exact_array([value], column.type) is None)
            raise DataError(
                f"output row {self._done + index + 1}: column {column.name!r} holds {values[index]!r:.60}, but the "
                f"rows before it made the column {column.type}. Fix the row, or write .jsonl."
            )
        return array


def _infer_type(values: list[Any]) -> pa.DataType:
    try:
        kind = pa.array(values).type
    except (pa.ArrowException, OverflowError, ValueError, TypeError, RecursionError):
        return pa.string()
    return pa.string() if "struct<>" in str(kind) else kind  # parquet has no empty objects


def _common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return the type that can hold the values of both types."""
    try:
        schemas = [pa.schema([("", kind)]) for kind in (one, other)]
        return pa.unify_schemas(schemas, promote_options="permissive").types[0]
    except pa.ArrowException:
        return pa.string()


def _exact_array(values: list[Any], kind: pa.DataType) -> pa.Array | None:
    """Return the values as an array of this type; None if that would change or reject one of them."""
    if pa.types.is_integer(kind) and any(isinstance(value, bool | float) for value in values):
        return None  # pyarrow truncates fractions silently
    try:
        return pa.array(values, type=kind)
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        return None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
