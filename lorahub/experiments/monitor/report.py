"""A run's history told to people: a table, sentences, and a picture of the score over dates.

In: a `Monitored`. Out: rows, text and a PNG file. What is not detectable is called that.
"""

from pathlib import Path

from lorahub.experiments.monitor.history import FELL, NONE, Change, Monitored, Row
from lorahub.reports import plots, tables

PICTURE = Path("plots") / "history.png"
_DAY = len("2026-01-01")
# Room for a date and the name of its data under each point.
_INCHES_A_ROW = 0.9
_WARNING = "#b91c1c"


def header(found: Monitored) -> tuple[str, ...]:
    """The columns of `rows`."""
    return ("evaluated", "data", "claims", tables.METRIC_NAMES[found.metric], "now - then", "p", "claims are")


def rows(found: Monitored) -> list[tuple[str, ...]]:
    """The test result, the earlier evaluations and the new one, each with what has changed since."""
    test, *earlier, new = found.rows
    told = [
        (*_first(found, row), *_change(found, change))
        for row, change in zip((test, *earlier), (found.since_test, *found.since), strict=True)
    ]
    return [*told, (*_first(found, new), "", "", "")]


def _first(found: Monitored, row: Row) -> tuple[str, ...]:
    value, interval = row.figures[found.metric], row.figures["interval"][found.metric]
    where = f"{row.data['id']}, {row.data['split']}"
    return row.created[:_DAY], where, f"{row.figures['n']:,}", tables.with_interval(value, interval)


def _change(found: Monitored, change: Change) -> tuple[str, ...]:
    row = change.metrics[found.metric]
    return (
        tables.signed(row.difference, row.interval),
        tables.p_value(row.p_holm),
        "the same" if change.paired else "others",
    )


def verdicts(found: Monitored) -> list[str]:
    """What can be said against the test result, then against earlier evaluations."""
    lines = [_sentence(found, found.since_test, "its own test result")]
    changed = [change for change in found.since if change.verdict(found.metric) != NONE]
    lines += [_sentence(found, change, f"{change.created[:_DAY]}") for change in changed]
    if found.since and not changed:
        lines.append(f"No detectable change since {_count(len(found.since))} before.")
    return lines


def _count(evaluations: int) -> str:
    return "the evaluation" if evaluations == 1 else f"any of the {evaluations} evaluations"


def _sentence(found: Monitored, change: Change, since: str) -> str:
    row, verdict = change.metrics[found.metric], change.verdict(found.metric)
    difference = tables.signed(row.difference, row.interval)
    figures = f"{tables.METRIC_NAMES[found.metric]} {difference}, p {tables.p_value(row.p_holm)}"
    claims = f"the same {change.n:,}" if change.paired else f"{change.n:,} other"
    where = f"{since} ({claims} claims of {change.data})"
    if verdict == NONE:
        return f"No detectable change since {where}: {figures}, inside the noise."
    return f"The score {verdict} beyond the noise since {where}: {figures}."


def explanation(found: Monitored) -> str:
    """What the brackets and p-values are."""
    return (
        f"Square brackets: {found.confidence:.0%} bootstrap intervals ({found.resamples:,} resamples), of a difference "
        "paired on the same claims, else of two sets of claims. p of earlier evaluations is corrected for their number "
        "(Holm). Other claims may be harder, or have other labels: a fall says that the score fell, not why."
    )


def draw(found: Monitored, path: Path) -> None:
    """The score of each evaluation with its interval, evenly spaced in the order of dates; the band is test's interval.

    Filled red: fell beyond the noise since test, as said at the time.
    """
    path.parent.mkdir(exist_ok=True)
    metric = found.metric
    figure, axes = plots.canvas((max(5.2, 2 + _INCHES_A_ROW * len(found.rows)), 4.2))
    low, high = found.rows[0].figures["interval"][metric]
    axes.axhspan(low, high, color=plots.MUTED, alpha=0.25, linewidth=0, label="interval of the run's test result")
    for place, row in enumerate(found.rows):
        value, ends = row.figures[metric], row.figures["interval"][metric]
        colour = _WARNING if row.verdict == FELL else plots.ACCENT if place else plots.INK
        axes.plot([place, place], ends, color=colour, linewidth=1.6)
        axes.plot(place, value, "o", color=colour, markerfacecolor=colour if row.verdict == FELL else "white")
    names = ["its own test", *(_short(row.data["id"]) for row in found.rows[1:])]
    names = [f"{row.created[:_DAY]}\n{name}" for row, name in zip(found.rows, names, strict=True)]
    axes.set_xticks(range(len(names)), names, fontsize=7)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylabel=tables.METRIC_NAMES[metric])
    axes.set_title(f"{found.run}: {found.confidence:.0%} intervals; filled: fell beyond the noise", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    plots.save(figure, path)


def _short(name: str, longest: int = 16) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"
