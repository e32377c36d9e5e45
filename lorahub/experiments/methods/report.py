"""Methods against each other told to people: tables, sentences, Markdown and a Pareto picture.

In: a `MethodTable`. Out: rows and text. A difference whose interval holds 0, or whose corrected p-value is too large,
is called undetectable.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorahub import atomic
from lorahub.experiments.methods.table import MethodRow, MethodTable
from lorahub.reports import plots, tables
from lorahub.stats.paired import CorrectedDifference
from lorahub.stats.seeds import Mean

MARKDOWN, PICTURE, JSON = "methods.md", "methods.png", "methods.json"
_MB = 1e6
# Room of a method's name in the picture, in points.
_NAME_WIDTH, _NAME_HEIGHT = 55, 9


def header(table: MethodTable) -> tuple[str, ...]:
    """The columns of `rows`."""
    return (
        "method", "accuracy", "weighted F1", "macro F1", f"macro F1 - {table.reference}", "trained parameters",
        "peak memory", "file", _clock(table)[1],
    )  # fmt: skip


def rows(table: MethodTable) -> list[tuple[str, ...]]:
    """The baselines, which cost nothing, then one row per method."""
    found = [
        (tables.title(name), *(f"{figures[metric]:.3f}" for metric in tables.METRIC_NAMES), *[""] * 5)
        for name, figures in table.baselines.items()
    ]
    return [*found, *(_row(table, row) for row in table.methods)]


def _row(table: MethodTable, row: MethodRow) -> tuple[str, ...]:
    against = row.against.get(table.reference)
    macro = row.metrics["f1_macro"]
    low, high = macro.interval
    return (
        f"{row.method}{' *' if row.pareto else ''}",
        _spread(row.metrics["accuracy"]),
        _spread(row.metrics["f1_weighted"]),
        f"{_spread(macro)} [{low:.3f}, {high:.3f}]",
        "" if against is None else tables.signed(against.difference, against.interval),
        f"{row.cost['trainable_parameters']:,.0f}",
        f"{row.cost['memory_bytes'] / _MB:,.0f} MB",
        f"{row.cost['file_bytes'] / _MB:,.2f} MB",
        f"{row.cost[_clock(table)[0]]:,.0f}",
    )


def _clock(table: MethodTable) -> tuple[str, str]:
    """Which of the two clocks is steady on this device, and its title."""
    return ("cpu_seconds", "CPU seconds") if table.device.startswith("cpu") else ("seconds", "seconds")


def _spread(found: Mean) -> str:
    return f"{found.mean:.3f}" if found.deviation is None else f"{found.mean:.3f} ± {found.deviation:.3f}"


def title(table: MethodTable) -> str:
    """What was trained on what, so that no figure is taken for another's."""
    seeds = {len(row.seeds) for row in table.methods}
    many = f"{min(seeds)} seed{'s' if min(seeds) > 1 else ''}"
    return (
        f"{table.data}: {table.train_rows:,} training claims of at most {table.max_length} tokens, {table.epochs:g} "
        f"epochs, {many}, {table.base}; {table.n:,} test claims"
    )


def verdicts(table: MethodTable) -> list[str]:
    """One sentence per method against the reference, then who is above what costs nothing."""
    found = [
        _sentence(row.method, table.reference, row.against[table.reference])
        for row in table.methods
        if table.reference in row.against
    ]
    for rival in dict.fromkeys(("majority", table.best_baseline)):
        above = [row.method for row in table.methods if _better(row.against.get(rival))]
        below = [row.method for row in table.methods if row.method not in above]
        text = f"Better than {tables.title(rival)}: {', '.join(above) or 'none'}"
        found.append(f"{text}; not shown for {', '.join(below)}." if below else f"{text}.")
    return found


def _better(difference: CorrectedDifference | None) -> bool:
    return difference is not None and difference.detectable and difference.difference > 0


