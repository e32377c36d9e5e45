"""Figures: against scikit-learn, against theory, and with absent classes."""

import numpy as np
import pytest
from conftest import LONG
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from lorahub.config import Config, EvalConfig
from lorahub.labels import LabelSet
from lorahub.stats import baselines, bootstrap, calibration, metrics, paired
from lorahub.stats.verdicts import Calibration, calibrated, decide, softmax

LABELS = LabelSet(("a", "b", "c", "d"))


def block(gold, predicted, probabilities=None):
    shown = np.full((len(gold), 4), 0.25, np.float32) if probabilities is None else probabilities
    return metrics.score(gold, predicted, shown, LABELS, resamples=200, confidence=0.95)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=80))
def test_metrics_are_scikit_learns_also_with_absent_classes(pairs):
    gold, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    found = block(gold, predicted)
    options = {"zero_division": 0}
    assert found.accuracy == pytest.approx(accuracy_score(gold, predicted))
    assert found.f1_macro == pytest.approx(f1_score(gold, predicted, average="macro", **options))
    assert found.f1_weighted == pytest.approx(f1_score(gold, predicted, average="weighted", **options))
    assert np.sum(found.confusion) == len(gold)
    assert sum(row.support for row in found.per_label.values()) == len(gold)
    for metric in metrics.METRICS:
        low, high = found.interval[metric]
        assert 0 <= low <= high <= 1


def test_vectorised_bootstrap_metrics_equal_scikit_learn():
    rng = np.random.default_rng(0)
    gold, predicted = rng.integers(0, 4, 300), rng.integers(0, 4, 300)
    predicted[gold == 2] = 1  # a label that is never right
    found = bootstrap.headline(np.ones((1, 300), int), gold, predicted, 4)
    assert found["f1_macro"][0] == pytest.approx(f1_score(gold, predicted, average="macro"))
    assert found["f1_weighted"][0] == pytest.approx(f1_score(gold, predicted, average="weighted"))


def test_bootstrap_interval_of_accuracy_is_the_binomial_one():
    confusion = np.array([[350, 150], [50, 450]])
    low, high = bootstrap.bootstrap(confusion, resamples=20_000, confidence=0.95)["accuracy"]
    half = 1.96 * np.sqrt(0.8 * 0.2 / 1000)
    assert low == pytest.approx(0.8 - half, abs=0.003)
    assert high == pytest.approx(0.8 + half, abs=0.003)


def test_paired_intervals_hold_zero_as_often_as_they_say():
    rng, inside, trials = np.random.default_rng(1), 0, 150
    for _ in range(trials):
        gold = rng.integers(0, 2, 300)
        ours, theirs = (np.where(rng.random(300) < 0.7, gold, 1 - gold) for _ in range(2))
        found = paired.differences(gold, ours, theirs, 2, resamples=400, confidence=0.95)["accuracy"]
        inside += not found.detectable
    assert 0.89 <= inside / trials <= 0.99


def test_a_real_difference_is_detected_and_equal_systems_are_not():
    rng = np.random.default_rng(2)
    gold = rng.integers(0, 3, 500)
    good = np.where(rng.random(500) < 0.8, gold, (gold + 1) % 3)
    bad = np.where(rng.random(500) < 0.5, gold, (gold + 2) % 3)
    found = paired.differences(gold, good, bad, 3, resamples=500, confidence=0.95)
    assert found["f1_macro"].detectable
    assert found["f1_macro"].difference > 0.2
    same = paired.differences(gold, good, good, 3, resamples=500, confidence=0.95)
    assert not same["f1_macro"].detectable
    low, high = same["accuracy"].interval
    assert -0.01 < low < 0 < high < 0.01, "500 claims with the same answers leave little room"


def test_calibration_error_by_hand():
    shown = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]], np.float32)
    gold, predicted = np.array([0, 1, 0, 0]), np.array([0, 0, 0, 0])
    # two claims at 0.9 of which one is right (gap 0.4), two at 0.6 both right (gap 0.4)
    assert metrics.expected_calibration_error(gold, predicted, shown) == pytest.approx(0.4, abs=1e-6)


def test_temperature_mends_overconfidence_and_keeps_the_labels():
    rng = np.random.default_rng(3)
    true = rng.normal(size=(2000, 3)) * 1.5
    gold = np.array([rng.choice(3, p=row) for row in softmax(true)])
    found = calibration.calibrate((true * 3).astype(np.float32), gold, (), EvalConfig())
    assert found.temperature == pytest.approx(3, rel=0.15)
    logits = (true * 3).astype(np.float32)
    assert (calibrated(logits, found).argmax(1) == logits.argmax(1)).all()
    assert found.bias == ()


