"""Quality against rank: one run truncated to lower ranks, and beside it the same recipe trained at them.

In: gold ids by split, and of each rank that was tried its answers by split. Out: `RankCurves`, which `reports.ranks`
puts into words. The run's own rank is the reference of every difference and belongs to both curves. The plateau is
named on validation; test is only shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lorahub.stats import metrics, plateau
from lorahub.stats.plateau import Plateau
from lorahub.stats.results import Difference
from lorahub.stats.verdicts import Ids

SPLITS = ("validation", "test")


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One rank: `alpha` as files of that rank have it, the `scale` of its update, the share of the update's squared
    norm that is `kept` (None where it was trained at that rank), and label ids (N,) by split.
    """

    rank: int
    alpha: float
    scale: float
    kept: float | None
    answers: Mapping[str, Ids]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One rank on a curve: its figures by split and metric, and by split its metric less that of the run's own rank."""

    rank: int
    alpha: float
    scale: float
    kept: float | None
    figures: dict[str, dict[str, float]]
    gaps: dict[str, Difference]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The points from the lowest rank to the run's own, and the plateau on validation."""

    points: list[Point]
    plateau: Plateau


@dataclass(frozen=True, kw_only=True)
class Check:
    """A rank at which there are both: the truncated run less the one that was trained at that rank, by split."""

    rank: int
    gaps: dict[str, Difference]


@dataclass(frozen=True, kw_only=True)
class About:
    """What the curves are of: the run, what it was trained on, and how it is judged. `claims` counts by split."""

    run: str
    data: str
    base: str
    method: str
    seed: int
    rank: int
    epochs: float
    claims: dict[str, int]
    metric: str
    confidence: float
    resamples: int


@dataclass(frozen=True, kw_only=True)
class RankCurves:
    """Both curves; without retraining the one from truncation alone."""

    about: About
    truncated: Curve
    retrained: Curve | None
    checks: list[Check]

    def to_dict(self) -> dict[str, Any]:
        """The plain form, as `lorahub ranks --json` prints it: docs/ranks.md."""
        return asdict(self)


def curves(
    about: About, gold: Mapping[str, Ids], labels: int, *, truncated: Sequence[Tried], retrained: Sequence[Tried]
) -> RankCurves:
    """Both curves; `retrained` holds the run itself at its own rank, or nothing."""
    how: dict[str, Any] = {"metric": about.metric, "resamples": about.resamples, "confidence": about.confidence}

    def gaps(ours: Tried, theirs: Tried) -> dict[str, Difference]:
        return {
            split: plateau.gap(gold[split], ours.answers[split], theirs.answers[split], labels, **how)
            for split in SPLITS
        }

    def curve(tried: Sequence[Tried]) -> Curve:
        last = max(tried, key=lambda item: item.rank)
        answers = {item.rank: item.answers["validation"] for item in tried}
        return Curve(
            points=[
                Point(
                    rank=item.rank,
                    alpha=item.alpha,
                    scale=item.scale,
                    kept=item.kept,
                    figures={split: metrics.quick(gold[split], item.answers[split]) for split in SPLITS},
                    gaps=gaps(item, last),
                )
                for item in sorted(tried, key=lambda item: item.rank)
            ],
            plateau=plateau.find(gold["validation"], answers, labels, **how),
        )

    cut = {item.rank: item for item in truncated}
    return RankCurves(
        about=about,
        truncated=curve(truncated),
        retrained=curve(retrained) if retrained else None,
        checks=[Check(rank=item.rank, gaps=gaps(cut[item.rank], item)) for item in retrained if item.rank < about.rank],
    )
