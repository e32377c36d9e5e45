"""The report on a search: tables, sentences and three pictures.

A gain whose interval contains 0 is called within the noise.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorahub.experiments.sweep.result import FAILED, FINISHED, PRUNED, SearchResult
from lorahub.experiments.sweep.search_space import Numbers, Value, plain
from lorahub.reports import plots, tables
from lorahub.reports.report import Figure, Report, Table
from lorahub.stats.paired import Difference

_MAX_TRIALS = 10
# The fields shown first.
_FIRST = ("adapter.rank", "adapter.alpha", "adapter.dropout")
_COLUMNS = 3


def build(result: SearchResult) -> Report:
    """Build the report."""
    figures = [
        Figure(file_name="history.png", caption="Quality by trial", draw=lambda path: history(result, path)),
        Figure(
            file_name="quality.png",
            caption="Quality against every searched field",
            draw=lambda path: quality(result, path),
        ),
    ]
    if result.importance:
        figures.append(
            Figure(
                file_name="importance.png",
                caption="Importance of the fields",
                draw=lambda path: importance(result, path),
            )
        )
    counts = ", ".join(f"{count} {state}" for state, count in result.states.items() if count)
    return Report(
        name="sweep",
        title=f"{result.name}: {result.data}, {result.method} on {result.base}; {result.requested} trials by "
        f"{result.sampler} ({counts}), {result.n:,} validation claims",
        tables=[_best_trials(result), _curves(result)],
        sentences=_sentences(result),
        explanation=f"Square brackets: {result.confidence:.0%} bootstrap intervals ({result.resamples:,} resamples of "
        "the validation claims, the same for every trial). The best of many trials owes part of its lead to these "
        "claims; the result on test does not.",
        figures=figures,
        data=result,
    )


def _best_trials(result: SearchResult) -> Table:
    best = sorted(result.finished, key=lambda item: (-item.quality, item.trial))[:_MAX_TRIALS]
    fields = _fields(result)
    return Table(
        heading="Best trials",
        header=("trial", _metric(result), *map(short, fields), "trained parameters", "seconds"),
        rows=[
            (
                f"{item.trial}{' (the recipe)' if item is result.own else ''}",
                f"{item.quality:.3f}",
                *(plain(item.values[name], digits=3) for name in fields),
                f"{item.trainable_parameters or 0:,}",
                f"{item.seconds or 0:,.0f}",
            )
            for item in best
        ],
    )


def _curves(result: SearchResult) -> Table:
    return Table(
        heading="Quality against each field, finished trials",
        header=("field", "value", "trials", "median", "best"),
        rows=[
            (
                short(name),
                " to ".join(dict.fromkeys(plain(end, digits=3) for end in (row.low, row.high))),
                str(row.trials),
                f"{row.median:.3f}",
                f"{row.best:.3f}",
            )
            for name in _fields(result)
            for row in result.curves[name]
        ],
    )


def _fields(result: SearchResult) -> list[str]:
    """Return the searched fields: rank, alpha and dropout, then the others."""
    names = [item.field for item in result.space]
    return sorted(names, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))


def _sentences(result: SearchResult) -> list[str]:
    """Return the conclusions: the best trial, its gain over the recipe, when gains end, what matters, and test."""
    best, metric = result.best, _metric(result)
    values = ", ".join(f"{short(name)} {plain(best.values[name], digits=3)}" for name in _fields(result))
    interval = tables.with_interval(best.quality, result.interval)
    sentences = [f"Best: trial {best.trial}, {metric} {interval} on validation with {values}."]
    if result.own is best:
        sentences.append("No trial was better than the recipe's own values.")
    elif result.own is not None:
        recipe, gain = f"the recipe's own values (trial {result.own.trial})", result.gains[result.own.trial]
        sentences.append(
            f"Better than {recipe} on validation: {_signed(result, gain)}."
            if gain.detectable
            else f"No detectable gain over {recipe}: {_signed(result, gain)}, within the noise."
        )
    if len(result.finished) == 1:
        sentences.append("One trial finished: there is nothing to compare it with.")
    elif len(result.incumbents) == 1:
        sentences.append(f"No later trial was better than trial {best.trial}.")
    elif result.plateau == best.trial:
        sentences.append(
            f"Trial {best.trial}, the best, is detectably better than the best before it: try more trials."
        )
    else:
        gain = result.gains[result.plateau]
        sentences.append(
            f"After trial {result.plateau}, gains are within the noise: later trials gained {_signed(result, gain)}."
        )
    if any(tables.is_wide(gain) for gain in result.gains.values()):
        sentences.append(f"{result.n:,} validation claims are too few to tell these trials apart.")
    if result.importance:
        shares = ", ".join(f"{short(name)} {tables.probability(share)}" for name, share in result.importance.items())
        sentences.append(f"Share of each field in the variance of quality (fANOVA): {shares}.")
    failed = [item for item in result.trials if item.state == FAILED]
    if failed:
        sentences.append(f"{len(failed)} trials failed; trial {failed[0].trial}: {failed[0].error}")
    return [*sentences, _on_test(result)]


def _on_test(result: SearchResult) -> str:
    baseline, difference = tables.title(result.best_baseline), result.test_against[result.best_baseline]
    verdict = f"{'better' if difference.difference > 0 else 'worse'} than the {baseline}"
    if not difference.detectable:
        verdict = f"no detectable difference from the {baseline}"
    score = f"{_metric(result)} {result.test['adapter'][result.metric]:.3f}"
    return f"On test, evaluated once: {score}, {verdict}: {_signed(result, difference)}."


def history(result: SearchResult, path: Path) -> None:
    """Draw every trial's quality, the best so far, and the trial after which gains are within the noise."""
    figure, axes = plots.canvas((7.2, 4.2))
    for state, marker, color in ((FINISHED, "o", plots.INK), (PRUNED, "x", plots.MUTED)):
        shown = [item for item in result.trials if item.state == state and item.value is not None]
        if shown:
            numbers, values = [item.trial for item in shown], [item.quality for item in shown]
            axes.plot(numbers, values, marker, color=color, markersize=5, alpha=0.8, label=state)
    last = max(item.trial for item in result.trials)
    steps = [*((item.trial, item.quality) for item in result.incumbents), (last, result.best.quality)]
    axes.step(*zip(*steps, strict=True), where="post", color=plots.ACCENT, label="best so far")
    axes.axvline(result.plateau, color=plots.ACCENT, linestyle=":", linewidth=1, label="gains end")
    axes.set(xlabel="trial", ylabel=f"{_metric(result)} on validation")
    axes.locator_params(axis="x", integer=True)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.set_title(f"{result.name}: gains are within the noise after trial {result.plateau}", fontsize=10)
    plots.save(figure, path)


