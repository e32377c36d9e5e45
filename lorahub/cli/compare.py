"""`lorahub compare`: adapters against each other or against their baselines, with p-values."""

from pathlib import Path
from typing import Annotated

import typer

from lorahub.cli.options import AdapterBase, Adjust, Json, Split, Token
from lorahub.errors import ConfigError


def compare(
    adapters: Annotated[
        list[str],
        typer.Argument(
            metavar="ADAPTER",
            help="Run folders, names under runs/, USER/NAME[@REV], or RUN:SYSTEM for a baseline, as in mine:tfidf.",
        ),
    ],
    data: Annotated[
        str | None, typer.Option(help="Data to evaluate on; default: the recorded data, from stored predictions.")
    ] = None,
    split: Split = "test",
    metric: Annotated[str, typer.Option(help="Deciding metric: f1_macro, f1_weighted, accuracy or ece.")] = "f1_macro",
    margin: Annotated[
        float | None,
        typer.Option(help="Difference in the metric below which two systems are equivalent, as in 0.02."),
    ] = None,
    require_better: Annotated[
        str | None,
        typer.Option(
            metavar="BASELINE",
            help="majority, tfidf, linear_probe, untrained or a run: exit code 1 unless every adapter is better.",
        ),
    ] = None,
    require_equivalent: Annotated[
        bool, typer.Option("--require-equivalent", help="Exit code 1 unless every pair is equivalent within --margin.")
    ] = False,
    base: AdapterBase = None,
    resamples: Annotated[
        int | None, typer.Option(help="Resamples of intervals and p-values; default: the first run's.", min=100)
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(help="Coverage of the intervals; default: the first run's.", min=0.5, max=0.999),
    ] = None,
    adjust: Adjust = True,
    show_claims: Annotated[
        int, typer.Option("--show", metavar="N", help="Number of claims to list on which the systems disagree.", min=0)
    ] = 5,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the report as Markdown.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Folder for the report (Markdown, figure, JSON, claims), or a .csv, .tsv, .jsonl or .parquet file for "
            "all disagreements.",
        ),
    ] = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Compare adapters on the same claims: paired intervals, p-values, McNemar's test and disagreements.

    A single run is compared with its own baselines. With --margin each pair is better, worse, equivalent or undecided,
    and the claims are listed that one of the two has right and the other one wrong.
    """
    from lorahub.cli import show
    from lorahub.data import tables
    from lorahub.experiments.compare import report as compare_report
    from lorahub.experiments.compare.run import compare as compare_adapters

    if as_json and markdown:
        raise ConfigError("--json and --markdown both print to stdout: use one of them, and --output for the other.")
    if output is not None:
        _check_output(output)
    comparison = compare_adapters(
        adapters,
        data=data,
        split=split,
        base=base,
        metric=metric,
        margin=margin,
        require_better=require_better,
        require_equivalent=require_equivalent,
        resamples=resamples,
        confidence=confidence,
        adjust=adjust,
        token=token,
    )
    written = []
    if output is not None and output.suffix.lower() in tables.WRITTEN:
        compare_report.save_disagreements(comparison, output)
        written = [output]
    elif output is not None:
        written = compare_report.build(comparison).save(output)
    show.report(
        compare_report.build(comparison, claims=show_claims), as_json=as_json, as_markdown=markdown, written=written
    )
    if comparison.required is not None and not comparison.required.met:
        raise typer.Exit(1)


def _check_output(output: Path) -> None:
    """Raise ConfigError or DataError before anything is computed if `output` cannot be written."""
    from lorahub import runfiles
    from lorahub.data import tables
    from lorahub.errors import need

    if output.suffix.lower() in tables.SUFFIXES:
        tables.check_writable(output)
        return
    if output.is_file():
        raise ConfigError(
            f"--output {output} is a file. Name a folder for the report, or a {', '.join(tables.WRITTEN)} file."
        )
    if runfiles.is_finished(output):
        raise ConfigError(f"--output {output} is a run folder, which holds only the run's files. Name another folder.")
    need("matplotlib", extra="train")
