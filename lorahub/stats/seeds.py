"""Systems trained with several seeds: mean figures, and differences with both claims and seeds as noise.

In: gold ids (N,) and the answers (S, N) of S trainings. Out: per headline metric the mean over the seeds with an
interval, and differences between two systems. The bootstrap has two levels (Davison and Hinkley 1997, section 3.8):
each resample draws claims, the same for every system, and as many seeds of each system as it has, with replacement. The
seeds' part of the noise is underestimated: its width by a factor of sqrt((S - 1) / S).
"""

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lorahub.stats import bootstrap, equivalence, few_claims, metrics, paired
from lorahub.stats.bootstrap import Values
from lorahub.stats.equivalence import Equivalence
from lorahub.stats.paired import CorrectedDifference
from lorahub.stats.verdicts import Ids


@dataclass(frozen=True, kw_only=True)
class Draws:
    """By headline metric: the mean over the seeds (R + 1,), observed one first, and the figure of each seed (S,).

    `unseen` is the standard deviation of the mean from errors that were not observed.
    """

    means: dict[str, Values]
    by_seed: dict[str, Values]
    unseen: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A metric's mean over the seeds, their standard deviation (None for one seed), and the interval of the mean."""

    mean: float
    deviation: float | None
    interval: tuple[float, float]


def draws(
    name: str, gold: Ids, answers: npt.NDArray[np.int64], labels: int, *, resamples: int, confidence: float = 0.95
) -> Draws:
    """Resample claims and seeds of the system `name`; the name determines which seeds are drawn."""
    runs = [bootstrap.resampled(gold, row, labels, resamples=resamples) for row in answers]
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    chosen = generator.integers(0, len(runs), (len(runs), resamples))
    means, by_seed = {}, {}
    for metric in metrics.METRICS:
        values = np.stack([run[metric] for run in runs])  # (S, R + 1)
        drawn = np.take_along_axis(values[:, 1:], chosen, axis=0).mean(axis=0)
        means[metric] = np.concatenate([[values[:, 0].mean()], drawn])
        by_seed[metric] = values[:, 0]
    cells = np.bincount((gold * labels + answers).reshape(-1), minlength=labels * labels).reshape(labels, labels)
    unseen = {
        metric: few_claims.unseen_errors(cells / len(answers), metric=metric, confidence=confidence)
        for metric in metrics.METRICS
    }
    return Draws(means=means, by_seed=by_seed, unseen=unseen)


def mean(drawn: Draws, metric: str, *, confidence: float) -> Mean:
    """Summarize a metric over the seeds."""
    values = drawn.by_seed[metric]
    return Mean(
        mean=float(values.mean()),
        deviation=float(values.std(ddof=1)) if len(values) > 1 else None,
        interval=few_claims.widen(
            float(values.mean()),
            bootstrap.percentiles(drawn.means[metric][1:], confidence),
            drawn.unseen[metric],
            confidence=confidence,
        ),
    )


def differences(
    pairs: list[tuple[Draws, Draws]], unseen: list[float], metric: str, *, confidence: float
) -> list[CorrectedDifference]:
    """Return ours - theirs for each pair, with p-values corrected for the number of pairs.

    `unseen` are the values of `few_claims.unseen_flips` for each pair.
    """
    draws = [
        few_claims.widened(ours.means[metric] - theirs.means[metric], extra)
        for (ours, theirs), extra in zip(pairs, unseen, strict=True)
    ]
    return paired.corrected(draws, confidence)


def equivalences(
    pairs: list[tuple[Draws, Draws]],
    unseen: list[float],
    claims: int,
    metric: str,
    *,
    margin: float,
    confidence: float,
) -> list[Equivalence]:
    """Test whether each pair differs by less than `margin`; see `equivalence.test`."""
    draws = [ours.means[metric] - theirs.means[metric] for ours, theirs in pairs]
    return equivalence.test(draws, unseen, claims, margin=margin, confidence=confidence)
