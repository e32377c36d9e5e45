"""Paired differences between systems on the same claims: intervals, p-values, corrections and claims needed.

In: resampled figures (R + 1,), the observed one first, or label ids (N,). Out: differences ours - theirs. A difference
is detectable if its interval excludes 0 and, where several differences are tested, its corrected p-value is below
1 - confidence.

Intervals come from a paired bootstrap, widened by flips that were not observed (few_claims.py), and so do the p-values
of accuracy and F1. The calibration error is a sum of
absolute values, which resampling inflates, so that bootstrap p-values are too large: of 100 comparisons of equal
systems only 2 fall below 0.05. Its p-values come from a randomization test, which swaps the answers of the two systems
to random claims (Noreen 1989, Computer-Intensive Methods for Testing Hypotheses, chapter 2).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Annotated

import numpy as np
from pydantic import Field

from lorahub.stats import bootstrap, few_claims
from lorahub.stats.bootstrap import Values
from lorahub.stats.verdicts import Ids

# Power and significance level of the number of claims needed.
POWER = 0.8
ALPHA = 0.05
_Z_ALPHA, _Z_POWER = NormalDist().inv_cdf(1 - ALPHA / 2), NormalDist().inv_cdf(POWER)
# Largest number of discordant claims for the exact test; above it the chi-squared approximation is accurate.
_EXACT_UP_TO = 25

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A difference ours - theirs, its interval (low, high), and whether it can be told from 0."""

    difference: Annotated[float, Field(description="`adapter` minus OTHER on the same claims")]
    interval: Annotated[
        Interval,
        Field(description="bootstrap interval of the difference; both systems are scored on the same resampled claims"),
    ]
    detectable: Annotated[
        bool, Field(description="whether the interval excludes 0 and enough claims are right with one system alone")
    ]

    @classmethod
    def from_draws(cls, draws: Values, confidence: float, *, enough: bool = True) -> "Difference":
        """Summarize differences (R + 1,): the observed one, then one for each resample.

        `enough` is the value of `few_claims.enough_flips`: with fewer flips nothing is detectable.
        """
        low, high = bootstrap.percentiles(draws[1:], confidence)
        detectable = enough and (low > 0 or high < 0)
        return Difference(difference=float(draws[0]), interval=(low, high), detectable=detectable)


@dataclass(frozen=True, kw_only=True)
class CorrectedDifference(Difference):
    """A difference with its p-value, and that p-value corrected for the number of differences tested together."""

    p: float
    p_holm: float


def differences(
    gold: Ids, ours: Ids, theirs: Ids, labels: int, *, resamples: int, confidence: float
) -> dict[str, Difference]:
    """Return the paired difference of each headline metric between two systems' answers (N,)."""
    draws = bootstrap.paired_draws(gold, ours, theirs, labels, resamples=resamples).metrics
    wide = few_claims.widened_metrics(draws, gold, (ours, theirs), labels, confidence=confidence)
    enough = few_claims.enough_flips(gold, ours, theirs, confidence=confidence)
    return {name: Difference.from_draws(values, confidence, enough=enough) for name, values in wide.items()}


def corrected(
    draws: Sequence[Values],
    confidence: float,
    *,
    p_values: Sequence[float] | None = None,
    enough: Sequence[bool] | None = None,
) -> list[CorrectedDifference]:
    """Summarize differences (R + 1,) that answer one question, with p-values corrected for their number.

    `p_values` replaces the bootstrap p-values, and `enough` says for each difference whether there are enough flips. A
    difference is detectable if so, if its interval excludes 0 and its corrected p-value is below 1 - confidence.
    """
    if p_values is None:
        p_values = [bootstrap.p_value(values[1:]) for values in draws]
    rows = []
    enough = [True] * len(draws) if enough is None else enough
    for values, p, p_holm, flips in zip(draws, p_values, holm(p_values), enough, strict=True):
        single = Difference.from_draws(values, confidence, enough=flips)
        single = replace(single, detectable=single.detectable and p_holm < 1 - confidence)
        rows.append(CorrectedDifference(**vars(single), p=p, p_holm=p_holm))
    return rows


