"""Comparing runs: on predictions written as a run writes them, on two real tiny runs, and through the engine."""

import json
import shutil

import numpy as np
import pytest
from conftest import learnable

import lorahub
from lorahub import config
from lorahub.errors import ConfigError, DataError
from lorahub.experiments.compare import report as compare_report
from lorahub.experiments.compare import run as comparing
from lorahub.labels import LabelSet
from lorahub.records import RunRecord
from lorahub.stats.predictions import Predictions, fingerprints
from lorahub.stats.results import SYSTEMS
from lorahub.stats.verdicts import Calibration

pytestmark = pytest.mark.slow

LABELS = LabelSet(("false", "mixture", "true"))
CLAIMS = 900
KEPT = ("adapter", "majority", "tfidf")


def logits_of(gold, skill, noise_seed, claims_seed=0, labels=3):
    """Logits of a system that sees what is hard about each claim, and noise of its own."""
    hard = np.random.default_rng(claims_seed).normal(size=(len(gold), labels))
    found = hard + 0.7 * np.random.default_rng(noise_seed).normal(size=(len(gold), labels))
    found[np.arange(len(gold)), gold] += skill
    return found.astype(np.float32)


@pytest.fixture
def make_run(tmp_path):
    """(name, skill, seed) -> a run folder with labels, record and predictions, as a run leaves them, but no weights."""

    def make(
        name, skill=1.4, seed=1, *, labels=LABELS, texts=None, gold=None, systems=("adapter", "majority", "tfidf")
    ):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        rng = np.random.default_rng(0)
        texts = texts or [f"claim number {row}" for row in range(CLAIMS)]
        gold = rng.choice(len(labels), p=[0.5, 0.2, 0.3], size=len(texts)) if gold is None else gold
        by_system = {
            "adapter": logits_of(gold, skill, seed),
            "majority": np.tile(np.log([0.5, 0.2, 0.3]).astype(np.float32), (len(texts), 1)),
            "tfidf": logits_of(gold, 0.5, 77),
        }
        for system in systems:
            Predictions(sha256=fingerprints(texts), gold=gold, logits=by_system[system]).save(folder, "test", system)
        labels.save(folder)
        Calibration(temperature=1.2, bias=(0.0, 0.1, 0.0)).save(folder)
        data = {"id": "claims.csv", "kind": "file", "revision": None, "sha256": {}, "rows": {"test": len(texts)}}
        environment = {"base_id": "tiny", "base_revision": None, "labels": list(labels.names), "data": data}
        progress = {
            "steps": 1, "planned_steps": 1, "epochs": 1.0, "seconds": 1.0, "samples_per_second": 1.0, "peak_bytes": 1,
            "trainable_parameters": 1, "total_parameters": 1, "best_step": 1,
        }  # fmt: skip
        RunRecord(
            name=name,
            created="2026-01-01T00:00:00+00:00",
            config=config.Config(),
            progress=progress,
            environment=environment,
            results={"test": {}},
        ).save(folder)
        return folder

    return make


def test_two_seeds_of_one_recipe_are_not_told_apart(make_run):
    found = lorahub.compare([make_run("one", seed=1), make_run("two", seed=2)])
    (pair,) = found.pairs
    assert pair.verdict == "none"
    assert all(source == "stored" for source in (item.source for item in found.systems.values()))
    (text,) = compare_report.verdicts(found)
    assert text.startswith("No detectable difference between one and two: macro F1")
    row = pair.metrics["f1_macro"]
    assert row.claims_needed > found.n
    assert f"about {row.claims_needed:,} claims" in text
    assert row.interval[0] < 0 < row.interval[1]
    assert row.p > 0.05


def test_a_run_is_better_than_its_majority_baseline_with_p_and_interval(make_run):
    found = lorahub.compare([make_run("one")], require_better="majority")
    (pair,) = found.pairs
    assert (pair.ours, pair.theirs) == ("one", "one:majority")
    row = pair.metrics["f1_macro"]
    assert pair.verdict == "better"
    assert row.p < 0.01
    assert 0 < row.interval[0] < row.difference < row.interval[1]
    assert found.required.met
    (text,) = compare_report.verdicts(found)
    assert text.startswith("one is better than majority label: macro F1 +0.")
    assert ", p " in text


def test_one_run_alone_is_compared_with_all_that_it_kept(make_run):
    found = lorahub.compare([make_run("one")])
    assert [(pair.ours, pair.theirs) for pair in found.pairs] == [("one", "one:majority"), ("one", "one:tfidf")]


