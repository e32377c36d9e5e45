"""The result of a search: its best trial, what more trials gained, and quality against each searched field.

In: the trials that have ended with their answers on validation (N,), and the gold ids (N,). Differences between trials
are paired, because every trial answers the same claims. The best of many trials owes part of its lead to these claims;
the result on test shows how much.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from statistics import median
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field
from sklearn.metrics import confusion_matrix

from lorahub.experiments.sweep.search_space import Numbers, Range, Value
from lorahub.reports.result import Result
from lorahub.stats import few_claims, paired
from lorahub.stats.paired import Difference, Interval
from lorahub.stats.verdicts import Ids

FINISHED, PRUNED, FAILED = "finished", "pruned", "failed"
# Maximum number of rows for one field; more values are grouped into ranges.
_MAX_ROWS = 6


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """A trial that has ended. `value` is the metric on validation; of a pruned trial, at its last evaluation.

    `answers` are the label ids of a finished trial on validation (N,).
    """

    trial: int
    state: str
    value: float | None
    values: dict[str, Value]
    seconds: float | None = None
    steps: int | None = None
    trainable_parameters: int | None = None
    error: str | None = None
    answers: Annotated[Ids | None, Field(exclude=True)] = field(default=None, repr=False, compare=False)

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True)  # for `answers`

    @property
    def quality(self) -> float:
        """The value, or minus infinity if there is none."""
        return -math.inf if self.value is None else self.value


@dataclass(frozen=True, kw_only=True)
class Row:
    """Finished trials whose value of a field is between `low` and `high`: their number and their quality."""

    low: Value
    high: Value
    trials: int
    median: float
    best: float


@dataclass(frozen=True, kw_only=True)
class SearchResult(Result):
    """The result of a search.

    `incumbents` are the trials that were the best so far; `own` is the trial with the values of the recipe. `gains`
    holds the best trial minus each of them, by trial. `test` holds the metrics on test of the best config, trained
    again, and of the baselines, and `test_against` the differences to them by `metric`. `best_baseline` is the best
    one on validation.
    """

    name: str
    data: str
    base: str
    method: str
    metric: str
    n: int
    labels: list[str]
    sampler: str
    pruner: str
    seed: int
    requested: Annotated[int, Field(serialization_alias="asked")]
    confidence: float
    resamples: int
    space: Sequence[Range]
    best: TrialResult
    interval: Interval
    own: TrialResult | None
    incumbents: list[TrialResult]
    gains: Annotated[dict[int, Difference], Field(exclude=True)]
    importance: dict[str, float]
    trials: list[TrialResult]
    best_baseline: str
    test: dict[str, dict[str, float]]
    test_against: dict[str, Difference]

    @cached_property
    def finished(self) -> list[TrialResult]:
        """The trials that were trained to their end."""
        return [item for item in self.trials if item.state == FINISHED]

    @property
    def states(self) -> dict[str, int]:
        """The number of trials by how they ended."""
        return {state: sum(item.state == state for item in self.trials) for state in (FINISHED, PRUNED, FAILED)}

    @property
    def plateau(self) -> int:
        """The trial after which gains are within the noise."""
        return plateau(self.incumbents, self.gains)

    @cached_property
    def curves(self) -> dict[str, list[Row]]:
        """Quality against each searched field."""
        return {item.field: curve(self.finished, item) for item in self.space}

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data, as `lorahub sweep --json` prints it: docs/sweep.md."""
        gains = {
            item.trial: {"trial": item.trial, "value": item.value, **asdict(self.gains[item.trial])}
            for item in (*self.incumbents, *([self.own] if self.own else []))
        }
        return {
            **super().to_dict(),
            "states": self.states,
            "seconds": sum(item.seconds or 0.0 for item in self.trials),
            "own": None if self.own is None else gains[self.own.trial],
            "incumbents": [gains[item.trial] for item in self.incumbents],
            "plateau": self.plateau,
            "curves": {name: [asdict(row) for row in rows] for name, rows in self.curves.items()},
        }


def best_of(trials: Sequence[TrialResult]) -> TrialResult | None:
    """Return the finished trial with the highest value, the earlier one of equals."""
    finished = [item for item in trials if item.state == FINISHED]
    return max(finished, key=lambda item: (item.quality, -item.trial)) if finished else None


def interval(best: TrialResult, gold: Ids, labels: int, metric: str, **options: Any) -> Interval:
    """Return the interval of a finished trial's value."""
    confusion = confusion_matrix(gold, best.answers, labels=np.arange(labels))
    return few_claims.intervals(confusion, **options)[metric]


def incumbents(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the trials that were the best so far, in order; the last one is the best of all."""
    leaders: list[TrialResult] = []
    for item in trials:
        if item.state == FINISHED and (not leaders or item.quality > leaders[-1].quality):
            leaders.append(item)
    return leaders


def gain(best: TrialResult, item: TrialResult, gold: Ids, labels: int, metric: str, **options: Any) -> Difference:
    """Return the paired difference best - item of two finished trials; `options` are those of `paired.differences`."""
    assert best.answers is not None
    assert item.answers is not None
    return paired.differences(gold, best.answers, item.answers, labels, **options)[metric]


def plateau(leaders: Sequence[TrialResult], gains: dict[int, Difference]) -> int:
    """Return the first trial from which on no incumbent is detectably worse than the best."""
    index = len(leaders) - 1
    while index > 0 and not gains[leaders[index - 1].trial].detectable:
        index -= 1
    return leaders[index].trial


def curve(finished: Sequence[TrialResult], item: Range) -> list[Row]:
    """Return quality against a field: a row per value or, with many values, per range of equal width."""
    points = [(trial.values[item.field], trial.quality) for trial in finished]
    values = sorted({value for value, _ in points}, key=lambda value: (isinstance(value, str), value))
    if len(values) <= _MAX_ROWS or any(isinstance(value, str) for value in values):
        groups = [[point for point in points if point[0] == value] for value in values]
    else:
        scale = np.log if isinstance(item, Numbers) and item.log else np.asarray
        positions = scale(np.array([value for value, _ in points], dtype=np.float64))
        edges = np.linspace(positions.min(), positions.max(), _MAX_ROWS)[1:-1]
        bins = np.digitize(positions, edges)
        groups = [[points[row] for row in np.flatnonzero(bins == number)] for number in np.unique(bins)]
    return [
        Row(
            low=min(value for value, _ in group),
            high=max(value for value, _ in group),
            trials=len(group),
            median=float(median(quality for _, quality in group)),
            best=max(quality for _, quality in group),
        )
        for group in groups
    ]
