"""The history of a run: its adapter judged again and again on new claims, a dated row each time.

In: what the adapter answered, and when. Out: `Row`s, each a JSON file of the folder `history/` beside the record, which
is never published; and `Change`s, a row against what came before it. Differences are new less old, so a score that fell
is negative. On the same claims (by their sha256) they are paired; else the two sets of claims are resampled each by
itself.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from lorahub import atomic
from lorahub.errors import AdapterError, one_line
from lorahub.records import RunRecord
from lorahub.stats import bootstrap, paired
from lorahub.stats.bootstrap import Values
from lorahub.stats.metrics import METRICS
from lorahub.stats.paired import CorrectedDifference
from lorahub.stats.predictions import Predictions
from lorahub.stats.verdicts import Calibration, Ids, decide

FOLDER = "history"
FELL, ROSE, NONE = "fell", "rose", "none"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One evaluation. `created` is ISO 8601, UTC; `data` names the claims as a record does, with their split and
    sha256; `figures` is a results block without its long lists; `answers` are the label ids (N,), written as text, or
    None where a run kept none; `verdict` is what was said of it then.
    """

    created: str
    data: dict[str, Any]
    figures: dict[str, Any]
    base_revision: str | None
    answers: str | None
    verdict: str = NONE

    @property
    def ids(self) -> Ids:
        """The answers (N,)."""
        return np.array((self.answers or "").split(","), dtype=np.int64)

    def save(self, folder: Path) -> Path:
        """Write the row into the history of the run in `folder`, atomically, and return its path."""
        stem = re.sub(r"[^\w.-]+", "-", f"{self.created}-{self.data['id']}")
        path = folder / FOLDER / f"{stem}.json"
        atomic.write_json(path, asdict(self))
        return path


@dataclass(frozen=True, kw_only=True)
class Change:
    """A row against an earlier evaluation: when and on what that was, whether on the same claims, and by metric."""

    created: str
    data: str
    split: str
    n: int
    paired: bool
    metrics: dict[str, CorrectedDifference]

    def verdict(self, metric: str) -> str:
        """`fell`, `rose`, or `none`: no detectable difference."""
        found = self.metrics[metric]
        return NONE if not found.detectable else FELL if found.difference < 0 else ROSE


@dataclass(frozen=True, kw_only=True)
class Monitored:
    """A new row of a run's history: `since_test` is its change against the run's own test result, `since` those against
    earlier rows, oldest first; `rows` are the test result, the earlier rows and the new one.
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
        """The plain form, as `lorahub evaluate --since --json` prints it: docs/monitoring.md."""
        row = asdict(self.row)
        del row["answers"]
        return {
            "run": self.run,
            "metric": self.metric,
            "confidence": self.confidence,
            "resamples": self.resamples,
            "verdict": self.row.verdict,
            "row": row,
            "since_test": self._told(self.since_test),
            "since": [self._told(change) for change in self.since],
            "notes": self.notes,
        }

    def _told(self, change: Change) -> dict[str, Any]:
        found = asdict(change)
        return {**found, "verdict": change.verdict(self.metric)}


def load(folder: Path) -> list[Row]:
    """The history of a run, oldest first; raises AdapterError where a file of it is damaged."""
    rows = []
    for path in (folder / FOLDER).glob("*.json"):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            row = Row(**{item.name: values[item.name] for item in fields(Row)})
            _check(row)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise AdapterError(f"{path} is no evaluation of a history ({one_line(error)}). Delete it.") from None
        rows.append(row)
    return sorted(rows, key=lambda row: row.created)


def of_record(folder: Path, record: RunRecord) -> Row:
    """A run's own result on test, as the first row of its history."""
    source, labels = record.environment.data, len(record.labels)
    kept = Predictions.load(folder, "test", "adapter", labels=labels)
    answers = None if kept is None else written(decide(kept.logits, Calibration.load(folder, labels)))
    return Row(
        created=record.created,
        data={
            "id": source.id,
            "kind": source.kind,
            "revision": source.revision,
            "split": "test",
            "sha256": source.sha256["test"],
        },
        figures=record.adapter().shortened().to_dict(),
        base_revision=record.environment.base_revision,
        answers=answers,
    )


def written(ids: Ids) -> str:
    """Label ids (N,) as a row keeps them."""
    return ",".join(map(str, ids.tolist()))


def changes(row: Row, gold: Ids, before: Sequence[Row], *, resamples: int, confidence: float) -> list[Change]:
    """A row, with its gold ids (N,), against each of those before it; p-values are corrected for their number."""
    same = [old.answers is not None and old.data["sha256"] == row.data["sha256"] for old in before]
    draws = [
        _paired(row, old, gold, resamples) if is_paired else _unpaired(row, old, resamples)
        for old, is_paired in zip(before, same, strict=True)
    ]
    by_metric = {name: paired.corrected([drawn[name] for drawn in draws], confidence) for name in METRICS}
    return [
        Change(
            created=old.created,
            data=old.data["id"],
            split=old.data["split"],
            n=old.figures["n"],
            paired=same[place],
            metrics={name: rows[place] for name, rows in by_metric.items()},
        )
        for place, old in enumerate(before)
    ]


def _paired(row: Row, old: Row, gold: Ids, resamples: int) -> dict[str, Values]:
    return bootstrap.paired_draws(gold, row.ids, old.ids, len(row.figures["confusion"]), resamples=resamples).metrics


def _unpaired(row: Row, old: Row, resamples: int) -> dict[str, Values]:
    ours, theirs = (np.array(item.figures["confusion"], dtype=np.int64) for item in (row, old))
    return bootstrap.unpaired_draws(ours, theirs, resamples=resamples)


def _check(row: Row) -> None:
    """Raise an error, of whatever kind, where a row that was read lacks what others read of it."""
    confusion, count = np.array(row.figures["confusion"], dtype=np.int64), row.figures["n"]
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1] or not 0 < count == confusion.sum():
        raise ValueError("its confusion matrix does not fit its claims")
    if row.answers is not None and (len(row.ids) != count or not set(row.ids.tolist()) <= set(range(len(confusion)))):
        raise ValueError("it has not one label a claim")
    numbers = [[row.figures[name], *row.figures["interval"][name]] for name in METRICS]
    if np.array(numbers, dtype=float).shape != (len(METRICS), 3):
        raise ValueError("its figures lack an interval")
    if not all(isinstance(name, str) for name in (row.created, *(row.data[key] for key in ("id", "split", "sha256")))):
        raise ValueError("it does not name its date and its data")