def _sentence(ours: str, theirs: str, found: CorrectedDifference) -> str:
    figures = f"macro F1 {tables.signed(found.difference, found.interval)}, p {tables.p_value(found.p_holm)}"
    if not found.detectable:
        return f"No detectable difference between {ours} and {theirs}: {figures}."
    return f"{ours} is {'better' if found.difference > 0 else 'worse'} than {theirs}: {figures}."


def explanation(table: MethodTable) -> str:
    """What the marks and brackets are."""
    return (
        f"±: standard deviation between seeds. Square brackets: {table.confidence:.0%} intervals of a bootstrap that "
        f"draws claims, the same for every system, and seeds ({table.resamples:,} resamples); p is corrected for the "
        "number of methods (Holm). *: no other method has both a higher macro F1 and less memory. Peak memory is what "
        "training added to the process, or what was allocated on the GPU."
    )


def markdown(table: MethodTable, *, picture: str | None = None) -> str:
    """The whole report; `picture` is the path of the Pareto picture."""
    parts = [
        f"**{title(table)}**",
        tables.markdown(header(table), rows(table)),
        explanation(table),
        "\n".join(f"- {line}" for line in verdicts(table)),
        f"![Quality against cost]({picture})" if picture else None,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def save(table: MethodTable, folder: Path) -> list[Path]:
    """Write Markdown, picture and JSON into `folder` and return their paths."""
    with atomic.replacing(folder / PICTURE) as part:
        draw(table, part)
    atomic.write_text(folder / MARKDOWN, markdown(table, picture=PICTURE))
    atomic.write_json(folder / JSON, table.to_dict())
    return [folder / name for name in (MARKDOWN, PICTURE, JSON)]


def draw(table: MethodTable, path: Path) -> None:
    """Macro F1 with its interval against what it costs; filled points are those that nothing else beats in both."""
    figure, panels = plots.canvas((11.5, 4.6), columns=2)
    costs = (("memory_bytes", "peak memory (MB)", _MB), ("trainable_parameters", "trained parameters", 1))
    for axes, (cost, name, unit) in zip(panels, costs, strict=True):
        for row in table.methods:
            found, place = row.metrics["f1_macro"], row.cost[cost] / unit
            colour = plots.ACCENT if row.pareto else plots.INK
            axes.plot([place, place], found.interval, color=colour, linewidth=1.4)
            axes.plot(place, found.mean, "o", color=colour, markerfacecolor=colour if row.pareto else "white")
        best = table.baselines[table.best_baseline]["f1_macro"]
        axes.axhline(best, color=plots.MUTED, linestyle="--", linewidth=1)
        axes.annotate(
            tables.title(table.best_baseline), (1, best), xycoords=("axes fraction", "data"), fontsize=8,
            color=plots.MUTED, ha="right", va="bottom",
        )  # fmt: skip
        axes.set(xlabel=name, ylabel="macro F1 on test")
        axes.margins(x=0.15)
    # From 0, so that small differences in memory look small.
    panels[0].set_xlim(left=0)
    panels[1].set_xscale("log")
    figure.suptitle(title(table), fontsize=10)
    for axes, (cost, _, unit) in zip(panels, costs, strict=True):
        _name_points(axes, {row.method: (row.cost[cost] / unit, row.metrics["f1_macro"].mean) for row in table.methods})
    plots.save(figure, path)


def _name_points(axes: Any, points: Mapping[str, tuple[float, float]]) -> None:
    """Write each name to the right of its point, lower where another name stands there already."""
    axes.figure.draw_without_rendering()  # where a point comes to lie is known only then
    scale = axes.figure.dpi / 72  # pixels a point
    taken: list[tuple[float, float]] = []
    for name, point in sorted(points.items(), key=lambda item: -item[1][1]):
        across, up = axes.transData.transform(point) / scale
        height = up + 4
        while any(abs(across - other) < _NAME_WIDTH and abs(height - level) < _NAME_HEIGHT for other, level in taken):
            height -= 1
        taken.append((across, height))
        axes.annotate(name, point, xytext=(6, height - up), textcoords="offset points", fontsize=8)
