"""Equivalence: whether two systems differ by less than a margin.

In: resampled differences (R + 1,) of a metric, the observed one first, and the standard deviation of flips that were
not observed (few_claims.py): without it, systems with the same answers to 20 claims would be equivalent. Out: an
`Equivalence`, and the answer `better`, `worse`, `equivalent` or `undecided`.

Two one-sided tests (Schuirmann 1987, Journal of Pharmacokinetics and Biopharmaceutics 15:657-680) show that the
difference is below the margin and above its negative. Each has the level (1 - confidence) / 2, so that both succeed
where the interval of coverage `confidence` lies inside the margins, as it decides on a difference where it excludes 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from lorahub.stats import bootstrap, few_claims, paired
from lorahub.stats.bootstrap import Values
from lorahub.stats.paired import POWER, Difference, Interval
from lorahub.stats.results import LOWER_IS_BETTER

BETTER, WORSE, EQUIVALENT, UNDECIDED, NONE = "better", "worse", "equivalent", "undecided", "none"


@dataclass(frozen=True, kw_only=True)
class Equivalence:
    """The result of both tests of a difference: its interval, as in a table, and whether that is inside the margins.

    `p` is the larger one of the two one-sided p-values, `p_holm` is corrected for the number of differences. With a
    true difference of 0, `claims_needed` claims would show equivalence with power 0.8.
    """

    margin: float
    interval: Interval
    p: float
    p_holm: float
    equivalent: bool
    claims_needed: int


def test(
    draws: Sequence[Values], unseen: Sequence[float], claims: int, *, margin: float, confidence: float
) -> list[Equivalence]:
    """Test differences (R + 1,) that answer one question; `unseen` are the values of `few_claims.unseen_flips`."""
    wide = [few_claims.widened(values, extra) for values, extra in zip(draws, unseen, strict=True)]
    p_values = [_p_value(values[1:], margin) for values in wide]
    return [
        Equivalence(
            margin=margin,
            interval=bootstrap.percentiles(shifted[1:], confidence),
            p=p,
            p_holm=p_holm,
            equivalent=p_holm < (1 - confidence) / 2,
            claims_needed=claims_to_show(
                float(values[1:].std(ddof=1)) * math.sqrt(claims), extra * claims, margin=margin, confidence=confidence
            ),
        )
        for values, extra, shifted, p, p_holm in zip(draws, unseen, wide, p_values, paired.holm(p_values), strict=True)
    ]


def answer(metric: str, difference: Difference, equivalence: Equivalence | None = None) -> str:
    """Return what a difference ours - theirs in a metric shows of ours against theirs.

    With `equivalence`: `equivalent`, also for a detectable difference that is smaller than the margin, else `better`,
    `worse` or `undecided`. Without it: `better`, `worse` or `none`.
    """
    if equivalence is not None and equivalence.equivalent:
        return EQUIVALENT
    if not difference.detectable:
        return NONE if equivalence is None else UNDECIDED
    return BETTER if (difference.difference > 0) != (metric in LOWER_IS_BETTER) else WORSE


def claims_to_show(spread: float, unseen: float, *, margin: float, confidence: float) -> int:
    """Return how many claims show equivalence with power 0.8 if the true difference is 0.

    The standard deviation of the difference on n claims is taken as sqrt(spread^2 / n + unseen^2 / n^2), and n is the
    smallest number for which it is at most margin / (z_a + z_b), with a = (1 + confidence) / 2 and b = (1 + power) / 2
    (Chow, Shao and Wang 2008, Sample Size Calculations in Clinical Research, section 3.1.3).
    """
    normal = NormalDist()
    factor = (normal.inv_cdf((1 + confidence) / 2) + normal.inv_cdf((1 + POWER) / 2)) / margin
    seen, extra = (factor * spread) ** 2, (factor * unseen) ** 2
    return max(1, math.ceil((seen + math.sqrt(seen**2 + 4 * extra)) / 2))


def _p_value(draws: Values, margin: float) -> float:
    """Return the larger p-value of the two tests on resampled differences (R,); see `bootstrap.p_value`."""
    above = float((draws >= margin - bootstrap.ZERO).sum())
    below = float((draws <= -margin + bootstrap.ZERO).sum())
    return (max(above, below) + 1) / (len(draws) + 1)
