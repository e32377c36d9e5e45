"""Tables on disk as streams of rows: csv, tsv, jsonl and parquet, read and written one row at a time.

In: a path. Out: an iterator of dicts, so that a file of a million rows needs the memory of one. Knows nothing of
claims or labels. Every error names the file and, where there is one, the row (the first row after a header is row 1).
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from lorahub.errors import DataError, one_line

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_PARQUET_BATCH = 4096


def check(path: Path) -> Path:
    """Return `path` if it is a readable table; else raise DataError with the fix."""
    if not path.exists():
        raise DataError(f"there is no file {path}. Check the path; relative paths start at {Path.cwd().name}/.")
    if path.is_dir():
        raise DataError(f"{path} is a folder; this needs one file ({', '.join(SUFFIXES)}).")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path} ends in {path.suffix or 'nothing'!r}; lorahub reads {', '.join(SUFFIXES)}.")
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
        return _header(path, csv.reader(file, delimiter=_DELIMITERS[suffix]))


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table in order."""
    suffix = check(path).suffix.lower()
    if suffix == ".parquet":
        return _read_parquet(path)
    if suffix == ".jsonl":
        return _read_jsonl(path)
    return _read_delimited(path, _DELIMITERS[suffix])


def _header(path: Path, reader: "csv._reader") -> list[str]:
    try:
        header = next(reader, [])
    except UnicodeDecodeError as error:
        raise _wrong_encoding(path, 0, error) from None
    if len(set(header)) != len(header):
        repeated = sorted({name for name in header if header.count(name) > 1})
        raise DataError(f"{path}: the header names {', '.join(repeated)} more than once. Rename one of the columns.")
    return header


def _read_delimited(path: Path, delimiter: str) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        header = _header(path, reader)
        row = 0
        while True:
            try:
                cells = next(reader, None)
            except UnicodeDecodeError as error:
                raise _wrong_encoding(path, row + 1, error) from None
            except csv.Error as error:
                raise DataError(f"{path}, row {row + 1}: {error}. Is a quote left open or the file binary?") from None
            if cells is None:
                return
            if not cells:
                continue
            row += 1
            if len(cells) != len(header):
                raise DataError(
                    f"{path}, row {row} has {len(cells)} cells, the header has {len(header)}. "
                    f"Put quotes around text that contains {'a comma' if delimiter == ',' else 'a tab'}."
                )
            yield dict(zip(header, cells, strict=True))


def _read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        lines = enumerate(file, start=1)
        number = 0
        while True:
            try:
                number, line = next(lines, (number, None))
            except UnicodeDecodeError as error:
                raise _wrong_encoding(path, number + 1, error) from None
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
            yield row


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is not a readable parquet file ({one_line(error)}). Write it again.") from None


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    with _open_parquet(path) as file:
        for batch in file.iter_batches(batch_size=_PARQUET_BATCH):
            yield from batch.to_pylist()


def _wrong_encoding(path: Path, row: int, error: UnicodeDecodeError) -> DataError:
    where = f", near row {row}" if row else ""
    return DataError(
        f"{path}{where} is not UTF-8 (byte 0x{error.object[error.start]:02x}). "
        "Save it as UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW."
    )


class Writer:
    """Writes rows to a csv, tsv, jsonl or parquet file as they come.

    The columns are those of the first row. `kind` gives the format where `path` has a temporary name.
    """

    def __init__(self, path: Path, *, kind: str) -> None:
        if kind not in SUFFIXES:
            raise DataError(f"cannot write {kind or 'a file without an ending'!r}; use {', '.join(SUFFIXES)}.")
        self._kind = kind
        self._path = path
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
        """Append `rows`; all must have the first row's columns."""
        if not rows:
            return
        if self._kind == ".parquet":
            table = pa.Table.from_pylist([dict(row) for row in rows], schema=self._schema())
            if self._parquet is None:
                self._parquet = pq.ParquetWriter(self._path, table.schema)
            self._parquet.write_table(table)
            return
        assert self._file is not None
        if self._kind == ".jsonl":
            self._file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
            return
        if self._csv is None:
            self._csv = csv.DictWriter(self._file, list(rows[0]), delimiter=_DELIMITERS[self._kind])
            self._csv.writeheader()
        self._csv.writerows(rows)

    def _schema(self) -> pa.Schema | None:
        return None if self._parquet is None else self._parquet.schema
