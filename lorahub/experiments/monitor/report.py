"""The report on a run's history: a table, sentences, and a figure of the score over the dates."""

from pathlib import Path

from lorahub.experiments.monitor.history import FELL, NONE, Change, MonitoringResult, Row
from lorahub.reports import plots, tables
from lorahub.reports.report import Report, Table

FIGURE = Path("plots") / "history.png"
_DAY = len("2026-01-01")
# Width per evaluation, in inches: enough for a date and the name of the data below each point.
_INCHES_PER_ROW = 0.9
_NAME_LENGTH = 16
_FELL_COLOR = "#b91c1c"


def build(result: MonitoringResult) -> Report:
    """Build the report of a new evaluation."""
    selective = result.row.figures.selective
    abstention = [tables.abstaining(selective)] if selective and selective.threshold is not None else []
    truncated = result.row.figures.truncated
    truncation = [tables.truncation(truncated)] if truncated else []
    return Report(
        name="history",
        title=f"{result.run}: evaluated again",
        tables=[_evaluations(result)],
        sentences=[*verdicts(result), *abstention, *truncation],
        explanation=(
            f"Square brackets: {result.confidence:.0%} bootstrap intervals ({result.resamples:,} resamples), paired on "
            "the same claims, independent on other claims. p of earlier evaluations is corrected for their number "
            "(Holm). Other claims may be harder or have other labels: a fall says that the score fell, not why."
        ),
        notes=result.notes,
        data=result,
    )


def _evaluations(result: MonitoringResult) -> Table:
    """Return the test result, the earlier evaluations and the new one, with the change since each."""
    changes = [*(_change(result, change) for change in (result.since_test, *result.since)), ("", "", "")]
    rows = []
    for row, change in zip(result.rows, changes, strict=True):
        score = tables.with_interval(row.figures.metric(result.metric), row.figures.interval[result.metric])
        rows.append((row.created[:_DAY], f"{row.data.id}, {row.data.split}", f"{row.figures.n:,}", score, *change))
    metric = tables.METRIC_NAMES[result.metric]
    return Table(header=("evaluated", "data", "claims", metric, "now - then", "p", "claims are"), rows=rows)


def _change(result: MonitoringResult, change: Change) -> tuple[str, str, str]:
    row = change.metrics[result.metric]
    claims = "the same" if change.paired else "others"
    return tables.signed(row.difference, row.interval), tables.p_value(row.p_holm), claims


def verdicts(result: MonitoringResult) -> list[str]:
    """Return the verdict against the test result, then those against earlier evaluations."""
    lines = [_verdict(result, result.since_test, "its own test result")]
    changed = [change for change in result.since if change.verdict(result.metric) != NONE]
    lines += [_verdict(result, change, change.created[:_DAY]) for change in changed]
    if result.since and not changed:
        count = len(result.since)
        earlier = "the earlier evaluation" if count == 1 else f"any of the {count} earlier evaluations"
        lines.append(f"No detectable change since {earlier}.")
    return lines


def _verdict(result: MonitoringResult, change: Change, since: str) -> str:
    row, verdict = change.metrics[result.metric], change.verdict(result.metric)
    difference = tables.signed(row.difference, row.interval)
    figures = f"{tables.METRIC_NAMES[result.metric]} {difference}, p {tables.p_value(row.p_holm)}"
    claims = f"the same {change.n:,}" if change.paired else f"{change.n:,} other"
    since = f"{since} ({claims} claims of {change.data})"
    if verdict == NONE:
        return f"No detectable change since {since}: {figures}, inside the noise."
    return f"The score {verdict} beyond the noise since {since}: {figures}."


def draw(result: MonitoringResult, path: Path) -> None:
    """Draw the score of each evaluation with its interval in the order of dates, and the interval of the test result.

    A filled red point marks an evaluation that fell beyond the noise since test, by its verdict at the time.
    """
    path.parent.mkdir(exist_ok=True)
    figure, axes = plots.canvas((max(5.2, 2 + _INCHES_PER_ROW * len(result.rows)), 4.2))
    low, high = result.rows[0].figures.interval[result.metric]
    axes.axhspan(low, high, color=plots.MUTED, alpha=0.25, linewidth=0, label="interval of the run's test result")
    for place, row in enumerate(result.rows):
        color = _FELL_COLOR if row.verdict == FELL else plots.ACCENT if place else plots.INK
        axes.plot([place, place], row.figures.interval[result.metric], color=color, linewidth=1.6)
        fill = color if row.verdict == FELL else "white"
        axes.plot(place, row.figures.metric(result.metric), "o", color=color, markerfacecolor=fill)
    names = ["its own test", *(_shortened(row) for row in result.rows[1:])]
    labels = [f"{row.created[:_DAY]}\n{name}" for row, name in zip(result.rows, names, strict=True)]
    axes.set_xticks(range(len(labels)), labels, fontsize=7)
    axes.set(xlim=(-0.5, len(labels) - 0.5), ylabel=tables.METRIC_NAMES[result.metric])
    axes.set_title(f"{result.run}: {result.confidence:.0%} intervals; filled: fell beyond the noise", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    plots.save(figure, path)


def _shortened(row: Row) -> str:
    name = row.data.id
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"
