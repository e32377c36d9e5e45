"""`lorahub space`: the app on a Space."""

from typing import TYPE_CHECKING, Annotated

import typer

from lorahub.cli import terminal
from lorahub.cli.options import Json, Message, Private, Token
from lorahub.errors import ConfigError

if TYPE_CHECKING:
    from lorahub.publish.space import Plan


def space(
    repo: Annotated[str, typer.Argument(metavar="USER/NAME", help="The Space; created if it does not exist.")],
    adapters: Annotated[
        str, typer.Option(metavar="A,B…", help="Adapters on the Hub: USER/NAME or USER/NAME@REVISION.")
    ],
    base: Annotated[
        str | None, typer.Option(help="Base of the adapters on the Hub; default: the first adapter's, if it is yours.")
    ] = None,
    hardware: Annotated[
        str | None, typer.Option(help="Hardware, as in zero-a10g; default: the current one, or cpu-basic.")
    ] = None,
    title: Annotated[
        str | None, typer.Option(help="Title; default: the current one, or the repository's name.")
    ] = None,
    emoji: Annotated[str | None, typer.Option(help="Emoji beside the title; default: the current one.")] = None,
    private: Private = False,
    message: Message = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show files, sizes, README and requirements; send nothing.")
    ] = False,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Publish the app with adapters from the Hub as a Space, in one commit."""
    from lorahub.cli import show
    from lorahub.publish import space as publishing
    from lorahub.reports import tables

    names = [name.strip() for name in adapters.split(",") if name.strip()]
    if not names:
        raise ConfigError("--adapters is empty. Give USER/NAME, several separated by commas.")
    plan = publishing.plan(
        publishing.Options(
            repo=repo,
            adapters=names,
            base=base,
            hardware=hardware,
            private=private,
            message=message,
            title=title,
            emoji=emoji,
            token=token,
        )
    )
    if dry_run:
        _print_json(plan) if as_json else _show(plan)
        return
    show.notes(plan.notes)
    done = publishing.send(plan)
    if as_json:
        show.print_json({**vars(done), "notes": plan.notes})
    elif not plan.changed and not plan.deleted:
        terminal.line(f"{done.url} is up to date: no new commit.")
    else:
        terminal.line(
            f"published {len(done.sent)} files ({tables.size(done.bytes_sent)}) as {done.url} at {done.commit}"
        )
        terminal.line("  The Hub builds it in a few minutes; the page of the Space shows the progress.")


def _print_json(plan: "Plan") -> None:
    from lorahub.cli import show

    show.print_json(
        {
            "repo": plan.space.repo,
            "exists": plan.head is not None,
            "base": str(plan.space.base),
            "adapters": [str(one) for one in plan.space.adapters],
            "hardware": plan.space.hardware,
            "files": [
                {"path": path, "bytes": len(content), "changed": path in plan.changed}
                for path, content in plan.files.items()
            ],
            "deleted": plan.deleted,
            "bytes_to_send": plan.bytes_to_send,
            "notes": plan.notes,
            "readme": _text(plan, "README.md"),
            "requirements": _text(plan, "requirements.txt"),
        }
    )


def _show(plan: "Plan") -> None:
    from lorahub.cli import show

    show.planned_upload(
        f"{plan.space.repo} ({'exists' if plan.head else 'would be created'}), a Space",
        {
            path: (len(content), "changed" if path in plan.changed else "unchanged")
            for path, content in plan.files.items()
        },
        deleted=plan.deleted,
        changed=len(plan.changed),
        bytes_to_send=plan.bytes_to_send,
        notes=plan.notes,
    )
    for name in ("README.md", "requirements.txt"):
        terminal.lines(f"\n{name}:\n\n{_text(plan, name)}")


def _text(plan: "Plan", name: str) -> str:
    return plan.files[name].decode()
