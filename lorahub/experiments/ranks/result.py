"""The result of `lorahub ranks`: quality against rank, of one run truncated and of the same recipe trained.

In: gold ids by split, and the answers of each rank by split. Out: `RankCurves`. The run's own rank is the reference of
every difference and belongs to both curves. The plateau is selected on the selecting half of validation, as by
`adapter.rank=auto` (stats/calibration.py); nothing is selected on test.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorahub.reports.result import Result
from lorahub.stats import calibration, metrics, plateau
from lorahub.stats.paired import Difference
from lorahub.stats.plateau import Plateau
from lorahub.stats.verdicts import Ids

SPLITS = ("validation", "test")


@dataclass(frozen=True, kw_only=True)
class RankResult:
    """The run at one rank: `alpha` and the `scale` of the update B·A, and label ids (N,) by split.

    `kept` is the share of the update's squared norm that truncation keeps, None for a model trained at that rank.
    """

    rank: int
    alpha: float
    scale: float
    kept: float | None
    answers: Mapping[str, Ids]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One rank on a curve: its figures by split and metric, and by split its metric minus that of the run's rank."""

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
    """A rank of both curves: the metric of the truncated run minus that of the trained one, by split."""

    rank: int
    gaps: dict[str, Difference]


@dataclass(frozen=True, kw_only=True)
class CurveInfo:
    """The run behind the curves, its training and its evaluation. `claims` is the number of claims by split."""

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
class RankCurves(Result):
    """Both curves; without retraining only the truncated one."""

    about: CurveInfo
    truncated: Curve
    retrained: Curve | None
    checks: list[Check]


def build_curves(
    about: CurveInfo,
    gold: Mapping[str, Ids],
    labels: int,
    *,
    truncated: Sequence[RankResult],
    retrained: Sequence[RankResult],
    margin: float,
) -> RankCurves:
    """Compute both curves with plateaus by `margin`; `retrained` includes the run at its own rank, or is empty."""
    rows = calibration.halves(gold["validation"]).select

    def gaps(ours: RankResult, theirs: RankResult) -> dict[str, Difference]:
        return {
            split: plateau.gap(
                gold[split],
                ours.answers[split],
                theirs.answers[split],
                labels,
                metric=about.metric,
                resamples=about.resamples,
                confidence=about.confidence,
            )
            for split in SPLITS
        }

    def curve(results: Sequence[RankResult]) -> Curve:
        results = sorted(results, key=lambda item: item.rank)
        return Curve(
            points=[
                Point(
                    rank=item.rank,
                    alpha=item.alpha,
                    scale=item.scale,
                    kept=item.kept,
                    figures={split: metrics.quick(gold[split], item.answers[split]) for split in SPLITS},
                    gaps=gaps(item, results[-1]),
                )
                for item in results
            ],
            plateau=plateau.find(
                gold["validation"][rows],
                {item.rank: item.answers["validation"][rows] for item in results},
                labels,
                metric=about.metric,
                margin=margin,
                resamples=about.resamples,
                confidence=about.confidence,
            ),
        )

    by_rank = {item.rank: item for item in truncated}
    lower = [item for item in retrained if item.rank < about.rank]
    return RankCurves(
        about=about,
        truncated=curve(truncated),
        retrained=curve(retrained) if retrained else None,
        checks=[Check(rank=item.rank, gaps=gaps(by_rank[item.rank], item)) for item in lower],
    )
