"""The plateau of quality against rank: the smallest rank that is not detectably worse than the highest.

In: gold ids (N,) of the validation split and each rank's answers (N,). Out: a `Plateau` with its uncertainty.

The reference is the highest rank, which is named beforehand; the best of several would be chosen by noise. Ranks are
tried from the smallest up, and the first whose interval of the difference reaches 0 is named. Tests in an order that is
fixed beforehand need no correction for their number (Maurer, Hothorn and Lehmacher 1995): the chance that a rank as
good as the highest is passed over stays below 1 - confidence. A rank that is named may still be a little worse, by less
than so many claims can show.

How sure the choice is, a bootstrap of the whole rule tells: every resample of the claims, the same one for all ranks,
names a rank. Its intervals are the observed ones, moved to its own differences, so that no second level is needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lorahub.stats import bootstrap
from lorahub.stats.paired import Difference
from lorahub.stats.verdicts import Ids


@dataclass(frozen=True, kw_only=True)
class Plateau:
    """The rank that is named, the smallest and the largest that `confidence` of the resamples name, and the share of
    the resamples that name each. `gap` is the named rank's metric less that of `reference`, the highest.
    """

    rank: int
    low: int
    high: int
    reference: int
    gap: Difference
    shares: dict[int, float]


def ladder(highest: int) -> list[int]:
    """The ranks to try: 1, 2, 4, … and the highest."""
    return [*(2**power for power in range(highest.bit_length()) if 2**power < highest), highest]


def gap(
    gold: Ids, ours: Ids, theirs: Ids, labels: int, *, metric: str, resamples: int, confidence: float
) -> Difference:
    """Ours - theirs, both judged on the same resampled claims."""
    left, right = (
        bootstrap.resampled(gold, answers, labels, resamples=resamples)[metric] for answers in (ours, theirs)
    )
    return Difference.from_draws(left - right, confidence)


def find(
    gold: Ids, answers: Mapping[int, Ids], labels: int, *, metric: str, resamples: int, confidence: float
) -> Plateau:
    """Name the plateau from the answers by rank."""
    ranks = np.array(sorted(answers))
    values = np.stack(
        [bootstrap.resampled(gold, answers[rank], labels, resamples=resamples)[metric] for rank in ranks.tolist()]
    )
    draws = values - values[-1]  # (K, R + 1), the last row is 0
    gaps = [Difference.from_draws(row, confidence) for row in draws]
    ends = np.array([[found.interval[1]] for found in gaps])  # (K, 1)
    # The upper end of each rank's interval as the claims are, then as every resample would have it.
    named = ranks[(ends + draws - draws[:, :1] >= -bootstrap.ZERO).argmax(axis=0)]  # (R + 1,)
    tail = (1 - confidence) / 2
    low, high = np.quantile(named[1:], [tail, 1 - tail], method="inverted_cdf")
    place = int(np.searchsorted(ranks, named[0]))
    return Plateau(
        rank=int(named[0]),
        low=int(low),
        high=int(high),
        reference=int(ranks[-1]),
        gap=gaps[place],
        shares={int(rank): float((named[1:] == rank).mean()) for rank in ranks},
    )
