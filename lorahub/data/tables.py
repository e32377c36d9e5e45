"""Tables on disk: csv, tsv, json, jsonl, xlsx and parquet files as streams of rows, and their writer.

In: a path. Out: a `Table`, whose rows are dicts, so that a file of a million rows needs the memory of one. Independent
of claims and labels. Every error names the file and, where it applies, the row (the first row after a header is row 1).
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from lorahub import runfiles
from lorahub.data import delimited, json_rows, spreadsheets
from lorahub.data.delimited import DELIMITERS, check_number, spans_rows
from lorahub.data.formulas import neutralized
from lorahub.data.rows import Row, Table
from lorahub.errors import DataError, one_line

# The formats that are read, and those that are written.
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".xlsx", ".parquet")
WRITTEN = (".csv", ".tsv", ".jsonl", ".parquet")
_CHUNK = 4096
# Rows of a file are streamed, but nothing that is read to its end may be endless.
_LARGEST_FILE = 2**38


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
        raise DataError(f"{path} is a folder; the output is one file ({', '.join(WRITTEN)}).")
    if path.suffix.lower() not in WRITTEN:
        raise DataError(f"{path} has the ending {path.suffix!r}; lorahub writes {', '.join(WRITTEN)}.")
    return path


def open_table(path: Path, *, sheet: str | None = None) -> Table:
    """Return a file as a table: of an xlsx file a sheet, by default the first one; raises DataError.

    The columns of json files are the keys of the first row.
    """
    suffix = check(path).suffix.lower()
    if suffix == ".xlsx":
        return spreadsheets.open_table(path, sheet)
    if sheet is not None:
        raise DataError(f"{path} has no sheets, but {sheet!r} is named as one. Leave it out, or name an .xlsx file.")
    if suffix == ".parquet":
        schema = _parquet_schema(path)
        return Table(
            title=str(path), columns=tuple(schema.names), rows=lambda: _read_parquet(path), schema=lambda: schema
        )
    return json_rows.open_table(path) if suffix in (".json", ".jsonl") else delimited.open_table(path)


def schema(table: Table) -> pa.Schema:
    """Return the columns and types of a table; where its file has no types, the rows are read once for them.

    A column whose types differ is text. The columns of csv and tsv files are always text.
    """
    if table.schema is not None:
        return table.schema()
    types: dict[str, pa.DataType] = {}
    rows = table.rows()
    while chunk := list(islice(rows, _CHUNK)):
        values: dict[str, list[Any]] = {}
        for row in chunk:
            for name, value in row.items():
                values.setdefault(name, []).append(value)
        check_number(Path(table.title), len(types.keys() | values.keys()))
        for name, found in values.items():
            types[name] = _common_type(types.get(name, pa.null()), _infer_type(found))
    return pa.schema(list(types.items()))


def _parquet_schema(path: Path) -> pa.Schema:
    with _open_parquet(path) as file:
        check_number(path, len(file.schema_arrow.names))
        return file.schema_arrow.remove_metadata()


@contextmanager
def _open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable parquet file ({one_line(error)}). Write it again.") from None


def _read_parquet(path: Path) -> Iterator[Row]:
    with _open_parquet(path) as file:
        for batch in file.iter_batches(batch_size=_CHUNK):
            yield from batch.to_pylist()


class Writer:
    """Writes rows to a csv, tsv, jsonl or parquet file as they arrive.

    The columns are those of `schema`, followed by those that only the first rows have. A row may lack columns; a row
    that does not fit them raises DataError. `kind` is the format; `path` may have a temporary name.
    """

    def __init__(self, path: Path, *, kind: str, schema: pa.Schema | None = None) -> None:
        if kind not in WRITTEN:
            raise DataError(f"cannot write {path} as {kind or 'a file without an ending'}; use {', '.join(WRITTEN)}.")
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
            if self._kind == ".tsv" and any(isinstance(x, str) and spans_rows(x, len(row)) for x in row.values()):
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
            self._csv = csv.DictWriter(self._file, self._schema.names, delimiter=DELIMITERS[self._kind])
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
