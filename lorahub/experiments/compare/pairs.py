"""Every pair of systems on the same claims: differences by metric, McNemar's test and differences by label.

In: gold ids (N,) and systems with their answers (N,) and probabilities (N, C). Out: one `Pair` per requested pair.
Differences are ours - theirs.

P-values are corrected within a question: all pairs on one metric, all McNemar tests, all labels of all pairs. A
comparison therefore decides by the one metric that was named beforehand; the other metrics have their own corrections.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lorahub.labels import LabelSet
from lorahub.stats import bootstrap, metrics, paired
from lorahub.stats.paired import CorrectedDifference
from lorahub.stats.results import LOWER_IS_BETTER
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
    """Two systems by name and how they differ: by metric, by McNemar's test and by label."""

    ours: str
    theirs: str
    metrics: dict[str, MetricDifference]
    mcnemar: McNemar
    per_label: dict[str, LabelDifference]

    def verdict(self, metric: str) -> str:
        """Return `better`, `worse` or `none`: what a metric shows of ours against theirs."""
        row = self.metrics[metric]
        if not row.detectable:
            return "none"
        return "better" if (row.difference > 0) != (metric in LOWER_IS_BETTER) else "worse"


def compare_pairs(
    gold: Ids,
    systems: Sequence[System],
    pairs: Sequence[tuple[str, str]],
    labels: LabelSet,
    *,
    resamples: int,
    confidence: float,
) -> list[Pair]:
    """Compare each pair (ours, theirs) of system names.

    With the same `resamples` and `confidence`, intervals equal those of a run record.
    """
    by_name = {system.name: system for system in systems}
    answers = [(by_name[ours].answers, by_name[theirs].answers) for ours, theirs in pairs]
    draws = [bootstrap.paired_draws(gold, *pair, len(labels), resamples=resamples) for pair in answers]
    by_metric = {
        name: _with_claims_needed([drawn.metrics[name] for drawn in draws], len(gold), confidence)
        for name in metrics.METRICS
    }
    by_metric["ece"] = _calibration(gold, by_name, pairs, resamples=resamples, confidence=confidence)
    f1 = {system.name: metrics.f1_by_label(gold, system.answers, len(labels)) for system in systems}
    by_label = iter(paired.corrected([values for drawn in draws for values in drawn.f1.T], confidence))
    return [
        Pair(
            ours=ours,
            theirs=theirs,
            metrics={name: by_metric[name][place] for name in METRICS},
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
        )
        for place, ((ours, theirs), mcnemar) in enumerate(zip(pairs, _mcnemar(gold, answers), strict=True))
    ]


def _with_claims_needed(
    draws: Sequence[bootstrap.Values], claims: int, confidence: float, p_values: Sequence[float] | None = None
) -> list[MetricDifference]:
    return [
        MetricDifference(**vars(row), claims_needed=paired.claims_needed(values, claims))
        for row, values in zip(paired.corrected(draws, confidence, p_values=p_values), draws, strict=True)
    ]


def _calibration(
    gold: Ids, systems: dict[str, System], pairs: Sequence[tuple[str, str]], *, resamples: int, confidence: float
) -> list[MetricDifference]:
    """Compare calibration errors, with p-values from the randomization test."""
    gaps = {name: metrics.calibration_gaps(gold, item.answers, item.probabilities) for name, item in systems.items()}
    errors = {
        name: paired.calibration_errors(bootstrap.resampled_sums(item, resamples=resamples)) / len(gold)
        for name, item in gaps.items()
    }
    draws = [errors[ours] - errors[theirs] for ours, theirs in pairs]
    p_values = [paired.calibration_p_value(gaps[ours], gaps[theirs], resamples=resamples) for ours, theirs in pairs]
    return _with_claims_needed(draws, len(gold), confidence, p_values)


def _mcnemar(gold: Ids, answers: Sequence[tuple[Ids, Ids]]) -> list[McNemar]:
    right = [(ours == gold, theirs == gold) for ours, theirs in answers]
    counts = [(int((ours & ~theirs).sum()), int((~ours & theirs).sum())) for ours, theirs in right]
    results = [paired.mcnemar(*pair) for pair in counts]
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
            counts, results, paired.holm([p for p, _ in results]), strict=True
        )
    ]
