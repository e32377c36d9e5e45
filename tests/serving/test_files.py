"""Classifying files: the same rows plus verdict columns, streamed, complete or absent."""

import pytest
from conftest import LONG, sentences

from lorahub.data import tables
from lorahub.errors import DataError
from lorahub.serving import files
from lorahub.serving.engine.engine import Engine
from lorahub.stats.verdicts import Calibration

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine(tiny_base, make_adapter):
    folders = [make_adapter("bert", labels=count, seed=count, name=f"a{count}") for count in (2, 3)]
    Calibration(threshold=0.85).save(folders[0])
    return Engine(str(tiny_base("bert")), folders)


def classify_file(*arguments, **options):
    return sum(len(rows) for rows, _ in files.classify_file(*arguments, **options))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_rows_come_back_in_order_with_the_engines_verdicts(suffix, engine, claims_file, tmp_path):
    rows = [{"id": index, "text": text} for index, text in enumerate(sentences(1100, seed=3))]
    source, output = claims_file(rows, f"in{suffix}"), tmp_path / f"out{suffix}"
    assert classify_file(engine, source, output) == 1100
    found = list(tables.open_table(output).rows())
    expected = engine.classify([row["text"] for row in rows])
    assert [int(row["id"]) for row in found] == list(range(1100))
    for place in (0, 511, 512, 1099):
        row = found[place]
        for name in ("a2", "a3"):
            verdict = expected[name][place]
            assert row[f"{name}.label"] == verdict.label
            assert float(row[f"{name}.confidence"]) == pytest.approx(verdict.confidence, abs=1e-4)
            assert str(row[f"{name}.abstain"]).lower() == str(verdict.abstain).lower()
            shares = [float(row[f"{name}.p.{label}"]) for label in verdict.probabilities]
            assert sum(shares) == pytest.approx(1, abs=1e-4)
            assert f"{name}.calibrated.{verdict.label}" in row
    marked = [verdict.abstain for verdict in expected["a2"]]
    assert set(marked) == {True, False}
    assert marked == [verdict.confidence < 0.85 for verdict in expected["a2"]]
    assert not any(verdict.abstain for verdict in expected["a3"])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_rows_whose_keys_and_types_change_late_keep_everything(suffix, engine, claims_file, tmp_path):
    rows = [{"claim": f"the flu {index}", "score": None if index < 600 else 0.5} for index in range(700)]
    rows[-1] |= {"note": "x", "score": "high"}
    output = tmp_path / f"out{suffix}"
    assert classify_file(engine, claims_file(rows, "in.jsonl"), output) == 700
    found = list(tables.open_table(output).rows())
    assert (found[650]["score"], found[-1]["score"], found[-1]["note"]) == ("0.5", "high", "x")
    assert found[0]["a2.label"]


def test_a_file_is_read_as_training_reads_it(engine, claims_file, tmp_path):
    messy = [
        {"Claim": ["the flu", "may rise\0"], "source": ["a study", "of people"]},
        {"Claim": "water", "source": None},
    ]
    plain = [{"claim": "the flu may rise", "source": "a study of people"}, {"claim": "water", "source": ""}]
    outputs = tmp_path / "messy.jsonl", tmp_path / "plain.jsonl"
    for rows, output in zip((messy, plain), outputs, strict=True):
        classify_file(engine, claims_file(rows, "in.jsonl"), output, evidence="source")
    found, expected = (
        [[value for key, value in row.items() if "." in key] for row in tables.open_table(o).rows()] for o in outputs
    )
    assert found == expected
    with pytest.raises(DataError, match=r"row 1: column 'source' holds 7"):
        classify_file(engine, claims_file([{"claim": "a", "source": 7}], "in.jsonl"), outputs[0], evidence="source")


def test_a_bad_row_leaves_no_output(engine, claims_file, tmp_path):
    rows = [{"text": text} for text in sentences(700)] + [{"text": " "}]
    output = tmp_path / "out.csv"
    with pytest.raises(DataError, match="row 701"):
        classify_file(engine, claims_file(rows), output)
    assert [path.name for path in tmp_path.iterdir()] == ["claims.csv"]


def test_an_older_output_survives_a_failure(engine, claims_file, tmp_path):
    output = tmp_path / "out.csv"
    output.write_text("precious", encoding="utf-8")
    with pytest.raises(DataError):
        classify_file(engine, claims_file([{"text": "fine"}, {"text": ""}]), output)
    assert output.read_text(encoding="utf-8") == "precious"


def test_memory_does_not_grow_with_the_number_of_rows(engine, claims_file, tmp_path):
    import resource

    count = 1_000_000 if LONG else 4000
    source = tmp_path / "many.csv"
    texts = sentences(2000, seed=1, low=3, high=4)
    with tables.Writer(source, kind=".csv") as writer:
        for start in range(0, count, 1000):
            writer.write([{"text": texts[(start + index) % 2000]} for index in range(1000)])
    classify_file(engine, claims_file([{"text": "warm up"}] * 600), tmp_path / "warm.csv")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert classify_file(engine, source, tmp_path / "many.out.csv") == count
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes
