"""The result of `lorahub methods`: quality with its noise, and cost, of methods trained with several seeds.

In: run summaries on the same data and gold ids (N,). Out: a `MethodComparison`. Every method is compared with a
reference method, with the majority label and with the baseline that is best on validation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from lorahub.config import EvalConfig
from lorahub.experiments.run_summary import RunSummary
from lorahub.reports.result import Result
from lorahub.stats import few_claims, seeds
from lorahub.stats.equivalence import Equivalence
from lorahub.stats.metrics import METRICS
from lorahub.stats.paired import CorrectedDifference
from lorahub.stats.seeds import Draws, Mean
from lorahub.stats.verdicts import Ids

BASELINES = ("majority", "tfidf", "linear_probe")
COSTS = ("trainable_parameters", "memory_bytes", "file_bytes", "seconds", "cpu_seconds")
METRIC = "f1_macro"  # decides whether a method is better than another


@dataclass(frozen=True, kw_only=True)
class MethodSummary:
    """One method: its metrics on test, its costs as means over the seeds, and its differences to other systems.

    `equivalence` is the test of the difference to the reference; None for the reference and in older results. `pareto`
    is whether no other method has both a higher macro F1 and less memory.
    """

    method: str
    seeds: list[int]
    metrics: dict[str, Mean]
    cost: dict[str, float]
    against: dict[str, CorrectedDifference]
    pareto: bool
    equivalence: Equivalence | None = None


@dataclass(frozen=True, kw_only=True)
class MethodComparison(Result):
    """The whole comparison; `reference` is the method that the others are compared with."""

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
    methods: list[MethodSummary]
    baselines: dict[str, dict[str, float]]


def compare(
    runs: Sequence[RunSummary],
    gold: Ids,
    labels: Sequence[str],
    *,
    reference: str,
    options: EvalConfig,
    margin: float,
) -> MethodComparison:
    """Compare the methods of `runs`, in the order of the runs; `reference` is one of them."""
    by_method: dict[str, list[RunSummary]] = {}
    for run in runs:
        by_method.setdefault(run.method, []).append(run)
    first = runs[0]

    def draw(name: str, answers: list[Ids]) -> Draws:
        return seeds.draws(
            name, gold, np.stack(answers), len(labels), resamples=options.bootstrap, confidence=options.confidence
        )

    answers = {name: [run.ids("adapter") for run in group] for name, group in by_method.items()}
    methods = {name: draw(name, given) for name, given in answers.items()}
    best = max(BASELINES, key=lambda name: first.figures["validation"][name][METRIC])
    rivals = {reference: answers[reference]} | {name: [first.ids(name)] for name in ("majority", best)}
    against: dict[str, dict[str, CorrectedDifference]] = {name: {} for name in methods}
    equivalent: dict[str, Equivalence] = {}
    for rival, given in rivals.items():
        theirs = methods[rival] if rival in methods else draw(rival, given)
        ours = [name for name in methods if name != rival]
        pairs = [(methods[name], theirs) for name in ours]
        unseen = [
            few_claims.unseen_flips(
                gold, [*answers[name], *given], len(labels), metric=METRIC, confidence=options.confidence
            )
            for name in ours
        ]
        differences = seeds.differences(pairs, unseen, METRIC, confidence=options.confidence)
        for name, difference in zip(ours, differences, strict=True):
            against[name][rival] = difference
        if rival == reference:
            tests = seeds.equivalences(pairs, unseen, len(gold), METRIC, margin=margin, confidence=options.confidence)
            equivalent = dict(zip(ours, tests, strict=True))
    points = {
        name: (float(methods[name].means[METRIC][0]), fmean(run.cost.memory_bytes for run in group))
        for name, group in by_method.items()
    }
    return MethodComparison(
        data=first.environment.data.id,
        base=first.environment.base_id,
        device=first.environment.device,
        n=len(gold),
        train_rows=first.environment.data.rows["train"],
        epochs=first.config.train.epochs,
        max_length=first.config.base.max_length,
        labels=list(labels),
        metric=METRIC,
        reference=reference,
        best_baseline=best,
        confidence=options.confidence,
        resamples=options.bootstrap,
        methods=[
            MethodSummary(
                method=name,
                seeds=[run.seed for run in group],
                metrics={item: seeds.mean(methods[name], item, confidence=options.confidence) for item in METRICS},
                cost={item: fmean(getattr(run.cost, item) for run in group) for item in COSTS},
                against=against[name],
                pareto=not any(_dominates(other, points[name]) for other in points.values()),
                equivalence=equivalent.get(name),
            )
            for name, group in by_method.items()
        ],
        baselines={name: first.figures["test"][name] for name in BASELINES},
    )


def _dominates(other: tuple[float, float], point: tuple[float, float]) -> bool:
    """Return whether another (quality, memory) is at least as good in both and better in one."""
    return other != point and other[0] >= point[0] and other[1] <= point[1]
