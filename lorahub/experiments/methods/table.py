"""Methods against each other over several seeds: quality with its noise, and what it costs.

In: cells of the same data and gold ids (N,). Out: a `MethodTable`, which `reports.methods` puts into words. Every
method is compared with a reference method, with the majority label and with the baseline that is best on validation.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np

from lorahub.experiments.run_summary import Cell
from lorahub.stats import seeds
from lorahub.stats.metrics import METRICS
from lorahub.stats.paired import CorrectedDifference
from lorahub.stats.seeds import Draws, Mean
from lorahub.stats.verdicts import Ids

BASELINES = ("majority", "tfidf", "linear_probe")
COSTS = ("trainable_parameters", "memory_bytes", "file_bytes", "seconds", "cpu_seconds")


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One method: its metrics on test, its costs as means over the seeds, and by name of the other what it is against
    it. `pareto`: no other method has both a higher macro F1 and less memory.
    """

    method: str
    seeds: list[int]
    metrics: dict[str, Mean]
    cost: dict[str, float]
    against: dict[str, CorrectedDifference]
    pareto: bool


@dataclass(frozen=True, kw_only=True)
class MethodTable:
    """The whole table; `reference` is the method that the others are compared with."""

    data: str
    base: str
    device: str
    n: int
    train_rows: int
    epochs: float
    max_length: int
    labels: list[str]
    metric: str
    reference: str
    best_baseline: str
    confidence: float
    resamples: int
    methods: list[MethodRow]
    baselines: dict[str, dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """The plain form, as `lorahub methods --json` prints it: docs/methods.md."""
        return asdict(self)


def table(
    cells: Sequence[Cell], gold: Ids, labels: Sequence[str], *, reference: str, metric: str, resamples: int,
    confidence: float,
) -> MethodTable:  # fmt: skip
    """Build the table; `reference` is one of the cells' methods. Methods stand in the order of the cells."""
    by_method: dict[str, list[Cell]] = {}
    for cell in cells:
        by_method.setdefault(cell.method, []).append(cell)
    first = cells[0]

    def drawn(name: str, answers: list[Ids]) -> Draws:
        return seeds.draws(name, gold, np.stack(answers), len(labels), resamples=resamples)

    methods = {name: drawn(name, [cell.ids("adapter") for cell in found]) for name, found in by_method.items()}
    best = max(BASELINES, key=lambda name: first.figures["validation"][name]["f1_macro"])
    baselines = {name: drawn(name, [first.ids(name)]) for name in BASELINES}
    against: dict[str, dict[str, CorrectedDifference]] = {name: {} for name in methods}
    for rival, theirs in {
        reference: methods[reference],
        "majority": baselines["majority"],
        best: baselines[best],
    }.items():
        ours = [name for name in methods if name != rival]
        rows = seeds.differences([(methods[name], theirs) for name in ours], metric, confidence=confidence)
        for name, row in zip(ours, rows, strict=True):
            against[name][rival] = row
    points = {
        name: (float(methods[name].means[metric][0]), fmean(cell.cost["memory_bytes"] for cell in found))
        for name, found in by_method.items()
    }
    return MethodTable(
        data=first.environment["data"]["id"],
        base=first.environment["base_id"],
        device=first.environment["device"],
        n=len(gold),
        train_rows=first.environment["data"]["rows"]["train"],
        epochs=first.asked["train"]["epochs"],
        max_length=first.asked["base"]["max_length"],
        labels=list(labels),
        metric=metric,
        reference=reference,
        best_baseline=best,
        confidence=confidence,
        resamples=resamples,
        methods=[
            MethodRow(
                method=name,
                seeds=[cell.seed for cell in found],
                metrics={item: seeds.mean(methods[name], item, confidence=confidence) for item in METRICS},
                cost={item: fmean(cell.cost[item] for cell in found) for item in COSTS},
                against=against[name],
                pareto=not any(_dominates(other, points[name]) for other in points.values()),
            )
            for name, found in by_method.items()
        ],
        baselines={name: first.figures["test"][name] for name in BASELINES},
    )


def _dominates(other: tuple[float, float], point: tuple[float, float]) -> bool:
    """Whether another (quality, memory) is at least as good in both and better in one."""
    return other != point and other[0] >= point[0] and other[1] <= point[1]