def test_a_bias_is_chosen_only_where_it_helps():
    rng = np.random.default_rng(4)
    gold = rng.choice(2, p=[0.9, 0.1], size=1500)
    logits = np.stack([np.zeros(1500), 2.5 * gold - 2.6 + rng.normal(size=1500) * 0.8], axis=1).astype(np.float32)
    shares = {"rare": np.arange(1000) % 10 == 0, "equal": np.arange(1000) % 2}
    ids = {name: {"train": train.astype(np.int64), "validation": gold} for name, train in shares.items()}
    helped = calibration.of_run(logits, ids["rare"], Config())
    assert helped.bias
    before, after = (f1_score(gold, decide(logits, item), average="macro") for item in (Calibration(), helped))
    assert after > before
    balanced = calibration.of_run(logits, ids["equal"], Config())
    assert balanced.bias == ()


def test_softmax_survives_large_logits():
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0]], np.float32)), [[1, 0]])


def test_baselines_choose_on_validation_and_give_logits_for_every_split():
    texts = {
        name: [f"good word {index}" if index % 2 else f"bad term {index}" for index in range(size)]
        for name, size in (("train", 80), ("validation", 20), ("test", 20))
    }
    gold = {name: np.arange(len(part)) % 2 for name, part in texts.items()}
    found = baselines.tfidf(texts, gold, 2, metric="f1_macro")
    assert (found.logits["test"].argmax(1) == gold["test"]).all()
    assert set(found.options.to_dict()) == {"C", "class_weight"}
    shares = baselines.majority(np.array([0, 1, 1]), 2, {"test": 4})
    assert shares.logits["test"].argmax(1).tolist() == [1, 1, 1, 1]


def test_the_linear_probe_survives_the_disk(tmp_path):
    rng = np.random.default_rng(5)
    gold = {name: np.arange(90) % 3 for name in ("train", "validation")}
    features = {name: (rng.normal(size=(90, 8)) + np.eye(8)[gold[name]] * 3).astype(np.float32) for name in gold}
    probe, found = baselines.linear_probe(features, gold, 3, metric="accuracy")
    assert (found.logits["validation"].argmax(1) == gold["validation"]).mean() > 0.9
    probe.save(tmp_path)
    again = baselines.LinearProbe.load(tmp_path, 3)
    np.testing.assert_array_equal(again.logits(features["train"]), probe.logits(features["train"]))


@pytest.mark.slow
def test_tfidf_on_real_data_is_not_weaker_than_published(shared_data):
    """The figures of the data's README: weighted and macro F1 on test, C = 4, better of balanced and not."""
    from lorahub.config import DataConfig
    from lorahub.data import claims

    published = {"scifact": (0.449, 0.409), "climate_fever": (0.417, 0.347), "covid19_fake_news": (0.942, 0.942)}
    if LONG:
        published |= {"pubhealth": (0.587, 0.458), "liar": (0.253, 0.252), "checkthat24_en": (0.795, 0.734)}
    for name, (weighted, macro) in published.items():
        data = claims.load(DataConfig(id=name))
        gold = {split: part.gold for split, part in data.splits.items()}
        texts = {split: part.texts for split, part in data.splits.items()}
        found = baselines.tfidf(texts, gold, len(data.labels), metric="f1_macro")
        figures = metrics.quick(gold["test"], found.logits["test"].argmax(1))
        assert figures["f1_weighted"] >= weighted - 0.01, name
        assert figures["f1_macro"] >= macro - 0.01, name


@pytest.mark.slow
def test_intervals_of_many_labels_take_little_memory():
    """As many labels as banking77 has: a cell for each triple of labels would take 15 GB."""
    import tracemalloc

    gold, ours, theirs = np.random.default_rng(0).integers(0, 77, (3, 3000))
    tracemalloc.start()
    found = paired.differences(gold, ours, theirs, 77, resamples=2000, confidence=0.95)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not found["f1_macro"].detectable
    assert peak < 400e6, peak


def test_resampled_metrics_count_the_cells_of_the_confusion_matrix():
    gold, answers = np.random.default_rng(1).integers(0, 4, (2, 200))
    found = bootstrap.resampled(gold, answers, 4, resamples=300)
    cells = bootstrap.resampled_sums(np.eye(16)[gold * 4 + answers], resamples=300)  # (R + 1, 16)
    expected = bootstrap.headline(cells, np.arange(16) // 4, np.arange(16) % 4, 4)
    for name, values in expected.items():
        assert values.shape == (301,)
        np.testing.assert_allclose(found[name], values, atol=1e-12)
        assert found[name][0] == pytest.approx(metrics.quick(gold, answers)[name])


def test_memory_of_intervals_grows_with_the_rows_and_not_with_the_square_of_the_labels():
    """With a row per cell of the confusion matrix, 150 labels took 4 GB."""
    import tracemalloc

    def peak(rows, labels):
        gold, answers = np.random.default_rng(0).integers(0, labels, (2, rows))
        tracemalloc.start()
        bootstrap.resampled(gold, answers, labels, resamples=200)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(1000, 150) < 20e6
    assert peak(1000, 600) < 4.5 * peak(1000, 150)
    assert peak(4000, 150) < 4.5 * peak(1000, 150)
