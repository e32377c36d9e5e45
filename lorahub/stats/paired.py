"""Systems against each other on the same claims: differences with intervals and p-values, and what they mean.

In: gold ids (N,), each system's answers (N,) and probabilities (N, C), and which pairs are asked about. Out: a `Pair`
for each. Differences are ours - theirs. A pair is called different only where the interval of the difference leaves 0
out and its p-value, corrected for the number of pairs, is below 1 - confidence.

Intervals are a paired bootstrap's, and so are the p-values of accuracy and F1. The calibration error is a sum of
absolute values, which a resample makes larger: its p-values from the bootstrap come out too large (0.05 was undercut in
2 of 100 comparisons of equals). They come from a randomisation test instead: the systems' answers to a claim are
swapped by a coin, since under "no difference" it does not matter which system gave which (Noreen 1989,
Computer-Intensive Methods for Testing Hypotheses, chapter 2).

Corrections are within a question: all pairs on one metric, all McNemar tests, all labels of all pairs. So a comparison
answers by the one metric that was named beforehand; the others are there to be read, each with its own correction.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
from scipy import stats

from lorahub.labels import LabelSet
from lorahub.records import LOWER_IS_BETTER
from lorahub.stats import bootstrap, metrics
from lorahub.stats.bootstrap import Values
from lorahub.stats.verdicts import Floats, Ids

METRICS = (*metrics.METRICS, "ece")
POWER = 0.8
ALPHA = 0.05  # of the number of claims needed
_Z_ALPHA, _Z_POWER = float(stats.norm.ppf(1 - ALPHA / 2)), float(stats.norm.ppf(POWER))
# Discordant claims: the usual bound, above which the chi-squared distribution is close enough.
_EXACT_UP_TO = 25


@dataclass(frozen=True, kw_only=True)
class System:
    """What is compared: a name, the label ids it gave (N,) and its probabilities (N, C), calibrated as it is used."""

    name: str
    answers: Ids
    probabilities: Floats


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric's difference ours - theirs. `claims_needed` is None where no difference was observed."""

    difference: float
    interval: list[float]
    p: float
    p_holm: float = 1.0
    detectable: bool = False
    claims_needed: int | None = None


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """Claims that one system alone has right, the p-value of "equally many", and which test gave it."""

    only_ours: int
    only_theirs: int
    test: str
    p: float
    p_holm: float = 1.0
    claims_needed: int | None = None


@dataclass(frozen=True, kw_only=True)
class LabelDifference:
    """One label's F1 in both systems and the difference."""

    support: int
    ours: float
    theirs: float
    difference: float
    interval: list[float]
    p: float
    p_holm: float = 1.0
    detectable: bool = False


