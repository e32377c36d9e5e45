"""The plateau of quality against rank: the smallest rank that is shown not to be worse than the highest by a margin.

In: gold ids (N,) of the validation split and the answers (N,) of each rank. Out: a `Plateau` with its uncertainty.

The reference is the highest rank, which is fixed in advance; the best of several would be chosen by noise. A rank
passes if the interval of its difference, as in few_claims.py, is above -margin: the lower one of the two one-sided
tests, because a rank may be better. Ranks are tested from the highest down to the first that fails. Tests in a fixed
order need no correction for their number (Maurer, Hothorn and Lehmacher 1995): a rank that is worse by the margin or
more is selected with a probability of at most (1 - confidence) / 2. With few claims no lower rank passes.

The uncertainty comes from a bootstrap of the whole rule: every resample of the claims, the same for all ranks, selects
a rank. Its intervals are the observed ones, shifted by its own differences, so that no second level is needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lorahub.stats import bootstrap, few_claims
from lorahub.stats.paired import Difference
from lorahub.stats.verdicts import Ids


@dataclass(frozen=True, kw_only=True)
class Plateau:
    """The selected rank, and the interval of ranks, `low` to `high`, that resamples select.

    `shares` is the share of resamples that select each rank. `gap` is the metric of the selected rank less that of
    `reference`, the highest rank. `margin` is None in older results: their rank is the smallest without a detectable
    difference.
    """

    rank: int
    low: int
    high: int
    reference: int
    gap: Difference
    shares: dict[int, float]
    margin: float | None = None


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
    unseen = few_claims.unseen_flips(gold, (ours, theirs), labels, metric=metric, confidence=confidence)
    return Difference.from_draws(few_claims.widened(left - right, unseen), confidence)


def find(
    gold: Ids,
    answers: Mapping[int, Ids],
    labels: int,
    *,
    metric: str,
    margin: float,
    resamples: int,
    confidence: float,
) -> Plateau:
    """Select the plateau from the answers by rank."""
    ranks = np.array(sorted(answers))
    values = np.stack(
        [bootstrap.resampled(gold, answers[rank], labels, resamples=resamples)[metric] for rank in ranks.tolist()]
    )
    draws = values - values[-1]  # (K, R + 1), the last row is 0
    highest = answers[int(ranks[-1])]
    gaps = []
    for rank, row in zip(ranks.tolist(), draws, strict=True):
        pair = answers[rank], highest
        unseen = few_claims.unseen_flips(gold, pair, labels, metric=metric, confidence=confidence)
        gaps.append(Difference.from_draws(few_claims.widened(row, unseen), confidence))
    ends = np.array([[difference.interval[0]] for difference in gaps])  # (K, 1)
    # The lower end of each rank's interval, first as observed, then shifted for each resample.
    passes = ends + draws - draws[:, :1] > -margin  # (K, R + 1)
    passes[-1] = True
    without_failure_above = np.logical_and.accumulate(passes[::-1], axis=0)[::-1]
    places = without_failure_above.argmax(axis=0)  # (R + 1,)
    selected = ranks[places]
    tail = (1 - confidence) / 2
    low, high = np.quantile(selected[1:], [tail, 1 - tail], method="inverted_cdf")
    return Plateau(
        rank=int(selected[0]),
        low=int(low),
        high=int(high),
        reference=int(ranks[-1]),
        gap=gaps[int(places[0])],
        shares={int(rank): float((selected[1:] == rank).mean()) for rank in ranks},
        margin=margin,
    )
