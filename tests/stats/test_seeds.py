"""Several seeds: means against scikit-learn, intervals that cover, and differences that are not seen where none are."""

import numpy as np
import pytest
from conftest import LONG
from sklearn.metrics import f1_score

from lorahub.stats import seeds

LABELS = 3


def trained(rng, gold, skill, runs):
    """Answers (S, N) of S trainings: a run's skill varies a little by its seed."""
    found = []
    for _ in range(runs):
        right = rng.random(len(gold)) < skill + rng.normal(scale=0.01)
        found.append(np.where(right, gold, rng.integers(0, LABELS, len(gold))))
    return np.stack(found)


def test_means_and_deviations_are_those_of_the_seeds():
    rng = np.random.default_rng(0)
    gold = rng.integers(0, LABELS, 200)
    answers = trained(rng, gold, 0.6, 3)
    found = seeds.mean(seeds.draws("a", gold, answers, LABELS, resamples=200), "f1_macro", confidence=0.95)
    each = [f1_score(gold, row, average="macro") for row in answers]
    assert found.mean == pytest.approx(np.mean(each))
    assert found.deviation == pytest.approx(np.std(each, ddof=1))
    assert found.interval[0] < found.mean < found.interval[1]
    alone = seeds.mean(seeds.draws("a", gold, answers[:1], LABELS, resamples=200), "f1_macro", confidence=0.95)
    assert alone.deviation is None


def test_a_system_does_not_differ_from_itself_and_differs_from_a_much_better_one():
    rng = np.random.default_rng(1)
    gold = rng.integers(0, LABELS, 400)
    weak, strong = trained(rng, gold, 0.4, 3), trained(rng, gold, 0.8, 3)
    same = seeds.draws("a", gold, weak, LABELS, resamples=500)
    better = seeds.draws("b", gold, strong, LABELS, resamples=500)
    none, much = seeds.differences([(same, same), (better, same)], [0.0, 0.0], "f1_macro", confidence=0.95)
    assert (none.difference, none.detectable) == (0.0, False)
    assert much.difference > 0.2
    assert much.detectable
    assert much.p_holm == pytest.approx(2 * much.p)


@pytest.mark.slow
def test_equals_are_rarely_called_different():
    """The two-level bootstrap with three seeds understates the seeds' noise a little; it must not do so by much."""
    rng, trials = np.random.default_rng(2), 400 if LONG else 120
    wrong = 0
    for _ in range(trials):
        gold = rng.integers(0, LABELS, 300)
        ours, theirs = (
            seeds.draws(name, gold, trained(rng, gold, 0.6, 3), LABELS, resamples=200) for name in ("a", "b")
        )
        (found,) = seeds.differences([(ours, theirs)], [0.0], "accuracy", confidence=0.95)
        wrong += found.detectable
    # Nominal 5 %; 12 of 100 would be twice that and more.
    assert wrong / trials < 0.12, wrong
