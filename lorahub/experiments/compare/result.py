"""The result of `lorahub compare`: the systems, every compared pair, and the claims on which they disagree."""

from dataclasses import dataclass, field

from lorahub.experiments.compare.pairs import Pair, System
from lorahub.reports.result import Result
from lorahub.stats import metrics
from lorahub.stats.verdicts import Ids


@dataclass(frozen=True, kw_only=True)
class SystemFigures:
    """One system's figures. `source` is `stored` if its run kept the answers, `computed` if they were computed now."""

    title: str
    run: str
    system: str
    source: str
    accuracy: float
    f1_weighted: float
    f1_macro: float
    ece: float

    @classmethod
    def evaluate(
        cls, system: System, gold: Ids, *, title: str, run: str, kind: str = "adapter", source: str = "computed"
    ) -> "SystemFigures":
        """Compute the figures of a system's answers against the gold ids (N,); `kind` is its system name in a run."""
        return SystemFigures(
            title=title,
            run=run,
            system=kind,
            source=source,
            ece=metrics.expected_calibration_error(gold, system.answers, system.probabilities),
            **metrics.quick(gold, system.answers),
        )


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A claim to which the compared systems give different labels; `claim` is None where its text is not available."""

    row: int
    sha256: str
    claim: str | None
    gold: str
    answers: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """What every pair of a comparison must show: the verdict `better` (than `baseline`) or `equivalent`.

    `failed` names those for which it is not shown: adapters, or pairs as `A vs B`.
    """

    verdict: str
    baseline: str | None
    metric: str
    met: bool
    failed: list[str]


@dataclass(frozen=True, kw_only=True)
class Comparison(Result):
    """A whole comparison. `split` is a split's name, `all` for every row of a file, or `file` in the app.

    `margin` is the difference in `metric` below which two systems are equivalent, if one was given.
    """

    split: str
    data: str
    n: int
    labels: list[str]
    metric: str
    confidence: float
    resamples: int
    systems: dict[str, SystemFigures]
    pairs: list[Pair]
    disagreements: list[Disagreement] = field(default_factory=list)
    margin: float | None = None
    required: Requirement | None = None
    notes: list[str] = field(default_factory=list)
