"""`lorahub pull`, `lorahub list` and `lorahub info`: what is on the Hub and here."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lorahub.cli.options import Adapter, Json, Root, Token
from lorahub.errors import ConfigError, HubError


def pull(
    repo: Annotated[str, typer.Argument(metavar="USER/NAME[@REVISION]", help="Adapter on the Hub.")],
    out: Annotated[Path | None, typer.Option(help="Copy it into this new folder too.")] = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Download an adapter at one commit, once it has been looked at; from the cache when offline."""
    from lorahub import atomic
    from lorahub.cli import show
    from lorahub.hub import fetch

    wanted = fetch.hub_id(repo)
    if wanted is None:
        raise ConfigError(f"{repo!r} is no Hub id. Give USER/NAME or USER/NAME@REVISION.")
    if out is not None and out.exists():
        raise ConfigError(f"--out {out} exists. Choose a new folder.")
    # A folder of that name on this machine is not what was asked for.
    found = fetch.download(*wanted, token=token)
    if out is not None:
        with atomic.replacing_folder(out) as part:
            fetch.copy(found, part)
    pinned, folder = f"{found.repo}@{found.revision}", out or found.folder
    if as_json:
        show.print_json({"repo": found.repo, "revision": found.revision, "folder": str(folder)})
    else:
        typer.echo(f'{pinned}\n  in {folder}\n  try it:  lorahub classify "your claim" --adapter {out or pinned}')


def list_adapters(
    base: Annotated[str | None, typer.Option(help="Only adapters of this base.")] = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="METRIC", help="accuracy, f1_macro, f1_weighted or ece; default: newest first."),
    ] = None,
    root: Root = Path("runs"),
    local: Annotated[bool, typer.Option("--local", help="Only the runs here.")] = False,
    limit: Annotated[int, typer.Option(help="Most adapters to ask the Hub for.")] = 100,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """List adapters, on the Hub and under --root, with labels, figures, size and date."""
    from lorahub.cli import show
    from lorahub.hub import search

    found = search.here(root, base)
    if not local:
        try:
            found += search.hub(base, limit=limit, token=token)
        except HubError as error:
            if error.reached:
                raise
            typer.echo(f"note: only the runs here: {error}", err=True)
    found = search.sort(found, sort)
    if as_json:
        show.print_json({"adapters": [asdict(item) for item in found]})
        return
    if not found:
        typer.echo("no adapter found. Train one with: lorahub train")
        return
    show.table(search.HEADER, [search.row(item) for item in found])


def info(
    adapter: Adapter,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Show one adapter and what speaks against loading it; exit code 1 where something does."""
    from lorahub.cli import show
    from lorahub.hub import search

    found = search.inspect(adapter, token=token)
    if as_json:
        show.print_json(found.to_dict())
    else:
        for name, value in found.lines():
            typer.echo(f"  {name}: {value}")
        for finding in found.report.findings:
            typer.echo(f"  {'REFUSED' if finding.refused else 'note'}: {finding.text}")
        if not found.report.refused:
            typer.echo("  safety: nothing speaks against loading it")
    if found.report.refused:
        raise typer.Exit(1)
