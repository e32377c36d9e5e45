"""Results as table cells, rows and sentences: the same text for the terminal, the card and the app.

A difference whose interval contains 0 is called not detectable, never a gain.
"""

import re
from collections.abc import Iterable, Sequence

from lorahub.records import RunRecord
from lorahub.stats.paired import Difference
from lorahub.stats.plateau import Plateau
from lorahub.stats.results import SYSTEMS, SelectiveResult, SystemResult

HEADER = ("system", "accuracy", "weighted F1", "macro F1", "ECE")
# An interval that reaches further from a difference than this leaves open whether there is a large one.
_TOO_WIDE = 0.1
LABEL_HEADER = ("label", "precision", "recall", "F1", "claims")
METRIC_NAMES = {"accuracy": "accuracy", "f1_weighted": "weighted F1", "f1_macro": "macro F1"}
BASELINES = ("majority", "tfidf", "linear_probe")
_TITLES = {
    "majority": "majority label",
    "tfidf": "TF-IDF + logistic regression",
    "linear_probe": "linear probe on the base",
    "untrained": "before: untrained head",
    "adapter": "after: adapter",
}
_INTERVAL = re.compile(r"\[([+-]?[\d.]+), ([+-]?[\d.]+)\]")


def title(system: str) -> str:
    """Return the display name of a system."""
    return _TITLES.get(system, system)


def results_header(record: RunRecord) -> tuple[str, ...]:
    """Return the columns of `results`.

    Older records show the calibration error in use, by which systems cannot be compared, in the columns of `HEADER`.
    """
    if not _has_both_errors(record):
        return HEADER
    return (*HEADER[:1], "claims", *HEADER[1:-1], "ECE, raw", "ECE, temperature")


def results(record: RunRecord) -> list[tuple[str, ...]]:
    """Return one row per system on `record.scored_split`, with the columns of `results_header`."""
    systems, both = record.results[record.scored_split], _has_both_errors(record)
    rows = []
    for name in _ordered(systems):
        result, cells = systems[name], figures(systems[name])
        if both:
            cells = (f"{result.n:,}", *cells[:-1], f"{result.ece_raw:.3f}", f"{result.ece_calibrated:.3f}")
        rows.append((title(name), *cells))
    return rows


def _has_both_errors(record: RunRecord) -> bool:
    results = record.results[record.scored_split].values()
    return all(result.ece_raw is not None and result.ece_calibrated is not None for result in results)


def figures(result: SystemResult) -> tuple[str, ...]:
    """Return the headline metrics with their intervals, and the calibration error: the columns of `HEADER`."""
    metrics = (with_interval(result.metric(name), result.interval[name]) for name in METRIC_NAMES)
    return (*metrics, f"{result.ece:.3f}")


def per_label(record: RunRecord) -> list[tuple[str, ...]]:
    """Return one row per label with the adapter's figures on test, with the columns of `LABEL_HEADER`."""
    return [
        (name, f"{row.precision:.3f}", f"{row.recall:.3f}", f"{row.f1:.3f}", f"{row.support:,}")
        for name, row in record.adapter().per_label.items()
    ]


def best_baseline(record: RunRecord) -> str:
    """Return the baseline with the highest macro F1 on validation, so that test has no part in the choice."""
    systems = record.results["validation"]
    return max((name for name in BASELINES if name in systems), key=lambda name: systems[name].f1_macro)


def verdict(record: RunRecord) -> str:
    """Return one sentence that compares the adapter with the best baseline on test."""
    return comparisons(record).get(best_baseline(record), "No comparison with a baseline was recorded.")


def comparisons(record: RunRecord, metric: str = "f1_macro") -> dict[str, str]:
    """Return one sentence per other system that compares the adapter with it on test."""
    paired = record.adapter().paired
    sentences = {}
    for system in _ordered(paired):
        row = paired[system][metric]
        difference = f"{METRIC_NAMES[metric]} {signed(row.difference, row.interval)} against {title(system)}"
        if is_wide(row) and _has_both_errors(record):
            claims = f"{record.adapter().n:,} {record.scored_split} claims"
            sentences[system] = f"Too few claims to tell: {difference}, on {claims}."
        elif not row.detectable:
            noise = f"inside the noise of this {record.scored_split} split"
            sentences[system] = f"No detectable difference: {difference}, {noise}."
        else:
            sentences[system] = f"The adapter is {'better' if row.difference > 0 else 'worse'}: {difference}."
    return sentences