def enough_resamples(resamples: int, tests: int, confidence: float) -> int:
    """Return `resamples`, or more where the smallest possible corrected p-value would not be below 1 - confidence.

    The smallest p-value of R resamples is 2 / (R + 1), and Holm's method multiplies it by the number of tests.
    """
    alpha = 1 - confidence
    return resamples if 2 * tests / (resamples + 1) < alpha else math.ceil(10 * tests / alpha)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values by Holm's step-down method, keeping their order.

    The probability of one or more false differences among all tests stays below alpha, whatever the dependence between
    tests (Holm 1979, Scandinavian Journal of Statistics 6:65-70; for classifiers: Demsar 2006, JMLR 7:1-30, 3.2.2).
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    raised = np.empty(len(p_values))
    raised[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    return [float(value) for value in raised]


def mcnemar(only_ours: int, only_theirs: int) -> tuple[float, str]:
    """Return the two-sided p-value of "each system alone is right equally often", and the test that gave it.

    Up to 25 discordant claims this is the exact binomial test, whose error rate never exceeds the nominal one. Above,
    it is the chi-squared statistic (b - c)^2 / (b + c) with one degree of freedom, without the continuity correction,
    which would make it as conservative as the exact test. Sources: McNemar 1947, Psychometrika 12:153-157; Fagerland,
    Lydersen and Laake 2013, BMC Medical Research Methodology 13:91.
    """
    from scipy import stats  # 1.4 s, which reading a record need not take

    discordant = only_ours + only_theirs
    if discordant == 0:
        return 1.0, "exact binomial"
    if discordant <= _EXACT_UP_TO:
        return float(stats.binomtest(only_ours, discordant, 0.5).pvalue), "exact binomial"
    return float(stats.chi2.sf((only_ours - only_theirs) ** 2 / discordant, df=1)), "chi-squared"


def calibration_errors(sums: Values) -> Values:
    """Return calibration errors (R,) times N from column sums (R, B) of `metrics.calibration_gaps`."""
    errors: Values = np.abs(sums).sum(axis=1)
    return errors


def calibration_p_value(ours: Values, theirs: Values, *, resamples: int) -> float:
    """Return the two-sided p-value of "equally well calibrated" by swapping random rows of the gaps (N, B)."""
    moved = bootstrap.halved_sums(theirs - ours, resamples=resamples)
    left, right = ours.sum(axis=0)[None], theirs.sum(axis=0)[None]
    observed = abs(float((calibration_errors(left) - calibration_errors(right))[0]))
    swapped = np.abs(calibration_errors(left + moved) - calibration_errors(right - moved))
    return float((1 + (swapped >= observed - bootstrap.ZERO * len(ours)).sum()) / (resamples + 1))


def claims_needed(draws: Values, claims: int) -> int | None:
    """Return how many claims detect the observed difference with power 0.8 at a two-sided alpha of 0.05.

    `draws` (R + 1,) are the observed difference d and its resamples on N = `claims`; the result is None if d is 0. The
    standard deviation s of the resamples falls with the square root of the number of claims, and a normal test detects
    d if |d| = (z_0.975 + z_0.8) s: so n = N ((z_0.975 + z_0.8) s / d)^2 (Lachin 1981, Controlled Clinical Trials
    2:93-113).
    """
    observed, spread = float(draws[0]), float(draws[1:].std(ddof=1))
    return None if abs(observed) < bootstrap.ZERO else claims_to_detect(spread * math.sqrt(claims), observed)


def claims_to_detect(spread: float, difference: float) -> int:
    """Return how many claims detect a difference; `spread` is its standard deviation on one claim. See above."""
    return max(1, math.ceil(((_Z_ALPHA + _Z_POWER) * spread / difference) ** 2))


def detectable_difference(spread: float, claims: int) -> float:
    """Return the difference that so many claims detect: the inverse of `claims_to_detect`."""
    return (_Z_ALPHA + _Z_POWER) * spread / math.sqrt(claims)


def claims_needed_for_mcnemar(only_ours: int, only_theirs: int, claims: int) -> int | None:
    """Return how many claims McNemar's test needs for the observed difference in accuracy; None if it is 0.

    With shares b/N and c/N of discordant claims, psi their sum and d their difference,
    n = (z_0.975 sqrt(psi) + z_0.8 sqrt(psi - d^2))^2 / d^2 (Connor 1987, Biometrics 43:207-211, page 209).
    """
    psi, d = (only_ours + only_theirs) / claims, (only_ours - only_theirs) / claims
    if d == 0:
        return None
    return max(1, math.ceil((_Z_ALPHA * math.sqrt(psi) + _Z_POWER * math.sqrt(psi - d * d)) ** 2 / d**2))
