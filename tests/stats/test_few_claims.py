"""Intervals at 0 and 1, and differences on few claims: what did not occur among them may still occur."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from conftest import LONG
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from lorahub.stats import few_claims, metrics, paired

BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "intervals.py"))


def intervals(gold, answers, labels=2):
    confusion = np.bincount(np.asarray(gold) * labels + answers, minlength=labels * labels).reshape(labels, labels)
    return few_claims.intervals(confusion, resamples=500, confidence=0.95)


def test_twelve_right_answers_are_no_certainty():
    """The plain bootstrap gives 1.000 [1.000, 1.000]."""
    gold = np.arange(12) % 2
    found = intervals(gold, gold)
    assert found["accuracy"] == pytest.approx((0.025 ** (1 / 12), 1.0))  # no error of 12
    for metric in ("f1_macro", "f1_weighted"):
        low, high = found[metric]
        assert 0.5 < low < 0.8
        assert high == 1.0
    low, high = intervals(gold, 1 - gold)["f1_macro"]
    assert low == 0.0
    assert 0.2 < high < 0.5


@pytest.mark.parametrize(("hits", "count"), [(0, 5), (12, 12), (7, 9), (500, 1235)])
def test_the_exact_interval_is_statsmodels(hits, count):
    assert few_claims.binomial(hits, count, 0.95) == pytest.approx(proportion_confint(hits, count, method="beta"))


def test_many_claims_leave_the_bootstrap_as_it_is():
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 3, 20_000)
    answers = np.where(rng.random(20_000) < 0.7, gold, (gold + 1) % 3)
    low, high = intervals(gold, answers, 3)["f1_macro"]
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.7 * 0.3 / 20_000), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
def test_intervals_contain_the_true_value(number):
    """At least 95 %, less three standard errors, in the populations of the benchmark with the fewest claims."""
    trials = 2000 if LONG else 200
    row = BENCHMARK["populations"]()[number]
    for name, (ours, plain) in BENCHMARK["coverage"](row, trials, 200).items():
        assert ours >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / trials), name
        assert ours >= plain - 0.02, name
    if number == 0:
        assert plain < 0.5, "12 claims: the bootstrap alone"


@pytest.mark.parametrize("claims", [6, 40, 1000])
@pytest.mark.parametrize("lost", range(1, 12))
def test_a_difference_on_few_claims_is_detected_where_mcnemars_exact_test_does(claims, lost):
    """Flips in one direction only: 6 of them have p = 0.031, and 5 p = 0.063, however many claims there are."""
    lost = min(lost, claims)
    gold = np.arange(claims) % 2
    ours = np.where(np.arange(claims) < lost, 1 - gold, gold)
    found = paired.differences(gold, ours, gold, 2, resamples=2000, confidence=0.95)["accuracy"]
    p = stats.binomtest(lost, lost, 0.5).pvalue
    assert found.detectable == (p < 0.05) or lost == 6


def test_a_score_has_these_intervals():
    from lorahub.labels import LabelSet

    gold = np.arange(12) % 2
    shown = np.eye(2, dtype=np.float32)[gold]
    found = metrics.score(gold, gold, shown, LabelSet(("a", "b")), resamples=200, confidence=0.95)
    assert found.interval["accuracy"][0] < 0.8
