"""`lorahub estimate`: memory and time of a training before it runs, and the parameters of LoRA on one matrix."""

import re
from pathlib import Path
from typing import Annotated

import typer

from lorahub import atomic
from lorahub.cli.options import Json, Recipe, Set, Token
from lorahub.errors import ConfigError, need
from lorahub.experiments.estimate import costs
from lorahub.experiments.estimate.costs import CPU, GPUS
from lorahub.method_names import METHODS


def estimate(
    recipe: Recipe = None,
    base: Annotated[
        str | None, typer.Option(help="Hub id, folder or config.json of the base; weights are not needed.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Use the lengths and number of these claims; default: base.max_length tokens.")
    ] = None,
    methods: Annotated[
        str, typer.Option("--method", metavar="A,B,…", help=f"Methods: {', '.join(METHODS)}.")
    ] = "full,lora,qlora",
    gpus: Annotated[
        str | None,
        typer.Option("--gpu", metavar="A,B,…", help=f"Devices: {CPU}, {', '.join(GPUS)}; default: all."),
    ] = None,
    matrix: Annotated[
        str | None,
        typer.Option(metavar="OUTxIN", help="Instead, count the parameters of LoRA on one matrix, as in 512x64."),
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of LoRA on that matrix; default: 8.")] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", "--out", metavar="PNG", help="Draw memory by component into this file.")
    ] = None,
    settings: Set = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Estimate memory and time of full fine-tuning, LoRA and QLoRA, and the GPUs that they fit on.

    Of the base only its config.json is fetched.
    """
    from lorahub.cli import show
    from lorahub.experiments.estimate import report

    if rank is not None and matrix is None:
        raise ConfigError("--rank belongs to --matrix. Use --set adapter.rank=R for the rank of a training.")
    if matrix is not None:
        if any(value is not None for value in (recipe, base, data, gpus, plot, settings)):
            raise ConfigError("--matrix counts one matrix alone: use it with --rank and --json only.")
        size = costs.lora_size(*_shape(matrix), 8 if rank is None else rank)
        show.report(report.lora_size(size), as_json=as_json)
        return
    if plot is not None:
        _check_picture(plot)
    need("torch", extra="train")
    from lorahub.experiments.estimate import run

    shown = report.build(
        run.estimate(
            recipe,
            base=base,
            data=data,
            methods=_names(methods),
            devices=(CPU, *GPUS) if gpus is None else _names(gpus),
            settings=settings or (),
            token=token,
        )
    )
    if plot is not None:
        with atomic.replacing(plot) as partial:
            shown.figures[0].draw(partial)
    show.report(shown, as_json=as_json, written=[] if plot is None else [plot])


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _shape(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise ConfigError(f"--matrix takes OUTPUTSxINPUTS, as in 512x64; found {text!r}.")
    return int(match[1]), int(match[2])


def _check_picture(path: Path) -> None:
    """Raise ConfigError before anything is counted if the picture cannot be written."""
    need("matplotlib", extra="train")
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--plot {path} must end in .png: the picture is a PNG.")
    if path.is_dir():
        raise ConfigError(f"--plot {path} is a folder. Name a file in it.")
