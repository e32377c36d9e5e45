"""Metrics of one system on one split, from gold and predicted label ids.

In: gold (N,) and predicted (N,) ids, probabilities (N, C). Out: the `SystemResult` that a record stores. As in
scikit-learn, the macro mean covers the labels that occur as gold label or as prediction.
"""

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

from lorahub.labels import LabelSet
from lorahub.stats import few_claims
from lorahub.stats.results import LabelResult, ReliabilityBin, SystemResult
from lorahub.stats.verdicts import Floats, Ids, confidences

METRICS = ("accuracy", "f1_weighted", "f1_macro")
ECE_BINS = 15


def quick(gold: Ids, predicted: Ids) -> dict[str, float]:
    """Return the three headline metrics, for the evaluations during training."""
    # One call instead of one for each average: most of its time goes into checking the arrays.
    _, _, f1, support = precision_recall_fscore_support(gold, predicted, average=None, zero_division=0)
    return {
        "accuracy": float(np.mean(gold == predicted)),
        "f1_weighted": float(np.average(f1, weights=support)),
        "f1_macro": float(np.mean(f1)),
    }


def f1_by_label(gold: Ids, predicted: Ids, labels: int) -> list[float]:
    """Return the F1 of each label, in id order."""
    values = f1_score(gold, predicted, labels=np.arange(labels), average=None, zero_division=0)
    return [float(value) for value in values]


def score(
    gold: Ids, predicted: Ids, probabilities: Floats, labels: LabelSet, *, resamples: int, confidence: float
) -> SystemResult:
    """Return headline metrics, intervals, figures by label, confusion matrix and reliability of one system."""
    ids = np.arange(len(labels))
    precision, recall, f1, support = precision_recall_fscore_support(gold, predicted, labels=ids, zero_division=0)
    confusion = confusion_matrix(gold, predicted, labels=ids)
    headline = quick(gold, predicted)
    return SystemResult(
        n=len(gold),
        accuracy=headline["accuracy"],
        f1_weighted=headline["f1_weighted"],
        f1_macro=headline["f1_macro"],
        ece=expected_calibration_error(gold, predicted, probabilities),
        per_label={
            name: LabelResult(
                precision=float(precision[index]),
                recall=float(recall[index]),
                f1=float(f1[index]),
                support=int(support[index]),
            )
            for index, name in enumerate(labels.names)
        },
        confusion=confusion.tolist(),
        reliability=reliability(gold, predicted, probabilities),
        interval=few_claims.intervals(confusion, resamples=resamples, confidence=confidence),
    )


def reliability(gold: Ids, predicted: Ids, probabilities: Floats, bins: int = ECE_BINS) -> list[ReliabilityBin]:
    """Return claims, mean confidence and accuracy in each of `bins` equal confidence bins, without empty bins."""
    place, confidence, right = _binned(gold, predicted, probabilities, bins)
    count: npt.NDArray[np.int64] = np.bincount(place, minlength=bins)
    sums = np.bincount(place, confidence, minlength=bins), np.bincount(place, right, minlength=bins)
    return [
        ReliabilityBin(n=int(n), confidence=float(sure / n), accuracy=float(hits / n))
        for n, sure, hits in zip(count, *sums, strict=True)
        if n
    ]


def expected_calibration_error(gold: Ids, predicted: Ids, probabilities: Floats, bins: int = ECE_BINS) -> float:
    """Return the mean gap of confidence and accuracy, weighted by bin (Guo et al. 2017, arXiv:1706.04599, eq. 3)."""
    rows = reliability(gold, predicted, probabilities, bins)
    return sum(row.n * abs(row.confidence - row.accuracy) for row in rows) / max(1, len(gold))


def calibration_gaps(gold: Ids, predicted: Ids, probabilities: Floats, bins: int = ECE_BINS) -> npt.NDArray[np.float64]:
    """Return confidence minus correctness of each claim, in the column of its confidence bin, (N, bins).

    The calibration error is the sum of the absolute column sums, divided by N, so that it can be resampled.
    """
    place, confidence, right = _binned(gold, predicted, probabilities, bins)
    gaps = np.zeros((len(gold), bins))
    gaps[np.arange(len(gold)), place] = confidence - right
    return gaps


def _binned(
    gold: Ids, predicted: Ids, probabilities: Floats, bins: int
) -> tuple[Ids, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the confidence bin and the confidence of each claim, and 1 where its answer is right, (N,) each."""
    confidence = confidences(probabilities, predicted).astype(np.float64)
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    return place, confidence, (gold == predicted).astype(np.float64)
