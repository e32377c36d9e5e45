"""`lorahub job`: train as a Hub Job. Prints the plan, starts the Job and follows its log."""

from typing import TYPE_CHECKING, Annotated

import typer

from lorahub.cli import terminal
from lorahub.cli.options import Base, Data, ForcePush, Json, Method, Private, Recipe, Seed, Set, Token

if TYPE_CHECKING:
    from lorahub.publish.jobs import Plan


def job(
    flavor: Annotated[str, typer.Option("--flavor", "--remote", metavar="FLAVOR", help="Hardware, as in a10g-small.")],
    push: Annotated[
        str, typer.Option(metavar="USER/NAME", help="Repository for the run: the disk of a Job is deleted at its end.")
    ],
    recipe: Recipe = None,
    data: Data = None,
    base: Base = None,
    method: Method = None,
    seed: Seed = None,
    settings: Set = None,
    timeout: Annotated[str, typer.Option(help="Longest duration of the Job, as in 90m.")] = "2h",
    upload_data: Annotated[
        bool, typer.Option("--upload-data", help="Upload local data to a private data set of yours.")
    ] = False,
    private: Private = False,
    force_push: ForcePush = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the Job and its price; start nothing.")] = False,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Train as a Hub Job and push the run; exit code 1 if the Job fails. Ctrl-C leaves the Job running."""
    from lorahub import config as configs
    from lorahub.cli import show
    from lorahub.publish import jobs

    flags = configs.flags(data=data, base=base, method=method, seed=seed)
    options = jobs.Options(
        flavor=flavor,
        push=push,
        timeout=timeout,
        upload_data=upload_data,
        private=private,
        force=force_push,
        token=token,
    )
    plan = jobs.plan(configs.load(recipe, [*flags, *(settings or ())]), options)
    if dry_run:
        show.print_json(plan.to_dict()) if as_json else _print(plan)
        return
    terminal.line(f"note: {plan.cost}, at most {timeout}; Jobs need credits or a PRO account.", err=True)
    started = jobs.start(plan)
    log, cancel = f"hf jobs logs {started.id}", f"hf jobs cancel {started.id}"
    terminal.line(f"job {started.id} on {flavor}: {started.url}", err=True)
    terminal.line(f"  cancel it with:  {cancel}", err=True)
    try:
        stage = jobs.follow(started, token=token, tell=lambda text: terminal.lines(text, err=as_json))
    except KeyboardInterrupt:
        terminal.line(f"lorahub: the Job keeps running. Its log: {log}. Cancel it: {cancel}", err=True)
        raise typer.Exit(130) from None
    if as_json:
        show.print_json({"job": started.id, "url": started.url, "stage": stage, "repo": push})
    if stage != "COMPLETED":
        terminal.line(f"lorahub: the Job ended with {stage}, so its run may be missing. Its log: {log}", err=True)
        raise typer.Exit(1)
    if not as_json:
        terminal.line(f"the Job is completed. Next:  lorahub verify {push}")


def _print(plan: "Plan") -> None:
    for key, value in plan.to_dict().items():
        text = " ".join(value) if isinstance(value, list) else value
        if isinstance(value, dict):
            text = "; ".join(f"{', '.join(files)} to the private data set {repo}" for repo, files in value.items())
        terminal.line(f"  {key}: {text or 'none'}")
    terminal.line("  Nothing was sent or started.")
