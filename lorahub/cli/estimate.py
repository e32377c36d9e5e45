"""`lorahub estimate`: memory and time of a training before it is run."""

from pathlib import Path
from typing import Annotated

import typer

from lorahub.cli.options import Json, Recipe, Set, Token
from lorahub.config import METHODS
from lorahub.errors import ConfigError, need
from lorahub.experiments.estimate.costs import CPU, GPUS


def estimate(
    recipe: Recipe = None,
    base: Annotated[
        str | None, typer.Option(help="Hub id, folder or config.json of the base; weights are not needed.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Count these claims' own lengths and steps; default: base.max_length tokens.")
    ] = None,
    names: Annotated[
        str, typer.Option("--method", metavar="A,B,…", help=f"Methods: {', '.join(METHODS)}.")
    ] = "full,lora,qlora",
    gpus: Annotated[
        str | None,
        typer.Option("--gpu", metavar="A,B,…", help=f"Devices: {CPU}, {', '.join(GPUS)}; default: all."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", "--out", metavar="PNG", help="Draw memory by component into this file.")
    ] = None,
    settings: Set = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Say what full fine-tuning, LoRA and QLoRA would take, on which GPUs they fit, and how long they would run.

    Of the base only its config.json is fetched.
    """
    need("torch", extra="train")
    from lorahub.cli import show
    from lorahub.experiments.estimate import report as reports
    from lorahub.experiments.estimate import run as experiment

    if plot is not None:
        _check_picture(plot)
    found = experiment.estimate(
        recipe,
        base=base,
        data=data,
        names=_parts(names),
        devices=(CPU, *GPUS) if gpus is None else _parts(gpus),
        settings=settings or (),
        token=token,
    )
    if plot is not None:
        reports.save(found, plot)
    if as_json:
        show.print_json(found.to_dict())
        return
    show.table(reports.fits_header(found), reports.fits(found), title=reports.title(found))
    for device in reports.examples(found):
        show.table(reports.parts_header(found, device), reports.parts(found, device))
    for line in reports.sentences(found):
        typer.echo(f"  {line}")
    typer.echo(f"  {reports.explanation(found)}")
    if plot is not None:
        typer.echo(f"  written to {plot}")


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _check_picture(path: Path) -> None:
    """Raise before anything is counted where the picture cannot be written."""
    need("matplotlib", extra="train")
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--plot {path} must end in .png: the picture is a PNG.")
    if path.is_dir():
        raise ConfigError(f"--plot {path} is a folder. Name a file in it.")
