"""`lorahub space`: a Space that shows adapters."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorahub.cli.options import Json, Message, Private, Token
from lorahub.errors import ConfigError

if TYPE_CHECKING:
    from lorahub.publish.space import Plan


def space(
    repo: Annotated[str, typer.Argument(metavar="USER/NAME", help="The Space; made where it does not exist.")],
    adapters: Annotated[
        str, typer.Option(metavar="A,B…", help="Adapters on the Hub, by comma: USER/NAME or USER/NAME@REVISION.")
    ],
    base: Annotated[
        str | None, typer.Option(help="Their base on the Hub; default: the first adapter's, where it is yours.")
    ] = None,
    hardware: Annotated[
        str | None, typer.Option(help="What to run on, as in zero-a10g; default: cpu-basic, or what it has.")
    ] = None,
    private: Private = False,
    message: Message = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show files, sizes, README and requirements; send nothing.")
    ] = False,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Put the page of `lorahub app` on a Space, with adapters from the Hub, in one commit."""
    from lorahub.cli import show
    from lorahub.publish import space as publishing
    from lorahub.reports import tables

    names = [name.strip() for name in adapters.split(",") if name.strip()]
    if not names:
        raise ConfigError("--adapters names none. Give USER/NAME, several by comma.")
    plan = publishing.plan(
        publishing.Options(
            repo=repo, adapters=names, base=base, hardware=hardware, private=private, message=message, token=token
        )
    )
    if dry_run:
        show.print_json(_as_dict(plan)) if as_json else _show(plan)
        return
    show.notes(plan.notes)
    done = publishing.send(plan)
    if as_json:
        show.print_json({**vars(done), "notes": plan.notes})
    elif not plan.changed and not plan.deleted:
        typer.echo(f"{done.url} has all of this already: no new commit.")
    else:
        typer.echo(f"published {len(done.sent)} files ({tables.size(done.bytes_sent)}) as {done.url} at {done.commit}")
        typer.echo("  the Hub builds it now, which takes minutes; its page shows how far it is.")


def _as_dict(plan: "Plan") -> dict[str, Any]:
    return {
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


def _show(plan: "Plan") -> None:
    from lorahub.cli import show
    from lorahub.reports import tables

    rows = [
        (path, tables.size(len(content)), "changed" if path in plan.changed else "unchanged")
        for path, content in plan.files.items()
    ]
    rows += [(path, "", "would be deleted") for path in plan.deleted]
    state = "exists" if plan.head else "would be created"
    show.table(("file", "size", ""), rows, title=f"{plan.space.repo} ({state}), a Space")
    typer.echo(f"  {len(plan.changed)} files, {tables.size(plan.bytes_to_send)}, would be sent; nothing was.")
    for line in plan.notes:
        typer.echo(f"  note: {line}.")
    for name in ("README.md", "requirements.txt"):
        typer.echo(f"\n{name}:\n\n{_text(plan, name)}")


def _text(plan: "Plan", name: str) -> str:
    return plan.files[name].decode()
