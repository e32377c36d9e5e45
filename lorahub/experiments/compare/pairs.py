"""Every pair of systems on the same claims: differences by metric, McNemar's test and differences by label.

In: gold ids (N,) and systems with their answers (N,) and probabilities (N, C). Out: one `Pair` per requested pair.
Differences are ours - theirs.

P-values are corrected within a question: all pairs on one metric, all McNemar tests, all labels of all pairs. A
comparison therefore decides by the one metric that was named beforehand; the other metrics have their own corrections.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lorahub.labels import LabelSet
from lorahub.stats import bootstrap, equivalence, few_claims, metrics, paired
from lorahub.stats.bootstrap import Values
from lorahub.stats.equivalence import Equivalence
from lorahub.stats.paired import CorrectedDifference
from lorahub.stats.verdicts import Floats, Ids

METRICS = (*metrics.METRICS, "ece")


@dataclass(frozen=True, kw_only=True)
class System:
    """A system to compare: its name, label ids (N,), and probabilities (N, C), calibrated as in use."""

    name: str
    answers: Ids
    probabilities: Floats


@dataclass(frozen=True, kw_only=True)
class MetricDifference(CorrectedDifference):
    """A difference in one metric, and how many claims would detect it; None where no difference was observed."""

    claims_needed: int | None


@dataclass(frozen=True, kw_only=True)
class LabelDifference(CorrectedDifference):
    """A difference in the F1 of one label, with the number of its claims and the F1 of both systems."""

    support: int
    ours: float
    theirs: float


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """Claims that only one system has right, the p-value of "equally many", and the test that gave it."""

    only_ours: int
    only_theirs: int
    test: str
    p: float
    p_holm: float
    claims_needed: int | None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two systems by name and how they differ: by metric, by McNemar's test and by label.

    `verdict` is what the metric of the comparison shows of ours against theirs; see `equivalence.answer`.
    `right_to_wrong` are the rows of the claims that theirs has right and ours wrong, `wrong_to_right` of the opposite.
    """

    ours: str
    theirs: str
    metrics: dict[str, MetricDifference]
    mcnemar: McNemar
    per_label: dict[str, LabelDifference]
    verdict: str
    equivalence: Equivalence | None = None
    right_to_wrong: list[int] = field(default_factory=list)
    wrong_to_right: list[int] = field(default_factory=list)


def compare_pairs(
    gold: Ids,
    systems: Sequence[System],
    pairs: Sequence[tuple[str, str]],
    labels: LabelSet,
    *,
    metric: str,
    resamples: int,
    confidence: float,
    margin: float | None = None,
) -> list[Pair]:
    """Compare each pair (ours, theirs) of system names; `metric` decides their verdict.

    With `margin`, a pair may also be equivalent, and its flips are listed. With the same `resamples` and `confidence`,
    intervals equal those of a run record.
    """
    by_name = {system.name: system for system in systems}
    answers = [(by_name[ours].answers, by_name[theirs].answers) for ours, theirs in pairs]
    drawn = [bootstrap.paired_draws(gold, *pair, len(labels), resamples=resamples) for pair in answers]
    draws = {name: [item.metrics[name] for item in drawn] for name in metrics.METRICS}
    wide = [
        few_claims.widened_metrics(item.metrics, gold, pair, len(labels), confidence=confidence)
        for item, pair in zip(drawn, answers, strict=True)
    ]
    enough = [few_claims.enough_flips(gold, *pair, confidence=confidence) for pair in answers]
    by_metric = {
        name: paired.corrected([item[name] for item in wide], confidence, enough=enough) for name in metrics.METRICS
    }
    draws["ece"], ece_p_values = _calibration(gold, by_name, pairs, resamples)
    by_metric["ece"] = paired.corrected(draws["ece"], confidence, p_values=ece_p_values)
    equivalent: Sequence[Equivalence | None] = [None] * len(pairs)
    if margin is not None:
        unseen = [
            few_claims.unseen_flips(gold, pair, len(labels), metric=metric, confidence=confidence) for pair in answers
        ]
        equivalent = equivalence.test(draws[metric], unseen, len(gold), margin=margin, confidence=confidence)
    f1 = {system.name: metrics.f1_by_label(gold, system.answers, len(labels)) for system in systems}
    by_label = iter(
        paired.corrected(
            _by_label(gold, drawn, answers, len(labels), confidence),
            confidence,
            enough=[flips for flips in enough for _ in labels.names],
        )
    )
    return [
        Pair(
            ours=ours,
            theirs=theirs,
            metrics={
                name: MetricDifference(
                    **vars(by_metric[name][place]), claims_needed=paired.claims_needed(draws[name][place], len(gold))
                )
                for name in METRICS
            },
            mcnemar=mcnemar,
            per_label={
                name: LabelDifference(
                    **vars(next(by_label)),
                    support=int((gold == label).sum()),
                    ours=f1[ours][label],
                    theirs=f1[theirs][label],
                )
                for label, name in enumerate(labels.names)
            },
            verdict=equivalence.answer(metric, by_metric[metric][place], equivalent[place]),
            equivalence=equivalent[place],
            **({} if margin is None else _flips(gold, *answers[place])),
        )
        for place, ((ours, theirs), mcnemar) in enumerate(zip(pairs, _mcnemar(gold, answers), strict=True))
    ]


