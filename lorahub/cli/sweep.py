"""`lorahub sweep`: search for the best values of config fields."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorahub import durations
from lorahub.cli import terminal
from lorahub.cli.options import Base, Data, Json, Method, Recipe, Set
from lorahub.errors import need

if TYPE_CHECKING:
    from lorahub.experiments.sweep.result import TrialResult


def sweep(
    recipe: Recipe = None,
    trials: Annotated[
        int | None, typer.Option(help="Number of trials to complete; default: 30, or the whole grid.")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(help="Start no trial after this time, as in 90m or 2h; the same command continues.")
    ] = None,
    ranges: Annotated[
        list[str] | None,
        typer.Option(
            "--range",
            metavar="SECTION.FIELD=RANGE",
            help="A field to search: low..high, low..high:log or a,b,c (a list of names as a+b). Repeatable. Without "
            "any, and for the word default: rank, alpha, dropout, targets, learning rate, class weights.",
        ),
    ] = None,
    sampler: Annotated[str, typer.Option(metavar="tpe|grid|random", help="How values are chosen.")] = "tpe",
    pruner: Annotated[
        str, typer.Option(metavar="median|hyperband|none", help="How poor trials are stopped early.")
    ] = "median",
    seed: Annotated[int, typer.Option(help="Seed of the search; train.seed is that of the trainings.")] = 0,
    processes: Annotated[
        int, typer.Option("--processes", "--workers", help="Number of processes that run trials in parallel.")
    ] = 1,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where the study is stored: sqlite:///FILE, postgresql://USER@HOST/NAME or journal:FILE. The same "
            "command on another machine works on the same study. Default: study.db in --out.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the study; default: sweep-DATA-METHOD-BASE.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study, report and best run; default: runs/NAME.")
    ] = None,
    data: Data = None,
    base: Base = None,
    method: Method = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Search for the best values of config fields on validation, then train the best config and test it once.

    Every trial is stored when it ends: the same command continues a search that was stopped or killed.
    """
    seconds = None if timeout is None else durations.seconds(timeout, option="--timeout takes")
    need("torch", extra="train")
    need("optuna", extra="sweep")
    from lorahub.cli import show
    from lorahub.experiments.sweep import report as reports
    from lorahub.experiments.sweep import run as experiment

    best: list[float] = []

    def on_trial(trial: "TrialResult", ended: int, wanted: int) -> None:
        if trial.answers is not None:
            best[:] = [max([*best, trial.quality])]
        terminal.line(f"{ended} of {wanted}: {_line(trial, best)}", err=True)

    with show.training_progress(quiet=as_json) as callbacks:
        search = experiment.sweep(
            recipe,
            trials=trials,
            timeout=seconds,
            sampler=sampler,
            pruner=pruner,
            ranges=ranges or (),
            seed=seed,
            processes=processes,
            storage=storage,
            name=name,
            out=out,
            data=data,
            base=base,
            method=method,
            settings=settings or (),
            callbacks=callbacks,
            on_trial=on_trial,
        )
    report = reports.build(search.result)
    show.report(report, as_json=as_json, written=report.save(search.folder))
    if not as_json:
        recipe_file, run = search.folder / experiment.RECIPE, search.folder / experiment.RUN
        terminal.line(f"  best config: lorahub train {recipe_file}   (its run: {run})")


def _line(trial: "TrialResult", best: list[float]) -> str:
    """Return one ended trial as a line of text."""
    from lorahub.experiments.sweep import report as reports
    from lorahub.experiments.sweep.search_space import plain

    outcome = trial.error or (f"{trial.quality:.3f}" if trial.value is not None else "no evaluation")
    best_so_far = f", best {best[0]:.3f}" if best else ""
    values = ", ".join(f"{reports.short(name)} {plain(value, digits=3)}" for name, value in trial.values.items())
    return f"trial {trial.trial} {trial.state}: {outcome}{best_so_far}; {values}; {trial.seconds or 0:.0f} s"
