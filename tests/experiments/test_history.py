"""A history: rows on the disk, and what can be said of one against another."""

import re

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import confusion_matrix, f1_score

from lorahub.errors import AdapterError
from lorahub.experiments.monitor import history
from lorahub.labels import LabelSet
from lorahub.stats import bootstrap, metrics

LABELS = LabelSet(("a", "b", "c"))


def evaluation(right, seed, count=400):
    """Gold ids, and the row of a system that is right with a chance of about `right`."""
    rng = np.random.default_rng(seed)
    gold = rng.choice(3, p=[0.5, 0.3, 0.2], size=count)
    answers = np.where(rng.uniform(size=count) < right, gold, rng.integers(0, 3, size=count))
    block = metrics.score(gold, answers, np.eye(3)[answers].astype(np.float32), LABELS, resamples=200, confidence=0.95)
    return gold, history.Row(
        created=f"2026-01-{seed % 28 + 1:02}T00:00:00.000+00:00",
        data={"id": f"claims {seed}.csv", "kind": "file", "revision": None, "split": "all", "sha256": str(seed)},
        figures=block.shortened(),
        base_revision=None,
        answers=history.joined(answers),
    )


def test_a_row_survives_the_disk_and_rows_come_oldest_first(tmp_path):
    rows = [evaluation(0.8, seed)[1] for seed in (3, 1, 2)]
    paths = [row.save(tmp_path) for row in rows]
    assert paths[0].name == "2026-01-04T00-00-00.000-00-00-claims-3.csv.json"
    assert history.load(tmp_path) == [rows[1], rows[2], rows[0]]
    assert history.load(tmp_path / "elsewhere") == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:200],
        lambda text: text.replace('"n": 400', '"n": 399'),
        lambda text: text.replace('"f1_macro"', '"f1_makro"'),
        lambda text: text.replace('"sha256": "1"', '"sha256": 1'),
        lambda text: text.replace('"answers": "', '"answers": "7,'),
        lambda text: re.sub(r'"answers": "\d', '"answers": "3', text),
        lambda text: re.sub(r'"answers": ".*"', '"answers": 1', text),
        lambda text: re.sub(r'"created": ".*"', '"created": 1', text),
        lambda text: "[]",
    ],
)
def test_a_damaged_row_is_named(tmp_path, damage):
    path = evaluation(0.8, 1)[1].save(tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(AdapterError, match=r"claims-1\.csv\.json .*\. Delete it from the history"):
        history.load(tmp_path)


def test_a_fall_is_told_from_noise_on_other_claims():
    gold, new = evaluation(0.5, 1)
    before = [evaluation(0.8, 2)[1], evaluation(0.5, 3)[1], evaluation(0.2, 4)[1]]
    found = history.changes(new, gold, before, resamples=1000, confidence=0.95)
    assert [change.verdict("f1_macro") for change in found] == ["fell", "none", "rose"]
    assert not any(change.paired for change in found)
    for change, old in zip(found, before, strict=True):
        row = change.metrics["f1_macro"]
        assert row.difference == pytest.approx(new.figures.f1_macro - old.figures.f1_macro)
        assert row.interval[0] < row.difference < row.interval[1]
        assert row.p <= row.p_holm <= 3 * row.p


def test_the_same_claims_are_paired_which_sees_smaller_differences():
    gold, old = evaluation(0.7, 1)
    worse = old.ids.copy()
    worse[:12] = (worse[:12] + 1) % 3
    right = old.ids[:12] == gold[:12]
    confusion = confusion_matrix(gold, worse, labels=[0, 1, 2]).tolist()
    figures = old.figures.model_copy(update={"confusion": confusion})
    new = old.model_copy(update={"figures": figures, "answers": history.joined(worse)})
    (paired,) = history.changes(new, gold, [old], resamples=1000, confidence=0.95)
    assert paired.paired
    change = paired.metrics["f1_macro"]
    assert change.difference == pytest.approx(
        f1_score(gold, worse, average="macro") - f1_score(gold, old.ids, average="macro")
    )
    assert right.sum() > 4, "most of the changed answers were right"
    assert paired.verdict("f1_macro") == "fell"
    elsewhere = new.model_copy(update={"data": new.data.model_copy(update={"sha256": "other"})})
    (unpaired,) = history.changes(elsewhere, gold, [old], resamples=1000, confidence=0.95)
    assert not unpaired.paired
    assert unpaired.verdict("f1_macro") == "none"
    (unkept,) = history.changes(new, gold, [old.model_copy(update={"answers": None})], resamples=1000, confidence=0.95)
    assert not unkept.paired, "without the answers of then there is nothing to pair"
    (same,) = history.changes(old, gold, [old], resamples=1000, confidence=0.95)
    assert (same.metrics["accuracy"].difference, same.metrics["accuracy"].p) == (0, 1)


@pytest.mark.slow
def test_p_values_of_two_sets_of_claims_are_uniform_where_nothing_differs():
    p = []
    for seed in range(300):
        ours, theirs = (evaluation(0.6, 2 * seed + place, count)[1].confusion for place, count in enumerate((500, 300)))
        p.append(bootstrap.p_value(bootstrap.unpaired_draws(ours, theirs, resamples=400)["accuracy"][1:]))
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.09


def test_two_sets_of_claims_are_resampled_independently():
    confusion = np.array([[50, 10], [5, 35]])
    draws = bootstrap.unpaired_draws(confusion, confusion, resamples=4000)["accuracy"]
    assert draws[0] == 0
    # Var(a - b) = 2 p (1 - p) / n, for p = 0.85 and n = 100.
    assert draws[1:].std() == pytest.approx(np.sqrt(2 * 0.85 * 0.15 / 100), rel=0.05)
