"""What a search says: the best, when gains end, quality against a field."""

import numpy as np
import pytest

from lorahub.experiments.sweep import result as sweep_result
from lorahub.experiments.sweep.result import FAILED, FINISHED, PRUNED, Incumbent, Tried

GOLD = np.array([0, 1] * 100)


def answering(right):
    """Answers of which the first `right` are right."""
    return np.where(np.arange(len(GOLD)) < right, GOLD, 1 - GOLD)


def tried(trial, right, *, state=FINISHED, **values):
    answers = answering(right) if state == FINISHED else None
    return Tried(trial=trial, state=state, value=right / len(GOLD), values=values, answers=answers)


def leads(*trials):
    return sweep_result.incumbents(trials, GOLD, 2, "accuracy", resamples=500, confidence=0.95)


def test_gains_end_at_the_trial_from_which_none_is_detectable():
    found = leads(tried(1, 100), tried(2, 90), tried(3, 160), tried(4, 161), tried(5, 162))
    assert [item.trial for item in found] == [1, 3, 4, 5], "a trial that is not the best so far gains nothing"
    assert [item.detectable for item in found] == [True, False, False, False]
    assert found[0].difference == pytest.approx(0.31)
    assert sweep_result.plateau(found) == 3


def test_a_best_that_is_above_all_before_it_is_the_plateau_itself():
    found = leads(tried(1, 100), tried(2, 150))
    assert sweep_result.plateau(found) == 2
    assert found[-1].difference == 0


def test_gains_that_are_detectable_only_in_sum_count():
    """Each step is inside the noise, the whole way is not: gains end where the rest of the way is inside it."""
    rights = range(100, 164, 2)
    found = leads(*(tried(number, right) for number, right in enumerate(rights, start=1)))
    end = sweep_result.plateau(found)
    assert 1 < end < len(rights)
    assert found[end - 2].detectable
    assert not found[end - 1].detectable
    alone = leads(tried(1, rights[0]), tried(2, rights[1]))
    assert alone[0].difference > 0


def test_one_that_is_detectable_late_moves_the_plateau_behind_it():
    rows = [Incumbent(trial=n, value=0, difference=0, interval=[0, 0], detectable=d) for n, d in enumerate((0, 1, 0))]
    assert sweep_result.plateau(rows) == 2


def test_pruned_and_failed_trials_are_never_the_best():
    failed = Tried(trial=3, state=FAILED, value=None, values={}, error="nothing is trainable")
    trials = [tried(1, 120), tried(2, 199, state=PRUNED), failed]
    assert sweep_result.best_of(trials).trial == 1
    assert [item.trial for item in leads(*trials)] == [1]
    assert sweep_result.best_of([failed]) is None
    assert sweep_result.best_of([tried(1, 120), tried(2, 120)]).trial == 1, "of equals the earlier"


def test_a_curve_has_a_row_for_each_value_or_for_ranges():
    few = [tried(1, 100, rank=8), tried(2, 120, rank=4), tried(3, 140, rank=8), tried(4, 190, state=PRUNED, rank=2)]
    rows = sweep_result.curve(few, "rank", log=True)
    assert [(row.low, row.high, row.trials, row.median, row.best) for row in rows] == [
        (4, 4, 1, 0.6, 0.6), (8, 8, 2, 0.6, 0.7)
    ]  # fmt: skip
    many = [tried(n + 1, 100 + n, rank=2**n) for n in range(10)]
    rows = sweep_result.curve(many, "rank", log=True)
    assert [(row.low, row.high) for row in rows] == [(1, 2), (4, 8), (16, 32), (64, 128), (256, 512)]
    assert sum(row.trials for row in rows) == 10
    rows = sweep_result.curve(many, "rank", log=False)
    assert rows[0].trials == 7, "of equal width: most powers of two are small"
    names = [tried(n + 1, 100 + n, kind=f"k{n}") for n in range(9)]
    assert [row.low for row in sweep_result.curve(names, "kind", log=False)] == [f"k{n}" for n in range(9)]


def test_the_interval_is_that_of_the_best_trial_s_answers():
    low, high = sweep_result.interval(tried(1, 150), GOLD, 2, "accuracy", resamples=2000, confidence=0.95)
    assert low < 0.75 < high
    assert (low, high) == pytest.approx((0.69, 0.81), abs=0.02)
