"""A search told to people: tables, sentences, Markdown and three pictures.

In: a `SearchReport`. Out: rows and text. A gain whose interval holds 0 is said to lie inside the noise.
"""

import math
from pathlib import Path
from typing import Any

from lorahub import atomic
from lorahub.experiments.sweep.result import FAILED, FINISHED, PRUNED, Incumbent, SearchReport, Tried
from lorahub.reports import plots, tables

MARKDOWN, JSON = "sweep.md", "sweep.json"
HISTORY, IMPORTANCE, QUALITY = "history.png", "importance.png", "quality.png"
_BEST_SHOWN = 10
# Shown first: what the tutorial asks about.
_FIRST = ("adapter.rank", "adapter.alpha", "adapter.dropout")
_COLUMNS = 3


def title(report: SearchReport) -> str:
    """What was searched on what."""
    counts = ", ".join(f"{count} {state}" for state, count in report.states.items() if count)
    return (
        f"{report.name}: {report.data}, {report.method} on {report.base}; {report.asked} trials by {report.sampler} "
        f"({counts}), {report.n:,} validation claims"
    )


def header(report: SearchReport) -> tuple[str, ...]:
    """The columns of `rows`."""
    return ("trial", _metric(report), *(_short(name) for name in fields(report)), "trained parameters", "seconds")


def rows(report: SearchReport) -> list[tuple[str, ...]]:
    """The best finished trials, the best first."""
    finished = [item for item in report.trials if item.state == FINISHED]
    best = sorted(finished, key=lambda item: (-item.quality, item.trial))[:_BEST_SHOWN]
    return [
        (
            f"{item.trial}{' (the recipe)' if report.own and item.trial == report.own.trial else ''}",
            f"{item.quality:.3f}",
            *(value(item.values[name]) for name in fields(report)),
            f"{item.trainable_parameters or 0:,}",
            f"{item.seconds or 0:,.0f}",
        )
        for item in best
    ]


def fields(report: SearchReport) -> list[str]:
    """The searched fields: rank, alpha and dropout, then the others."""
    names = [item["field"] for item in report.space]
    return sorted(names, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))


CURVE_HEADER = ("field", "value", "trials", "median", "best")


def curve_rows(report: SearchReport) -> list[tuple[str, ...]]:
    """Quality against every searched field."""
    return [
        (
            _short(name),
            value(row.low) if row.low == row.high else f"{value(row.low)} to {value(row.high)}",
            str(row.trials),
            f"{row.median:.3f}",
            f"{row.best:.3f}",
        )
        for name in fields(report)
        for row in report.curves[name]
    ]


def sentences(report: SearchReport) -> list[str]:
    """What came out: the best, what it gains over the recipe, when gains ended, what matters, and what test says."""
    best, metric = report.best, _metric(report)
    found = [
        f"Best: trial {best.trial}, {metric} {tables.with_interval(best.quality, report.interval)} on validation with "
        f"{', '.join(f'{_short(name)} {value(best.values[name])}' for name in fields(report))}."
    ]
    if report.own is not None:
        found.append(_against_recipe(report.own, best, metric))
    found.append(_plateau(report, metric))
    if report.importance:
        shares = ", ".join(f"{_short(name)} {share:.0%}" for name, share in report.importance.items())
        found.append(f"Share of each field in the variance of quality (fANOVA): {shares}.")
    failed = [item for item in report.trials if item.state == FAILED]
    if failed:
        found.append(f"{len(failed)} trials failed; trial {failed[0].trial}: {failed[0].error}")
    return [*found, _on_test(report, metric)]


def _against_recipe(own: Incumbent, best: Tried, metric: str) -> str:
    if own.trial == best.trial:
        return "No trial was better than the recipe's own values."
    figures = f"{metric} {tables.signed(own.difference, own.interval)}"
    if not own.detectable:
        return f"No detectable gain over the recipe's own values (trial {own.trial}): {figures}, inside the noise."
    return f"Better than the recipe's own values (trial {own.trial}) on validation: {figures}."


def _plateau(report: SearchReport, metric: str) -> str:
    row = next(item for item in report.incumbents if item.trial == report.plateau)
    if row.trial == report.best.trial:
        return f"Trial {row.trial}, the best, is detectably above every trial before it: more trials may gain more."
    gain = f"{metric} {tables.signed(row.difference, row.interval)}"
    return f"After trial {row.trial} gains stay inside the noise: all that was gained later is {gain}."


def _on_test(report: SearchReport, metric: str) -> str:
    rival = tables.title(report.best_baseline)
    against = report.test_against[report.best_baseline]
    figures = f"{metric} {tables.signed(against['difference'], against['interval'])}"
    if not against["detectable"]:
        verdict = f"no detectable difference to the {rival}: {figures}"
    else:
        verdict = f"{'better' if against['difference'] > 0 else 'worse'} than the {rival}: {figures}"
    return f"On test, looked at once: {metric} {report.test['adapter'][report.metric]:.3f}, {verdict}."


def explanation(report: SearchReport) -> str:
    """What the figures are."""
    return (
        f"Square brackets: {report.confidence:.0%} bootstrap intervals ({report.resamples:,} resamples of the "
        "validation claims, the same for every trial). The best of many trials owes part of its lead to these claims: "
        "the figure to believe is the one on test."
    )


