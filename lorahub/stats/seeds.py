"""A system trained with several seeds: its mean figures, and differences in which claims and seeds both count as noise.

In: gold ids (N,) and the answers (S, N) of S trainings. Out: per headline metric the mean over the seeds with an
interval, and differences between two systems. The bootstrap has two levels (Davison and Hinkley 1997, section 3.8):
a resample draws the claims, the same ones for every system, and for each system as many of its seeds as it has, with
replacement. Few seeds understate their own part of the noise: by a factor of sqrt((S - 1) / S) in its width.
"""

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lorahub.stats import bootstrap, metrics, paired
from lorahub.stats.bootstrap import Values
from lorahub.stats.paired import CorrectedDifference
from lorahub.stats.verdicts import Ids


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Per headline metric the mean over the seeds, observed and for each of R resamples (R + 1,), and each seed's own
    figure (S,).
    """

    means: dict[str, Values]
    by_seed: dict[str, Values]


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A metric's mean over the seeds, their standard deviation (None for one seed), and the interval of the mean."""

    mean: float
    deviation: float | None
    interval: tuple[float, float]


def draws(name: str, gold: Ids, answers: npt.NDArray[np.int64], labels: int, *, resamples: int) -> Draws:
    """Resample a system called `name`, which decides the seeds that are drawn; see the module."""
    runs = [bootstrap.resampled(gold, row, labels, resamples=resamples) for row in answers]
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    chosen = generator.integers(0, len(runs), (len(runs), resamples))
    means, by_seed = {}, {}
    for metric in metrics.METRICS:
        values = np.stack([run[metric] for run in runs])  # (S, R + 1)
        drawn = np.take_along_axis(values[:, 1:], chosen, axis=0).mean(axis=0)
        means[metric] = np.concatenate([[values[:, 0].mean()], drawn])
        by_seed[metric] = values[:, 0]
    return Draws(means=means, by_seed=by_seed)


def mean(found: Draws, metric: str, *, confidence: float) -> Mean:
    """What a table shows of a metric."""
    values = found.by_seed[metric]
    return Mean(
        mean=float(values.mean()),
        deviation=float(values.std(ddof=1)) if len(values) > 1 else None,
        interval=bootstrap.percentiles(found.means[metric][1:], confidence),
    )


def differences(pairs: list[tuple[Draws, Draws]], metric: str, *, confidence: float) -> list[CorrectedDifference]:
    """Return ours - theirs for each pair, with p-values corrected for the number of pairs."""
    return paired.corrected([ours.means[metric] - theirs.means[metric] for ours, theirs in pairs], confidence)