Row = TypeVar("Row", Difference, LabelDifference)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two systems by name, and how they differ: by metric, by McNemar's test and by label."""

    ours: str
    theirs: str
    metrics: dict[str, Difference]
    mcnemar: McNemar
    per_label: dict[str, LabelDifference]

    def verdict(self, metric: str) -> str:
        """`better`, `worse` or `none`: what can be said of ours against theirs by a metric."""
        found = self.metrics[metric]
        if not found.detectable:
            return "none"
        return "better" if (found.difference > 0) != (metric in LOWER_IS_BETTER) else "worse"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One system's own figures. `source` tells where its answers come from: stored by its run, or computed now."""

    title: str
    run: str
    system: str
    source: str
    accuracy: float
    f1_weighted: float
    f1_macro: float
    ece: float


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A claim to which the compared systems give different labels; `claim` is None where its text is not at hand."""

    row: int
    sha256: str
    claim: str | None
    gold: str
    answers: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Required:
    """What was demanded: each of the adapters better than the baseline; `failed` names the pairs that are not."""

    baseline: str
    metric: str
    met: bool
    failed: list[str]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A whole comparison: the systems, every pair that was asked about, and where they disagree."""

    split: str
    data: str
    n: int
    labels: list[str]
    metric: str
    confidence: float
    resamples: int
    systems: dict[str, Judged]
    pairs: list[Pair]
    disagreements: list[Disagreement]
    required: Required | None
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The plain form, as `lorahub compare --json` prints it: docs/compare.md."""
        found = asdict(self)
        for row, pair in zip(found["pairs"], self.pairs, strict=True):
            row["verdict"] = pair.verdict(self.metric)
        return found


def compare(
    gold: Ids,
    systems: Sequence[System],
    pairs: Sequence[tuple[str, str]],
    labels: LabelSet,
    *,
    resamples: int,
    confidence: float,
) -> list[Pair]:
    """Every pair (ours, theirs) of system names; with the same `resamples`, intervals are those of a run record."""
    by_name = {system.name: system for system in systems}
    gaps = {
        name: metrics.calibration_gaps(gold, system.answers, system.probabilities) for name, system in by_name.items()
    }
    errors = {name: _errors(bootstrap.resampled_sums(item, resamples=resamples)) for name, item in gaps.items()}
    found = []
    for ours, theirs in pairs:
        answers = by_name[ours].answers, by_name[theirs].answers
        drawn = bootstrap.paired_draws(gold, *answers, len(labels), resamples=resamples)
        differences = {name: _difference(values, len(gold), confidence) for name, values in drawn.metrics.items()}
        differences["ece"] = replace(
            _difference((errors[ours] - errors[theirs]) / len(gold), len(gold), confidence),
            p=calibration_p_value(gaps[ours], gaps[theirs], resamples=resamples),
        )
        found.append(
            Pair(
                ours=ours,
                theirs=theirs,
                metrics=differences,
                mcnemar=_mcnemar(gold, *answers),
                per_label=_per_label(gold, answers, drawn.f1, labels, confidence),
            )
        )
    return _corrected(found, alpha=1 - confidence)


def _corrected(pairs: Sequence[Pair], *, alpha: float) -> list[Pair]:
    """The same with `p_holm` and `detectable` filled in: one correction for each question (see above)."""
    by_metric = {name: iter(holm([pair.metrics[name].p for pair in pairs])) for name in METRICS}
    by_test = iter(holm([pair.mcnemar.p for pair in pairs]))
    by_label = iter(holm([row.p for pair in pairs for row in pair.per_label.values()]))
    return [
        replace(
            pair,
            metrics={name: judged(row, next(by_metric[name]), alpha) for name, row in pair.metrics.items()},
            mcnemar=replace(pair.mcnemar, p_holm=next(by_test)),
            per_label={name: judged(row, next(by_label), alpha) for name, row in pair.per_label.items()},
        )
        for pair in pairs
    ]


def judged(row: Row, p_holm: float, alpha: float) -> Row:
    """A difference with its corrected p-value, and whether both that and its interval tell it from 0."""
    low, high = row.interval
    return replace(row, p_holm=p_holm, detectable=p_holm < alpha and (low > 0 or high < 0))


def enough_resamples(asked: int, pairs: int, labels: int, confidence: float) -> int:
    """`asked`, or as many as it takes for the least p-value to stay below 1 - confidence after the correction.

    The least p-value of R resamples is 2 / (R + 1), and Holm's method multiplies it by the number of tests.
    """
    alpha, tests = 1 - confidence, pairs * labels
    return asked if 2 * tests / (asked + 1) < alpha else math.ceil(10 * tests / alpha)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected by Holm's step-down method, in the order given.

    The chance of one or more false differences among all tests stays below alpha, however the tests depend on each
    other (Holm 1979, Scandinavian Journal of Statistics 6:65-70; for classifiers: Demsar 2006, JMLR 7:1-30, 3.2.2).
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.arange(len(p_values), 0, -1)
    raised = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values)[order] * steps))
    found = np.empty(len(p_values))
    found[order] = raised
    return [float(value) for value in found]


def mcnemar(only_ours: int, only_theirs: int) -> tuple[float, str]:
    """Two-sided p-value of "each system alone is right equally often", and the test that gave it.

    Up to 25 discordant claims the exact binomial test, which never says "different" more often than it may; above, the
    chi-squared statistic (b - c)^2 / (b + c) with one degree of freedom, without the continuity correction, which would
    make it as conservative as the exact test. Sources: McNemar 1947, Psychometrika 12:153-157; Fagerland, Lydersen and
    Laake 2013, BMC Medical Research Methodology 13:91.
    """
    both = only_ours + only_theirs
    if both == 0:
        return 1.0, "exact binomial"
    if both <= _EXACT_UP_TO:
        return float(stats.binomtest(only_ours, both, 0.5).pvalue), "exact binomial"
    return float(stats.chi2.sf((only_ours - only_theirs) ** 2 / both, df=1)), "chi-squared"


def calibration_p_value(ours: Values, theirs: Values, *, resamples: int) -> float:
    """Two-sided p-value of "equally well calibrated", from gaps (N, B) whose rows change sides by a coin."""
    moved = bootstrap.halved_sums(theirs - ours, resamples=resamples)
    left, right = ours.sum(axis=0)[None], theirs.sum(axis=0)[None]
    observed = abs(float((_errors(left) - _errors(right))[0]))
    swapped = np.abs(_errors(left + moved) - _errors(right - moved))
    return float((1 + (swapped >= observed - bootstrap.ZERO * len(ours)).sum()) / (resamples + 1))


def claims_needed(draws: Values, claims: int) -> int | None:
    """How many claims detect the observed difference with power 0.8 at a two-sided alpha of 0.05; None where it is 0.

    `draws` (R + 1,) are the observed difference d and its resamples on N = `claims`. Their standard deviation s falls
    with the square root of the number of claims, and a normal test detects d once |d| = (z_0.975 + z_0.8) s: so
    n = N ((z_0.975 + z_0.8) s / d)^2 (Lachin 1981, Controlled Clinical Trials 2:93-113).
    """
    observed, spread = float(draws[0]), float(draws[1:].std(ddof=1))
    if abs(observed) < 1e-12:
        return None
    return max(1, math.ceil(claims * ((_Z_ALPHA + _Z_POWER) * spread / observed) ** 2))


def claims_needed_for_mcnemar(only_ours: int, only_theirs: int, claims: int) -> int | None:
    """How many claims McNemar's test needs for the observed difference in accuracy; None if it is 0.

    With shares b/N and c/N of discordant claims, psi their sum and d their difference,
    n = (z_0.975 sqrt(psi) + z_0.8 sqrt(psi - d^2))^2 / d^2 (Connor 1987, Biometrics 43:207-211, page 209).
    """
    psi, d = (only_ours + only_theirs) / claims, (only_ours - only_theirs) / claims
    if d == 0:
        return None
    return max(1, math.ceil((_Z_ALPHA * math.sqrt(psi) + _Z_POWER * math.sqrt(psi - d * d)) ** 2 / d**2))


def _mcnemar(gold: Ids, ours: Ids, theirs: Ids) -> McNemar:
    left, right = ours == gold, theirs == gold
    only_ours, only_theirs = int((left & ~right).sum()), int((~left & right).sum())
    p, test = mcnemar(only_ours, only_theirs)
    needed = claims_needed_for_mcnemar(only_ours, only_theirs, len(gold))
    return McNemar(only_ours=only_ours, only_theirs=only_theirs, p=p, test=test, claims_needed=needed)


def _errors(sums: Values) -> Values:
    """Calibration errors (R,) times N, from the column sums (R, B) of `metrics.calibration_gaps`."""
    found: Values = np.abs(sums).sum(axis=1)
    return found


def _difference(draws: Values, claims: int, confidence: float) -> Difference:
    return Difference(
        difference=float(draws[0]),
        interval=bootstrap.percentiles(draws[1:], confidence),
        p=bootstrap.p_value(draws[1:]),
        claims_needed=claims_needed(draws, claims),
    )


def _per_label(
    gold: Ids, answers: tuple[Ids, Ids], draws: Values, labels: LabelSet, confidence: float
) -> dict[str, LabelDifference]:
    ours, theirs = (metrics.f1_by_label(gold, given, len(labels)) for given in answers)
    return {
        name: LabelDifference(
            support=int((gold == place).sum()),
            ours=ours[place],
            theirs=theirs[place],
            difference=float(draws[0, place]),
            interval=bootstrap.percentiles(draws[1:, place], confidence),
            p=bootstrap.p_value(draws[1:, place]),
        )
        for place, name in enumerate(labels.names)
    }
