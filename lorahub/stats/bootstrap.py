"""Bootstrap resampling of metrics and their differences (Efron and Tibshirani 1993, chapters 13 and 16).

Counting the confusion matrix of N claims drawn with replacement is the same as drawing that matrix from a multinomial
distribution over its cells, so a million claims take no longer than a thousand. Intervals are percentile intervals.
Wherever values have shape (R + 1,), the observed value comes first and the R resamples follow.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from lorahub.stats.verdicts import Ids

_SEED = 20_240_601
# Upper limit of claims times resamples that are in memory together.
_CELLS_AT_ONCE = 10_000_000
# Differences of sums below this are rounding errors.
ZERO = 1e-12
Counts = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Differences ours - theirs: by headline metric (R + 1,), and in the F1 of each label (R + 1, C)."""

    metrics: dict[str, Values]
    f1: Values


def bootstrap(confusion: Counts, *, resamples: int, confidence: float) -> dict[str, tuple[float, float]]:
    """Return intervals of the headline metrics for one confusion matrix (C, C) with gold labels in rows."""
    labels = len(confusion)
    cells = np.flatnonzero(confusion)
    draws = _draw(confusion.reshape(-1)[cells], resamples)
    values = headline(draws, cells // labels, cells % labels, labels)
    return {name: percentiles(drawn, confidence) for name, drawn in values.items()}


def paired_draws(gold: Ids, ours: Ids, theirs: Ids, labels: int, *, resamples: int) -> Draws:
    """Return differences between two systems on the same resampled claims, so that hard claims cancel out."""
    # One cell per (gold, ours, theirs) that occurs: resampling cells resamples claims with both answers attached.
    cells, counts = np.unique((gold * labels + ours) * labels + theirs, return_counts=True)
    draws = np.concatenate([counts[None], _draw(counts, resamples)])
    correct, left, right = cells // labels**2, cells // labels % labels, cells % labels
    by_ours, by_theirs = headline(draws, correct, left, labels), headline(draws, correct, right, labels)
    return Draws(
        metrics={name: values - by_theirs[name] for name, values in by_ours.items()},
        f1=_f1(*_by_label(draws @ _one_hot(correct, left, labels)))
        - _f1(*_by_label(draws @ _one_hot(correct, right, labels))),
    )


def unpaired_draws(ours: Counts, theirs: Counts, *, resamples: int) -> dict[str, Values]:
    """Return differences ours - theirs of the headline metrics, (R + 1,), between two confusion matrices (C, C).

    The matrices count different claims and are resampled independently (Efron and Tibshirani 1993, section 8.3).
    """
    sides = []
    for stream, confusion in enumerate((ours, theirs)):
        labels, cells = len(confusion), np.flatnonzero(confusion)
        counts = confusion.reshape(-1)[cells]
        draws = np.concatenate([counts[None], _draw(counts, resamples, stream)])
        sides.append(headline(draws, cells // labels, cells % labels, labels))
    return {name: values - sides[1][name] for name, values in sides[0].items()}


def resampled_sums(values: Values | sparse.csr_array, *, resamples: int) -> Values:
    """Return column sums (R + 1, K) of `values` (N, K) over the claims, then over each of R resamples.

    For values that a confusion matrix does not hold, such as confidence. The claims that are drawn depend only on N
    and R, so the sums of separate calls are paired.
    """
    generator, count = np.random.default_rng(_SEED), values.shape[0]
    sums = [values.sum(axis=0)[None]]
    for rows in _chunks(resamples, count):
        drawn = generator.integers(0, count, (rows, count)) + np.arange(rows)[:, None] * count
        times = np.bincount(drawn.reshape(-1), minlength=rows * count).reshape(rows, count)
        sums.append(times @ values)
    return np.concatenate(sums)


def resampled(gold: Ids, answers: Ids, labels: int, *, resamples: int) -> dict[str, Values]:
    """Return headline metrics (R + 1,) of the claims, then of each of R resamples.

    The claims that are drawn depend only on N and R, so the metrics of separate calls are paired.
    """
    return _headline(*_by_label(resampled_sums(_one_hot(gold, answers, labels), resamples=resamples)))


def halved_sums(values: Values, *, resamples: int) -> Values:
    """Return column sums (R, K) of `values` (N, K) over R random subsets with each claim in or out at even odds."""
    generator, count = np.random.default_rng(_SEED), len(values)
    return np.concatenate(
        [generator.integers(0, 2, (rows, count)).astype(np.float64) @ values for rows in _chunks(resamples, count)]
    )


def p_value(draws: Values) -> float:
    """Return the two-sided p-value of "no difference" from resampled differences (R,).

    It is the smallest 1 - confidence at which the percentile interval excludes 0 (Efron and Tibshirani 1993, section
    15.4); draws equal to 0 count half on either side. One is added to the count, so that the p-value is never 0
    (Davison and Hinkley 1997, chapter 4): the smallest that R resamples can give is 2 / (R + 1).
    """
    zeros = float((np.abs(draws) < ZERO).sum())
    below = float((draws <= -ZERO).sum()) + zeros / 2
    return min(1.0, 2 * (min(below, len(draws) - below) + 1) / (len(draws) + 1))


def percentiles(values: Values, confidence: float) -> tuple[float, float]:
    """Return the low and high end of the percentile interval of resampled values (R,)."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def headline(draws: Counts | Values, gold: Ids, answers: Ids, labels: int) -> dict[str, Values]:
    """Return headline metrics (R,) of counts (R, K), where cell k counts claims of gold[k] answered answers[k]."""
    return _headline(*_by_label(draws @ _one_hot(gold, answers, labels)))


def _headline(right: Values, support: Values, predicted: Values) -> dict[str, Values]:
    """Return headline metrics (R,) of what `_by_label` returns."""
    occurs, f1 = support + predicted > 0, _f1(right, support, predicted)
    total = support.sum(axis=1)
    return {
        "accuracy": right.sum(axis=1) / total,
        "f1_weighted": (f1 * support).sum(axis=1) / total,
        # As in scikit-learn, a label that is neither in the gold labels nor predicted is left out of the mean.
        "f1_macro": f1.sum(axis=1) / occurs.sum(axis=1),
    }


def _one_hot(gold: Ids, answers: Ids, labels: int) -> sparse.csr_array:
    """Return (K, 3 C): for each of K cells its label if the answer is right, its label, and its answer.

    Only the ones are stored, so memory is linear in the rows for any number of labels.
    """
    rows, right = np.arange(len(gold)), np.flatnonzero(gold == answers)
    row = np.concatenate([right, rows, rows])
    column = np.concatenate([gold[right], labels + gold, 2 * labels + answers])
    return sparse.csr_array((np.ones(len(row)), (row, column)), shape=(len(gold), 3 * labels))


def _by_label(sums: Values) -> tuple[Values, Values, Values]:
    """Split sums (R, 3 C) by label into the claims that are right, those with that label, and those answered so."""
    right, support, predicted = np.split(sums, 3, axis=1)
    return right, support, predicted


def _f1(right: Values, support: Values, predicted: Values) -> Values:
    """Return the F1 of each label (R, C); 0 for a label that is neither in the gold labels nor predicted."""
    return 2 * right / np.maximum(support + predicted, 1)


def _draw(counts: Counts, resamples: int, stream: int = 0) -> Counts:
    """Return resampled counts (R, K) of K cells; draws of different streams are independent."""
    total = int(counts.sum())
    generator = np.random.default_rng([_SEED, stream] if stream else _SEED)
    return generator.multinomial(total, counts / total, size=resamples)


def _chunks(resamples: int, count: int) -> Iterator[int]:
    """Yield numbers of resamples that add up to `resamples` and fit in memory for `count` claims."""
    at_once = max(1, _CELLS_AT_ONCE // count)
    for start in range(0, resamples, at_once):
        yield min(at_once, resamples - start)
