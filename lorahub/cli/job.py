"""`lorahub train --remote`: says what a Job will do, starts it, and follows its log."""

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from lorahub.config import Config
    from lorahub.publish.jobs import Options


def train(config: "Config", options: "Options", *, dry_run: bool, as_json: bool) -> None:
    """Run a training as a Hub Job; exit code 1 where it fails. Ctrl-C leaves it running and says how to find it."""
    from lorahub.cli import show
    from lorahub.publish import jobs

    plan = jobs.plan(config, options)
    if dry_run:
        show.print_json(plan.to_dict()) if as_json else _show(plan.to_dict())
        return
    typer.echo(f"note: {plan.cost}, at most {options.timeout}; Jobs need credits or a PRO account.", err=True)
    job = jobs.start(plan)
    look, stop = f"hf jobs logs {job.id}", f"hf jobs cancel {job.id}"
    typer.echo(f"job {job.id} on {options.flavor}: {job.url}\n  stop it with:  {stop}", err=True)
    stage = "RUNNING"
    try:
        stage = jobs.follow(job, token=options.token, tell=lambda line: typer.echo(line, err=as_json))
    except KeyboardInterrupt:
        typer.echo(f"lorahub: the job goes on. Look again: {look}; stop it: {stop}", err=True)
        raise typer.Exit(130) from None
    if as_json:
        show.print_json({"job": job.id, "url": job.url, "stage": stage, "repo": options.push})
    if stage != "COMPLETED":
        typer.echo(f"lorahub: the job ended as {stage}, so nothing may be pushed. Its log: {look}", err=True)
        raise typer.Exit(1)
    if not as_json:
        typer.echo(f"the job is done. Try:  lorahub verify {options.push}")


def _show(spec: dict[str, Any]) -> None:
    for key, value in spec.items():
        text = " ".join(value) if isinstance(value, list) else value
        if isinstance(value, dict):
            text = "; ".join(f"{', '.join(files)} to the private data set {repo}" for repo, files in value.items())
        typer.echo(f"  {key}: {text or 'none'}")
    typer.echo("  nothing was sent or started.")
