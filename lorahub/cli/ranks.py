"""`lorahub ranks`: the rank that a trained adapter needs."""

from pathlib import Path
from typing import Annotated

import typer

from lorahub.cli import terminal
from lorahub.cli.options import Discard, Json, Margin
from lorahub.errors import ConfigError, need


def ranks(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run of lora, qlora, dora or rslora with a high rank.")],
    retrain: Annotated[bool, typer.Option("--retrain", help="Also train each lower rank by the run's recipe.")] = False,
    only: Annotated[
        str | None, typer.Option("--ranks", metavar="1,2,…", help="With --retrain: train only these ranks.")
    ] = None,
    margin: Margin = None,
    data: Annotated[str | None, typer.Option(help="The run's data, if it was a file or folder.")] = None,
    base: Annotated[str | None, typer.Option(help="The run's base, if it was a folder.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for runs and report; default: runs/ranks-RUN.")] = None,
    discard: Discard = False,
    as_json: Json = False,
) -> None:
    """Show quality against rank, and select the smallest rank that is shown to be as good as the run's own.

    The run is truncated to ranks 1, 2, 4, … and evaluated again, without training.
    """
    if discard and not retrain:
        raise ConfigError("--discard is for retrained runs: add --retrain, or leave it out.")
    ranks_to_train = _numbers(only)
    need("torch", extra="train")
    from lorahub.cli import show
    from lorahub.experiments.ranks import report
    from lorahub.experiments.ranks.run import ranks as compute_curves

    folder, curves = compute_curves(
        run,
        retrain=retrain,
        only=ranks_to_train,
        margin=margin,
        data=data,
        base=base,
        out=out,
        keep_runs=not discard,
        on_stage=lambda text: terminal.line(text, err=True),
    )
    built = report.build(curves)
    show.report(built, as_json=as_json, written=built.save(folder))


def _numbers(text: str | None) -> list[int]:
    try:
        return [] if text is None else [int(item) for item in text.split(",")]
    except ValueError:
        raise ConfigError(f"--ranks takes whole numbers, as in 1,2,4; found {text!r}.") from None
