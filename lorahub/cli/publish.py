"""`lorahub push` and `lorahub card`."""

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from lorahub.cli import terminal
from lorahub.cli.options import BaseId, Json, Language, License, Message, Private, Run, Token

if TYPE_CHECKING:
    from lorahub.publish.push import Plan


def push(
    run: Run,
    repo: Annotated[
        str | None,
        typer.Argument(metavar="[USER/NAME]", help="Repository; default: your own, named after the run."),
    ] = None,
    private: Private = False,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of committing.")] = False,
    revision: Annotated[str, typer.Option(help="Branch to push to; created if it does not exist.")] = "main",
    message: Message = None,
    collection: Annotated[str | None, typer.Option(help="Slug of a collection to add the repository to.")] = None,
    base_id: BaseId = None,
    licence: License = None,
    language: Language = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            metavar="TASK=METRIC",
            help="Submit the test result to this task, if the data set is a benchmark on the Hub.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace newer or unknown files on the Hub.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show files, sizes and card; send nothing.")] = False,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Publish a run with its evidence on the Hub, in one commit."""
    from lorahub import runfiles
    from lorahub.cli import show
    from lorahub.hub import fetch
    from lorahub.publish import push as publishing
    from lorahub.reports import tables

    options = publishing.Options(
        repo=repo,
        private=private,
        create_pr=create_pr,
        revision=revision,
        message=message,
        collection=collection,
        base_id=base_id,
        licence=licence,
        language=language,
        benchmark=benchmark,
        force=force,
        dry_run=dry_run,
        token=token,
    )
    plan = publishing.plan(runfiles.locate(run), options)
    if plan.assumed_licence and not dry_run and not as_json and sys.stdin.isatty():
        plan = publishing.plan(plan.folder, replace(options, licence=_ask_licence(plan)))
    if dry_run:
        _print_json(plan) if as_json else _show_plan(plan)
        return
    show.notes(plan.worse, plan.notes)
    if plan.deleted:
        terminal.line(f"note: removing {', '.join(plan.deleted)}, which are not in this run.", err=True)
    if plan.changed and not as_json:
        terminal.line(
            f"sending {len(plan.changed)} files, {tables.size(plan.bytes_to_send)}, to {plan.remote.repo}", err=True
        )
    done = publishing.send(plan)
    if as_json:
        show.print_json({**vars(done), "worse": plan.worse, "notes": plan.notes})
    elif not plan.changed and not plan.deleted:
        terminal.line(f"{done.url} is up to date: no new commit.")
    else:
        where = done.pull_request or f"{done.url} at {done.commit}"
        terminal.line(f"published {len(done.sent)} files ({tables.size(done.bytes_sent)}) as {where}")
        base = plan.export.record.environment
        trusted = "" if base.base_id == fetch.MINILM else f" --base {base.base_id}@{base.base_revision}"
        terminal.line(f"  Next:  lorahub verify {done.repo}@{done.commit}{trusted}")


def _ask_licence(plan: "Plan") -> str | None:
    """Ask for the license of the adapter; the default is that of the base, if it is permissive."""
    from lorahub.reports import sections

    default = sections.front_matter(plan.card).get("license")
    whose = f", as its base {plan.export.record.environment.base_id}" if default else ""
    answer = typer.prompt(f"License of the adapter{whose} (an id of the Hub, as in mit)", default=default or "none")
    return None if answer == "none" else str(answer)


def card(
    run: Run,
    write: Annotated[bool, typer.Option("--write", help="Update README.md of the run; your own text stays.")] = False,
    repo: Annotated[str | None, typer.Option(help="USER/NAME in the code examples; default: the folder.")] = None,
    licence: License = None,
    language: Language = None,
    as_json: Json = False,
) -> None:
    """Print the card of a run, generated from its record, or update it in place."""
    from lorahub import atomic, printable, records, runfiles
    from lorahub.cli import show
    from lorahub.reports import cards, sections

    folder = runfiles.locate(run)
    path = folder / runfiles.CARD
    generated = cards.render(
        records.load(folder), probe=cards.probe(folder), repo=repo, licence=licence, language=language
    )
    text = sections.merge(runfiles.read_text(path), generated) if path.exists() else generated
    if write:
        atomic.write_text(path, text)
    if as_json:
        show.print_json({"card": text, "metadata": sections.front_matter(text)})
    else:
        terminal.lines(f"{printable.line(str(path))} is updated." if write else text)


def _print_json(plan: "Plan") -> None:
    from lorahub.cli import show

    show.print_json(
        {
            "repo": plan.remote.repo,
            "revision": plan.options.revision,
            "exists": plan.remote.head is not None,
            "files": [
                {"path": path, "bytes": plan.export.size(path), "state": _state(plan, path)}
                for path in plan.export.files
            ],
            "deleted": plan.deleted,
            "bytes_to_send": plan.bytes_to_send,
            "worse": plan.worse,
            "notes": plan.notes,
            "card": plan.card,
        }
    )


def _show_plan(plan: "Plan") -> None:
    from lorahub.cli import show

    state = "exists" if plan.remote.head else "would be created"
    show.planned_upload(
        f"{plan.remote.repo} ({state}), branch {plan.options.revision}",
        {path: (plan.export.size(path), _state(plan, path)) for path in plan.export.files},
        deleted=plan.deleted,
        changed=len(plan.changed),
        bytes_to_send=plan.bytes_to_send,
        notes=[*plan.worse, *plan.notes],
    )
    terminal.lines(f"\n{plan.card}")


def _state(plan: "Plan", path: str) -> str:
    if path not in plan.changed:
        return "unchanged"
    return "changed" if path in plan.remote.hashes else "new"