def is_wide(row: Difference) -> bool:
    """Return whether there are too few claims to tell: the interval of an undetected difference leaves a large one."""
    return not row.detectable and max(abs(end - row.difference) for end in row.interval) > _TOO_WIDE


def abstaining(selective: SelectiveResult) -> str:
    """Return one sentence on the effect of the abstention threshold on a split."""
    threshold = selective.threshold
    if threshold is None:
        return "It has no confidence threshold: it never abstains."
    if selective.accuracy is None or selective.interval.accuracy is None:
        return f"It abstains from every claim: no confidence reaches its threshold, {threshold:.2f}."
    accuracy = with_interval(selective.accuracy, selective.interval.accuracy)
    if threshold == 0:
        return f"Its threshold is 0: it answers every claim, with accuracy {accuracy}."
    low, high = selective.interval.coverage
    return (
        f"It answers {selective.coverage:.1%} [{low:.1%}, {high:.1%}] of the claims, those with a confidence of at "
        f"least {threshold:.2f}, with accuracy {accuracy}."
    )


def truncation(share: float) -> str:
    """Return one sentence on the share of claims that are longer than the system reads."""
    return f"{share:.1%} of the claims are longer than it reads: their end had no part in its answers."


def selected_rank(plateau: Plateau, confidence: float) -> str:
    """Return the rank with its uncertainty, as in `rank 4 (2 to 8 in 95 % of resamples)`."""
    others = f"{plateau.low} to {plateau.high}" if plateau.low < plateau.high else "no other"
    return f"rank {plateau.rank} ({others} in {percent(confidence)} of resamples)"


def rank_reason(plateau: Plateau, metric: str) -> str:
    """Return the reason for the selected rank, as the second half of a sentence."""
    if plateau.margin is not None:
        if plateau.rank == plateau.reference:
            return (
                f"validation does not show a lower rank to be within {plateau.margin:g} of its {METRIC_NAMES[metric]}"
            )
        return (
            f"the lowest that validation shows to be at most {plateau.margin:g} below rank {plateau.reference} in "
            f"{METRIC_NAMES[metric]}: {signed(plateau.gap.difference, plateau.gap.interval)}"
        )
    if plateau.rank == plateau.reference:
        return "every lower rank that was tested is detectably worse on validation"
    gap = signed(plateau.gap.difference, plateau.gap.interval)
    return (
        f"the smallest whose {METRIC_NAMES[metric]} on validation is inside the noise of rank "
        f"{plateau.reference}: {gap}"
    )


def with_interval(value: float, interval: Sequence[float]) -> str:
    """Format a metric and its interval, as in `0.651 [0.624, 0.678]`."""
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def signed(value: float, interval: Sequence[float]) -> str:
    """Format a difference and its interval, as in `+0.021 [-0.004, +0.046]`."""
    return f"{value:+.3f} [{interval[0]:+.3f}, {interval[1]:+.3f}]"


def within(interval: Sequence[float], margin: float, *, inside: bool) -> str:
    """Format the interval of a test of equivalence, as in `interval [-0.012, +0.008] inside ±0.02`."""
    return f"interval [{interval[0]:+.3f}, {interval[1]:+.3f}] {'inside' if inside else 'not shown inside'} ±{margin:g}"


def probability(share: float) -> str:
    """Format a probability as a percentage; `>99%` and `<1%` in place of 100 % and 0 %, which no model is sure of."""
    text = f"{share:.0%}"
    return {"100%": ">99%", "0%": "<1%"}.get(text, text)


def p_value(value: float) -> str:
    """Format a p-value with three decimals, as in `0.012` or `< 0.001`."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def percent(share: float) -> str:
    """Format a share as a percentage, as in `95 %`."""
    return f"{100 * share:g} %"


def size(count: int) -> str:
    """Format a number of bytes, as in `1.2 MB`."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table: first column left-aligned, others right-aligned, no line break inside an interval."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return _INTERVAL.sub("[\\1,\N{NO-BREAK SPACE}\\2]", text)


def folded(title: str, text: str) -> str:
    """Return text that a page shows folded away."""
    return f"\n<details><summary>{title}</summary>\n\n{text}\n\n</details>\n"


def _ordered(systems: Iterable[str]) -> list[str]:
    """Sort system names: baselines first, unknown names last."""
    return sorted(systems, key=lambda name: SYSTEMS.index(name) if name in SYSTEMS else len(SYSTEMS))
