"""The report on methods: a table, sentences and a Pareto picture.

A method is better, worse, equivalent within a margin, or undecided against the reference. In results of older versions,
which have no margin, a difference whose interval includes 0 is called not detectable.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorahub.experiments.methods.result import METRIC, MethodComparison, MethodSummary
from lorahub.reports import plots, tables
from lorahub.reports.report import Figure, Report, Table
from lorahub.stats.equivalence import EQUIVALENT, UNDECIDED, Equivalence, answer
from lorahub.stats.paired import CorrectedDifference
from lorahub.stats.seeds import Mean

_MB = 1e6
# Size of a method's name in the picture, in points.
_NAME_WIDTH, _NAME_HEIGHT = 55, 9


def build(comparison: MethodComparison) -> Report:
    """Build the report."""
    return Report(
        name="methods",
        title=_title(comparison),
        tables=[_table(comparison)],
        sentences=_sentences(comparison),
        explanation=(
            f"±: standard deviation between seeds. Square brackets: {comparison.confidence:.0%} intervals of a "
            "bootstrap that draws claims, the same for every system, and seeds "
            f"({comparison.resamples:,} resamples); p is corrected for the number of methods (Holm)."
            f"{_rule(comparison)} *: no other method has both a higher macro F1 and less memory. Peak memory is what "
            "training added to the process, or "
            "what was allocated on the GPU."
        ),
        figures=[
            Figure(file_name="methods.png", caption="Quality against cost", draw=lambda path: _draw(comparison, path))
        ],
        data=comparison,
    )


def _rule(comparison: MethodComparison) -> str:
    margin = _margin(comparison)
    if margin is None:
        return ""
    return f" Equivalent: two one-sided tests show that the difference is below {margin:g} in both directions."


def _margin(comparison: MethodComparison) -> float | None:
    return next((row.equivalence.margin for row in comparison.methods if row.equivalence), None)


def _title(comparison: MethodComparison) -> str:
    seeds = len(comparison.methods[0].seeds)
    return (
        f"{comparison.data}: {comparison.train_rows:,} training claims of at most {comparison.max_length} tokens, "
        f"{comparison.epochs:g} epochs, {seeds} seed{'s' if seeds > 1 else ''}, {comparison.base}; "
        f"{comparison.n:,} test claims"
    )


def _table(comparison: MethodComparison) -> Table:
    """Return the baselines, then one row per method."""
    tested = _margin(comparison) is not None
    baselines = [
        (tables.title(name), *(f"{figures[metric]:.3f}" for metric in tables.METRIC_NAMES), *[""] * (5 + tested))
        for name, figures in comparison.baselines.items()
    ]
    return Table(
        header=(
            "method", "accuracy", "weighted F1", "macro F1", f"macro F1 - {comparison.reference}",
            *([f"against {comparison.reference}"] if tested else []),
            "trained parameters", "peak memory", "file", _clock(comparison)[1],
        ),
        rows=[*baselines, *(_row(comparison, row) for row in comparison.methods)],
    )  # fmt: skip


def _row(comparison: MethodComparison, row: MethodSummary) -> tuple[str, ...]:
    against = row.against.get(comparison.reference)
    macro = row.metrics["f1_macro"]
    low, high = macro.interval
    return (
        f"{row.method}{' *' if row.pareto else ''}",
        _spread(row.metrics["accuracy"]),
        _spread(row.metrics["f1_weighted"]),
        f"{_spread(macro)} [{low:.3f}, {high:.3f}]",
        "" if against is None else tables.signed(against.difference, against.interval),
        *([] if _margin(comparison) is None else [_answer(row, against)]),
        f"{row.cost['trainable_parameters']:,.0f}",
        f"{row.cost['memory_bytes'] / _MB:,.0f} MB",
        f"{row.cost['file_bytes'] / _MB:,.2f} MB",
        f"{row.cost[_clock(comparison)[0]]:,.0f}",
    )


def _answer(row: MethodSummary, against: CorrectedDifference | None) -> str:
    return "" if against is None else answer(METRIC, against, row.equivalence)


def _clock(comparison: MethodComparison) -> tuple[str, str]:
    """Return the key of the clock that other processes on the device disturb least, and its title."""
    return ("cpu_seconds", "CPU seconds") if comparison.device.startswith("cpu") else ("seconds", "seconds")


def _spread(metric: Mean) -> str:
    return f"{metric.mean:.3f}" if metric.deviation is None else f"{metric.mean:.3f} ± {metric.deviation:.3f}"


def _sentences(comparison: MethodComparison) -> list[str]:
    """Compare each method with the reference, then name the methods that are better than the baselines."""
    sentences = [
        _sentence(row.method, comparison.reference, row.against[comparison.reference], row.equivalence)
        for row in comparison.methods
        if comparison.reference in row.against
    ]
    for rival in dict.fromkeys(("majority", comparison.best_baseline)):
        better = [row.method for row in comparison.methods if _is_better(row.against.get(rival))]
        others = [row.method for row in comparison.methods if row.method not in better]
        text = f"Better than {tables.title(rival)}: {', '.join(better) or 'none'}"
        sentences.append(f"{text}; not shown for {', '.join(others)}." if others else f"{text}.")
    return sentences


def _is_better(difference: CorrectedDifference | None) -> bool:
    return difference is not None and difference.detectable and difference.difference > 0


def _sentence(ours: str, theirs: str, row: CorrectedDifference, equivalence: Equivalence | None) -> str:
    verdict = answer(METRIC, row, equivalence)
    if equivalence is not None and verdict in (EQUIVALENT, UNDECIDED):
        within = tables.within(equivalence.interval, equivalence.margin, inside=equivalence.equivalent)
        figures = f"macro F1 {row.difference:+.3f}, {within}, p {tables.p_value(equivalence.p_holm)}"
        return (
            f"{ours} and {theirs} are equivalent: {figures}."
            if verdict == EQUIVALENT
            else f"Undecided between {ours} and {theirs}: {figures}."
        )
    figures = f"macro F1 {tables.signed(row.difference, row.interval)}, p {tables.p_value(row.p_holm)}"
    if not row.detectable:
        return f"No detectable difference between {ours} and {theirs}: {figures}."
    return f"{ours} is {verdict} than {theirs}: {figures}."


def _draw(comparison: MethodComparison, path: Path) -> None:
    """Draw macro F1 with its interval against two costs; filled points are those of the Pareto front."""
    figure, panels = plots.canvas((11.5, 4.6), columns=2)
    costs = (("memory_bytes", "peak memory (MB)", _MB), ("trainable_parameters", "trained parameters", 1))
    best = comparison.baselines[comparison.best_baseline]["f1_macro"]
    for axes, (cost, name, unit) in zip(panels, costs, strict=True):
        for row in comparison.methods:
            metric, place = row.metrics["f1_macro"], row.cost[cost] / unit
            color = plots.ACCENT if row.pareto else plots.INK
            axes.plot([place, place], metric.interval, color=color, linewidth=1.4)
            axes.plot(place, metric.mean, "o", color=color, markerfacecolor=color if row.pareto else "white")
        axes.axhline(best, color=plots.MUTED, linestyle="--", linewidth=1)
        axes.annotate(
            tables.title(comparison.best_baseline), (1, best), xycoords=("axes fraction", "data"), fontsize=8,
            color=plots.MUTED, ha="right", va="bottom",
        )  # fmt: skip
        axes.set(xlabel=name, ylabel="macro F1 on test")
        axes.margins(x=0.15)
    # From 0, so that small differences in memory look small.
    panels[0].set_xlim(left=0)
    panels[1].set_xscale("log")
    figure.suptitle(_title(comparison), fontsize=10)
    for axes, (cost, _, unit) in zip(panels, costs, strict=True):
        points = {row.method: (row.cost[cost] / unit, row.metrics["f1_macro"].mean) for row in comparison.methods}
        _label_points(axes, points)
    plots.save(figure, path)


def _label_points(axes: Any, points: Mapping[str, tuple[float, float]]) -> None:
    """Write each name to the right of its point, and lower if it would overlap another name."""
    axes.figure.draw_without_rendering()  # the positions of points are known only after the layout
    scale = axes.figure.dpi / 72  # pixels per point
    taken: list[tuple[float, float]] = []
    for name, point in sorted(points.items(), key=lambda item: -item[1][1]):
        across, up = axes.transData.transform(point) / scale
        height = up + 4
        while any(abs(across - other) < _NAME_WIDTH and abs(height - level) < _NAME_HEIGHT for other, level in taken):
            height -= 1
        taken.append((across, height))
        axes.annotate(name, point, xytext=(6, height - up), textcoords="offset points", fontsize=8)
