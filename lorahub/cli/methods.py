"""`lorahub methods`: full fine-tuning, LoRA, QLoRA and their relatives on one data set, with seeds and costs."""

from pathlib import Path
from typing import Annotated

import typer

from lorahub.cli.options import Base, Data, Discard, Json, Recipe, Set
from lorahub.config import METHODS
from lorahub.errors import need


def methods(
    recipe: Recipe = None,
    data: Data = None,
    base: Base = None,
    names: Annotated[
        str, typer.Option("--methods", metavar="A,B,…", help=f"What to compare: {', '.join(METHODS)}.")
    ] = "full,lora,qlora",
    seeds: Annotated[int, typer.Option(help="Trainings per method, with seeds 0, 1, …")] = 3,
    reference: Annotated[
        str | None, typer.Option(metavar="METHOD", help="Compare with this one; default: full, else the first.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of cells, runs and report; default: runs/methods-DATA-BASE.")
    ] = None,
    discard: Discard = False,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Compare methods on one data set: quality over several seeds, trained parameters, memory, time, file size.

    Every finished training is kept as a cell, so that a second call goes on where the first was stopped.
    """
    need("torch", extra="train")
    from lorahub.cli import show
    from lorahub.experiments.methods import report as reports
    from lorahub.experiments.methods import run as experiment

    def on_run(text: str, done: int, total: int) -> None:
        typer.echo(f"run {done + 1} of {total}: {text}", err=True)

    folder, table = experiment.methods(
        recipe,
        names=[name.strip() for name in names.split(",") if name.strip()],
        seeds=seeds,
        data=data,
        base=base,
        settings=settings or (),
        out=out,
        keep_runs=not discard,
        reference=reference,
        on_run=on_run,
    )
    written = reports.save(table, folder)
    if as_json:
        show.print_json(table.to_dict())
        return
    show.table(reports.header(table), reports.rows(table), title=reports.title(table))
    for line in reports.verdicts(table):
        typer.echo(f"  {line}")
    typer.echo(f"  {reports.explanation(table)}")
    for path in written:
        typer.echo(f"  written to {path}")
