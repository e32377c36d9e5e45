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
    classes = len(confusion)
    draws = _draw(confusion.reshape(-1), resamples).reshape(resamples, classes, classes)
    return {name: _percentiles(values, confidence) for name, values in _metrics(draws).items()}


def paired_difference(
    gold: Ids, ours: Ids, theirs: Ids, labels: int, *, resamples: int, confidence: float
) -> dict[str, dict[str, Any]]:
    """Per headline metric: the observed difference ours - theirs, its interval, and whether that excludes 0.

    Both systems are judged on the same resampled claims, so what makes a claim hard for both cancels out.
    """
    # One cell per (gold, ours, theirs): resampling cells resamples claims with both answers attached.
    cells = np.bincount((gold * labels + ours) * labels + theirs, minlength=labels**3)
    cube = (resamples + 1, labels, labels, labels)
    draws = np.concatenate([cells[None], _draw(cells, resamples)]).reshape(cube)
    left, right = _metrics(draws.sum(axis=3)), _metrics(draws.sum(axis=2))
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


def _draw(cells: Counts, resamples: int) -> Counts:
    total = int(cells.sum())
    generator = np.random.default_rng(_SEED)
    occupied = np.flatnonzero(cells)
    draws = np.zeros((resamples, cells.size), dtype=np.int64)
    draws[:, occupied] = generator.multinomial(total, cells[occupied] / total, size=resamples)
    return draws


def _metrics(confusions: Counts) -> dict[str, npt.NDArray[np.float64]]:
    """Headline metrics (R,) of confusion matrices (R, C, C)."""
    right = np.diagonal(confusions, axis1=1, axis2=2).astype(np.float64)  # (R, C)
    support, predicted = confusions.sum(axis=2), confusions.sum(axis=1)  # (R, C)
    # F1 = 2 TP / (support + predicted); a class that is neither there nor predicted counts as 0, as in scikit-learn.
    f1 = 2 * right / np.maximum(support + predicted, 1)
    total = support.sum(axis=1)
    return {
        "accuracy": right.sum(axis=1) / total,
        "f1_weighted": (f1 * support).sum(axis=1) / total,
        "f1_macro": f1.mean(axis=1),
    }


def _percentiles(values: npt.NDArray[np.float64], confidence: float) -> list[float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return [float(low), float(high)]
