"""Adapters compared on a file: the figures are those of the metrics, whatever the order of the labels."""

import pytest
from conftest import learnable, sentences
from sklearn.metrics import accuracy_score, f1_score

from lorahub.config import EvalConfig
from lorahub.data import table_check, tables
from lorahub.errors import ConfigError, DataError
from lorahub.experiments.compare import file as compare_file
from lorahub.experiments.compare.file import FileComparison, Step
from lorahub.labels import LabelSet
from lorahub.serving.engine.engine import Engine
from lorahub.stats.paired import mcnemar

pytestmark = pytest.mark.slow

FEW = EvalConfig(bootstrap=200)


@pytest.fixture(scope="module")
def engine(tiny_base, tiny_run, make_adapter):
    """A trained adapter, one of the same labels in the other order, and one of other labels."""
    rival, topics = (
        make_adapter("bert", labels=count, seed=count, name=name) for count, name in ((2, "rival"), (4, "topics"))
    )
    LabelSet(("plain", "hedged")).save(rival)
    assert LabelSet.load(tiny_run.folder).names == ("hedged", "plain")
    return Engine(str(tiny_base("bert")), [tiny_run.folder, rival, topics])


def compared(engine, table, output, adapters, **options):
    *steps, found = compare_file.compare(engine, table, output, adapters, options=FEW, **options)
    assert steps
    assert all(isinstance(step, Step) for step in steps)
    assert isinstance(found, FileComparison)
    return found


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_the_figures_are_scikit_learns_on_the_written_answers(suffix, engine, claims_file, tmp_path):
    rows = learnable(150, seed=4)
    table = table_check.read(claims_file(rows, f"in{suffix}"), claim="claim", label="label")
    output = tmp_path / f"out{suffix}"
    found = compared(engine, table, output, list(engine.adapters), chunk_rows=64)
    written = list(tables.open_table(output).rows())
    gold = [row["label"] for row in rows]
    assert [row["claim"] for row in written] == [row["claim"] for row in rows]
    for name in ("tiny", "rival"):
        answers = [row[f"{name}.label"] for row in written]
        block = found.results[name]
        assert block.accuracy == pytest.approx(accuracy_score(gold, answers))
        assert block.f1_macro == pytest.approx(f1_score(gold, answers, average="macro"))
        low, high = block.interval["accuracy"]
        assert low <= block.accuracy <= high
        assert found.answers[name] == {label: answers.count(label) for label in engine.adapters[name].labels.names}
    (one,) = found.comparisons
    (pair,) = one.pairs
    right = {
        name: [row[f"{name}.label"] == label for row, label in zip(written, gold, strict=True)] for name in one.systems
    }
    only = [
        sum(a and not b for a, b in zip(*order, strict=True))
        for order in ((right["tiny"], right["rival"]), (right["rival"], right["tiny"]))
    ]
    assert (pair.ours, pair.theirs) == ("tiny", "rival")
    assert [pair.mcnemar.only_ours, pair.mcnemar.only_theirs] == only
    assert pair.mcnemar.p == mcnemar(*only)[0]
    assert pair.metrics["f1_macro"].difference == pytest.approx(
        found.results["tiny"].f1_macro - found.results["rival"].f1_macro
    )
    assert one.systems["rival"].ece == pytest.approx(found.results["rival"].ece)


def test_disagreements_come_first_then_what_is_wrong(engine, claims_file, tmp_path):
    rows = learnable(400, seed=6)
    table = table_check.read(claims_file(rows), claim="claim", label="label")
    found = compared(engine, table, tmp_path / "out.csv", ["tiny", "rival"])
    written = list(tables.open_table(tmp_path / "out.csv").rows())
    differ = [row["tiny.label"] != row["rival.label"] for row in written]
    assert 0 < found.disagreements == sum(differ)
    assert found.agreed == [("tiny", "rival", 400 - found.disagreements)]
    assert len(found.shown) == 200
    kinds = [0 if differ[row.row - 1] else 1 if row.answers["tiny"].label != row.label else 2 for row in found.shown]
    assert kinds == sorted(kinds)
    for row in found.shown:
        assert row.claim == rows[row.row - 1]["claim"]
        assert row.answers["tiny"].label == written[row.row - 1]["tiny.label"]


def test_labels_that_do_not_fit_are_said_and_can_be_mapped(engine, claims_file, tmp_path):
    rows = [{"text": row["claim"], "gold": "1" if row["label"] == "plain" else " HEDGED "} for row in learnable(40)]
    source = claims_file(rows)
    found = compared(engine, table_check.read(source, claim="text", label="gold"), tmp_path / "a.csv", ["tiny"])
    assert found.results == {}
    assert found.notes == [
        "No figures for tiny: its labels are hedged, plain, but the file also has 1. If they mean the same, map them."
    ]
    table = table_check.read(source, claim="text", label="gold", label_map={"1": "plain"})
    mapped = compared(engine, table, tmp_path / "b.csv", ["tiny", "topics"])
    assert mapped.results["tiny"].n == 40
    assert mapped.labels == {"HEDGED": 20, "plain": 20}
    assert ["topics" in note for note in mapped.notes] == [True]


