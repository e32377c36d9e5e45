"""`lorahub sweep`: a search over config fields, and the hidden command of its worker processes."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorahub import durations
from lorahub.cli.options import Base, Data, Json, Method, Recipe, Set
from lorahub.errors import need

if TYPE_CHECKING:
    from lorahub.experiments.sweep.result import Tried


def sweep(
    recipe: Recipe = None,
    trials: Annotated[int | None, typer.Option(help="Trials in all; default: 30, or the whole grid.")] = None,
    timeout: Annotated[
        str | None, typer.Option(help="Begin no trial after this time, as in 90m or 2h; the same command goes on.")
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
    seed: Annotated[int, typer.Option(help="Seed of the search; train.seed is the trainings'.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes that run trials side by side.")] = 1,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where the study is kept: sqlite:///FILE, postgresql://USER@HOST/NAME or journal:FILE; the same "
            "command elsewhere works on the same study. Default: study.db in --out.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the study; default: sweep-DATA-METHOD-BASE.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of study, report and best run; default: runs/NAME.")] = None,
    data: Data = None,
    base: Base = None,
    method: Method = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Search for the best values of config fields on validation, then train the best and test it once.

    Every trial is kept as it ends: the same command goes on where a search was stopped or killed.
    """
    limit = None if timeout is None else durations.seconds(timeout, option="--timeout takes")
    need("torch", extra="train")
    need("optuna", extra="sweep")
    from lorahub.cli import show
    from lorahub.experiments.sweep import report as reports
    from lorahub.experiments.sweep import run as experiment

    best: list[float] = []

    def on_trial(tried: "Tried", ended: int, wanted: int) -> None:
        if tried.answers is not None:
            best[:] = [max([*best, tried.quality])]
        typer.echo(_line(tried, ended, wanted, best), err=True)

    with show.training_progress(quiet=as_json) as callbacks:
        found = experiment.sweep(
            recipe,
            trials=trials,
            timeout=limit,
            sampler=sampler,
            pruner=pruner,
            ranges=ranges or (),
            seed=seed,
            workers=workers,
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
    report = found.report
    written = reports.save(report, found.folder)
    if as_json:
        show.print_json(report.to_dict())
        return
    show.table(reports.header(report), reports.rows(report), title=reports.title(report))
    show.table(reports.CURVE_HEADER, reports.curve_rows(report), title="quality against each field, finished trials")
    for line in reports.sentences(report):
        typer.echo(f"  {line}")
    typer.echo(f"  {reports.explanation(report)}")
    for path in written:
        typer.echo(f"  written to {path}")
    typer.echo(
        f"  best config: lorahub train {found.folder / experiment.RECIPE}   (its run: {found.folder / experiment.RUN})"
    )


def _line(tried: "Tried", ended: int, wanted: int, best: list[float]) -> str:
    """One ended trial, for a person who waits."""
    from lorahub.experiments.sweep import report as reports

    how = tried.error or (f"{tried.quality:.3f}" if tried.value is not None else "no evaluation")
    values = ", ".join(f"{name.partition('.')[2]} {reports.value(item)}" for name, item in tried.values.items())
    record = f", best {best[0]:.3f}" if best else ""
    return (
        f"{ended} of {wanted}: trial {tried.trial} {tried.state}: {how}{record}; {values}; {tried.seconds or 0:.0f} s"
    )


def worker() -> None:
    """Run trials of a search as its standard input says; what `lorahub sweep --workers` starts."""
    need("torch", extra="train")
    need("optuna", extra="sweep")
    from lorahub.experiments.sweep import workers

    workers.serve(sys.stdin)
