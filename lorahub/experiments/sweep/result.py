"""A finished search: its best trial, what more trials gained, and quality against each searched field.

In: the trials that have ended with their answers on validation (N,), and the gold ids. Out: a `SearchReport`, which
`reports.sweeps` puts into words. Differences between trials are paired, by the bootstrap of `scoring.intervals`: every
trial answered the same claims. The best of many trials owes part of its lead to these claims; test tells how much.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from lorahub.stats import bootstrap, paired
from lorahub.stats.results import Difference, Interval
from lorahub.stats.verdicts import Ids

FINISHED, PRUNED, FAILED = "finished", "pruned", "failed"
# Rows that a field with many values is told in.
_MOST_ROWS = 6


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One trial that has ended. `value` is the metric on validation, of a pruned trial at its last evaluation.

    `answers` are its label ids on validation (N,), of a finished trial only.
    """

    trial: int
    state: str
    value: float | None
    values: dict[str, Any]
    seconds: float | None = None
    steps: int | None = None
    trainable_parameters: int | None = None
    error: str | None = None
    answers: Ids | None = field(default=None, repr=False, compare=False)

    @property
    def quality(self) -> float:
        """The value, below all others where there is none."""
        return -math.inf if self.value is None else self.value

    def to_dict(self) -> dict[str, Any]:
        """The plain form, without the answers."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "answers"}
        return {**plain, "values": dict(self.values)}


@dataclass(frozen=True, kw_only=True)
class Incumbent(Difference):
    """A trial that was the best when it ended, and what the best of all is above it."""

    trial: int
    value: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """Finished trials whose value of a field lies from `low` to `high`: how many, and their quality."""

    low: Any
    high: Any
    trials: int
    median: float
    best: float


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    """The whole search. `plateau` is the trial after which gains stay inside the noise: from there on, no best trial is
    detectably below the best of all. `own` is the trial with the recipe's own values, None where it did not finish.

    `test` holds the headline metrics on test of the best config, trained again, and of the baselines, of which
    `best_baseline` is the best on validation; `test_against` the differences to them by `metric`.
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
    asked: int
    confidence: float
    resamples: int
    space: list[dict[str, Any]]
    states: dict[str, int]
    seconds: float
    best: Tried
    interval: Interval
    own: Incumbent | None
    incumbents: list[Incumbent]
    plateau: int
    importance: dict[str, float]
    curves: dict[str, list[Row]]
    trials: list[Tried]
    best_baseline: str
    test: dict[str, dict[str, float]]
    test_against: dict[str, dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """The plain form, as `lorahub sweep --json` prints it: docs/sweep.md."""
        plain = asdict(self)
        return {**plain, "best": self.best.to_dict(), "trials": [item.to_dict() for item in self.trials]}


def best_of(trials: Sequence[Tried]) -> Tried | None:
    """The finished trial with the highest value, the earlier one of equals."""
    finished = [item for item in trials if item.state == FINISHED]
    return max(finished, key=lambda item: (item.quality, -item.trial)) if finished else None


def interval(best: Tried, gold: Ids, labels: int, metric: str, *, resamples: int, confidence: float) -> Interval:
    """The interval of a finished trial's value."""
    confusion = confusion_matrix(gold, best.answers, labels=np.arange(labels))
    return bootstrap.bootstrap(confusion, resamples=resamples, confidence=confidence)[metric]


def incumbents(
    trials: Sequence[Tried], gold: Ids, labels: int, metric: str, *, resamples: int, confidence: float
) -> list[Incumbent]:
    """The trials that were the best so far, in order; the last one is the best of all."""
    leads: list[Tried] = []
    for item in trials:
        if item.state == FINISHED and (not leads or item.quality > leads[-1].quality):
            leads.append(item)
    return [below(leads[-1], item, gold, labels, metric, resamples=resamples, confidence=confidence) for item in leads]


def below(
    best: Tried, item: Tried, gold: Ids, labels: int, metric: str, *, resamples: int, confidence: float
) -> Incumbent:
    """How far a finished trial is below the best."""
    assert best.answers is not None
    assert item.answers is not None
    differences = paired.differences(
        gold, best.answers, item.answers, labels, resamples=resamples, confidence=confidence
    )
    return Incumbent(trial=item.trial, value=item.quality, **vars(differences[metric]))


def plateau(found: Sequence[Incumbent]) -> int:
    """The first trial from which on no best so far is detectably below the last of them."""
    place = len(found) - 1
    while place > 0 and not found[place - 1].detectable:
        place -= 1
    return found[place].trial


def curve(trials: Sequence[Tried], name: str, *, log: bool) -> list[Row]:
    """Quality against a field: a row for each of its values, or for ranges of equal width where they are many."""
    points = [(item.values[name], item.quality) for item in trials if item.state == FINISHED]
    values = list(dict.fromkeys(value for value, _ in points))
    if len(values) <= _MOST_ROWS or any(isinstance(value, str) for value in values):
        groups = [[point for point in points if point[0] == value] for value in sorted(values, key=_in_order)]
    else:
        scale = np.log if log else np.asarray
        places = scale(np.array([value for value, _ in points], dtype=np.float64))
        edges = np.linspace(places.min(), places.max(), _MOST_ROWS)[1:-1]
        bins = np.digitize(places, edges)
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


def _in_order(value: Any) -> tuple[bool, Any]:
    return isinstance(value, str), value
