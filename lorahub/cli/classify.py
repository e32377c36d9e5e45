"""`lorahub classify`: verdicts for texts and files."""

import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorahub.cli import terminal
from lorahub.cli.options import AdapterBase, Adjust, Json, Token
from lorahub.errors import ConfigError, need

if TYPE_CHECKING:
    from lorahub.serving.predictor import Verdict

# Characters of a text in a table.
_SHOWN = 80


def classify(
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT", help="Texts to classify; `-` reads one from each line of standard input."),
    ] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(help="Run folder, name under runs/ or USER/NAME[@REV]; repeatable.")
    ] = None,
    base: AdapterBase = None,
    file: Annotated[Path | None, typer.Option(help="csv, tsv, json, jsonl, xlsx or parquet file to classify.")] = None,
    output: Annotated[Path | None, typer.Option(help="File to write: the rows of --file with verdict columns.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace --output where it exists.")] = False,
    sheet: Annotated[str | None, typer.Option(help="Sheet of an xlsx file; default: the first one.")] = None,
    claim: Annotated[
        str | None, typer.Option(help="Column of the claims: its name, a dotted name in it, or its position.")
    ] = None,
    evidence: Annotated[
        str | None, typer.Option(help="Column of the evidence; with TEXT, the evidence itself.")
    ] = None,
    adjust: Adjust = True,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Classify texts or a file with one or more adapters; those that can share a base run in one pass."""
    if not adapter:
        raise ConfigError("no adapter is given. Add --adapter FOLDER; `lorahub runs` lists the runs that exist.")
    if bool(texts) == (file is not None):
        raise ConfigError("give either TEXT... or --file FILE.")
    if (file is None) != (output is None):
        raise ConfigError("--file and --output belong together: the file to classify, and the file to write.")
    if texts and "-" in texts:
        texts = _standard_input(texts)
    blank = [number for number, text in enumerate(texts or (), start=1) if not text.strip()]
    if blank:
        raise ConfigError(f"TEXT number {blank[0]} is empty. Leave it out.")
    need("torch", extra="train")
    from lorahub.cli import show
    from lorahub.serving import files
    from lorahub.serving.loading import MixedPredictor, open_predictors
    from lorahub.serving.predictor import NotFiniteError

    if file is not None and output is not None:
        # Before the bases, which take longer.
        opened = files.check(file, output, claim=claim, evidence=evidence, sheet=sheet)
        if output.exists() and not force:
            raise ConfigError(f"--output {output} exists already. Add --force to replace it, or give another name.")
        show.notes(opened.notes)
    predictor = MixedPredictor(open_predictors(adapter, base, token=token))
    if file is None or output is None:
        second = [evidence] * len(texts or ()) if evidence else None
        try:
            _show(texts or [], predictor.classify(texts or [], evidence=second, adjust=adjust), as_json=as_json)
        except NotFiniteError as error:
            answered = {name: prediction.verdicts(adjust=adjust) for name, prediction in error.answered.items()}
            _show(texts or [], answered, as_json=as_json)
            raise
        return
    rows = 0
    with show.counting("classifying", quiet=as_json) as bar:
        task = bar.add_task("rows", total=None)
        for chunk, _ in files.classify_file(
            predictor, file, output, claim=claim, evidence=evidence, sheet=sheet, adjust=adjust
        ):
            rows += len(chunk)
            bar.advance(task, len(chunk))
    if as_json:
        show.print_json({"rows": rows, "output": str(output), "adapters": predictor.names})
    else:
        terminal.line(f"{rows:,} rows written to {output.resolve()}")


def _standard_input(texts: list[str]) -> list[str]:
    """Return the lines of standard input that are not blank."""
    if len(texts) > 1:
        raise ConfigError("`-` reads the texts from standard input; give no other TEXT with it.")
    try:
        lines = typer.get_binary_stream("stdin").read().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"standard input is not UTF-8 (byte {error.start}). Convert it, or use --file.") from None
    if not (claims := [line for line in lines if line.strip()]):
        raise ConfigError("standard input is empty. Give one text per line, as in: echo TEXT | lorahub classify -")
    return claims


def _shortened(text: str) -> str:
    """Return the start of a long text, for a table; --json prints texts as they are."""
    short = textwrap.shorten(text, _SHOWN, placeholder=" …")
    return short if len(short) > 2 or len(text) <= 2 else f"{text[: _SHOWN - 1]}…"


def _show(texts: list[str], verdicts: "dict[str, list[Verdict]]", *, as_json: bool) -> None:
    from lorahub.cli import show

    answers = [(text, name, verdicts[name][place]) for place, text in enumerate(texts) for name in verdicts]
    if as_json:
        show.print_json([{"text": text, "adapter": name, **asdict(verdict)} for text, name, verdict in answers])
        return
    rows = []
    for text, name, verdict in answers:
        shares = sorted(verdict.calibrated.items(), key=lambda item: -item[1])
        marks = [*(["abstains"] if verdict.abstain else []), *(["truncated"] if verdict.truncated else [])]
        label = f"{verdict.label} ({', '.join(marks)})" if marks else verdict.label
        rows.append((_shortened(text), name, label, "  ".join(f"{label} {share:.2f}" for label, share in shares)))
    show.table(("claim", "adapter", "verdict", "calibrated"), rows)
