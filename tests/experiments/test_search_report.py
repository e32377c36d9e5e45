"""The result of a search: the best trial, when gains end, quality against a field."""

import numpy as np
import pytest

from lorahub.experiments.sweep import report
from lorahub.experiments.sweep import result as sweep_result
from lorahub.experiments.sweep.result import FAILED, FINISHED, PRUNED, SearchResult, TrialResult
from lorahub.experiments.sweep.search_space import Choices, Numbers
from lorahub.stats.results import Difference

GOLD = np.array([0, 1] * 100)
OPTIONS = {"resamples": 500, "confidence": 0.95}


def answering(right):
    """Answers of which the first `right` are right."""
    return np.where(np.arange(len(GOLD)) < right, GOLD, 1 - GOLD)


def make_trial(trial, right, *, state=FINISHED, **values):
    answers = answering(right) if state == FINISHED else None
    return TrialResult(trial=trial, state=state, value=right / len(GOLD), values=values, answers=answers)


def compare(*trials):
    """The incumbents, and the gains of the best over them."""
    leaders = sweep_result.incumbents(trials)
    gains = {item.trial: sweep_result.gain(leaders[-1], item, GOLD, 2, "accuracy", **OPTIONS) for item in leaders}
    return leaders, gains


def test_gains_end_at_the_trial_from_which_none_is_detectable():
    rights = {1: 100, 2: 90, 3: 160, 4: 161, 5: 162}
    leaders, gains = compare(*(make_trial(number, right) for number, right in rights.items()))
    assert [item.trial for item in leaders] == [1, 3, 4, 5], "a trial that is not the best so far gains nothing"
    assert [gain.detectable for gain in gains.values()] == [True, False, False, False]
    assert gains[1].difference == pytest.approx(0.31)
    assert sweep_result.plateau(leaders, gains) == 3


def test_a_best_trial_above_all_before_it_is_the_plateau_itself():
    leaders, gains = compare(make_trial(1, 100), make_trial(2, 150))
    assert sweep_result.plateau(leaders, gains) == 2
    assert gains[2].difference == 0


def test_gains_that_are_detectable_only_in_sum_count():
    """Each step is within the noise, but all steps together are not."""
    rights = range(100, 164, 2)
    leaders, gains = compare(*(make_trial(number, right) for number, right in enumerate(rights, start=1)))
    end = sweep_result.plateau(leaders, gains)
    assert 1 < end < len(rights)
    assert gains[end - 1].detectable
    assert not gains[end].detectable
    _, step = compare(make_trial(1, rights[0]), make_trial(2, rights[1]))
    assert step[1].difference > 0


def test_a_late_detectable_gain_moves_the_plateau_behind_it():
    leaders = [make_trial(number, 100) for number in (0, 1, 2)]
    gains = {
        number: Difference(difference=0, interval=(0, 0), detectable=detectable)
        for number, detectable in enumerate((False, True, False))
    }
    assert sweep_result.plateau(leaders, gains) == 2


def test_pruned_and_failed_trials_are_never_the_best():
    failed = TrialResult(trial=3, state=FAILED, value=None, values={}, error="nothing is trainable")
    trials = [make_trial(1, 120), make_trial(2, 199, state=PRUNED), failed]
    assert sweep_result.best_of(trials).trial == 1
    assert [item.trial for item in sweep_result.incumbents(trials)] == [1]
    assert sweep_result.best_of([failed]) is None
    assert sweep_result.best_of([make_trial(1, 120), make_trial(2, 120)]).trial == 1, "of equals the earlier"


def test_a_curve_has_a_row_for_each_value_or_for_ranges():
    rank = Numbers(field="rank", low=1, high=512, log=True)
    few = [make_trial(1, 100, rank=8), make_trial(2, 120, rank=4), make_trial(3, 140, rank=8)]
    rows = sweep_result.curve(few, rank)
    assert [(row.low, row.high, row.trials, row.median, row.best) for row in rows] == [
        (4, 4, 1, 0.6, 0.6), (8, 8, 2, 0.6, 0.7)
    ]  # fmt: skip
    many = [make_trial(n + 1, 100 + n, rank=2**n) for n in range(10)]
    rows = sweep_result.curve(many, rank)
    assert [(row.low, row.high) for row in rows] == [(1, 2), (4, 8), (16, 32), (64, 128), (256, 512)]
    assert sum(row.trials for row in rows) == 10
    rows = sweep_result.curve(many, Numbers(field="rank", low=1, high=512))
    assert rows[0].trials == 7, "of equal width: most powers of two are small"
    names = [make_trial(n + 1, 100 + n, kind=f"k{n}") for n in range(9)]
    kind = Choices(field="kind", choices=tuple(f"k{n}" for n in range(9)))
    assert [row.low for row in sweep_result.curve(names, kind)] == [f"k{n}" for n in range(9)]


def test_the_interval_is_that_of_the_best_trials_answers():
    low, high = sweep_result.interval(make_trial(1, 150), GOLD, 2, "accuracy", resamples=2000, confidence=0.95)
    assert low < 0.75 < high
    assert (low, high) == pytest.approx((0.69, 0.81), abs=0.02)


def sentences(gold, *answers):
    """The sentences of a search whose trials, with the same values, gave these answers on validation."""
    trials = [
        TrialResult(trial=number, state=FINISHED, value=float((gold == ids).mean()), values={"r": 8}, answers=ids)
        for number, ids in enumerate(answers, start=1)
    ]
    leaders = sweep_result.incumbents(trials)
    gains = {item.trial: sweep_result.gain(leaders[-1], item, gold, 2, "accuracy", **OPTIONS) for item in leaders}
    return report.build(
        SearchResult(
            name="s", data="d", base="b", method="lora", metric="accuracy", n=len(gold), labels=["x", "y"],
            sampler="tpe", pruner="none", seed=0, requested=len(trials), confidence=0.95, resamples=500,
            space=[Numbers(field="r", low=1, high=8)], best=leaders[-1],
            interval=sweep_result.interval(leaders[-1], gold, 2, "accuracy", **OPTIONS), own=None,
            incumbents=leaders, gains=gains, importance={}, trials=trials, best_baseline="majority",
            test={"adapter": {"accuracy": 0.5}}, test_against={"majority": gains[leaders[-1].trial]},
        )
    ).sentences  # fmt: skip


def test_two_trials_with_the_same_values_on_six_claims_are_not_told_apart():
    six = np.array([0, 1] * 3)
    same = sentences(six, six, six)
    assert "No later trial was better than trial 1." in same
    better = sentences(six, np.where(np.arange(6) < 5, 1 - six, six), six)
    assert "6 validation claims are too few to tell these trials apart." in better
    assert any(text.startswith("After trial 1, gains are within the noise") for text in better)
    assert not any("detectably" in text for text in (*same, *better))
    assert "One trial finished: there is nothing to compare it with." in sentences(six, six)


def test_a_trial_that_is_better_on_many_claims_is_called_so():
    found = sentences(GOLD, answering(100), answering(150))
    assert "Trial 2, the best, is detectably better than the best before it: try more trials." in found
