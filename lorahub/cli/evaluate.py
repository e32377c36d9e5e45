"""`lorahub evaluate`: finished adapters on a data set, and a run evaluated again since it was trained."""

from collections.abc import Sequence
from typing import Annotated

import typer

from lorahub.cli import terminal
from lorahub.cli.options import AdapterBase, Json, Set, Split
from lorahub.errors import ConfigError, need


def evaluate(
    data: Annotated[str, typer.Option(help="Named set, Hub id, folder or file.")],
    adapters: Annotated[
        list[str] | None, typer.Argument(metavar="ADAPTER", help="Run folders, or names under runs/.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Evaluate this run again, store the result in its history and compare it with earlier ones; exit code "
            "1 if the score fell.",
        ),
    ] = None,
    split: Split = "test",
    base: AdapterBase = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Evaluate finished adapters on a data set."""
    if bool(adapters) == (since is not None):
        raise ConfigError("name the adapters to evaluate, or one run with --since.")
    need("torch", extra="train")
    if since is not None:
        _evaluate_since(since, data=data, split=split, base=base, settings=settings or (), as_json=as_json)
        return
    from lorahub.cli import show
    from lorahub.reports import tables
    from lorahub.serving import evaluate

    evaluation = evaluate.evaluate(adapters or (), data=data, split=split, base=base, settings=settings or ())
    for note in evaluation.notes:
        terminal.line(f"note: {note}", err=True)
    if as_json:
        show.print_json({name: result.to_dict() for name, result in evaluation.results.items()})
        return
    rows = [(name, *tables.figures(result), f"{result.n:,}") for name, result in evaluation.results.items()]
    show.table(("adapter", *tables.HEADER[1:], "claims"), rows, title=f"{data}, {evaluation.split}")
    for name, result in evaluation.results.items():
        if result.selective and result.selective.threshold is not None:
            terminal.line(f"  {name}: {tables.abstaining(result.selective)}")
        if result.truncated:
            terminal.line(f"  {name}: {tables.truncation(result.truncated)}")


def _evaluate_since(
    run: str, *, data: str, split: str, base: str | None, settings: Sequence[str], as_json: bool
) -> None:
    from lorahub import runfiles
    from lorahub.cli import show
    from lorahub.experiments.monitor import history
    from lorahub.experiments.monitor import report as monitor_report
    from lorahub.experiments.monitor.run import evaluate_since

    folder, result = evaluate_since(run, data=data, split=split, base=base, settings=settings)
    figure = folder / monitor_report.FIGURE
    monitor_report.draw(result, figure)
    show.report(monitor_report.build(result), as_json=as_json, written=[folder / runfiles.HISTORY, figure])
    if result.row.verdict == history.FELL:
        raise typer.Exit(1)