def test_a_file_without_labels_gets_answers_and_agreement(engine, claims_file, tmp_path):
    table = table_check.read(claims_file([{"claim": text} for text in sentences(30)]), claim="claim")
    found = compared(engine, table, tmp_path / "out.csv", list(engine.adapters))
    assert (found.results, found.comparisons, found.labels, found.notes) == ({}, [], {}, [])
    assert sum(found.answers["topics"].values()) == 30
    assert found.agreed[0][2] + found.disagreements == 30


def test_rows_without_a_label_do_not_count(engine, claims_file, tmp_path):
    rows = [row | {"label": "" if place % 2 else row["label"]} for place, row in enumerate(learnable(60))]
    table = table_check.read(claims_file(rows), claim="claim", label="label")
    found = compared(engine, table, tmp_path / "out.csv", ["tiny"])
    assert found.results["tiny"].n == 30
    assert found.notes == ["30 rows have no label; the figures cover the other 30."]


def test_who_stops_leaves_nothing_behind(engine, claims_file, tmp_path):
    table = table_check.read(claims_file([{"claim": text} for text in sentences(50)]), claim="claim")
    folder = tmp_path / "outputs"
    work = compare_file.compare(engine, table, folder / "out.csv", ["tiny"], chunk_rows=10)
    next(work)
    assert list(folder.iterdir())
    work.close()
    assert not list(folder.iterdir())


def test_more_than_four_adapters_are_compared_with_the_first(tiny_base, make_adapter, claims_file, tmp_path):
    folders = [make_adapter("bert", labels=2, seed=seed, rank=2, name=f"a{seed}") for seed in range(5)]
    engine = Engine(str(tiny_base("bert")), folders)
    rows = [{"claim": text, "label": f"label{place % 2}"} for place, text in enumerate(sentences(40))]
    table = table_check.read(claims_file(rows), claim="claim", label="label")
    found = compared(engine, table, tmp_path / "out.csv", list(engine.adapters))
    assert [(pair.ours, pair.theirs) for pair in found.comparisons[0].pairs] == [(f"a{n}", "a0") for n in range(1, 5)]
    assert found.notes == ["5 adapters have the same labels; each is compared with a0."]


@pytest.mark.parametrize(
    ("row", "choice", "words"),
    [
        ({"claim": "", "label": "a"}, {}, "in.csv, row 2: column 'claim' is empty"),
        ({"claim": "x", "label": "a"}, {"label": "lable"}, "has no column 'lable'"),
        ({"claim": "x", "label": "a"}, {"label": "claim"}, "one is chosen twice"),
    ],
)
def test_a_file_that_cannot_be_judged_is_told_at_once(row, choice, words, claims_file):
    source = claims_file([{"claim": "a b", "label": "a"}, row], "in.csv")
    with pytest.raises(DataError, match=words) as caught:
        table_check.read(source, **{"claim": "claim", "label": "label", **choice})
    assert str(source.parent) not in str(caught.value)


def test_no_adapter_is_no_comparison(engine, claims_file, tmp_path):
    table = table_check.read(claims_file([{"claim": "x"}]), claim="claim")
    with pytest.raises(ConfigError, match="at least one adapter"):
        next(compare_file.compare(engine, table, tmp_path / "out.csv", []))


class Constant:
    """Adapters that answer at once, so that a long file tests what is kept of it."""

    def __init__(self, engine):
        self.names = engine.names
        self._answers = engine.classify(["water"], ["tiny", "rival"])

    def classify(self, texts, adapters, *, evidence, adjust):
        return {name: self._answers[name] * len(texts) for name in adapters}


def test_a_hundred_thousand_rows_need_little_memory(engine, claims_file, tmp_path):
    """The rows themselves are 60 MB; of each are kept an id and two probabilities an adapter."""
    import psutil

    source = tmp_path / "in.csv"
    with source.open("w") as file:
        file.write("claim,label\n")
        file.writelines(f"{'water ' * 100},{'plain' if number % 3 else 'hedged'}\n" for number in range(100_000))
    table = table_check.read(source, claim="claim", label="label")
    assert table.labels == {"hedged": 33_334, "plain": 66_666}
    used = []
    for step in compare_file.compare(Constant(engine), table, tmp_path / "out.csv", ["tiny", "rival"]):
        used.append(psutil.Process().memory_info().rss)
        if step.text.startswith("computing"):
            break
    assert len(used) > 190
    assert (max(used) - used[5]) / 2**20 < 30
