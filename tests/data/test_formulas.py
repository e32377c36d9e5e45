"""A spreadsheet runs no cell that lorahub writes, and lorahub reads every cell back as it was."""

import csv
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorahub.data import encodings, formulas, tables
from lorahub.errors import DataError

FORMULAS = ["=1+1", "+1+1", "-2+3", "@SUM(A1)", "\tx", "\r=1", "\n=1", "=cmd|' /C calc'!A0", "-", "+", "\uff1d1+1"]
FORMULAS += ["\ufeff=1", "\ufeff\ufeff=HYPERLINK(1)", "\x00@x", "\x00\ufeff-x"]
INNER = ["x;=1+1;y", "x;'=1", "x\n=1+1", "a;;+1", "x;\ufeff=1", "\r\n-1;=2", "a\n\n- b", "'x;=1"]
PLAIN = ["-5", "+3.5", "-1e-5", "'tis", "''", "'-5", "a=b", "", "it's", "'", "a", " =1"]
AWKWARD = ["'=1", "''=1", "'@x", "'-x", "'''+a", "'-5 degrees"]


def raw(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


def written(path, rows):
    with tables.Writer(path, kind=path.suffix) as writer:
        writer.write(rows)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("text", FORMULAS + PLAIN + AWKWARD + INNER)
def test_a_cell_and_a_header_come_back_and_run_nowhere(tmp_path, suffix, text):
    rows = [{"claim": text, f"{text}h": "x"}]
    path = written(tmp_path / f"out{suffix}", rows)
    assert list(tables.open_table(path).rows()) == rows
    assert list(tables.open_table(path).columns) == list(rows[0])
    for cell in (cell for row in raw(path) for cell in row):
        assert cell.lstrip("\ufeff\x00")[:1] not in tuple("=+-@\t\r\n\uff1d") or text in PLAIN, cell
    # Where a semicolon separates cells, a quote in the middle of a line quotes nothing.
    for part in re.split("[;\t\r\n]", path.read_bytes().decode()):
        assert part.lstrip("\ufeff\x00")[:1] not in tuple("=+-@\uff1d") or text in PLAIN, part


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_formats_without_formulas_are_written_as_they_are(tmp_path, suffix):
    rows = [{"claim": text} for text in FORMULAS]
    assert list(tables.open_table(written(tmp_path / f"out{suffix}", rows)).rows()) == rows


@given(st.text(st.sampled_from("'=+-@\t\r\n5e.a ;\ufeff\x00")) | st.text())
def test_any_text_comes_back(text):
    cell = formulas.neutralized(text)
    assert formulas.original(cell) == text
    # A file that was read and is written again has the cells that it had.
    assert formulas.neutralized(formulas.original(cell)) == cell


@pytest.mark.parametrize("start", ["", "'", "-", "=", "'-1e", ";"])
@pytest.mark.parametrize("piece", ["1", "'", ".", "e", " ", "-", "1.", "1e", ";", ";'", "\n'", "\ufeff"])
def test_a_long_cell_takes_linear_time(start, piece):
    cell = start + piece * 200_000 + "x"
    before = time.process_time()
    assert formulas.original(formulas.neutralized(cell)) == cell
    formulas.original(cell)
    assert time.process_time() - before < 1


def test_numbers_stay_numbers(tmp_path):
    path = written(tmp_path / "out.csv", [{"n": -0.5, "t": "-0.5"}])
    assert raw(path)[1] == ["-0.5", "-0.5"]


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(encodings, "LONGEST_LINE", 1000)
    for name in ("a.csv", "a.jsonl"):
        (tmp_path / name).write_text("claim" + "x" * 2000)
        with pytest.raises(DataError, match="a line of more than 1,000 characters"):
            list(tables.open_table(tmp_path / name).rows())
