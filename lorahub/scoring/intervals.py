"""Bootstrap intervals of metrics and of paired differences (Efron and Tibshirani 1993, chapters 13 and 16).

Resampling N claims with replacement and counting a confusion matrix is the same as drawing that matrix from a
multinomial over its cells, so a million claims cost no more than a thousand. Intervals are percentile intervals.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from lorahub.scoring.verdicts import Ids

_SEED = 20_240_601
Counts = npt.NDArray[np.int64]


def bootstrap(confusion: Counts, *, resamples: int, confidence: float) -> dict[str, list[float]]:
    """Intervals of the headline metrics for one confusion matrix (C, C) with gold in rows."""
    labels = len(confusion)
    cells = np.flatnonzero(confusion)
    draws = _draw(confusion.reshape(-1)[cells], resamples)
    found = _metrics(draws, cells // labels, cells % labels, labels)
    return {name: _percentiles(values, confidence) for name, values in found.items()}


def paired_difference(
    gold: Ids, ours: Ids, theirs: Ids, labels: int, *, resamples: int, confidence: float
) -> dict[str, dict[str, Any]]:
    """Per headline metric: the observed difference ours - theirs, its interval, and whether that excludes 0.

    Both systems are judged on the same resampled claims, so what makes a claim hard for both cancels out.
    """
    # One cell per (gold, ours, theirs) that occurs: resampling cells resamples claims with both answers attached.
    cells, counts = np.unique((gold * labels + ours) * labels + theirs, return_counts=True)
    draws = np.concatenate([counts[None], _draw(counts, resamples)])
    correct = cells // labels**2
    left = _metrics(draws, correct, cells // labels % labels, labels)
    right = _metrics(draws, correct, cells % labels, labels)
    found = {}
    for name in left:
        difference = left[name] - right[name]
        interval = _percentiles(difference[1:], confidence)
        found[name] = {
            "difference": float(difference[0]),
            "interval": interval,
            "detectable": bool(interval[0] > 0 or interval[1] < 0),
        }
    return found


def _draw(counts: Counts, resamples: int) -> Counts:
    """Resampled counts (R, K) of K cells."""
    total = int(counts.sum())
    return np.random.default_rng(_SEED).multinomial(total, counts / total, size=resamples)


def _metrics(draws: Counts, gold: Ids, answers: Ids, labels: int) -> dict[str, npt.NDArray[np.float64]]:
    """Headline metrics (R,) of resampled counts (R, K), where cell k holds claims of gold[k] answered answers[k]."""
    of_gold, of_answer = np.eye(labels)[gold], np.eye(labels)[answers]  # (K, C)
    right = draws @ (of_gold * of_answer)  # (R, C)
    support, predicted = draws @ of_gold, draws @ of_answer  # (R, C)
    occurs = support + predicted > 0
    f1 = 2 * right / np.maximum(support + predicted, 1)
    total = support.sum(axis=1)
    return {
        "accuracy": right.sum(axis=1) / total,
        "f1_weighted": (f1 * support).sum(axis=1) / total,
        # As in scikit-learn, a label that is neither there nor answered has no part in the mean.
        "f1_macro": f1.sum(axis=1) / occurs.sum(axis=1),
    }


def _percentiles(values: npt.NDArray[np.float64], confidence: float) -> list[float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return [float(low), float(high)]