def test_three_runs_make_every_pair_and_a_requirement_only_those_with_it(make_run):
    runs = [make_run("a", seed=1), make_run("b", seed=2), make_run("c", skill=0.9, seed=3)]
    found = lorahub.compare(runs)
    assert [(pair.ours, pair.theirs) for pair in found.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    better = found.pairs[1].metrics["f1_macro"]
    assert better.p <= better.p_holm <= 3 * better.p
    found = lorahub.compare(runs[:2], require_better=str(runs[2]))
    assert [(pair.ours, pair.theirs) for pair in found.pairs] == [("a", "c"), ("b", "c")]
    assert found.required.met
    found = lorahub.compare([runs[0], runs[2]], require_better=str(runs[1]))
    assert not found.required.met
    assert found.required.failed == ["a", "c"], "as good is not better"


def test_a_baseline_of_a_run_can_be_named(make_run):
    one, two = make_run("one"), make_run("two", seed=2)
    found = lorahub.compare([one, f"{two}:tfidf"])
    assert list(found.systems) == ["one", "two:tfidf"]
    assert found.systems["two:tfidf"].title == "TF-IDF + logistic regression of two"


def test_disagreements_are_all_of_them_and_only_those(make_run):
    found = lorahub.compare([make_run("one", seed=1), make_run("two", seed=2)])
    kept = [Predictions.load(folder, "test", "adapter", labels=3) for folder in _folders(found, make_run)]
    bias = np.array([0, 0.1, 0], np.float32)
    ids = [(item.logits + bias).argmax(1) for item in kept]
    assert [row.row for row in found.disagreements] == np.flatnonzero(ids[0] != ids[1]).tolist()
    first = found.disagreements[0]
    assert first.answers == {name: LABELS.names[ids[place][first.row]] for place, name in enumerate(("one", "two"))}
    assert first.gold == LABELS.names[kept[0].gold[first.row]]
    assert first.claim is None, "the texts are in no run folder"


def _folders(found, make_run):
    root = make_run("probe").parent
    return [root / name for name in found.systems]


def test_labels_in_another_order_are_the_same_labels(make_run):
    one = make_run("one")
    turned = LabelSet(("true", "false", "mixture"))
    kept = Predictions.load(one, "test", "adapter", labels=3)
    two = shutil.copytree(one, one.parent / "two")
    turned.save(two)
    gold = turned.encode([LABELS.names[index] for index in kept.gold])
    logits = np.stack([kept.logits[:, LABELS.ids[name]] for name in turned.names], axis=1)
    Predictions(sha256=kept.sha256, gold=gold, logits=logits).save(two, "test", "adapter")
    Calibration(temperature=1.2, bias=(0.0, 0.0, 0.1)).save(two)
    (pair,) = lorahub.compare([one, two]).pairs
    for row in pair.metrics.values():
        assert row.difference == pytest.approx(0, abs=1e-12)


def test_runs_on_other_claims_or_labels_are_refused(make_run):
    one = make_run("one")
    other = make_run("other", texts=[f"claim number {row}" for row in range(CLAIMS - 1)] + ["another"])
    with pytest.raises(DataError, match=r"different test claims: of 900 and 900, 899 have the same sha256"):
        lorahub.compare([one, other])
    wrong = make_run("wrong", gold=np.zeros(CLAIMS, np.int64))
    with pytest.raises(DataError, match="a different gold label"):
        lorahub.compare([one, wrong])
    with pytest.raises(DataError, match="false, mixture, true"):
        lorahub.compare([one, make_run("else", labels=LabelSet(("no", "perhaps", "yes")))])


def test_a_run_without_kept_baselines_has_nothing_to_be_compared_with(make_run):
    with pytest.raises(ConfigError, match="Name a second adapter"):
        lorahub.compare([make_run("one", systems=("adapter",))])


def test_settings_out_of_range_are_refused(make_run):
    folder = make_run("one")
    for settings in ({"resamples": 0}, {"resamples": 99}, {"confidence": 95}, {"confidence": 0.0}):
        with pytest.raises(ConfigError, match="eval."):
            lorahub.compare([folder], **settings)
    assert lorahub.compare([folder], resamples=500, confidence=0.9).resamples == 500


def test_a_comparison_is_the_same_every_time(make_run):
    runs = [make_run("one", seed=1), make_run("two", seed=2)]
    assert lorahub.compare(runs).to_dict() == lorahub.compare(runs).to_dict()


@pytest.fixture(scope="module")
def second_seed(tiny_run, tiny_base):
    """A run of `tiny_run`'s recipe with another seed."""
    from lorahub.training.run import train

    settings = ["train.min_steps=60", "train.epochs=1", "train.batch_size=16", "eval.bootstrap=200"]
    root = tiny_run.folder.parent
    data, base = str(root / "claims.jsonl"), str(tiny_base("bert"))
    return train(data=data, base=base, out=root / "second" / "tiny", seed=1, settings=settings)


def test_two_real_seeds_are_not_told_apart_and_each_beats_the_majority(tiny_run, second_seed):
    found = lorahub.compare([tiny_run.folder, second_seed.folder])
    assert list(found.systems) == ["tiny", "tiny-2"], "two runs of one name"
    assert found.pairs[0].verdict == "none"
    found = lorahub.compare([tiny_run.folder, second_seed.folder], require_better="majority")
    assert found.required.met
    for pair in found.pairs:
        assert pair.metrics["f1_macro"].interval[0] > 0


def test_intervals_and_figures_are_those_of_the_record(tiny_run):
    found = lorahub.compare([tiny_run.folder], require_better="tfidf")
    result = tiny_run.record.adapter()
    assert found.resamples == 200, "as the run was asked to"
    for metric, row in result.paired["tfidf"].items():
        assert found.pairs[0].metrics[metric].interval == row.interval
        assert found.pairs[0].metrics[metric].difference == row.difference
    for metric in ("accuracy", "f1_macro", "f1_weighted", "ece"):
        assert getattr(found.systems["tiny"], metric) == pytest.approx(result.metric(metric), abs=1e-6)


def test_an_adapter_without_predictions_answers_now_and_equals_what_was_kept(tiny_run, tiny_base, tmp_path):
    bare = shutil.copytree(tiny_run.folder, tmp_path / "bare")
    shutil.rmtree(bare / "predictions")
    data = str(tiny_run.folder.parent / "claims.jsonl")
    found = lorahub.compare([tiny_run.folder, bare], data=data, base=str(tiny_base("bert")))
    assert [item.source for item in found.systems.values()] == ["stored", "computed"]
    assert not found.disagreements
    assert found.systems["bare"].ece == pytest.approx(found.systems["tiny"].ece, abs=1e-4)
    with pytest.raises(DataError, match="--data"):
        lorahub.compare([tiny_run.folder, bare], base=str(tiny_base("bert")))


def test_other_data_is_answered_now_and_shows_its_texts(tiny_run, second_seed, tiny_base, claims_file):
    data = claims_file(learnable(150, seed=9), "fresh.jsonl")
    found = lorahub.compare([tiny_run.folder, second_seed.folder], data=str(data), base=str(tiny_base("bert")))
    assert {item.source for item in found.systems.values()} == {"computed"}
    assert (found.data, found.split, found.n) == ("fresh.jsonl", "all", 150)
    assert "fresh.jsonl has no splits: all of its 150 claims are evaluated." in found.notes
    known = {json.loads(line)["claim"] for line in data.read_text().splitlines()}
    assert all(item.claim in known for item in found.disagreements)
    with pytest.raises(DataError, match="has no stored predictions of its majority baseline"):
        lorahub.compare([tiny_run.folder], data=str(data), require_better="majority")


def test_stored_predictions_are_compared_without_torch(make_run):
    import subprocess
    import sys

    folder = make_run("one")
    code = f"import lorahub, sys; lorahub.compare([{str(folder)!r}]); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_report_is_whole_and_its_picture_is_a_picture(make_run, tmp_path):
    found = lorahub.compare([make_run("one", seed=1), make_run("two", seed=2), make_run("three", skill=0.8, seed=3)])
    report = compare_report.build(found)
    paths = report.save(tmp_path / "report")
    assert {path.name for path in paths} == {path.name for path in (tmp_path / "report").iterdir()}
    text = (tmp_path / "report" / "comparison.md").read_text()
    for line in compare_report.verdicts(found):
        assert line in text
    for pair in found.pairs:
        for row in pair.metrics.values():
            assert f"{row.difference:+.3f}" in text
    assert "](comparison.png)" in text
    picture = (tmp_path / "report" / "comparison.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    compare_report.draw(found, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == picture
    stored = json.loads((tmp_path / "report" / "comparison.json").read_text())
    assert stored == json.loads(json.dumps(found.to_dict()))
    lines = (tmp_path / "report" / "disagreements.csv").read_text().splitlines()
    assert len(lines) == len(found.disagreements) + 1


def test_predictions_survive_the_disk(tmp_path):
    kept = Predictions(sha256=fingerprints(["a", "b"]), gold=np.array([1, 0]), logits=np.eye(2, dtype=np.float32))
    kept.save(tmp_path, "test", "tfidf")
    again = Predictions.load(tmp_path, "test", "tfidf", labels=2)
    assert again.sha256 == kept.sha256
    np.testing.assert_array_equal(again.gold, kept.gold)
    np.testing.assert_array_equal(again.logits, kept.logits)
    assert Predictions.load(tmp_path, "test", "majority", labels=2) is None
    assert (*comparing.BASELINES, "adapter") == SYSTEMS
