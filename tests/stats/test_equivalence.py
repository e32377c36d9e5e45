"""Equivalence: seldom claimed at the margin, claimed where it is plain, and never from a handful of claims."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from conftest import LONG

from lorahub.stats import bootstrap, equivalence, few_claims
from lorahub.stats.paired import Difference

BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "equivalence.py"))
BY_NAME = {(row.name, row.metric): row for row in BENCHMARK["populations"]()}


def found(gold, ours, theirs, *, margin, metric="accuracy", labels=2, pairs=1):
    draws = bootstrap.paired_draws(gold, ours, theirs, labels, resamples=999).metrics[metric]
    unseen = few_claims.unseen_flips(gold, (ours, theirs), labels, metric=metric, confidence=0.95)
    return equivalence.test([draws] * pairs, [unseen] * pairs, len(gold), margin=margin, confidence=0.95)


def flipped(claims, lost, gained):
    """Gold ids of two labels, and answers of which the first system has `lost` wrong and the second `gained`."""
    gold = np.arange(claims) % 2
    ours, theirs = gold.copy(), gold.copy()
    ours[:lost] ^= 1
    theirs[claims - gained :] ^= 1
    return gold, ours, theirs


@pytest.mark.slow
@pytest.mark.parametrize(
    "row",
    [
        ("flips in one direction, 400", "accuracy"),
        ("few flips, 2500", "accuracy"),
        ("few flips, 2500", "f1_macro"),
    ],
    ids=" ".join,
)
def test_systems_that_differ_by_the_margin_are_seldom_called_equivalent(row):
    """At most 5 %, and as often as not without a difference where there are enough claims."""
    trials = 2000 if LONG else 150
    false, right = BENCHMARK["rates"](BY_NAME[row], trials, 300, seed=1)
    # 2.5 % is the level of each test: 10 of 150 have a probability below 0.3 % at that rate.
    assert false <= (0.05 if LONG else 9 / 150)
    assert right > 0.2


@pytest.mark.parametrize("claims", [3, 12, 50, 150])
def test_the_same_answers_to_few_claims_show_nothing(claims):
    """At a difference of 0.02, 150 claims show no flip in 4.8 % of the cases; the plain interval is 0 wide."""
    gold, ours, theirs = flipped(claims, 0, 0)
    for metric in ("accuracy", "f1_macro", "f1_weighted"):
        (row,) = found(gold, ours, theirs, margin=0.02, metric=metric)
        assert not row.equivalent
        assert row.interval[0] < -0.02 < 0.02 < row.interval[1]


def test_the_same_answers_to_many_claims_show_it():
    gold, ours, theirs = flipped(400, 0, 0)
    (row,) = found(gold, ours, theirs, margin=0.02)
    assert row.equivalent
    # z^2 / N, near to the exact bound for no event, 1 - 0.025^(1/400) = 0.0092
    assert row.interval[1] == pytest.approx(1.96**2 / 400, rel=0.1)
    assert row.p_holm < 0.025


def test_a_rare_label_alone_can_leave_macro_f1_undecided():
    """10 of 1,000 claims: whether their label is answered alike is not known, though accuracy is equivalent."""
    gold = np.repeat([0, 1], [990, 10])
    assert found(gold, gold, gold, margin=0.02)[0].equivalent
    assert not found(gold, gold, gold, margin=0.02, metric="f1_macro")[0].equivalent


def test_the_claims_needed_show_it():
    gold, ours, theirs = flipped(300, 12, 12)
    (row,) = found(gold, ours, theirs, margin=0.02)
    assert not row.equivalent
    rng, shown, trials = np.random.default_rng(3), 0, 150
    for _ in range(trials):
        draw = rng.integers(0, 300, row.claims_needed)
        swap = rng.random(row.claims_needed) < 0.5  # both are then equally good
        mixed = np.where(swap, theirs[draw], ours[draw]), np.where(swap, ours[draw], theirs[draw])
        shown += found(gold[draw], *mixed, margin=0.02)[0].equivalent
    assert 0.6 < shown / trials < 0.92, "power 0.8 where the disagreement is as observed"


def test_p_values_are_corrected_for_the_number_of_pairs():
    gold, ours, theirs = flipped(1500, 10, 10)
    (one,) = found(gold, ours, theirs, margin=0.01)
    five = found(gold, ours, theirs, margin=0.01, pairs=5)
    assert five[0].p == one.p
    assert five[0].p_holm == pytest.approx(min(1, 5 * one.p))


@pytest.mark.parametrize(
    ("interval", "detectable", "equivalent", "expected"),
    [
        ((0.01, 0.05), True, False, "better"), ((-0.05, -0.01), True, False, "worse"),
        ((-0.01, 0.01), False, True, "equivalent"), ((0.001, 0.01), True, True, "equivalent"),
        ((-0.05, 0.05), False, False, "undecided"), ((-0.05, 0.05), False, None, "none"),
        ((0.01, 0.05), True, None, "better"),
    ],
)  # fmt: skip
def test_the_answer(interval, detectable, equivalent, expected):
    difference = Difference(difference=sum(interval) / 2, interval=interval, detectable=detectable)
    row = None
    if equivalent is not None:
        row = equivalence.Equivalence(
            margin=0.02, interval=interval, p=0.01, p_holm=0.01, equivalent=equivalent, claims_needed=1
        )
    assert equivalence.answer("accuracy", difference, row) == expected
