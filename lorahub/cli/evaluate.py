"""`lorahub evaluate`: finished adapters judged on a data set, and a run judged again since it was trained."""

from typing import Annotated

import typer

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
            help="Judge this run's adapter again, keep the result in the run's history and compare it with those "
            "before; exit code 1 where the score fell.",
        ),
    ] = None,
    split: Split = "test",
    base: AdapterBase = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Judge finished adapters on a data set."""
    if bool(adapters) == (since is not None):
        raise ConfigError("name the adapters to judge, or with --since the one run whose history goes on.")
    need("torch", extra="train")
    if since is not None:
        _again(since, data=data, split=split, base=base, settings=settings or [], as_json=as_json)
        return
    from lorahub.cli import show
    from lorahub.reports import tables
    from lorahub.serving import evaluate

    judged = evaluate.evaluate(adapters or (), data=data, split=split, base=base, settings=settings or ())
    for note in judged.notes:
        typer.echo(f"note: {note}", err=True)
    if as_json:
        show.print_json({name: result.to_dict() for name, result in judged.results.items()})
        return
    rows = [
        (
            name,
            *tables.figures(result),
            f"{result.n:,}",
        )
        for name, result in judged.results.items()
    ]
    show.table(("adapter", *tables.HEADER[1:], "claims"), rows, title=f"{data}, {judged.split}")
    for name, result in judged.results.items():
        if result.selective and result.selective.threshold is not None:
            typer.echo(f"  {name}: {tables.abstaining(result.selective)}")


def _again(run: str, *, data: str, split: str, base: str | None, settings: list[str], as_json: bool) -> None:
    from lorahub.cli import show
    from lorahub.experiments.monitor import history
    from lorahub.experiments.monitor import report as reports
    from lorahub.experiments.monitor import run as monitor_run
    from lorahub.reports import tables
    from lorahub.stats.results import SelectiveResult

    folder, found = monitor_run.since(run, data=data, split=split, base=base, settings=settings)
    picture = folder / reports.PICTURE
    reports.draw(found, picture)
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
    if as_json:
        show.print_json(found.to_dict())
    else:
        show.table(reports.header(found), reports.rows(found), title=f"{found.run}: evaluated again")
        for line in reports.verdicts(found):
            typer.echo(f"  {line}")
        selective = SelectiveResult.model_validate(found.row.figures["selective"])
        if selective.threshold is not None:
            typer.echo(f"  {tables.abstaining(selective)}")
        typer.echo(f"  {reports.explanation(found)}")
        typer.echo(f"  written to {folder / history.FOLDER} and {picture}")
    if found.row.verdict == history.FELL:
        raise typer.Exit(1)
