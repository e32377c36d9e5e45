"""Results as tables and sentences: the same rows for the terminal, the card and the app.

In: a RunRecord. Out: rows of text. A difference whose interval holds 0 is called undetectable, never a gain.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorahub.records import RunRecord
from lorahub.stats.plateau import Plateau
from lorahub.stats.results import SYSTEMS, Difference, SelectiveResult, SystemResult

HEADER = ("system", "accuracy", "weighted F1", "macro F1", "ECE")
RUNS_HEADER = ("run", "data", "labels", "before", "best baseline", "after", "after: weighted F1", "difference")
METRIC_NAMES = {"accuracy": "accuracy", "f1_weighted": "weighted F1", "f1_macro": "macro F1"}
_INTERVAL = re.compile(r"\[([+-]?[\d.]+), ([+-]?[\d.]+)\]")
BASELINES = ("majority", "tfidf", "linear_probe")
_TITLES = {
    "majority": "majority label",
    "tfidf": "TF-IDF + logistic regression",
    "linear_probe": "linear probe on the base",
    "untrained": "before: untrained head",
    "adapter": "after: adapter",
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The adapter against one other system: per metric a difference, its interval and whether it is detectable."""

    system: str
    metrics: Mapping[str, Difference]


def title(system: str) -> str:
    """A system's name as people read it."""
    return _TITLES.get(system, system)


def systems(results: Mapping[str, object]) -> list[str]:
    """The systems of a split, what costs nothing first."""
    return sorted(results, key=lambda name: SYSTEMS.index(name) if name in SYSTEMS else len(SYSTEMS))


def results(record: RunRecord, split: str = "test") -> list[tuple[str, ...]]:
    """One row per system: headline metrics with their intervals, and the calibration error."""
    found = record.results[split]
    return [(title(name), *figures(found[name])) for name in systems(found)]


def figures(result: SystemResult) -> tuple[str, ...]:
    """Return the headline metrics with their intervals, and the calibration error: the columns of `HEADER`."""
    return (
        *(with_interval(result.metric(metric), result.interval[metric]) for metric in METRIC_NAMES),
        f"{result.ece:.3f}",
    )


def per_label(record: RunRecord, split: str = "test", system: str = "adapter") -> list[tuple[str, ...]]:
    """One row per label: precision, recall, F1 and how many claims carry it."""
    rows = record.results[split][system].per_label
    return [
        (name, f"{row.precision:.3f}", f"{row.recall:.3f}", f"{row.f1:.3f}", f"{row.support:,}")
        for name, row in rows.items()
    ]


def run_row(record: RunRecord) -> tuple[str, ...]:
    """One line for a run: macro F1 on test before, of the best baseline and after, and the paired difference."""
    test, rival = record.results["test"], best_baseline(record)
    adapter = test["adapter"]
    paired = adapter.paired[rival]["f1_macro"]
    return (
        record.name,
        record.environment.data.id,
        str(len(record.labels)),
        f"{test['untrained'].f1_macro:.3f}",
        f"{test[rival].f1_macro:.3f} ({rival.replace('_', ' ')})",
        with_interval(adapter.f1_macro, adapter.interval["f1_macro"]),
        f"{adapter.f1_weighted:.3f}",
        signed(paired.difference, paired.interval),
    )


def with_interval(value: float, interval: Sequence[float]) -> str:
    """A metric and its interval, as in `0.651 [0.624, 0.678]`."""
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def signed(value: float, interval: Sequence[float]) -> str:
    """A difference and its interval, as in `+0.021 [-0.004, +0.046]`."""
    return f"{value:+.3f} [{interval[0]:+.3f}, {interval[1]:+.3f}]"


def p_value(value: float) -> str:
    """Format a p-value with three decimals, as in `0.012` or `< 0.001`."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def best_baseline(record: RunRecord) -> str:
    """The baseline with the highest macro F1 on validation: a choice in which test has no part."""
    found = record.results["validation"]
    return max((name for name in BASELINES if name in found), key=lambda name: found[name].f1_macro)


def comparisons(record: RunRecord, split: str = "test") -> list[Comparison]:
    """The adapter against every other system of a split."""
    adapter = record.results[split].get("adapter")
    paired = adapter.paired if adapter else {}
    return [Comparison(system=name, metrics=paired[name]) for name in systems(paired)]


def verdict(record: RunRecord, split: str = "test", metric: str = "f1_macro") -> str:
    """One sentence: does the adapter beat the best of what costs nothing?"""
    rival = best_baseline(record)
    found = next((item for item in comparisons(record, split) if item.system == rival), None)
    if found is None:
        return "No comparison with a baseline was recorded."
    return sentence(found, metric)


def sentence(comparison: Comparison, metric: str = "f1_macro") -> str:
    """One paired difference in words."""
    row = comparison.metrics[metric]
    figures = f"{METRIC_NAMES[metric]} {signed(row.difference, row.interval)} against {title(comparison.system)}"
    if not row.detectable:
        return f"No detectable difference: {figures}, inside the noise of this test split."
    return f"The adapter is {'better' if row.difference > 0 else 'worse'}: {figures}."


def abstaining(selective: SelectiveResult) -> str:
    """Return one sentence on the effect of the abstention threshold on a split."""
    threshold = selective.threshold
    if threshold is None:
        return "It has no threshold of confidence: it never abstains."
    low, high = selective.interval.coverage
    share = f"{selective.coverage:.1%} [{low:.1%}, {high:.1%}]"
    if selective.accuracy is None or selective.interval.accuracy is None:
        return f"It abstains from every claim: no confidence reaches its threshold, {threshold:.2f}."
    right = with_interval(selective.accuracy, selective.interval.accuracy)
    if threshold == 0:
        return f"Its threshold is 0: it answers every claim, with accuracy {right}."
    return f"It answers {share} of the claims, those with a confidence from {threshold:.2f} on, with accuracy {right}."


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is left-aligned, the others right, and no line breaks inside an interval."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return _INTERVAL.sub("[\\1,\N{NO-BREAK SPACE}\\2]", text)


def size(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def selected_rank(plateau: Plateau, confidence: float) -> str:
    """The rank with its uncertainty, as in `rank 4 (2 to 8 in 95 % of resamples)`."""
    others = f"{plateau.low} to {plateau.high}" if plateau.low < plateau.high else "no other"
    return f"rank {plateau.rank} ({others} in {percent(confidence)} of resamples)"


def rank_reason(plateau: Plateau, metric: str) -> str:
    """Why that rank, as the second half of a sentence."""
    if plateau.rank == plateau.reference:
        return "every lower rank that was tried is detectably worse on validation"
    gap = signed(plateau.gap.difference, plateau.gap.interval)
    return (
        f"the smallest whose {METRIC_NAMES[metric]} on validation is inside the noise of rank "
        f"{plateau.reference}: {gap}"
    )


def percent(confidence: float) -> str:
    """A share as a percentage, as in `95 %`."""
    return f"{100 * confidence:g} %"