def markdown(report: SearchReport) -> str:
    """The whole report, with its pictures beside it."""
    pictures = [(HISTORY, "Quality by trial"), (QUALITY, "Quality against every searched field")]
    if report.importance:
        pictures.append((IMPORTANCE, "Importance of the fields"))
    parts = [
        f"**{title(report)}**",
        "\n".join(f"- {line}" for line in sentences(report)),
        tables.markdown(header(report), rows(report)),
        tables.markdown(CURVE_HEADER, curve_rows(report)),
        explanation(report),
        *(f"![{text}]({name})" for name, text in pictures),
    ]
    return "\n\n".join(parts) + "\n"


def save(report: SearchReport, folder: Path) -> list[Path]:
    """Write Markdown, JSON and pictures into `folder` and return their paths."""
    drawn = {HISTORY: history, QUALITY: quality, **({IMPORTANCE: importance} if report.importance else {})}
    for name, draw in drawn.items():
        with atomic.replacing(folder / name) as part:
            draw(report, part)
    atomic.write_text(folder / MARKDOWN, markdown(report))
    atomic.write_json(folder / JSON, report.to_dict())
    return [folder / name for name in (MARKDOWN, JSON, *drawn)]


def history(report: SearchReport, path: Path) -> None:
    """Every trial's quality, the best so far, and the trial after which gains stay inside the noise."""
    figure, axes = plots.canvas((7.2, 4.2))
    for state, marker, colour in ((FINISHED, "o", plots.INK), (PRUNED, "x", plots.MUTED)):
        of_state = [item for item in report.trials if item.state == state and item.value is not None]
        if of_state:
            numbers, values = [item.trial for item in of_state], [item.quality for item in of_state]
            axes.plot(numbers, values, marker, color=colour, markersize=5, alpha=0.8, label=state)
    leads = report.incumbents
    last = max(item.trial for item in report.trials)
    steps = [*((item.trial, item.value) for item in leads), (last, leads[-1].value)]
    axes.step(*zip(*steps, strict=True), where="post", color=plots.ACCENT, label="best so far")
    axes.axvline(report.plateau, color=plots.ACCENT, linestyle=":", linewidth=1, label="gains end")
    axes.set(xlabel="trial", ylabel=f"{_metric(report)} on validation")
    axes.locator_params(axis="x", integer=True)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.set_title(f"{report.name}: gains stay inside the noise after trial {report.plateau}", fontsize=10)
    plots.save(figure, path)


def importance(report: SearchReport, path: Path) -> None:
    """Each field's share of the variance of quality."""
    names = list(report.importance)[::-1]
    figure, axes = plots.canvas((6.4, 1.2 + 0.4 * len(names)))
    axes.barh([_short(name) for name in names], [report.importance[name] for name in names], color=plots.ACCENT)
    axes.set(xlabel=f"share of the variance of {_metric(report)} (fANOVA)", xlim=(0, 1))
    axes.set_title(report.name, fontsize=10)
    plots.save(figure, path)


def quality(report: SearchReport, path: Path) -> None:
    """Quality against every searched field: a point a finished trial."""
    names = fields(report)
    columns = min(_COLUMNS, len(names))
    lines = math.ceil(len(names) / columns)
    figure, panels = plots.canvas((4.0 * columns, 3.4 * lines), columns, lines)
    panels = panels if isinstance(panels, list) else [panels]
    space = {item["field"]: item for item in report.space}
    finished = [item for item in report.trials if item.state == FINISHED]
    for axes, name in zip(panels, names, strict=False):
        order = [row.low for row in report.curves[name]]
        places = _places([item.values[name] for item in finished], order)
        axes.plot(places, [item.quality for item in finished], "o", color=plots.INK, markersize=4, alpha=0.7)
        axes.plot(*_point(report.best.values[name], order, report.best.quality), "o", color=plots.ACCENT, markersize=8)
        if "low" in space[name]:
            _stretch(axes, space[name])
        if isinstance(order[0], str | bool):
            axes.set_xticks(range(len(order)), [value(item) for item in order], rotation=15, ha="right", fontsize=8)
            axes.margins(x=0.15)
        axes.set(xlabel=name, ylabel=_metric(report))
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    figure.suptitle(f"{report.name}: finished trials, the best one large", fontsize=10)
    plots.save(figure, path)


def _stretch(axes: Any, numbers: dict[str, Any]) -> None:
    """Show the whole range that was searched; ranks and the like in powers of two."""
    low, high = numbers["low"], numbers["high"]
    if not numbers["log"]:
        room = 0.03 * (high - low)
        axes.set_xlim(low - room, high + room)
        return
    axes.set_xscale("log", base=2 if low >= 1 else 10)
    room = (high / low) ** 0.03
    axes.set_xlim(low / room, high * room)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.tick_params(axis="x", which="minor", labelbottom=False)


def _places(values: list[Any], order: list[Any]) -> list[float]:
    """Where values stand on an axis: numbers as they are, names in the order of the table."""
    return [order.index(item) if isinstance(item, str | bool) else item for item in values]


def _point(item: Any, order: list[Any], height: float) -> tuple[list[float], list[float]]:
    return _places([item], order), [height]


def value(item: Any) -> str:
    """A value of a field in few digits."""
    return f"{item:.3g}" if isinstance(item, float) else str(item)


def _short(name: str) -> str:
    return name.partition(".")[2].replace("_", " ")


def _metric(report: SearchReport) -> str:
    return tables.METRIC_NAMES[report.metric]
