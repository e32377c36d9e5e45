"""Classify a file as a stream: the same rows with verdict columns added, a chunk at a time.

Per adapter the output has `NAME.label`, `NAME.confidence` (calibrated), `NAME.abstain` (the confidence is below the
adapter's threshold), `NAME.truncated` (the row is longer than the adapter reads), `NAME.p.LABEL` (plain softmax) and
`NAME.calibrated.LABEL`. The output is complete or absent.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from lorahub import atomic
from lorahub.data import columns, tables
from lorahub.data.rows import Row, Table
from lorahub.errors import ConfigError, DataError
from lorahub.serving.predictor import Predictor, Verdict

CHUNK_ROWS = 512


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file to classify: its table, and the columns of claims and evidence. `notes` are sentences for the user."""

    table: Table
    claim: str
    evidence: str | None
    notes: list[str]


def classify_file(
    predictor: Predictor,
    source: Path,
    output: Path,
    *,
    adapters: Sequence[str] | None = None,
    claim: str | None = None,
    evidence: str | None = None,
    sheet: str | None = None,
    adjust: bool = True,
    chunk_rows: int = CHUNK_ROWS,
) -> Iterator[tuple[list[Row], dict[str, list[Verdict]]]]:
    """Classify a file chunk by chunk: yield the rows just written, and adapter name -> one verdict per row.

    `output` appears after the last chunk; closing the iterator earlier leaves nothing behind. Raises ConfigError and
    DataError.
    """
    opened = check(source, output, claim=claim, evidence=evidence, sheet=sheet)
    names = predictor.names if adapters is None else list(adapters)
    schema = tables.schema(opened.table)
    clash = [column for column in schema.names if any(column.startswith(f"{name}.") for name in names)]
    if clash:
        raise DataError(f"{source} already has the column {clash[0]!r}, which this would write. Rename or remove it.")
    done = 0
    with (
        atomic.replacing(output) as temporary,
        tables.Writer(temporary, kind=output.suffix.lower(), schema=schema) as writer,
    ):
        reader = opened.table.rows()
        while rows := list(islice(reader, chunk_rows)):
            texts = _texts(rows, opened.claim, source, done)
            second = None if opened.evidence is None else _texts(rows, opened.evidence, source, done, empty_ok=True)
            verdicts = predictor.classify(texts, names, evidence=second, adjust=adjust)
            writer.write(
                [
                    row | verdict_columns({name: verdicts[name][place] for name in names})
                    for place, row in enumerate(rows)
                ]
            )
            done += len(rows)
            yield rows, verdicts
        if not done:
            raise DataError(f"{source} has a header but no rows. Add some.")


def check(source: Path, output: Path, *, claim: str | None, evidence: str | None, sheet: str | None = None) -> Source:
    """Open the file and choose its columns, without loading a model; raises ConfigError and DataError."""
    if output.resolve() == source.resolve():
        raise ConfigError(f"--output is the input file {source}. Give another name.")
    tables.check_writable(output)
    table = columns.without_header(tables.open_table(source, sheet=sheet), (claim, evidence))
    chosen = columns.choose(table, claim, columns.CLAIMS, flag="--claim COLUMN")
    if evidence is not None:
        evidence = columns.choose(table, evidence, (), flag="--evidence COLUMN")
    flag = columns.check_holds_texts(table, chosen, named=claim is not None, flag="--claim COLUMN")
    return Source(table=table, claim=chosen, evidence=evidence, notes=[*table.notes, *([flag] if flag else [])])


def verdict_columns(verdicts: Mapping[str, Verdict]) -> Row:
    """Return the output columns of one row."""
    row: Row = {}
    for name, verdict in verdicts.items():
        row[f"{name}.label"] = verdict.label
        row[f"{name}.confidence"] = verdict.confidence
        row[f"{name}.abstain"] = verdict.abstain
        row[f"{name}.truncated"] = verdict.truncated
        row |= {f"{name}.p.{label}": value for label, value in verdict.probabilities.items()}
        row |= {f"{name}.calibrated.{label}": value for label, value in verdict.calibrated.items()}
    return row


def _texts(rows: Sequence[Row], column: str, source: Path, done: int, *, empty_ok: bool = False) -> list[str]:
    """Return the texts of a column, cleaned as in training; `done` rows of `source` precede them."""
    return [
        columns.clean_text(columns.cell(row, column), f"{source}, row {number}: column {column!r}", empty_ok=empty_ok)
        for number, row in enumerate(rows, start=done + 1)
    ]
