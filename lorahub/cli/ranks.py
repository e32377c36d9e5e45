"""`lorahub ranks`: how much rank a trained adapter needs."""

from pathlib import Path
from typing import Annotated

import typer

from lorahub.cli.options import Discard, Json
from lorahub.errors import ConfigError, need


def ranks(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run of lora, qlora, dora or rslora of a high rank.")],
    retrain: Annotated[bool, typer.Option("--retrain", help="Train each lower rank too, by the run's recipe.")] = False,
    only: Annotated[
        str | None, typer.Option("--ranks", metavar="1,2,…", help="With --retrain: these ranks alone.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="The run's data, where its record names no place.")] = None,
    base: Annotated[str | None, typer.Option(help="The run's base, where it was a folder.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of cells, runs and report; default: runs/ranks-RUN.")] = None,
    discard: Discard = False,
    as_json: Json = False,
) -> None:
    """Show quality against rank, and name the rank from which more gains nothing that validation can tell.

    The run is truncated to ranks 1, 2, 4, … and judged again, which needs no training.
    """
    if discard and not retrain:
        raise ConfigError("--discard is about retrained runs: add --retrain, or leave it out.")
    from lorahub.experiments.ranks import run as experiment

    asked = _numbers(only)
    need("torch", extra="train")
    from lorahub.cli import show
    from lorahub.experiments.ranks import report as reports

    folder, curves = experiment.ranks(
        run,
        retrain=retrain,
        only=asked,
        data=data,
        base=base,
        out=out,
        keep_runs=not discard,
        on_stage=lambda text: typer.echo(text, err=True),
    )
    written = reports.save(curves, folder)
    if as_json:
        show.print_json(curves.to_dict())
        return
    show.table(reports.header(curves), reports.rows(curves), title=reports.title(curves))
    for line in reports.verdicts(curves):
        typer.echo(f"  {line}")
    typer.echo(f"  {reports.explanation(curves)}")
    for path in written:
        typer.echo(f"  written to {path}")


def _numbers(text: str | None) -> list[int]:
    try:
        return [] if text is None else [int(item) for item in text.split(",")]
    except ValueError:
        raise ConfigError(f"--ranks takes whole numbers, as in 1,2,4; found {text!r}.") from None