def importance(result: SearchResult, path: Path) -> None:
    """Draw each field's share of the variance of quality."""
    names = list(result.importance)[::-1]
    figure, axes = plots.canvas((6.4, 1.2 + 0.4 * len(names)))
    axes.barh([short(name) for name in names], [result.importance[name] for name in names], color=plots.ACCENT)
    axes.set(xlabel=f"share of the variance of {_metric(result)} (fANOVA)", xlim=(0, 1))
    axes.set_title(result.name, fontsize=10)
    plots.save(figure, path)


def quality(result: SearchResult, path: Path) -> None:
    """Draw quality against every searched field, with a point per finished trial."""
    names = _fields(result)
    columns = min(_COLUMNS, len(names))
    lines = math.ceil(len(names) / columns)
    figure, panels = plots.canvas((4.0 * columns, 3.4 * lines), columns, lines)
    panels = panels if isinstance(panels, list) else [panels]
    ranges = {item.field: item for item in result.space}
    for axes, name in zip(panels, names, strict=False):
        order = [row.low for row in result.curves[name]]
        positions = _positions([item.values[name] for item in result.finished], order)
        axes.plot(positions, [item.quality for item in result.finished], "o", color=plots.INK, markersize=4, alpha=0.7)
        best = _positions([result.best.values[name]], order)
        axes.plot(best, [result.best.quality], "o", color=plots.ACCENT, markersize=8)
        item = ranges[name]
        if isinstance(item, Numbers):
            _set_limits(axes, item)
        if isinstance(order[0], str | bool):
            axes.set_xticks(range(len(order)), map(str, order), rotation=15, ha="right", fontsize=8)
            axes.margins(x=0.15)
        axes.set(xlabel=name, ylabel=_metric(result))
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    figure.suptitle(f"{result.name}: finished trials, the best one large", fontsize=10)
    plots.save(figure, path)


def _set_limits(axes: Any, item: Numbers) -> None:
    """Show the whole searched range; a logarithmic one in powers of two or ten."""
    if not item.log:
        margin = 0.03 * (item.high - item.low)
        axes.set_xlim(item.low - margin, item.high + margin)
        return
    axes.set_xscale("log", base=2 if item.low >= 1 else 10)
    margin = (item.high / item.low) ** 0.03
    axes.set_xlim(item.low / margin, item.high * margin)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.tick_params(axis="x", which="minor", labelbottom=False)


def _positions(values: Sequence[Value], order: Sequence[Value]) -> list[float]:
    """Return positions on an axis: numbers as they are, names in the order of the table."""
    return [order.index(item) if isinstance(item, str | bool) else item for item in values]


def _signed(result: SearchResult, difference: Difference) -> str:
    return f"{_metric(result)} {tables.signed(difference.difference, difference.interval)}"


def short(name: str) -> str:
    """Return a field's name without its section, in words."""
    return name.partition(".")[2].replace("_", " ")


def _metric(result: SearchResult) -> str:
    return tables.METRIC_NAMES[result.metric]
