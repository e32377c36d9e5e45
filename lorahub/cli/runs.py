"""`lorahub runs`: the finished runs as a table, filtered and sorted by any field of their records."""

from pathlib import Path
from typing import Annotated

import typer

from lorahub.cli import terminal
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
    """List finished runs with their test results: before training, the best baseline, and after."""
    from lorahub import records, runfiles
    from lorahub.cli import show
    from lorahub.reports import run_table

    every = [records.load(runfiles.locate(name)) for name in names] if names else [run for _, run in records.find(root)]
    chosen = run_table.select(every, where=where or (), sort=sort, limit=limit)
    fields = [name.strip() for name in columns.split(",")] if columns is not None else []
    run_table.check(every, fields)
    if as_json:
        named = ("name", *fields)
        picked = [dict(zip(named, run_table.pick(run, named), strict=True)) for run in chosen]
        show.print_json(picked if fields else [run.to_dict() for run in chosen])
        return
    if not chosen:
        none = f"no finished run under {root}. Train one with: lorahub train"
        terminal.line("no run meets these conditions." if every else none)
        return
    table = run_table.table(chosen, fields, memory=memory)
    show.table(table.header, table.rows)
    for run in chosen if not fields else ():
        terminal.line(f"  {run.name}: {run_table.verdict(run)}")
