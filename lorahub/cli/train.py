"""`lorahub train` and `lorahub recipes`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorahub.cli.publish import BaseId, Language, Licence, Token
from lorahub.config import METHODS
from lorahub.errors import ConfigError, need

if TYPE_CHECKING:
    from lorahub.training.run import Run

_METHODS = ", ".join(METHODS)
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Any config field, as in train.epochs=3; repeatable."),
]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(train)
    app.command()(recipes)


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A YAML recipe, or a shipped one's name (`lorahub recipes`).")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Named set, Hub id, folder or file. Default: pubhealth, else starter-wording.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="Hub id or folder of the base; default: embedded minilm.")] = None,
    method: Annotated[str | None, typer.Option(help=f"How the base is adapted: {_METHODS}; default: lora.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default: runs/DATA-METHOD-BASE-sSEED.")] = None,
    seed: Annotated[int | None, typer.Option(help="Training seed; default: 0.")] = None,
    settings: Set = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a run of that name.")] = False,
    save_every: Annotated[
        str | None, typer.Option(metavar="STEPS|TIME", help="Write a checkpoint every 200 steps, or every 10m.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint of the run folder, where there is one.")
    ] = False,
    tracker: Annotated[
        str, typer.Option(help="Curves to watch meanwhile, on this machine: trackio, tensorboard, wandb or none.")
    ] = "none",
    events: Annotated[
        bool, typer.Option("--events", help="Tell progress as JSON lines on stderr, for programs.")
    ] = False,
    push: Annotated[str | None, typer.Option(metavar="USER/NAME", help="Push the run there when it is done.")] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push: make a new repository private.")] = False,
    base_id: BaseId = None,
    licence: Licence = None,
    language: Language = None,
    remote: Annotated[
        str | None, typer.Option(metavar="FLAVOR", help="Train as a Hub Job on a10g-small, say; needs --push.")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(help="With --remote: the longest the Job may take, as in 90m; default: 2h.")
    ] = None,
    upload_data: Annotated[
        bool, typer.Option("--upload-data", help="With --remote: put local data into a private data set.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --remote: show the Job and its price; start nothing.")
    ] = False,
    token: Token = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Train an adapter, score it beside its baselines, and write a run folder."""
    for_card = {"--base-id": base_id, "--license": licence, "--language": language}
    if remote is None:
        for_job = {"--timeout": timeout, "--upload-data": upload_data, "--dry-run": dry_run}
        _refuse(for_job, "does nothing without --remote FLAVOR: add that, or leave it out.")
    else:
        if push is None:
            raise ConfigError("a Job loses its disk when it ends. Say where it pushes its run: --push USER/NAME.")
        for_here = {"--out": out, "--force": force, "--save-every": save_every, "--resume": resume}
        for_here |= {"--tracker": tracker != "none", "--events": events}
        _refuse(for_here, "is about a folder here; with --remote the run goes to --push.")
        _refuse(for_card, "is for a push from here; leave it out with --remote, and edit the card on the Hub.")
    if push is None:
        for_push = {"--private": private, **for_card, "--token": token}
        _refuse(for_push, "does nothing without --push USER/NAME: add that, or leave it out.")
    if push is not None:
        from lorahub import config as configs

        flags = configs.flags(data=data, base=base, method=method, seed=seed)
        asked = configs.load(recipe, [*flags, *(settings or ())])
        if Path(asked.base.id).is_dir() and base_id is None and remote is None:
            # Hours of training would come before the same answer.
            raise ConfigError(
                f"--push has to name the base, and {asked.base.id} is a folder of this machine. Give --base USER/NAME, "
                "or say where that folder is on the Hub: --base-id USER/NAME."
            )
    if remote is not None and push is not None:
        from lorahub.cli import job as remotely
        from lorahub.publish.jobs import LONGEST, Options

        options = Options(
            flavor=remote,
            push=push,
            timeout=LONGEST if timeout is None else timeout,
            upload_data=upload_data,
            private=private,
            token=token,
        )
        remotely.train(asked, options, dry_run=dry_run, as_json=as_json)
        return
    need("torch", extra="train")
    from lorahub.cli import show
    from lorahub.training import run

    with show.training_events() if events else show.training_progress(quiet=as_json) as watcher:
        done = run.train(
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
            watcher=watcher,
        )
    if as_json:
        show.print_json(done.record.to_dict())
    else:
        _tell(done)
    if push is not None:
        from lorahub.publish import push as publishing

        plan = publishing.plan(
            done.folder,
            publishing.Options(
                repo=push, private=private, base_id=base_id, licence=licence, language=language, token=token
            ),
        )
        for line in (*plan.worse, *plan.notes):
            typer.echo(f"note: {line}.", err=True)
        pushed = publishing.send(plan)
        typer.echo(f"  published as {pushed.url} at {pushed.commit}", err=as_json)


def _refuse(flags: Mapping[str, object], why: str) -> None:
    """Raise ConfigError for the first of the flags that was given: alone it would do nothing, and say nothing."""
    for flag, value in flags.items():
        if value is not None and value is not False:
            raise ConfigError(f"{flag} {why}")


def _tell(done: "Run") -> None:
    """The table before and after, and what a person wants to know next."""
    from lorahub.cli import show
    from lorahub.reports import tables

    show.before_and_after(done.record)
    happened = done.record.happened
    selective = done.record.results["test"]["adapter"]["selective"]
    if selective["threshold"] is not None:
        typer.echo(f"  {tables.abstaining(selective)}")
    for warning in happened["warnings"]:
        typer.echo(f"  note: {warning}")
    typer.echo(
        f"  {happened['trainable_parameters']:,} of {happened['total_parameters']:,} parameters trained "
        f"in {happened['seconds']:.0f} s ({happened['samples_per_second']:.0f} claims a second); "
        f"kept step {happened['best_step']} of {happened['steps']}."
    )
    if happened["rank"] is not None:
        typer.echo(f"  rank {happened['rank']['trained']} trained, kept {happened['rank']['why']}.")
    typer.echo(f'  written to {done.folder}: try  lorahub classify "your claim" --adapter {done.folder}')


def recipes() -> None:
    """List the recipes that ship with lorahub."""
    from lorahub import config

    for name, path in config.shipped_recipes().items():
        first = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        typer.echo(f"{name:20} {first}")
