"""Comparing systems: p-values under the null, against scipy and by hand; power at the number of claims promised."""

import numpy as np
import pytest
from conftest import LONG
from scipy import stats
from sklearn.metrics import f1_score

from lorahub.experiments.compare import pairs
from lorahub.experiments.compare.pairs import System
from lorahub.labels import LabelSet
from lorahub.stats import bootstrap, equivalence, metrics, paired
from lorahub.stats.verdicts import softmax

LABELS = LabelSet(("a", "b", "c"))
CLAIMS = 600


def system(name, logits):
    shown = softmax(logits.astype(np.float32))
    return System(name=name, answers=shown.argmax(1).astype(np.int64), probabilities=shown)


def equals(rng, claims=CLAIMS, skill=(1.3, 1.3)):
    """Two systems that see the same hard claims, each with noise of its own: equals where their skill is the same."""
    gold = rng.choice(3, p=[0.5, 0.3, 0.2], size=claims)
    shared = rng.normal(size=(claims, 3))
    found = []
    for name, gain in zip("ab", skill, strict=True):
        logits = shared + rng.normal(size=(claims, 3)) * 0.9
        logits[np.arange(claims), gold] += gain
        found.append(system(name, logits))
    return gold, found


def compared(gold, systems, names=(("a", "b"),), metric="f1_macro", resamples=499):
    return pairs.compare_pairs(gold, systems, list(names), LABELS, metric=metric, resamples=resamples, confidence=0.95)


def null_p_values(trials, seed):
    rng = np.random.default_rng(seed)
    found = {name: [] for name in (*pairs.METRICS, "mcnemar", *LABELS.names)}
    for _ in range(trials):
        pair = compared(*equals(rng))[0]
        for name, row in pair.metrics.items():
            found[name].append(row.p)
        for name, row in pair.per_label.items():
            found[name].append(row.p)
        found["mcnemar"].append(pair.mcnemar.p)
    return {name: np.array(values) for name, values in found.items()}


@pytest.mark.slow
def test_p_values_are_uniform_where_nothing_differs():
    """Kolmogorov and Smirnov, on 300 comparisons of equals (2,000 in the long form); McNemar's is the chi-squared test
    here, as with more than 25 discordant claims.

    A p-value that is 0.05 in 8 of 100 comparisons or in 2 of 100 would be found. Eight tests at 0.001 each.
    """
    trials = 2000 if LONG else 300
    for name, values in null_p_values(trials, seed=11).items():
        assert stats.kstest(values, "uniform").pvalue > 0.001, (name, stats.kstest(values, "uniform"))
        # Five standard errors around what is promised.
        assert abs((values < 0.05).mean() - 0.05) < 5 * np.sqrt(0.05 * 0.95 / trials), name


@pytest.mark.slow
def test_the_bootstrap_of_the_calibration_error_would_not_be_uniform():
    """Why its p-values come from a randomisation test: the same simulation tells the two apart."""
    rng, naive, ours = np.random.default_rng(12), [], []
    for _ in range(400):
        gold, systems = equals(rng, claims=300)
        gaps = [metrics.calibration_gaps(gold, item.answers, item.probabilities) for item in systems]
        sums = [np.abs(bootstrap.resampled_sums(item, resamples=299)).sum(1) for item in gaps]
        naive.append(bootstrap.p_value((sums[0] - sums[1])[1:]))
        ours.append(paired.calibration_p_value(*gaps, resamples=299))
    assert stats.kstest(naive, "uniform").pvalue < 0.01
    assert stats.kstest(ours, "uniform").pvalue > 0.01


@pytest.mark.parametrize("discordant", [*range(26), 30, 60, 200, 1000])
def test_mcnemar_says_different_no_more_often_than_it_may(discordant):
    """Every outcome that fair coins have, with its probability: the exact test never exceeds alpha, the chi-squared
    test of larger counts by less than a third of it at 0.05 and 0.2."""
    p_values = np.array([paired.mcnemar(wins, discordant - wins)[0] for wins in range(discordant + 1)])
    chance = stats.binom.pmf(np.arange(discordant + 1), discordant, 0.5)
    for alpha in (0.001, 0.01, 0.05, 0.2, 0.5):
        said = chance[p_values <= alpha].sum()
        if discordant <= 25:
            assert said <= alpha + 1e-9
        elif alpha in (0.05, 0.2):
            assert said <= alpha * 4 / 3


def test_mcnemar_by_hand():
    assert paired.mcnemar(0, 0) == (1.0, "exact binomial")
    # 8 of 10 by a fair coin, either way: 2 (1 + 10 + 45) / 1024
    assert paired.mcnemar(8, 2)[0] == pytest.approx(112 / 1024)
    p, test = paired.mcnemar(40, 20)
    assert test == "chi-squared"
    assert p == pytest.approx(stats.chi2.sf(400 / 60, 1))
    assert p == pytest.approx(stats.binomtest(40, 60).pvalue, abs=0.005)


