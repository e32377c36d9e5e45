"""The plateau: the right rank where it is plain, seldom too low, the highest where the claims are too few to tell."""

import numpy as np
import pytest

from lorahub.stats import paired, plateau

HOW = {"metric": "accuracy", "margin": 0.03, "resamples": 500, "confidence": 0.95}


def answers(gold, rng, right):
    """Answers of which a share `right` is right, each claim by itself."""
    return np.where(rng.random(len(gold)) < right, gold, 1 - gold)


def worsened(gold, given, rng, share):
    """The same answers, with a share of them turned."""
    return np.where(rng.random(len(gold)) < share, 1 - given, given)


def test_ladder_ends_with_the_rank_itself():
    assert plateau.ladder(1) == [1]
    assert plateau.ladder(8) == [1, 2, 4, 8]
    assert plateau.ladder(12) == [1, 2, 4, 8, 12]


def test_the_step_is_found():
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 2, 1000)
    best = answers(gold, rng, 0.9)
    by_rank = {1: worsened(gold, best, rng, 0.2), 2: worsened(gold, best, rng, 0.1), 4: best, 8: best}
    found = plateau.find(gold, by_rank, 2, **HOW)
    assert (found.rank, found.low, found.high, found.reference) == (4, 4, 4, 8)
    assert found.shares == {1: 0.0, 2: 0.0, 4: 1.0, 8: 0.0}
    assert (found.gap.difference, found.gap.detectable) == (0.0, False)
    assert -0.03 < found.gap.interval[0] < 0 < found.gap.interval[1]


def test_a_step_in_the_noise_is_told_as_uncertain():
    rng = np.random.default_rng(1)
    gold = rng.integers(0, 2, 400)
    best = answers(gold, rng, 0.9)
    # Rank 1 loses about as much as 400 claims can just show to be below the margin.
    turned = best.copy()
    turned[np.flatnonzero(best == gold)[:6]] ^= 1
    turned[np.flatnonzero(best != gold)[:1]] ^= 1
    found = plateau.find(gold, {1: turned, 2: best, 4: best}, 2, **HOW)
    assert (found.low, found.high) == (1, 2)
    assert 0.1 < found.shares[1] < 0.9
    assert abs(sum(found.shares.values()) - 1) < 1e-9


def test_no_plateau_names_the_highest():
    rng = np.random.default_rng(2)
    gold = rng.integers(0, 2, 2000)
    best = answers(gold, rng, 0.95)
    found = plateau.find(
        gold, {rank: worsened(gold, best, rng, share) for rank, share in ((1, 0.3), (2, 0.1), (4, 0.0))}, 2, **HOW
    )
    assert found.rank == found.high == 4


def test_the_gap_is_that_of_a_paired_comparison():
    rng = np.random.default_rng(3)
    gold = rng.integers(0, 3, 600)
    ours, theirs = (np.where(rng.random(600) < right, gold, (gold + 1) % 3) for right in (0.6, 0.8))
    found = plateau.gap(gold, ours, theirs, 3, metric="f1_macro", resamples=4000, confidence=0.95)
    other = paired.differences(gold, ours, theirs, 3, resamples=4000, confidence=0.95)["f1_macro"]
    assert found.difference == other.difference
    np.testing.assert_allclose(found.interval, other.interval, atol=4e-3)
    assert found.detectable is other.detectable


@pytest.mark.slow
def test_a_rank_that_is_worse_by_the_margin_is_seldom_selected():
    """Ranks 1 and 2 lose the margin, 3 %: one of them is selected in 2.5 % of the data sets, within noise."""
    rng = np.random.default_rng(4)
    wrong = 0
    for _ in range(200):
        gold = rng.integers(0, 2, 600)
        best = answers(gold, rng, 0.9)
        # Of right answers a share x turns wrong and of wrong ones a share x right: 0.8 x is lost.
        by_rank = {rank: worsened(gold, best, rng, 0.03 / 0.8) for rank in (1, 2)} | {4: best, 8: best}
        wrong += plateau.find(gold, by_rank, 2, **HOW | {"resamples": 200}).rank < 4
    assert wrong <= 12, "binomial(200, 0.025) exceeds 12 in 0.2 % of the cases"


def test_too_few_claims_select_the_highest_even_if_no_answer_changes():
    gold = np.arange(100) % 2
    found = plateau.find(gold, {1: gold, 2: gold, 4: gold}, 2, **HOW)
    assert (found.rank, found.reference) == (4, 4)
    assert plateau.find(np.arange(300) % 2, {1: np.arange(300) % 2, 2: np.arange(300) % 2}, 2, **HOW).rank == 1


def test_a_rank_below_one_that_fails_is_not_selected():
    rng = np.random.default_rng(6)
    gold = rng.integers(0, 2, 1000)
    best = answers(gold, rng, 0.9)
    assert plateau.find(gold, {1: best, 2: worsened(gold, best, rng, 0.2), 4: best, 8: best}, 2, **HOW).rank == 4


@pytest.mark.slow
def test_the_named_ranks_spread_as_over_new_data():
    """The bootstrap's share of a rank is near to how often new claims of the same kind name it."""
    rng = np.random.default_rng(5)

    def sample():
        gold = rng.integers(0, 2, 300)
        best = answers(gold, rng, 0.85)
        by_rank = {1: worsened(gold, best, rng, 0.05), 2: worsened(gold, best, rng, 0.02), 4: best}
        return plateau.find(gold, by_rank, 2, **HOW | {"resamples": 200, "margin": 0.06})

    found = [sample() for _ in range(150)]
    for rank in (1, 2, 4):
        truth = np.mean([item.rank == rank for item in found])
        told = np.mean([item.shares[rank] for item in found])
        assert abs(truth - told) < 0.15, (rank, truth, told)
