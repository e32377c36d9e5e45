"""Tables: what is read is what was written, and a row that does not fit is named."""

import time

import pytest

from lorahub.data import tables
from lorahub.errors import DataError


def written(path, *chunks, schema=None):
    with tables.Writer(path, kind=path.suffix, schema=schema) as writer:
        for chunk in chunks:
            writer.write(chunk)
    return list(tables.open_table(path).rows())


@pytest.mark.parametrize(
    ("first", "later", "said"),
    [
        ({"a": 1}, {"a": 1.5}, "'a' holds 1.5"),
        ({"a": 1}, {"a": "x"}, "'a' holds 'x'"),
        ({"a": None}, {"a": "x"}, "'a' holds 'x'"),
        ({"a": 1}, {"a": 1, "b": 2}, "column 'b'"),
    ],
)
def test_a_later_parquet_row_that_does_not_fit_is_named(first, later, said, tmp_path):
    with pytest.raises(DataError, match=f"output row 5.*{said}"):
        written(tmp_path / "a.parquet", [first] * 3, [first, later, later])


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_later_row_with_a_new_column_is_named(suffix, tmp_path):
    with pytest.raises(DataError, match="output row 4.*'b'"):
        written(tmp_path / f"a{suffix}", [{"a": 1}] * 3, [{"a": 1, "b": 2}])


def test_columns_that_only_later_first_rows_have_are_kept(tmp_path):
    for suffix in (".csv", ".parquet"):
        assert written(tmp_path / f"a{suffix}", [{"a": "x"}, {"a": "y", "b": "z"}])[1] == {"a": "y", "b": "z"}


def test_the_schema_of_a_jsonl_file_holds_every_row(tmp_path):
    chunks = [
        [{"n": 1, "same": 1, "late": None, "mixed": 1, "list": []}] * 5000,
        [{"n": 1.5, "same": 2, "late": "text", "mixed": "x", "list": ["y"], "new": {"deep": 2**70}}, {}],
    ]
    rows = [row for chunk in chunks for row in chunk]
    source = tmp_path / "a.jsonl"
    written(source, *chunks)
    found = written(tmp_path / "a.parquet", *chunks, schema=tables.schema(tables.open_table(source)))
    assert found[0] == {"n": 1.0, "same": 1, "late": None, "mixed": "1", "list": [], "new": None}
    assert found[5000] == {**rows[5000], "new": '{"deep": 1180591620717411303424}'}
    assert found[5001] == dict.fromkeys(found[0])
    assert written(tmp_path / "a.csv", *chunks, schema=tables.schema(tables.open_table(source)))[0]["new"] == ""


def test_the_schema_of_a_parquet_file_is_its_own(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"i": pa.int8(), "f": pa.float32(), "d": pa.date32(), "m": pa.map_(pa.string(), pa.int64())}
    rows = [{"i": None, "f": None, "d": None, "m": None}, {"i": 3, "f": 0.5, "d": None, "m": [("a", 1)]}]
    source = tmp_path / "source.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(list(types.items()))), source)
    copy = tmp_path / "copy.parquet"
    assert written(copy, rows[:1], rows[1:], schema=tables.schema(tables.open_table(source))) == rows
    assert tables.schema(tables.open_table(copy)) == tables.schema(tables.open_table(source))


def test_a_cell_may_be_an_article(tmp_path):
    article = "x " * 70_000
    assert written(tmp_path / "a.csv", [{"claim": article}]) == [{"claim": article}]


def test_a_tsv_cell_that_starts_with_a_quote_swallows_no_rows(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('claim\tlabel\n"Quote starts here\tfalse\nsome text\ttrue\nends here"\tfalse\nlast\ttrue\n')
    with pytest.raises(DataError, match=r"a\.tsv, row 1: a quote"):
        list(tables.open_table(path).rows())
    path.write_text('claim\n"Quote starts\nends here"\n')
    with pytest.raises(DataError, match=r"a\.tsv, row 1: a quote"):
        list(tables.open_table(path).rows())
    with pytest.raises(DataError, match="output row 1.*csv"):
        written(path, [{"claim": "tab\tand\nline", "label": "a"}])
    kept = {"claim": '"two"\nlines', "label": "with\ta tab"}
    assert written(path, [kept]) == [kept]


def test_a_jsonl_file_whose_rows_share_no_column_takes_linear_time(tmp_path):
    path = tmp_path / "a.jsonl"
    written(path, [{f"c{row}": 1} for row in range(2000)])
    before = time.process_time()
    assert len(tables.schema(tables.open_table(path)).names) == 2000
    assert time.process_time() - before < 0.7  # the file has 2,000 cells; 2,000 columns of 2,000 rows have 4 million
    written(path, [{f"c{row}": 1} for row in range(2001)])
    with pytest.raises(DataError, match="more than 2,000 columns"):
        tables.schema(tables.open_table(path))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table_of_too_many_columns_is_refused(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    with tables.Writer(path, kind=suffix) as writer:
        writer.write([{f"c{column}": "x" for column in range(2001)}])
    for read in (lambda table: tables.schema(table), lambda table: list(table.rows())):
        with pytest.raises(DataError, match="more than 2,000 columns"):
            read(tables.open_table(path))