def test_holm_by_hand():
    # 0.01 x 4, 0.02 x 3, then 0.03 x 2 = 0.06, then 0.04 x 1 raised to what stands before it
    assert paired.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert paired.holm([0.5]) == [0.5]
    assert paired.holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.slow
def test_holm_keeps_false_differences_rare_over_many_pairs():
    """Five equals make ten pairs: one false difference or more in at most 5 of 100 tables, uncorrected in many more."""
    rng, corrected, plain, trials = np.random.default_rng(13), 0, 0, 60
    for _ in range(trials):
        gold = rng.integers(0, 3, 300)
        shared = rng.normal(size=(300, 3)) + 1.3 * np.eye(3)[gold]
        systems = [system(name, shared + rng.normal(size=(300, 3))) for name in "vwxyz"]
        answers = [(a.answers, b.answers) for place, a in enumerate(systems) for b in systems[place + 1 :]]
        draws = [bootstrap.paired_draws(gold, *pair, 3, resamples=999).metrics["f1_macro"] for pair in answers]
        rows = paired.corrected(draws, confidence=0.95)
        corrected += any(row.p_holm < 0.05 for row in rows)
        plain += any(row.p < 0.05 for row in rows)
    assert corrected <= 7  # 3 expected at most, and 2.4 standard errors
    assert plain >= 9


def test_intervals_and_differences_are_those_of_a_record():
    gold, systems = equals(np.random.default_rng(14), skill=(1.6, 1.2))
    stored = paired.differences(gold, systems[0].answers, systems[1].answers, 3, resamples=499, confidence=0.95)
    pair = compared(gold, systems)[0]
    for name, row in stored.items():
        assert pair.metrics[name].interval == row.interval
        assert pair.metrics[name].difference == row.difference
    ece = [metrics.expected_calibration_error(gold, item.answers, item.probabilities) for item in systems]
    assert pair.metrics["ece"].difference == pytest.approx(ece[0] - ece[1])
    low, high = pair.metrics["ece"].interval
    assert low < high
    f1 = [f1_score(gold, item.answers, average=None) for item in systems]
    for place, row in enumerate(pair.per_label.values()):
        assert row.difference == pytest.approx(f1[0][place] - f1[1][place])
        assert (row.ours, row.theirs) == (pytest.approx(f1[0][place]), pytest.approx(f1[1][place]))


def test_a_system_against_itself_differs_in_nothing():
    gold, systems = equals(np.random.default_rng(15))
    twin = System(name="b", answers=systems[0].answers, probabilities=systems[0].probabilities)
    pair = compared(gold, [systems[0], twin])[0]
    for row in (*pair.metrics.values(), *pair.per_label.values()):
        assert row.difference == 0
        assert row.p == 1
        assert not row.detectable
    assert pair.metrics["f1_macro"].claims_needed is None
    assert pair.mcnemar.claims_needed is None
    assert pair.verdict == "none"


def test_a_difference_turns_round_with_the_pair_and_calibration_counts_downwards():
    rng = np.random.default_rng(16)
    gold = rng.integers(0, 3, 1500)
    true = rng.normal(size=(1500, 3)) + 2 * np.eye(3)[gold]
    systems = [system("a", true * 1.5), system("b", true * 8)]  # the same answers, one of them far too sure
    there, back = compared(gold, systems, [("a", "b"), ("b", "a")], metric="ece")
    assert (there.verdict, back.verdict) == ("better", "worse")
    assert there.metrics["ece"].difference == -back.metrics["ece"].difference < -0.05
    assert equivalence.answer("accuracy", there.metrics["accuracy"]) == "none"


def test_the_number_of_claims_needed_gives_the_power_that_it_promises():
    """Fresh claims of that number, from the shares observed: McNemar's test finds the difference in 80 of 100."""
    rng = np.random.default_rng(17)
    shares = np.array([0.10, 0.06, 0.84])  # only ours right, only theirs right, both or neither
    needed = paired.claims_needed_for_mcnemar(100, 60, 1000)
    draws = rng.multinomial(needed, shares, size=1500)
    found = np.mean([paired.mcnemar(int(ours), int(theirs))[0] < 0.05 for ours, theirs, _ in draws])
    assert found == pytest.approx(0.8, abs=0.035)
    # Connor's formula by hand: psi 0.16, d 0.04
    assert needed == int(np.ceil((1.959964 * 0.4 + 0.8416212 * np.sqrt(0.16 - 0.0016)) ** 2 / 0.0016))


def test_the_number_for_any_metric_agrees_with_mcnemars_on_accuracy():
    gold, systems = equals(np.random.default_rng(18), claims=1500, skill=(1.5, 1.3))
    pair = compared(gold, systems, resamples=1999)[0]
    assert pair.metrics["accuracy"].claims_needed == pytest.approx(pair.mcnemar.claims_needed, rel=0.1)


def test_resamples_are_raised_where_the_correction_could_never_be_passed():
    assert paired.enough_resamples(2000, 4, 0.95) == 2000
    raised = paired.enough_resamples(200, 30, 0.95)
    assert 2 * 30 / (raised + 1) < 0.05
