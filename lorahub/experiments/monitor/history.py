"""The history of a run: later evaluations of its adapter, one dated row each, and the changes between them.

A `Row` is a JSON file in the folder `history/` of the run, which is never published. A `Change` compares a row with an
earlier one; its differences are new - old, so a score that fell is negative. On the same claims (by sha256) the
differences are paired; otherwise the two sets of claims are resampled independently.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import model_validator

from lorahub import atomic, runfiles
from lorahub.data.claimset import DataSource
from lorahub.records import RunRecord
from lorahub.reports.result import Result
from lorahub.runfiles import Part
from lorahub.stats import bootstrap, paired
from lorahub.stats.bootstrap import Values
from lorahub.stats.metrics import METRICS
from lorahub.stats.paired import CorrectedDifference
from lorahub.stats.predictions import Predictions
from lorahub.stats.results import SystemResult
from lorahub.stats.verdicts import Calibration, Ids, decide

FELL, ROSE, NONE = "fell", "rose", "none"


class EvaluatedData(Part):
    """The claims of an evaluation: their data set, their split, and the fingerprint of the split."""

    id: str
    kind: str
    revision: str | None
    split: str
    sha256: str

    @classmethod
    def of(cls, source: DataSource, split: str) -> "EvaluatedData":
        """Return the description of one split of a data set."""
        return EvaluatedData(
            id=source.id, kind=source.kind, revision=source.revision, split=split, sha256=source.sha256[split]
        )


class Row(Part):
    """One evaluation, at the time `created` (ISO 8601, UTC).

    `figures` has no curves; `answers` holds the label ids (N,) separated by commas, or None if they were not stored;
    `verdict` is that of the time of the evaluation.
    """

    created: str
    data: EvaluatedData
    figures: SystemResult
    base_revision: str | None
    answers: str | None
    verdict: str = NONE

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        confusion = self.confusion
        if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1] or confusion.sum() != self.figures.n:
            raise ValueError("the confusion matrix does not match the number of claims")
        if self.answers is not None:
            ids = self.ids.tolist()
            if len(ids) != self.figures.n or not set(ids) <= set(range(len(confusion))):
                raise ValueError("the answers do not match the claims and labels")
        if not set(METRICS) <= set(self.figures.interval):
            raise ValueError("an interval is missing")
        return self

    @property
    def ids(self) -> Ids:
        """The label ids of the answers (N,)."""
        return np.array((self.answers or "").split(","), dtype=np.int64)

    @property
    def confusion(self) -> bootstrap.Counts:
        """The confusion matrix (C, C) with gold labels in rows."""
        return np.array(self.figures.confusion, dtype=np.int64)

    def save(self, folder: Path) -> Path:
        """Write the row into the history of the run in `folder`, atomically, and return its path."""
        stem = re.sub(r"[^\w.-]+", "-", f"{self.created}-{self.data.id}")
        path = folder / runfiles.HISTORY / f"{stem}.json"
        atomic.write_json(path, self.to_dict())
        return path


@dataclass(frozen=True, kw_only=True)
class Change:
    """A row compared with an earlier evaluation of `n` claims; `paired` if both have the same claims."""

    created: str
    data: str
    split: str
    n: int
    paired: bool
    metrics: dict[str, CorrectedDifference]

    def verdict(self, metric: str) -> str:
        """Return `fell`, `rose`, or `none` for no detectable difference."""
        row = self.metrics[metric]
        return NONE if not row.detectable else FELL if row.difference < 0 else ROSE


@dataclass(frozen=True, kw_only=True)
class MonitoringResult(Result):
    """A new row of a run's history, compared with the run's own test result and with earlier rows, oldest first.

    `rows` are the test result, the earlier rows and the new row.
    """

    run: str
    metric: str
    confidence: float
    resamples: int
    rows: list[Row]
    since_test: Change
    since: list[Change]
    notes: list[str]

    @property
    def row(self) -> Row:
        """The new row."""
        return self.rows[-1]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data, as `lorahub evaluate --since --json` prints it: docs/monitoring.md."""
        since_test, *since = (
            {**asdict(change), "verdict": change.verdict(self.metric)} for change in (self.since_test, *self.since)
        )
        row = self.row.to_dict()
        del row["answers"]
        return {
            "run": self.run,
            "metric": self.metric,
            "confidence": self.confidence,
            "resamples": self.resamples,
            "verdict": self.row.verdict,
            "row": row,
            "since_test": since_test,
            "since": since,
            "notes": self.notes,
        }


def load(folder: Path) -> list[Row]:
    """Return the history of a run, oldest first; raises AdapterError if one of its files is damaged."""
    paths = (folder / runfiles.HISTORY).glob("*.json")
    rows = [runfiles.read_json(path, Row, fix="Delete it from the history.") for path in paths]
    return sorted(rows, key=lambda row: row.created)


def of_record(folder: Path, record: RunRecord) -> Row:
    """Return a run's own result on test as the first row of its history."""
    labels = len(record.labels)
    predictions = Predictions.load(folder, "test", "adapter", labels=labels)
    ids = None if predictions is None else decide(predictions.logits, Calibration.load(folder, labels))
    return Row(
        created=record.created,
        data=EvaluatedData.of(record.environment.data, "test"),
        figures=record.adapter().shortened(),
        base_revision=record.environment.base_revision,
        answers=None if ids is None else joined(ids),
    )


def joined(ids: Ids) -> str:
    """Return label ids (N,) in the text form of a row."""
    return ",".join(map(str, ids.tolist()))


def changes(row: Row, gold: Ids, before: Sequence[Row], *, resamples: int, confidence: float) -> list[Change]:
    """Compare a row, with its gold ids (N,), with each earlier row; p-values are corrected for their number."""
    same = [old.answers is not None and old.data.sha256 == row.data.sha256 for old in before]
    draws = [
        _paired_draws(row, old, gold, resamples)
        if same_claims
        else bootstrap.unpaired_draws(row.confusion, old.confusion, resamples=resamples)
        for old, same_claims in zip(before, same, strict=True)
    ]
    by_metric = {name: paired.corrected([drawn[name] for drawn in draws], confidence) for name in METRICS}
    return [
        Change(
            created=old.created,
            data=old.data.id,
            split=old.data.split,
            n=old.figures.n,
            paired=same[place],
            metrics={name: rows[place] for name, rows in by_metric.items()},
        )
        for place, old in enumerate(before)
    ]


def _paired_draws(row: Row, old: Row, gold: Ids, resamples: int) -> dict[str, Values]:
    return bootstrap.paired_draws(gold, row.ids, old.ids, len(row.confusion), resamples=resamples).metrics
