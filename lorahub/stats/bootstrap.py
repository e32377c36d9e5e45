"""Bootstrap intervals of metrics and of paired differences (Efron and Tibshirani 1993, chapters 13 and 16).

Resampling N claims with replacement and counting a confusion matrix is the same as drawing that matrix from a
multinomial over its cells, so a million claims cost no more than a thousand. Intervals are percentile intervals.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lorahub.stats.verdicts import Ids

_SEED = 20_240_601
# Claims times resamples that are held in memory together.
_CELLS_AT_ONCE = 10_000_000
# Differences of sums that are equal but for rounding.
ZERO = 1e-12
Counts = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


def bootstrap(confusion: Counts, *, resamples: int, confidence: float) -> dict[str, list[float]]:
    """Intervals of the headline metrics for one confusion matrix (C, C) with gold in rows."""
    labels = len(confusion)
    cells = np.flatnonzero(confusion)
    draws = _draw(confusion.reshape(-1)[cells], resamples)
    found = headline(draws, cells // labels, cells % labels, labels)
    return {name: list(percentiles(values, confidence)) for name, values in found.items()}


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Differences ours - theirs: the observed one first, then one for each of R resamples.

    `metrics` holds (R + 1,) by headline metric, `f1` the F1 of each label, (R + 1, C).
    """

    metrics: dict[str, Values]
    f1: Values


def paired_draws(gold: Ids, ours: Ids, theirs: Ids, labels: int, *, resamples: int) -> Draws:
    """Both systems judged on the same resampled claims, so that what makes a claim hard for both cancels out."""
    # One cell per (gold, ours, theirs) that occurs: resampling cells resamples claims with both answers attached.
    cells, counts = np.unique((gold * labels + ours) * labels + theirs, return_counts=True)
    draws = np.concatenate([counts[None], _draw(counts, resamples)])
    correct, left, right = cells // labels**2, cells // labels % labels, cells % labels
    by_ours, by_theirs = headline(draws, correct, left, labels), headline(draws, correct, right, labels)
    return Draws(
        metrics={name: values - by_theirs[name] for name, values in by_ours.items()},
        f1=_f1(*_by_label(draws, correct, left, labels)) - _f1(*_by_label(draws, correct, right, labels)),
    )


def unpaired_draws(ours: Counts, theirs: Counts, *, resamples: int) -> dict[str, Values]:
    """Differences ours - theirs of the headline metrics, (R + 1,), between two confusion matrices (C, C).

    They are of different claims, so each is resampled by itself (Efron and Tibshirani 1993, section 8.3).
    """
    found = []
    for stream, confusion in enumerate((ours, theirs)):
        labels, cells = len(confusion), np.flatnonzero(confusion)
        counts = confusion.reshape(-1)[cells]
        draws = np.concatenate([counts[None], _draw(counts, resamples, stream)])
        found.append(headline(draws, cells // labels, cells % labels, labels))
    return {name: values - found[1][name] for name, values in found[0].items()}


def resampled_sums(values: Values, *, resamples: int) -> Values:
    """Column sums (R + 1, K) of `values` (N, K): over the claims as they are, then over each of R resamples.

    For what a confusion matrix does not hold, such as confidence. The claims drawn depend on N and R alone, so that
    sums of several calls are paired.
    """
    generator, count = np.random.default_rng(_SEED), len(values)
    sums = [values.sum(axis=0)[None]]
    for rows in _chunks(resamples, count):
        drawn = generator.integers(0, count, (rows, count)) + np.arange(rows)[:, None] * count
        times = np.bincount(drawn.reshape(-1), minlength=rows * count).reshape(rows, count)
        sums.append(times @ values)
    return np.concatenate(sums)


def resampled(gold: Ids, answers: Ids, labels: int, *, resamples: int) -> dict[str, Values]:
    """Headline metrics (R + 1,): of the claims as they are, then of each of R resamples.

    The claims drawn depend on N and R alone, so that systems judged in separate calls are paired.
    """
    cells = np.eye(labels * labels)[gold * labels + answers]  # (N, C²), the confusion matrix of each claim
    every = np.arange(labels * labels)
    return headline(resampled_sums(cells, resamples=resamples), every // labels, every % labels, labels)


def halved_sums(values: Values, *, resamples: int) -> Values:
    """Column sums (R, K) of `values` (N, K) over R random halves of the claims, each claim in or out by a coin."""
    generator, count = np.random.default_rng(_SEED), len(values)
    return np.concatenate(
        [generator.integers(0, 2, (rows, count)).astype(np.float64) @ values for rows in _chunks(resamples, count)]
    )


def _chunks(resamples: int, count: int) -> Iterator[int]:
    """How many resamples of `count` claims to draw at once, until there are enough."""
    at_once = max(1, _CELLS_AT_ONCE // count)
    for start in range(0, resamples, at_once):
        yield min(at_once, resamples - start)


def p_value(draws: Values) -> float:
    """Two-sided p-value of "no difference" from resampled differences (R,): the percentile interval, turned round.

    It is the smallest 1 - confidence at which the interval leaves 0 out (Efron and Tibshirani 1993, section 15.4);
    draws that are 0 count half on either side. With one added to the count it is never 0 (Davison and Hinkley 1997,
    chapter 4): the least that R resamples can give is 2 / (R + 1).
    """
    none = float((np.abs(draws) < ZERO).sum())
    below = float((draws <= -ZERO).sum()) + none / 2
    return min(1.0, 2 * (min(below, len(draws) - below) + 1) / (len(draws) + 1))


def _draw(counts: Counts, resamples: int, stream: int = 0) -> Counts:
    """Resampled counts (R, K) of K cells; draws of different streams are independent."""
    total = int(counts.sum())
    return np.random.default_rng([_SEED, stream] if stream else _SEED).multinomial(
        total, counts / total, size=resamples
    )


def _by_label(draws: Counts | Values, gold: Ids, answers: Ids, labels: int) -> tuple[Values, Values, Values]:
    """Claims of each label that are right, that there are, and that are answered, (R, C) each.

    `draws` are resampled counts (R, K), where cell k holds claims of gold[k] answered answers[k].
    """
    of_gold, of_answer = np.eye(labels)[gold], np.eye(labels)[answers]  # (K, C)
    return draws @ (of_gold * of_answer), draws @ of_gold, draws @ of_answer


def _f1(right: Values, support: Values, predicted: Values) -> Values:
    """F1 of each label (R, C); 0 for a label that is neither there nor answered."""
    return 2 * right / np.maximum(support + predicted, 1)


def headline(draws: Counts | Values, gold: Ids, answers: Ids, labels: int) -> dict[str, Values]:
    """Headline metrics (R,) of counts (R, K), where cell k holds claims of gold[k] that were answered answers[k]."""
    right, support, predicted = _by_label(draws, gold, answers, labels)
    occurs, f1 = support + predicted > 0, _f1(right, support, predicted)
    total = support.sum(axis=1)
    return {
        "accuracy": right.sum(axis=1) / total,
        "f1_weighted": (f1 * support).sum(axis=1) / total,
        # As in scikit-learn, a label that is neither there nor answered has no part in the mean.
        "f1_macro": f1.sum(axis=1) / occurs.sum(axis=1),
    }


def percentiles(values: Values, confidence: float) -> tuple[float, float]:
    """The two ends of the percentile interval of resampled values (R,)."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
