"""Classifying a file: rows in, the same rows plus verdict columns out, a chunk at a time.

Per adapter the output has `NAME.label`, `NAME.confidence` (calibrated), `NAME.abstain` (the confidence is below the
adapter's threshold), `NAME.p.LABEL` (plain softmax) and `NAME.calibrated.LABEL`. The output appears whole or not at
all.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from lorahub import atomic
from lorahub.data import columns, tables
from lorahub.errors import ConfigError, DataError
from lorahub.serving.engine.engine import Verdict

ROWS_AT_ONCE = 512


class Classifies(Protocol):
    """What gives verdicts by adapter: an `Engine`, or what borrows a GPU for one."""

    @property
    def names(self) -> list[str]:
        """The adapters that may be asked."""

    def classify(
        self,
        texts: Sequence[str],
        adapters: Sequence[str] | None = None,
        *,
        evidence: Sequence[str] | None = None,
        adjust: bool = True,
    ) -> dict[str, list[Verdict]]:
        """Adapter name -> one Verdict per text."""


def classify_file(
    engine: Classifies,
    source: Path,
    output: Path,
    *,
    adapters: Sequence[str] | None = None,
    claim: str | None = None,
    evidence: str | None = None,
    adjust: bool = True,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> int:
    """Classify every row of `source` into `output` and return how many there were; raises DataError."""
    done = 0
    for rows, _ in stream(engine, source, output, adapters=adapters, claim=claim, evidence=evidence, adjust=adjust):
        done += len(rows)
        on_rows(len(rows))
    return done


def stream(
    engine: Classifies,
    source: Path,
    output: Path,
    *,
    adapters: Sequence[str] | None = None,
    claim: str | None = None,
    evidence: str | None = None,
    adjust: bool = True,
    rows_at_once: int = ROWS_AT_ONCE,
) -> Iterator[tuple[list[dict[str, Any]], dict[str, list[Verdict]]]]:
    """The same chunk by chunk: yield the rows that were just written, and adapter name -> a verdict for each.

    `output` appears when the last chunk was taken; who stops before, or closes this, leaves nothing behind.
    """
    claim, evidence = check(source, output, claim=claim, evidence=evidence)
    names = engine.names if adapters is None else list(adapters)
    schema = tables.schema(source)
    clash = [column for column in schema.names if any(column.startswith(f"{name}.") for name in names)]
    if clash:
        raise DataError(f"{source} already has the column {clash[0]!r}, which this would write. Rename or remove it.")
    done = 0
    kind = output.suffix.lower()
    with atomic.replacing(output) as temporary, tables.Writer(temporary, kind=kind, schema=schema) as writer:
        for rows in _chunks(tables.read(source), rows_at_once):
            texts = _texts(rows, claim, source, done)
            second = None if evidence is None else _texts(rows, evidence, source, done, empty_ok=True)
            answers = engine.classify(texts, names, evidence=second, adjust=adjust)
            writer.write(
                [
                    {**row, **verdict_columns({name: answers[name][place] for name in names})}
                    for place, row in enumerate(rows)
                ]
            )
            done += len(rows)
            yield rows, answers
        if not done:
            raise DataError(f"{source} has a header but no row. Add some.")


def check(source: Path, output: Path, *, claim: str | None, evidence: str | None) -> tuple[str, str | None]:
    """Return the claim and evidence columns to read; raises DataError. Quick: it needs no engine."""
    if output.resolve() == source.resolve():
        raise ConfigError(f"--output is the input file {source}. Give another name.")
    tables.check_writable(output)
    present = tables.columns(source)
    claim = columns.choose(str(source), present, claim, columns.CLAIMS, flag="--claim COLUMN")
    if evidence is not None:
        evidence = columns.choose(str(source), present, evidence, (), flag="--evidence COLUMN")
    return claim, evidence


def verdict_columns(answers: Mapping[str, Verdict]) -> dict[str, Any]:
    """The output columns of one row."""
    found: dict[str, Any] = {}
    for name, verdict in answers.items():
        found[f"{name}.label"] = verdict.label
        found[f"{name}.confidence"] = verdict.confidence
        found[f"{name}.abstain"] = verdict.abstain
        found |= {f"{name}.p.{label}": value for label, value in verdict.probabilities.items()}
        found |= {f"{name}.calibrated.{label}": value for label, value in verdict.calibrated.items()}
    return found


def _chunks(rows: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    while chunk := list(islice(rows, size)):
        yield chunk


def _texts(
    rows: Sequence[Mapping[str, Any]], column: str, source: Path, done: int, *, empty_ok: bool = False
) -> list[str]:
    """The texts of a column, read as training reads them; `done` rows of `source` came before."""
    return [
        columns.clean_text(row.get(column), f"{source}, row {number}: column {column!r}", empty_ok=empty_ok)
        for number, row in enumerate(rows, start=done + 1)
    ]
