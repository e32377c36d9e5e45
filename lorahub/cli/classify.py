"""`lorahub classify`: verdicts for texts and files."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorahub.cli.options import AdapterBase, Adjust, Json, Token
from lorahub.errors import ConfigError, need

if TYPE_CHECKING:
    from lorahub.serving.mixed import Together


def classify(
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="Claims to judge.")] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(help="Run folder, name under runs/ or USER/NAME[@REV]; repeatable.")
    ] = None,
    base: AdapterBase = None,
    file: Annotated[Path | None, typer.Option(help="csv, tsv, jsonl or parquet file to classify.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where the file with verdict columns goes.")] = None,
    claim: Annotated[str | None, typer.Option(help="Column with the claims.")] = None,
    evidence: Annotated[
        str | None, typer.Option(help="Column with a second text (with TEXT: the text itself).")
    ] = None,
    adjust: Adjust = True,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Judge claims with one or more adapters: in one pass over one base, those that cannot share it apart."""
    if not adapter:
        raise ConfigError("no adapter is given. Add --adapter FOLDER; `lorahub runs` lists the runs that exist.")
    if bool(texts) == (file is not None):
        raise ConfigError("give either TEXT... or --file FILE.")
    if file is not None and output is None:
        raise ConfigError("--file needs --output, the file to write.")
    if output is not None and file is None:
        raise ConfigError("--output needs --file, the file to classify; the verdict on a TEXT is printed.")
    blank = [place for place, text in enumerate(texts or (), start=1) if not text.strip()]
    if blank:
        raise ConfigError(f"TEXT number {blank[0]} is empty. Leave it out.")
    need("torch", extra="train")
    from lorahub.serving import files
    from lorahub.serving.mixed import Together

    if file is not None and output is not None:
        # Before the bases, which take longer.
        files.check(file, output, claim=claim, evidence=evidence)
        opened = Together(adapter, base, token=token)
        _file(opened, file, output, claim=claim, evidence=evidence, adjust=adjust, as_json=as_json)
    elif texts:
        _texts(Together(adapter, base, token=token), texts, evidence=evidence, adjust=adjust, as_json=as_json)


def _file(
    opened: "Together",
    file: Path,
    output: Path,
    *,
    claim: str | None,
    evidence: str | None,
    adjust: bool,
    as_json: bool,
) -> None:
    from lorahub.cli import show
    from lorahub.serving import files

    with show.counting("classifying", quiet=as_json) as bar:
        task = bar.add_task("rows", total=None)
        rows = files.classify_file(
            opened,
            file,
            output,
            claim=claim,
            evidence=evidence,
            adjust=adjust,
            on_rows=lambda count: bar.advance(task, count),
        )
    if as_json:
        show.print_json({"rows": rows, "output": str(output), "adapters": opened.names})
    else:
        typer.echo(f"{rows:,} rows written to {output}")


def _texts(opened: "Together", texts: list[str], *, evidence: str | None, adjust: bool, as_json: bool) -> None:
    from lorahub.cli import show

    answers = opened.classify(texts, evidence=[evidence] * len(texts) if evidence else None, adjust=adjust)
    found = [(text, name, answers[name][place]) for place, text in enumerate(texts) for name in answers]
    if as_json:
        show.print_json([{"text": text, "adapter": name, **asdict(verdict)} for text, name, verdict in found])
        return
    rows = []
    for text, name, verdict in found:
        shares = sorted(verdict.calibrated.items(), key=lambda item: -item[1])
        label = f"{verdict.label} (abstains)" if verdict.abstain else verdict.label
        rows.append((text, name, label, "  ".join(f"{label} {share:.2f}" for label, share in shares)))
    show.table(("claim", "adapter", "verdict", "calibrated"), rows)
