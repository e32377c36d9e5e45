"""`lorahub runs`: the finished runs as a table, filtered and sorted by any field of their records."""

from pathlib import Path
from typing import Annotated

import typer

from lorahub.cli.options import Json, Root


def runs(
    names: Annotated[list[str] | None, typer.Argument(help="Run folders; default: all under --root.")] = None,
    root: Root = Path("runs"),
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="Only runs for which it holds, as in 'data=pubhealth', 'adapter.rank>=8', 'f1_macro>0.5' or "
            "'name~seed'; = != < <= > >= or ~ (contains); repeatable.",
        ),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="Lowest first, or with -FIELD highest first; default: newest first."),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="FIELD,…", help="Only these fields of the record (docs/record.md)."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Show at most so many runs.", min=1)] = None,
    memory: Annotated[bool, typer.Option("--memory", help="Show the peak memory of CPU and GPU too.")] = False,
    as_json: Json = False,
) -> None:
    """List finished runs: before, the best of what costs nothing, and after, on test."""
    from lorahub import records, runfiles
    from lorahub.cli import show
    from lorahub.reports import run_table as listing
    from lorahub.reports import tables

    every = [records.load(runfiles.locate(name)) for name in names] if names else [run for _, run in records.find(root)]
    found = listing.select(every, where=where or (), sort=sort, limit=limit)
    fields = [name.strip() for name in columns.split(",")] if columns is not None else []
    listing.check(every, fields)
    if as_json:
        whole = not fields
        show.print_json(
            [
                run.to_dict() if whole else {name: listing.value(run, name) for name in ("name", *fields)}
                for run in found
            ]
        )
        return
    if not found:
        typer.echo("no run is like that." if every else f"no finished run under {root}. Train one with: lorahub train")
        return
    more = [*fields, *(listing.MEMORY if memory else ())]
    header = (*(("run",) if fields else tables.RUNS_HEADER), *(listing.MEMORY.get(name, name) for name in more))
    first = [(run.name,) if fields else tables.run_row(run) for run in found]
    show.table(header, [(*one, *rest) for one, rest in zip(first, listing.rows(found, more), strict=True)])
    for run in found if not fields else ():
        typer.echo(f"  {run.name}: {tables.verdict(run)}")
