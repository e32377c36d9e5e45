"""`lorahub pull`, `lorahub list` and `lorahub info`: adapters on the Hub and on this machine."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lorahub.cli import terminal
from lorahub.cli.options import Adapter, Json, Root, Token
from lorahub.errors import ConfigError, HubError, UnsafeAdapterError


def pull(
    repo: Annotated[str, typer.Argument(metavar="USER/NAME[@REVISION]", help="Adapter on the Hub.")],
    out: Annotated[Path | None, typer.Option(help="Also copy it into this new folder.")] = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Check the files of an adapter on the Hub and download it at one commit; offline, use the cache.

    Exit code 1 if it is not safe to load, or its files are not those of its record.
    """
    from lorahub import atomic
    from lorahub.cli import show
    from lorahub.hub import fetch, scan

    hub_id = fetch.hub_id(repo)
    if hub_id is None:
        raise ConfigError(f"{repo!r} is not a Hub id. Give USER/NAME or USER/NAME@REVISION.")
    if out is not None and out.exists():
        raise ConfigError(f"--out {out} exists. Choose a new folder.")
    try:
        # Not `fetch.adapter`, which prefers a local folder of that name.
        download = fetch.download(*hub_id, token=token)
        verdict = scan.scan_folder(f"{download.repo}@{download.revision}", download.folder)
    except UnsafeAdapterError as error:
        verdict = scan.refused(repo, error)
    if not verdict.safe or verdict.altered:
        if as_json:
            show.print_json({"folder": None, "safety": asdict(verdict)})
        else:
            terminal.line(verdict.name)
            show.verdict(verdict)
            terminal.line("  not pulled")
        raise typer.Exit(1)
    if out is not None:
        with atomic.replacing_folder(out) as part:
            fetch.copy(download, part)
    folder = out or download.folder
    if as_json:
        result = {"repo": download.repo, "revision": download.revision, "folder": str(folder)}
        show.print_json({**result, "safety": asdict(verdict)})
    else:
        terminal.line(verdict.name)
        show.verdict(verdict)
        terminal.line(f"  in {folder}")
        terminal.line(f'  Next:  lorahub classify "your claim" --adapter {out or verdict.name}')


def list_adapters(
    base: Annotated[str | None, typer.Option(help="Only adapters of this base.")] = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="METRIC", help="accuracy, f1_macro, f1_weighted or ece; default: newest first."),
    ] = None,
    root: Root = Path("runs"),
    local: Annotated[bool, typer.Option("--local", help="Only runs on this machine.")] = False,
    limit: Annotated[int, typer.Option(help="Maximum number of adapters from the Hub.")] = 100,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """List adapters on the Hub and under --root with labels, metrics, size and date."""
    from lorahub.cli import show
    from lorahub.hub import search

    adapters = search.here(root, base)
    if not local:
        try:
            adapters += search.hub(base, limit=limit, token=token)
        except HubError as error:
            if not error.unavailable:
                raise
            terminal.line(f"note: listing only runs on this machine and the cache: {error}", err=True)
            adapters += search.cached(base)
    adapters = search.sort(adapters, sort)
    if as_json:
        show.print_json({"adapters": [asdict(item) for item in adapters]})
        return
    if not adapters:
        terminal.line("no adapter found. Train one: lorahub train")
        return
    show.table(search.HEADER, [search.row(item) for item in adapters])


def info(
    adapter: Adapter,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Show one adapter and its safety checks; exit code 1 if it is not safe to load."""
    from lorahub.cli import show
    from lorahub.hub import search

    details = search.inspect(adapter, token=token)
    if as_json:
        show.print_json(details.to_dict())
    else:
        for name, value in details.lines():
            terminal.line(f"  {name}: {value}")
        show.verdict(details.verdict)
    if not details.verdict.safe:
        raise typer.Exit(1)
