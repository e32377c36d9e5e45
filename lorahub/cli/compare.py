"""`lorahub compare`: adapters against each other or against their baselines, with p-values."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorahub.cli.publish import Token
from lorahub.errors import ConfigError

if TYPE_CHECKING:
    from lorahub.experiments.compare.result import Comparison


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(compare)


def compare(
    adapters: Annotated[
        list[str],
        typer.Argument(
            metavar="ADAPTER",
            help="Run folders, names under runs/, USER/NAME[@REV], or RUN:SYSTEM for a baseline, as in mine:tfidf.",
        ),
    ],
    data: Annotated[
        str | None, typer.Option(help="Data to judge on; default: the recorded, from stored predictions.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split to compare on: test, validation or train.")] = "test",
    metric: Annotated[str, typer.Option(help="What decides: f1_macro, f1_weighted, accuracy or ece.")] = "f1_macro",
    require_better: Annotated[
        str | None,
        typer.Option(
            metavar="BASELINE",
            help="majority, tfidf, linear_probe, untrained or a run: exit code 1 where an adapter is not shown to be "
            "better.",
        ),
    ] = None,
    base: Annotated[str | None, typer.Option(help="Base model for answers to compute; default: recorded.")] = None,
    resamples: Annotated[
        int | None, typer.Option(help="Resamples behind intervals and p-values; default: the first run's.", min=100)
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Coverage of the intervals; default: the first run's.", min=0.5, max=0.999)
    ] = None,
    adjust: Annotated[bool, typer.Option(help="Decide with the bias chosen on validation.")] = True,
    show_claims: Annotated[
        int, typer.Option("--show", metavar="N", help="Claims to list on which they disagree.", min=0)
    ] = 5,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the report as Markdown.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Write the report (Markdown, picture, JSON, claims) into a folder, or all disagreements into a file "
            "ending in .csv, .tsv, .jsonl or .parquet.",
        ),
    ] = None,
    token: Token = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, all disagreements in it.")] = False,
) -> None:
    """Compare adapters on the same claims: paired intervals, p-values, McNemar's test, and where they disagree.

    One run alone is compared with its own baselines.
    """
    from lorahub.cli import show
    from lorahub.experiments.compare import report as compare_report
    from lorahub.experiments.compare import run as comparing

    if as_json and markdown:
        raise ConfigError("--json and --markdown both fill stdout: give one of them, and --output for the other.")
    if output is not None:
        _check_output(output)
    found = comparing.compare(
        adapters,
        data=data,
        split=split,
        base=base,
        metric=metric,
        require_better=require_better,
        resamples=resamples,
        confidence=confidence,
        adjust=adjust,
        token=token,
    )
    written = _write(found, output) if output is not None else []
    if as_json:
        show.print_json(found.to_dict())
    elif markdown:
        typer.echo(compare_report.markdown(found, limit=show_claims), nl=False)
    else:
        _tell(found, show_claims)
    for path in written:
        typer.echo(f"  written to {path}", err=as_json or markdown)
    if found.required is not None and not found.required.met:
        raise typer.Exit(1)


def _check_output(output: Path) -> None:
    """Raise where `output` cannot be written, before anything is computed."""
    from lorahub import records
    from lorahub.data import tables
    from lorahub.errors import need

    if output.suffix.lower() in tables.SUFFIXES:
        tables.check_writable(output)
        return
    if output.is_file():
        raise ConfigError(
            f"--output {output} is a file. Name a folder for the report, or a {', '.join(tables.SUFFIXES)} file."
        )
    if (output / records.FILE_NAME).exists():
        raise ConfigError(f"--output {output} is a run folder, which keeps only its own files. Name another folder.")
    need("matplotlib", extra="train")


def _write(found: "Comparison", output: Path) -> list[Path]:
    from lorahub.data import tables
    from lorahub.experiments.compare import report as compare_report

    if output.suffix.lower() not in tables.SUFFIXES:
        return compare_report.save(found, output)
    compare_report.save_disagreements(found, output)
    return [output]


def _tell(found: "Comparison", claims: int) -> None:
    """The tables, then what they mean."""
    from lorahub.cli import show
    from lorahub.experiments.compare import report as compare_report

    where = f"{found.data}, {found.n:,} {found.split} claims"
    show.table(compare_report.SYSTEMS_HEADER, compare_report.systems(found), title=where)
    show.table(compare_report.DIFFERENCES_HEADER, compare_report.differences(found), title="differences")
    show.table(compare_report.MCNEMAR_HEADER, compare_report.mcnemar(found), title="McNemar's test")
    show.table(compare_report.LABELS_HEADER, compare_report.per_label(found), title="by label")
    if claims:
        rows = compare_report.disagreements(found, claims)
        typer.echo(compare_report.told(found, claims))
        if rows:
            show.table(compare_report.disagreements_header(found), rows)
    for line in compare_report.verdicts(found):
        typer.echo(f"  {line}")
    required = compare_report.requirement(found)
    if required:
        typer.echo(f"  {required}")
    typer.echo(f"  {compare_report.explanation(found)}")
    for line in found.notes:
        typer.echo(f"  note: {line}.")
