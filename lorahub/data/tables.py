"""Tables on disk as streams of rows: csv, tsv, jsonl and parquet, read and written one row at a time.

In: a path. Out: an iterator of dicts, so that a file of a million rows needs the memory of one. Knows nothing of
claims or labels. Every error names the file and, where there is one, the row (the first row after a header is row 1).
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from lorahub.errors import DataError, one_line

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_ROWS_AT_ONCE = 4096
# The csv library's own limit of 131,072 is less than an article; a cell beyond this one is a quote left open.
_LONGEST_CELL = 2**24


def check(path: Path) -> Path:
    """Return `path` if it is a readable table; else raise DataError with the fix."""
    if not path.exists():
        raise DataError(f"there is no file {path}. Check the path; relative paths start at {Path.cwd().name}/.")
    if path.is_dir():
        raise DataError(f"{path} is a folder; this needs one file ({', '.join(SUFFIXES)}).")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{path} has the ending {path.suffix!r}; lorahub reads {', '.join(SUFFIXES)}. Save it as one of them."
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty. It needs a header and at least one row.")
    return path


def columns(path: Path) -> list[str]:
    """The column names of a table (of a jsonl file: the keys of its first row)."""
    suffix = check(path).suffix.lower()
    if suffix == ".parquet":
        return list(_open_parquet(path).schema_arrow.names)
    if suffix == ".jsonl":
        return list(next(_read_jsonl(path), {}))
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = _Lines(file)
        return _header(path, lines, _cells(lines, _DELIMITERS[suffix]))


def schema(path: Path) -> pa.Schema:
    """The columns and types of a table: of a jsonl file, read once for it, those of all rows.

    Where the types of a column differ it is text; text is all that csv and tsv have.
    """
    suffix = check(path).suffix.lower()
    if suffix == ".parquet":
        # What pandas and others note there is about their own table.
        return _open_parquet(path).schema_arrow.remove_metadata()
    if suffix != ".jsonl":
        return pa.schema([(name, pa.string()) for name in columns(path)])
    found: dict[str, pa.DataType] = {}
    rows = _read_jsonl(path)
    while chunk := list(islice(rows, _ROWS_AT_ONCE)):
        for name in dict.fromkeys(name for row in chunk for name in row):
            found[name] = _wider(found.get(name, pa.null()), _type([row.get(name) for row in chunk]))
    return pa.schema(list(found.items()))


def _type(values: list[Any]) -> pa.DataType:
    try:
        found = pa.array(values).type
    except (pa.ArrowException, OverflowError):
        return pa.string()
    # Parquet has no object without a key.
    return pa.string() if "struct<>" in str(found) else found


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type that holds the values of both."""
    try:
        both = [pa.schema([("", kind)]) for kind in (one, other)]
        return pa.unify_schemas(both, promote_options="permissive").types[0]
    except pa.ArrowException:
        return pa.string()


