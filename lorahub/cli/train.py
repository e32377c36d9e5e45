"""`lorahub train` and `lorahub recipes`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorahub import runfiles
from lorahub.cli import terminal
from lorahub.cli.options import (
    Base,
    BaseId,
    Data,
    ForcePush,
    Json,
    Language,
    License,
    Method,
    Private,
    Recipe,
    Seed,
    Set,
    Token,
)
from lorahub.errors import ConfigError, need

if TYPE_CHECKING:
    from lorahub.training.run import Run


def train(
    recipe: Recipe = None,
    data: Data = None,
    base: Base = None,
    method: Method = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default: runs/DATA-METHOD-BASE-sSEED.")] = None,
    seed: Seed = None,
    settings: Set = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing run.")] = False,
    save_every: Annotated[
        str | None, typer.Option(metavar="STEPS|TIME", help="Write a checkpoint every 200 steps, or every 10m.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume from the newest checkpoint of the run folder, if there is one.")
    ] = False,
    tracker: Annotated[
        str, typer.Option(help="Experiment tracker, stored on this machine: trackio, tensorboard, wandb or none.")
    ] = "none",
    events: Annotated[bool, typer.Option("--events", help="Write progress to stderr as JSON lines.")] = False,
    push: Annotated[str | None, typer.Option(metavar="USER/NAME", help="Push the finished run to the Hub.")] = None,
    private: Private = False,
    force_push: ForcePush = False,
    base_id: BaseId = None,
    licence: License = None,
    language: Language = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Train an adapter, evaluate it next to its baselines, and write a run folder.

    `lorahub train --remote FLAVOR` is `lorahub job --flavor FLAVOR`: it trains as a Hub Job.
    """
    if push is None:
        for_push = {
            "--private": private,
            "--force-push": force_push,
            "--base-id": base_id,
            "--license": licence,
            "--language": language,
        }
        for flag, value in (for_push | {"--token": token}).items():
            if value:
                raise ConfigError(f"{flag} has no effect without --push USER/NAME. Add --push, or remove {flag}.")
    else:
        _check_base_for_push(recipe, base, settings, base_id)
    need("torch", extra="train")
    from lorahub.cli import show
    from lorahub.training import run

    with show.training_events() if events else show.training_progress(quiet=as_json) as callbacks:
        finished = run.train(
            recipe,
            data=data,
            base=base,
            method=method,
            out=out,
            seed=seed,
            settings=settings or (),
            force=force,
            save_every=save_every,
            resume=resume,
            tracker=tracker,
            callbacks=callbacks,
        )
    if as_json:
        show.print_json(finished.record.to_dict())
    else:
        _print(finished, _local_base(recipe, base, settings))
    if push is not None:
        from lorahub.publish import push as publishing

        options = publishing.Options(
            repo=push,
            private=private,
            base_id=base_id,
            licence=licence,
            language=language,
            force=force_push,
            token=token,
        )
        plan = publishing.plan(finished.folder, options)
        show.notes(plan.worse, plan.notes)
        pushed = publishing.send(plan)
        terminal.line(f"  published as {pushed.url} at {pushed.commit}", err=as_json)


def _check_base_for_push(recipe: str | None, base: str | None, settings: list[str] | None, base_id: str | None) -> None:
    """Raise before the training where the push after it would fail because the base has no Hub id."""
    from lorahub import config as configs

    config = configs.load(recipe, [*configs.flags(data=None, base=base, method=None, seed=None), *(settings or ())])
    if Path(config.base.id).is_dir() and base_id is None:
        raise ConfigError(
            f"--push needs the base's Hub id, and {config.base.id} is a local folder. Give --base USER/NAME, or the "
            "Hub id of that folder: --base-id USER/NAME."
        )


def _local_base(recipe: str | None, base: str | None, settings: list[str] | None) -> str | None:
    """Return the base if it is a folder, which the record does not name."""
    from lorahub import config as configs

    config = configs.load(recipe, [*configs.flags(data=None, base=base, method=None, seed=None), *(settings or ())])
    return config.base.id if Path(config.base.id).is_dir() else None


def _print(finished: "Run", local_base: str | None) -> None:
    """Print the results table and the main facts of the training; `local_base` is the folder of the base, if any."""
    from lorahub.cli import show
    from lorahub.reports import tables

    show.before_and_after(finished.record)
    progress = finished.record.progress
    selective = finished.record.adapter().selective
    if selective and selective.threshold is not None:
        terminal.line(f"  {tables.abstaining(selective)}")
    truncated = finished.record.adapter().truncated
    if truncated:
        terminal.line(f"  {tables.truncation(truncated)}")
    for warning in progress.warnings:
        terminal.line(f"  note: {warning}")
    terminal.line(
        f"  {progress.trainable_parameters:,} of {progress.total_parameters:,} parameters trained "
        f"in {progress.seconds:.0f} s ({progress.samples_per_second:.0f} claims/s); "
        f"kept step {progress.best_step} of {progress.steps}."
    )
    if progress.rank is not None:
        terminal.line(f"  rank {progress.rank.trained} trained, kept {progress.rank.why}.")
    command = f'lorahub classify "your claim" --adapter {shlex.quote(str(finished.folder))}'
    if local_base is not None and runfiles.layout(finished.folder) is not runfiles.FULL_MODEL:
        command += f" --base {shlex.quote(local_base)}"
    terminal.line(f"  written to {finished.folder}. Next:  {command}")


def recipes() -> None:
    """List the recipes that ship with lorahub."""
    from lorahub import config

    for name, path in config.shipped_recipes().items():
        first = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        terminal.line(f"{name:20} {first}")