def _by_label(
    gold: Ids, drawn: Sequence[bootstrap.Draws], answers: Sequence[tuple[Ids, Ids]], labels: int, confidence: float
) -> list[Values]:
    """Return the differences (R + 1,) in the F1 of every label of every pair, widened by flips not observed."""
    rows = []
    for item, pair in zip(drawn, answers, strict=True):
        unseen = few_claims.unseen_flips_by_label(gold, pair, labels, confidence=confidence)
        rows += [few_claims.widened(values, extra) for values, extra in zip(item.f1.T, unseen, strict=True)]
    return rows


def _flips(gold: Ids, ours: Ids, theirs: Ids) -> dict[str, list[int]]:
    """Return the rows of the claims that one system has right and the other one wrong, as fields of a `Pair`."""
    return {
        "right_to_wrong": np.flatnonzero((theirs == gold) & (ours != gold)).tolist(),
        "wrong_to_right": np.flatnonzero((theirs != gold) & (ours == gold)).tolist(),
    }


def _calibration(
    gold: Ids, systems: dict[str, System], pairs: Sequence[tuple[str, str]], resamples: int
) -> tuple[list[Values], list[float]]:
    """Return differences in calibration error, (R + 1,) each, and their p-values from the randomization test."""
    gaps = {name: metrics.calibration_gaps(gold, item.answers, item.probabilities) for name, item in systems.items()}
    errors = {
        name: paired.calibration_errors(bootstrap.resampled_sums(item, resamples=resamples)) / len(gold)
        for name, item in gaps.items()
    }
    return (
        [errors[ours] - errors[theirs] for ours, theirs in pairs],
        [paired.calibration_p_value(gaps[ours], gaps[theirs], resamples=resamples) for ours, theirs in pairs],
    )


def _mcnemar(gold: Ids, answers: Sequence[tuple[Ids, Ids]]) -> list[McNemar]:
    right = [(ours == gold, theirs == gold) for ours, theirs in answers]
    counts = [(int((ours & ~theirs).sum()), int((~ours & theirs).sum())) for ours, theirs in right]
    tests = [paired.mcnemar(*pair) for pair in counts]
    return [
        McNemar(
            only_ours=only_ours,
            only_theirs=only_theirs,
            test=test,
            p=p,
            p_holm=p_holm,
            claims_needed=paired.claims_needed_for_mcnemar(only_ours, only_theirs, len(gold)),
        )
        for (only_ours, only_theirs), (p, test), p_holm in zip(
            counts, tests, paired.holm([p for p, _ in tests]), strict=True
        )
    ]
