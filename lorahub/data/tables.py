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
        return _header(path, csv.reader(file, delimiter=_DELIMITERS[suffix]))


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


def _header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    try:
        header: list[str] = next(reader, [])
    except UnicodeDecodeError:
        raise _wrong_encoding(path) from None
    except csv.Error as error:
        raise DataError(f"{path}: the header cannot be read ({error}). Is a quote left open? Close it.") from None
    if len(set(header)) != len(header):
        repeated = sorted({name for name in header if header.count(name) > 1})
        raise DataError(f"{path}: the header names {', '.join(repeated)} more than once. Rename one of the columns.")
    return header


def _read_delimited(path: Path, delimiter: str) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = _Lines(file)
        reader = csv.reader(lines, delimiter=delimiter)
        header = _header(path, reader)
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
            if len(cells) != len(header):
                raise DataError(
                    f"{path}, row {row} has {len(cells)} cells, the header has {len(header)}. "
                    f"Put quotes around text that contains {'a comma' if delimiter == ',' else 'a tab'}."
                )
            yield dict(zip(header, cells, strict=True))


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
        batches = file.iter_batches(batch_size=_PARQUET_BATCH)
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

    The columns are those of the first row. `kind` gives the format where `path` has a temporary name.
    """

    def __init__(self, path: Path, *, kind: str) -> None:
        if kind not in SUFFIXES:
            raise DataError(f"cannot write {path} as {kind or 'a file without an ending'}; use {', '.join(SUFFIXES)}.")
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

    def write_none(self, columns: Sequence[str]) -> None:
        """Make a table of these columns, as text, without rows; a jsonl file stays empty."""
        if self._kind == ".parquet":
            self._parquet = pq.ParquetWriter(self._path, pa.schema([(name, pa.string()) for name in columns]))
        elif self._kind in _DELIMITERS:
            assert self._file is not None
            csv.writer(self._file, delimiter=_DELIMITERS[self._kind]).writerow(columns)

    def _schema(self) -> pa.Schema | None:
        return None if self._parquet is None else self._parquet.schema
