"""`lorahub train`, `lorahub evaluate` and `lorahub recipes`."""

from pathlib import Path
from typing import Annotated

import typer

from lorahub.errors import need

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Any config field, as in train.epochs=3; repeatable."),
]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(train)
    app.command()(evaluate)
    app.command()(recipes)


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A YAML recipe, or a shipped one's name (`lorahub recipes`).")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Named set, Hub id, folder or file. Default: pubhealth, else starter-wording.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="Hub id or folder of the base; default: embedded minilm.")] = None,
    method: Annotated[str | None, typer.Option(help="How the base is adapted; default: lora.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default: runs/DATA-METHOD-BASE-sSEED.")] = None,
    seed: Annotated[int | None, typer.Option(help="Training seed; default: 0.")] = None,
    settings: Set = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a finished run of that name.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Train an adapter, score it beside its baselines, and write a run folder."""
    need("torch", extra="train")
    from lorahub.cli import show
    from lorahub.training import run

    with show.training_progress(quiet=as_json) as watcher:
        done = run.train(
            recipe,
            data=data,
            base=base,
            method=method,
            out=out,
            seed=seed,
            settings=settings or (),
            force=force,
            watcher=watcher,
        )
    if as_json:
        show.as_json(done.record.to_dict())
        return
    show.before_and_after(done.record)
    happened = done.record.happened
    for warning in happened["warnings"]:
        typer.echo(f"  note: {warning}")
    typer.echo(
        f"  {happened['trainable_parameters']:,} of {happened['total_parameters']:,} parameters trained "
        f"in {happened['seconds']:.0f} s ({happened['samples_per_second']:.0f} claims a second); "
        f"kept step {happened['best_step']} of {happened['steps']}."
    )
    typer.echo(f'  written to {done.folder}: try  lorahub classify "your claim" --adapter {done.folder}')


def evaluate(
    adapters: Annotated[list[str], typer.Argument(metavar="ADAPTER", help="Run folders, or names under runs/.")],
    data: Annotated[str, typer.Option(help="Named set, Hub id, folder or file.")],
    split: Annotated[str, typer.Option(help="Split to judge on.")] = "test",
    base: Annotated[str | None, typer.Option(help="Base model; default: the adapter's own.")] = None,
    settings: Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Judge finished adapters on a data set."""
    need("torch", extra="train")
    from lorahub.cli import show
    from lorahub.reports import tables
    from lorahub.serving import judge

    results = judge.judge(adapters, data=data, split=split, base=base, settings=settings or ())
    if as_json:
        show.as_json(results)
        return
    rows = [
        (
            name,
            *(tables.with_interval(found[metric], found["interval"][metric]) for metric in tables.METRIC_NAMES),
            f"{found['ece']:.3f}",
        )
        for name, found in results.items()
    ]
    show.table(("adapter", *tables.HEADER[1:]), rows, title=f"{data}, {split}")


def recipes() -> None:
    """List the recipes that ship with lorahub."""
    from lorahub import config

    for name, path in config.shipped_recipes().items():
        first = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        typer.echo(f"{name:20} {first}")
