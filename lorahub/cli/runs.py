"""`lorahub runs`: the finished runs as a table."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(runs)


def runs(
    names: Annotated[list[str] | None, typer.Argument(help="Run folders; default: all under --root.")] = None,
    root: Annotated[Path, typer.Option(help="Folder that holds the runs.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as JSON.")] = False,
) -> None:
    """List finished runs: before, the best of what costs nothing, and after, on test."""
    from lorahub import records
    from lorahub.cli import show
    from lorahub.reports import tables

    found = [(folder, records.load(folder)) for folder in map(records.locate, names)] if names else records.find(root)
    if as_json:
        show.as_json([record.to_dict() for _, record in found])
        return
    if not found:
        typer.echo(f"no finished run under {root}. Train one with: lorahub train")
        return
    show.table(tables.RUNS_HEADER, [tables.run_row(record) for _, record in found])
    for _, record in found:
        typer.echo(f"  {record.name}: {tables.verdict(record)}")