def check_writable(path: Path) -> Path:
    """Return `path` if a table can be written there; else raise DataError with the fix."""
    if path.is_dir():
        raise DataError(f"{path} is a folder; the output is one file ({', '.join(SUFFIXES)}).")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path} has the ending {path.suffix!r}; lorahub writes {', '.join(SUFFIXES)}.")
    return path


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table in order."""
    suffix = check(path).suffix.lower()
    if suffix == ".parquet":
        return _read_parquet(path)
    if suffix == ".jsonl":
        return _read_jsonl(path)
    return _read_delimited(path, _DELIMITERS[suffix])


def _cells(lines: "_Lines", delimiter: str) -> Iterator[list[str]]:
    csv.field_size_limit(_LONGEST_CELL)
    return csv.reader(lines, delimiter=delimiter)


def _header(path: Path, lines: "_Lines", reader: Iterator[list[str]]) -> list[str]:
    try:
        header: list[str] = next(reader, [])
    except UnicodeDecodeError:
        raise _wrong_encoding(path) from None
    except csv.Error as error:
        raise DataError(f"{path}: the header cannot be read ({error}). Is a quote left open? Close it.") from None
    if lines.ended and header:
        raise DataError(f"{path}: the header opens a quote that nothing closes. Close or remove it.")
    if len(set(header)) != len(header):
        repeated = sorted({name for name in header if header.count(name) > 1})
        raise DataError(f"{path}: the header names {', '.join(repeated)} more than once. Rename one of the columns.")
    return header


def _read_delimited(path: Path, delimiter: str) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = _Lines(file)
        reader = _cells(lines, delimiter)
        header = _header(path, lines, reader)
        row = 0
        while True:
            try:
                cells = next(reader, None)
            except UnicodeDecodeError:
                raise _wrong_encoding(path) from None
            except csv.Error as error:
                raise DataError(f"{path}, row {row + 1}: {error}. Is a quote left open? Close it.") from None
            if cells is None:
                return
            if not cells:
                continue
            row += 1
            if lines.ended:
                # A row that asks for a line after the last one is still inside quotes.
                raise DataError(f"{path}, row {row} opens a quote that nothing closes. Close or remove it.")
            if delimiter == "\t" and any(_swallowed(cell, len(header)) for cell in cells):
                raise DataError(
                    f"{path}, row {row}: a quote at the start of a cell goes on over the end of the line, so that rows "
                    "would be lost in it. Write the quote twice and put quotes around the cell, or save it as .csv."
                )
            if len(cells) != len(header):
                raise DataError(
                    f"{path}, row {row} has {len(cells)} cells, the header has {len(header)}. "
                    f"Put quotes around text that contains {'a comma' if delimiter == ',' else 'a tab'}."
                )
            yield dict(zip(header, cells, strict=True))


def _swallowed(cell: str, columns: int) -> bool:
    """Whether a tsv cell holds whole rows: some programs quote cells there, others write a quote as any character."""
    return "\n" in cell and ("\t" in cell or columns == 1)


class _Lines:
    """The lines of a file; `ended` once one was asked for after the last."""

    def __init__(self, file: Iterator[str]) -> None:
        self._file, self.ended = file, False

    def __iter__(self) -> Iterator[str]:
        yield from self._file
        self.ended = True


def _read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        lines = enumerate(file, start=1)
        number = 0
        while True:
            try:
                number, line = next(lines, (number, None))
            except UnicodeDecodeError:
                raise _wrong_encoding(path) from None
            if line is None:
                return
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, row {number} is not JSON ({error.msg}). A jsonl row is one line.") from None
            if not isinstance(row, dict):
                raise DataError(f'{path}, row {number} is no object. Write it as {{"claim": …, "label": …}}.')
            if "\\u" in line and not _is_text(row):
                raise DataError(f"{path}, row {number} holds half a character (a lone surrogate). Remove or mend it.")
            yield row


def _is_text(row: dict[str, Any]) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _bad_parquet(path, error) from None


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    with _open_parquet(path) as file:
        batches = file.iter_batches(batch_size=_ROWS_AT_ONCE)
        while True:
            try:
                batch = next(batches, None)
                rows = [] if batch is None else batch.to_pylist()
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                raise _bad_parquet(path, error) from None
            if batch is None:
                return
            yield from rows


def _bad_parquet(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is not a readable parquet file ({one_line(error)}). Write it again.")


def _wrong_encoding(path: Path) -> DataError:
    """Name the line: the reader decodes in blocks and cannot tell."""
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
    """Writes rows to a csv, tsv, jsonl or parquet file as they come.

    The columns are those of `schema`, and behind them those that the first rows have besides; a row may leave some
    out, and one that does not fit is a DataError. `kind` gives the format where `path` has a temporary name.
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
        # Parquet is binary and opened with its schema, at the first rows.
        self._file = None if kind == ".parquet" else path.open("w", encoding="utf-8", newline="")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for handle in (self._parquet, self._file):
            if handle is not None:
                handle.close()

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append `rows`; raises DataError naming the first that does not fit the columns."""
        if not rows:
            return
        if self._kind == ".jsonl":
            assert self._file is not None
            self._file.writelines(_json(row) + "\n" for row in rows)
            return
        if not self._done:
            self._begin(rows)
        known = set(self._schema.names)
        for place, row in enumerate(rows, start=self._done + 1):
            if not known.issuperset(row):
                strange = next(name for name in row if name not in known)
                raise DataError(f"output row {place} has the column {strange!r}, which is new there. Write .jsonl.")
            if self._kind == ".tsv" and any(isinstance(x, str) and _swallowed(x, len(row)) for x in row.values()):
                raise DataError(f"output row {place} has a cell with tabs and line breaks. Write .csv, not .tsv.")
        if self._parquet is not None:
            arrays = [self._array(column, [row.get(column.name) for row in rows]) for column in self._schema]
            self._parquet.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        if self._csv is not None:
            self._csv.writerows(rows)
        self._done += len(rows)

    def write_none(self, columns: Sequence[str]) -> None:
        """Make a table of these columns, as text, without rows; a jsonl file stays empty."""
        if self._kind != ".jsonl":
            self._begin([dict.fromkeys(columns, "")])

    def _begin(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Complete the schema from the first rows and open what needs it."""
        for name in dict.fromkeys(name for row in rows for name in row):
            if name not in self._schema.names:
                self._schema = self._schema.append(pa.field(name, _type([row.get(name) for row in rows])))
        if self._file is None:
            self._parquet = pq.ParquetWriter(self._path, self._schema)
        else:
            self._csv = csv.DictWriter(self._file, self._schema.names, delimiter=_DELIMITERS[self._kind])
            self._csv.writeheader()

    def _array(self, column: pa.Field, values: list[Any]) -> pa.Array:
        if pa.types.is_string(column.type):
            values = [value if value is None or isinstance(value, str) else _json(value) for value in values]
        try:
            return _exactly(values, column.type)
        except (pa.ArrowException, OverflowError, ValueError, TypeError):
            place = next(place for place, value in enumerate(values) if not _fits(value, column.type))
            raise DataError(
                f"output row {self._done + place + 1}: column {column.name!r} holds {values[place]!r:.60}, but what "
                f"came before made it {column.type}. Mend the row, or write .jsonl."
            ) from None


def _exactly(values: list[Any], kind: pa.DataType) -> pa.Array:
    """The values as an array of this type; raises where one of them is another value in it."""
    if pa.types.is_integer(kind) and any(isinstance(value, bool | float) for value in values):
        # pyarrow would cut the fraction off in silence.
        raise TypeError
    return pa.array(values, type=kind)


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        _exactly([value], kind)
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        return False
    return True


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
