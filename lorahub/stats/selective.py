"""Selective classification: a confidence below which a system abstains, and the coverage that remains.

In: which answers are right (N,) and how confident each is (N,). Out: a threshold, and a `SelectiveResult`.
Coverage is the share of claims that are answered, risk the share of wrong answers among them. Sources: Geifman and
El-Yaniv 2017, Selective Classification for Deep Neural Networks, arXiv:1705.08500; the area under the curve: Geifman,
Uziel and El-Yaniv 2019, arXiv:1805.08206, section 3.
"""

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

from lorahub.stats import few_claims
from lorahub.stats.results import RiskPoint, SelectiveIntervals, SelectiveResult
from lorahub.stats.verdicts import Calibration, Floats, Ids, abstains, calibrated, confidences, decide

Right = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float64]

# Maximum number of points of a stored curve, as fine as a plot shows.
_POINTS = 100


def threshold(right: Right, confidence: Floats, *, risk: float, certainty: float) -> float | None:
    """Return the confidence from which on the risk is at most `risk`, at the highest coverage; None if there is none.

    With probability `certainty` this holds for all claims from the same distribution. It is Selection with
    Guaranteed Risk (Geifman and El-Yaniv 2017, algorithm 2): a binary search over the claims in order of confidence,
    each step of which may err with an equal share of 1 - certainty. 0.0 answers every claim.
    """
    levels, answered, wrong = _levels(right, confidence)
    steps = math.ceil(math.log2(len(levels) + 1))
    holds, fails = -1, len(levels)
    while fails - holds > 1:
        place = (holds + fails) // 2
        bound = risk_bound(int(wrong[place]), int(answered[place]), certainty=1 - (1 - certainty) / steps)
        holds, fails = (place, fails) if bound <= risk else (holds, place)
    if holds < 0:
        return None
    # Halfway between two claims, so that rounding differences between machines move none across.
    return 0.0 if fails == len(levels) else float(levels[holds] / 2 + levels[fails] / 2)


def risk_bound(wrong: int, answered: int, *, certainty: float) -> float:
    """Return the upper one-sided bound of the risk, given `wrong` of `answered` (Clopper and Pearson 1934).

    It is the bound of Geifman and El-Yaniv 2017, lemma 3.1, in closed form.
    """
    return 1.0 if wrong == answered else float(stats.beta.ppf(certainty, wrong + 1, answered - wrong))


def figures(logits: Floats, gold: Ids, how: Calibration, *, confidence: float) -> SelectiveResult:
    """Return a system's abstention on a split, at its threshold and at every other one.

    Intervals are exact (Clopper and Pearson 1934), of coverage `confidence`.
    """
    ids = decide(logits, how)
    right, sure = ids == gold, confidences(calibrated(logits, how), ids)
    kept = right[~abstains(sure, how)]
    hits, answered = int(kept.sum()), len(kept)
    return SelectiveResult(
        threshold=how.threshold,
        aurc=area(right, sure),
        answered=answered,
        coverage=answered / len(gold),
        accuracy=hits / answered if answered else None,
        interval=SelectiveIntervals(
            coverage=few_claims.binomial(answered, len(gold), confidence),
            accuracy=few_claims.binomial(hits, answered, confidence) if answered else None,
        ),
        curve=curve(right, sure),
    )


def area(right: Right, confidence: Floats) -> float:
    """Return the area under the risk-coverage curve: the mean risk at each claim's own confidence."""
    _, answered, wrong = _levels(right, confidence)
    return float((wrong / answered * np.diff(answered, prepend=0)).sum() / len(right))


def curve(right: Right, confidence: Floats) -> list[RiskPoint]:
    """Return the risk at rising coverage, with the lowest confidence that is answered there; at most 100 points."""
    levels, answered, wrong = _levels(right, confidence)
    wanted = np.linspace(1 / _POINTS, 1.0, _POINTS) * len(right)
    places = np.unique(np.minimum(np.searchsorted(answered, wanted - 1e-9), len(levels) - 1))
    return [
        RiskPoint(
            confidence=float(levels[place]),
            coverage=float(answered[place] / len(right)),
            risk=float(wrong[place] / answered[place]),
        )
        for place in places
    ]


def _levels(right: Right, confidence: Floats) -> tuple[Values, Values, Values]:
    """Return the distinct confidences from high to low, and the claims answered and answered wrongly up to each, (L,).

    Claims with equal confidence are answered together or not at all.
    """
    levels, place = np.unique(-confidence.astype(np.float64), return_inverse=True)
    return -levels, np.bincount(place).cumsum().astype(float), np.bincount(place, ~right).cumsum()
