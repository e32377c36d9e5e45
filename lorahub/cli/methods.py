"""`lorahub methods`: full fine-tuning, LoRA, QLoRA and other methods on one data set, with seeds and costs."""

from pathlib import Path
from typing import Annotated

import typer

from lorahub.cli import terminal
from lorahub.cli.options import Base, Data, Discard, Json, Margin, Recipe, Set
from lorahub.errors import need
from lorahub.method_names import METHODS


def methods(
    recipe: Recipe = None,
    data: Data = None,
    base: Base = None,
    names: Annotated[
        str, typer.Option("--methods", metavar="A,B,…", help=f"Methods to compare: {', '.join(METHODS)}.")
    ] = "full,lora,qlora",
    seeds: Annotated[int, typer.Option(help="Trainings per method, with seeds 0, 1, …")] = 3,
    reference: Annotated[
        str | None,
        typer.Option(metavar="METHOD", help="Method that the others are compared with; default: full, else the first."),
    ] = None,
    margin: Margin = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for runs and report; default: runs/methods-DATA-BASE.")
    ] = None,
    discard: Discard = False,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Compare methods on one data set: quality over several seeds, trained parameters, memory, time, file size.

    Finished trainings are kept: the same command continues after an interruption.
    """
    need("torch", extra="train")
    from lorahub.cli import show
    from lorahub.experiments.methods import report, run

    folder, comparison = run.methods(
        recipe,
        names=[name.strip() for name in names.split(",") if name.strip()],
        seeds=seeds,
        data=data,
        base=base,
        settings=settings or (),
        out=out,
        keep_runs=not discard,
        reference=reference,
        margin=margin,
        on_run=lambda text, done, total: terminal.line(f"run {done + 1} of {total}: {text}", err=True),
    )
    built = report.build(comparison)
    show.report(built, as_json=as_json, written=built.save(folder))
