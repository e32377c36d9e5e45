"""Classifying a file: rows in, the same rows plus verdict columns out, a chunk at a time.

Per adapter the output has `NAME.label`, `NAME.confidence` (calibrated), `NAME.p.LABEL` (plain softmax) and
`NAME.calibrated.LABEL`. The output appears whole or not at all.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from lorahub import atomic
from lorahub.data import tables
from lorahub.data.claims import CLAIM_COLUMNS
from lorahub.errors import ConfigError, DataError
from lorahub.serving.engine import Engine, Verdict

_ROWS_AT_ONCE = 512


def classify_file(
    engine: Engine,
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
    claim, evidence = check(source, output, claim=claim, evidence=evidence)
    names = list(engine.adapters) if adapters is None else list(adapters)
    clash = [column for column in tables.columns(source) if any(column.startswith(f"{name}.") for name in names)]
    if clash:
        raise DataError(f"{source} already has the column {clash[0]!r}, which this would write. Rename or remove it.")
    done = 0
    with atomic.replacing(output) as temporary, tables.Writer(temporary, kind=output.suffix.lower()) as writer:
        for rows in _chunks(tables.read(source)):
            texts = [_text(row, claim, source, done + place) for place, row in enumerate(rows, start=1)]
            second = None if evidence is None else [str(row.get(evidence) or "") for row in rows]
            answers = engine.classify(texts, names, evidence=second, adjust=adjust)
            writer.write(
                [
                    {**row, **verdict_columns({name: answers[name][place] for name in names})}
                    for place, row in enumerate(rows)
                ]
            )
            done += len(rows)
            on_rows(len(rows))
        if not done:
            raise DataError(f"{source} has a header but no row. Add some.")
    return done


def check(source: Path, output: Path, *, claim: str | None, evidence: str | None) -> tuple[str, str | None]:
    """Return the claim and evidence columns to read; raises DataError. Quick: it needs no engine."""
    if output.resolve() == source.resolve():
        raise ConfigError(f"--output is the input file {source}. Give another name.")
    tables.check_writable(output)
    columns = tables.columns(source)
    claim = choose_column(source, columns, claim, CLAIM_COLUMNS, "--claim")
    if evidence is not None:
        evidence = choose_column(source, columns, evidence, (), "--evidence")
    return claim, evidence


def verdict_columns(answers: Mapping[str, Verdict]) -> dict[str, Any]:
    """The output columns of one row."""
    columns: dict[str, Any] = {}
    for name, verdict in answers.items():
        columns[f"{name}.label"] = verdict.label
        columns[f"{name}.confidence"] = verdict.confidence
        columns |= {f"{name}.p.{label}": value for label, value in verdict.probabilities.items()}
        columns |= {f"{name}.calibrated.{label}": value for label, value in verdict.calibrated.items()}
    return columns


def choose_column(
    source: Path, columns: Sequence[str], wanted: str | None, candidates: Sequence[str], flag: str
) -> str:
    """Return the column to read; raises DataError naming those that there are."""
    for name in (wanted,) if wanted is not None else candidates:
        if name in columns:
            return name
    looked_for = wanted or " or ".join(candidates)
    raise DataError(f"{source} has no column {looked_for}; it has {', '.join(columns)}. Name one with {flag}.")


def _chunks(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while chunk := list(islice(rows, _ROWS_AT_ONCE)):
        yield chunk


def _text(row: Mapping[str, Any], column: str, source: Path, number: int) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{source}, row {number}: column {column!r} holds {value!r}, not text. Remove or mend the row.")
    return value.strip()
