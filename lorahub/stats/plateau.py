"""The plateau of quality against rank: the smallest rank that is not detectably worse than the highest.

In: gold ids (N,) of the validation split and the answers (N,) of each rank. Out: a `Plateau` with its uncertainty.

The reference is the highest rank, which is fixed in advance; the best of several would be chosen by noise. Ranks are
tested from the smallest up, and the first whose difference has an interval that reaches 0 is selected. Tests in a fixed
order need no correction for their number (Maurer, Hothorn and Lehmacher 1995): a rank as good as the highest is passed
over with a probability below 1 - confidence. A selected rank may still be slightly worse, by less than this number of
claims can show.

The uncertainty comes from a bootstrap of the whole rule: every resample of the claims, the same for all ranks, selects
a rank. Its intervals are the observed ones, shifted by its own differences, so that no second level is needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lorahub.stats import bootstrap
from lorahub.stats.paired import Difference
from lorahub.stats.verdicts import Ids


@dataclass(frozen=True, kw_only=True)
class Plateau:
    """The selected rank, and the interval of ranks, `low` to `high`, that resamples select.

    `shares` is the share of resamples that select each rank. `gap` is the metric of the selected rank less that of
    `reference`, the highest rank.
    """

    rank: int
    low: int
    high: int
    reference: int
    gap: Difference
    shares: dict[int, float]


def ladder(highest: int) -> list[int]:
    """Return the ranks to test: 1, 2, 4, … and the highest."""
    return [*(2**power for power in range(highest.bit_length()) if 2**power < highest), highest]


def gap(
    gold: Ids, ours: Ids, theirs: Ids, labels: int, *, metric: str, resamples: int, confidence: float
) -> Difference:
    """Return ours - theirs on the same resampled claims as in `find`."""
    left, right = (
        bootstrap.resampled(gold, answers, labels, resamples=resamples)[metric] for answers in (ours, theirs)
    )
    return Difference.from_draws(left - right, confidence)


def find(
    gold: Ids, answers: Mapping[int, Ids], labels: int, *, metric: str, resamples: int, confidence: float
) -> Plateau:
    """Select the plateau from the answers by rank."""
    ranks = np.array(sorted(answers))
    values = np.stack(
        [bootstrap.resampled(gold, answers[rank], labels, resamples=resamples)[metric] for rank in ranks.tolist()]
    )
    draws = values - values[-1]  # (K, R + 1), the last row is 0
    gaps = [Difference.from_draws(row, confidence) for row in draws]
    ends = np.array([[difference.interval[1]] for difference in gaps])  # (K, 1)
    # The upper end of each rank's interval, first as observed, then shifted for each resample.
    selected = ranks[(ends + draws - draws[:, :1] >= -bootstrap.ZERO).argmax(axis=0)]  # (R + 1,)
    tail = (1 - confidence) / 2
    low, high = np.quantile(selected[1:], [tail, 1 - tail], method="inverted_cdf")
    return Plateau(
        rank=int(selected[0]),
        low=int(low),
        high=int(high),
        reference=int(ranks[-1]),
        gap=gaps[int(np.searchsorted(ranks, selected[0]))],
        shares={int(rank): float((selected[1:] == rank).mean()) for rank in ranks},
    )
