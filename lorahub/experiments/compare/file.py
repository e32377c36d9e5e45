"""Compare adapters on one file, which is classified as a stream.

In: a checked table and the adapters of one engine. Out: the classified file, and a `FileComparison`: figures where the
labels of the file are those of an adapter, the paired comparison of adapters with the same labels, and the rows to look
at first. Of all other rows only label ids and probabilities are kept in memory.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lorahub.config import EvalConfig
from lorahub.data import columns
from lorahub.data.table_check import UNLABELLED, CheckedTable
from lorahub.errors import ConfigError
from lorahub.experiments.compare.pairs import System, compare_pairs
from lorahub.experiments.compare.result import Comparison, SystemFigures
from lorahub.labels import LabelSet
from lorahub.reports.result import Result
from lorahub.stats import metrics, paired
from lorahub.stats.results import SystemResult
from lorahub.stats.verdicts import Floats, Ids

if TYPE_CHECKING:  # serving needs torch
    from lorahub.serving.predictor import Predictor, Verdict

ROWS_SHOWN = 200
_CHUNK_ROWS = 512
# Up to this many adapters with the same labels every pair is compared; above, each is compared with the first.
_ALL_PAIRS_UP_TO = 4
# Above this many claims intervals are narrow and resampling is slow, so fewer resamples are drawn.
_MANY_CLAIMS, _FEWER_RESAMPLES = 20_000, 1000
_METRIC = "f1_macro"
_NAMES_SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class RowAnswer:
    """An adapter's answer to a row: its label, its calibrated confidence, and whether the adapter abstains."""

    label: str
    confidence: float
    abstain: bool


@dataclass(frozen=True, kw_only=True)
class ShownRow:
    """A row to look at: its number from 1, its claim, its label in the file, and the answer of each adapter."""

    row: int
    claim: str
    label: str | None
    answers: dict[str, RowAnswer]


@dataclass(frozen=True, kw_only=True)
class FileComparison(Result):
    """The result. `answers` counts labels by adapter, `results` holds the figures of adapters whose labels fit.

    `comparisons` has one entry per label set that several adapters share; `agreed` counts the rows to which each pair
    of them gives the same label. `shown` holds up to 200 rows: first those on which adapters with the same labels
    differ (`disagreements` counts all of these), then those that an adapter has wrong, then others.
    """

    rows: int
    labels: dict[str, int]
    answers: dict[str, dict[str, int]]
    results: dict[str, SystemResult]
    comparisons: list[Comparison]
    agreed: list[tuple[str, str, int]]
    disagreements: int
    shown: list[ShownRow]
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class Step:
    """Progress: the share of rows that are classified, and the current work."""

    share: float
    text: str


def compare(
    predictor: "Predictor",
    table: CheckedTable,
    output: Path,
    adapters: Sequence[str],
    *,
    chunk_rows: int = _CHUNK_ROWS,
    options: EvalConfig | None = None,
) -> Iterator[Step | FileComparison]:
    """Classify the file into `output`: yield a `Step` for each piece of work, and finally the `FileComparison`.

    Closing the iterator before its end removes the output. Raises ConfigError, DataError or AdapterError.
    """
    from lorahub.serving import files

    if not adapters:
        raise ConfigError("Choose at least one adapter.")
    chunks = files.classify_file(
        predictor,
        table.source,
        output,
        adapters=adapters,
        claim=table.claim,
        evidence=table.evidence,
        chunk_rows=chunk_rows,
    )
    collected = None
    for rows, answers in chunks:
        collected = collected or _Collected(table, answers)
        collected.add(rows, answers)
        yield Step(share=collected.done / table.rows, text=f"{collected.done:,} of {table.rows:,} rows classified")
    assert collected is not None  # a table without rows is refused before
    yield Step(share=1.0, text="computing the figures and their intervals")
    options = options or EvalConfig()
    if table.rows > _MANY_CLAIMS and options.bootstrap > _FEWER_RESAMPLES:
        options = EvalConfig(bootstrap=_FEWER_RESAMPLES, confidence=options.confidence)
    results = {name: collected.score(name, options) for name in collected.fitting}
    comparisons = []
    for group in collected.groups:
        yield Step(share=1.0, text=f"comparing {', '.join(group)}")
        if group[0] in results:
            comparisons.append(collected.compare(group, options))
    yield collected.finish(results, comparisons)


class _Collected:
    """Label ids and probabilities of all rows by adapter, and the rows to show, collected chunk by chunk.

    The labels of each adapter are read from its first answers, in id order. `groups` are the adapters with the same
    labels in any order, at least two each; `fitting` are those that know every label of the file.
    """

    def __init__(self, table: CheckedTable, first: "Mapping[str, Sequence[Verdict]]") -> None:
        self.table, self.done, self.disagreements = table, 0, 0
        self.labels = {name: LabelSet(tuple(verdicts[0].probabilities)) for name, verdicts in first.items()}
        by_labels: dict[frozenset[str], list[str]] = {}
        for name, labels in self.labels.items():
            by_labels.setdefault(frozenset(labels.names), []).append(name)
        self.groups = [names for names in by_labels.values() if len(names) > 1]
        fits = {name: table.fit(labels) for name, labels in self.labels.items()}
        self.gold = {name: ids for name, (ids, _) in fits.items()}
        self.unknown = {name: unknown for name, (_, unknown) in fits.items() if unknown}
        self.fitting = [name for name in self.labels if table.names and name not in self.unknown]
        self._ids: dict[str, list[Ids]] = {name: [] for name in self.labels}
        self._probabilities: dict[str, list[Floats]] = {name: [] for name in self.labels}
        self._truncated = dict.fromkeys(self.labels, 0)
        self._shown: tuple[list[ShownRow], list[ShownRow], list[ShownRow]] = ([], [], [])

    def add(self, rows: Sequence[Mapping[str, Any]], answers: "Mapping[str, Sequence[Verdict]]") -> None:
        """Keep what is needed of a chunk."""
        for name, verdicts in answers.items():
            self._truncated[name] += sum(verdict.truncated for verdict in verdicts)
            self._ids[name].append(self.labels[name].encode([verdict.label for verdict in verdicts]))
            self._probabilities[name].append(
                np.array([list(verdict.calibrated.values()) for verdict in verdicts], dtype=np.float32)
            )
        differ, wrong = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
        for group in self.groups:
            labels = np.array([[verdict.label for verdict in answers[name]] for name in group])
            differ |= (labels != labels[0]).any(axis=0)
        for name in self.fitting:
            gold = self.gold[name][self.done : self.done + len(rows)]
            wrong |= (self._ids[name][-1] != gold) & (gold != UNLABELLED)
        self.disagreements += int(differ.sum())
        for place, row in enumerate(rows):
            kept = self._shown[0 if differ[place] else 1 if wrong[place] else 2]
            if len(kept) < ROWS_SHOWN:
                kept.append(self._show(row, {name: verdicts[place] for name, verdicts in answers.items()}))
            self.done += 1

    def _show(self, row: Mapping[str, Any], answers: "Mapping[str, Verdict]") -> ShownRow:
        gold = int(self.table.gold[self.done])
        return ShownRow(
            row=self.done + 1,
            claim=columns.clean_text(columns.cell(row, self.table.claim), self.table.claim),
            label=None if gold == UNLABELLED else self.table.names[gold],
            answers={
                name: RowAnswer(label=verdict.label, confidence=verdict.confidence, abstain=verdict.abstain)
                for name, verdict in answers.items()
            },
        )

    def _labelled(self, name: str, labels: LabelSet) -> tuple[Ids, System]:
        """Return gold ids (N,) of the labelled rows, and an adapter's answers in the order of `labels`."""
        own, rows = self.labels[name], self.gold[name] != UNLABELLED
        order = [own.ids[label] for label in labels.names]
        places = np.argsort(order).astype(np.int64)
        return places[self.gold[name][rows]], System(
            name=name,
            answers=places[np.concatenate(self._ids[name])[rows]],
            probabilities=np.concatenate(self._probabilities[name])[rows][:, order],
        )

    def score(self, name: str, options: EvalConfig) -> SystemResult:
        """Return the results block of an adapter whose labels fit, as in a record."""
        labels = self.labels[name]
        gold, system = self._labelled(name, labels)
        return metrics.score(
            gold,
            system.answers,
            system.probabilities,
            labels,
            resamples=options.bootstrap,
            confidence=options.confidence,
        )

    def compare(self, group: Sequence[str], options: EvalConfig) -> Comparison:
        """Return the paired comparison of adapters with the same labels, on the labelled rows."""
        labels, names = self.labels[group[0]], _pairs(group)
        labelled = [self._labelled(name, labels) for name in group]
        gold, systems = labelled[0][0], [system for _, system in labelled]
        resamples = paired.enough_resamples(options.bootstrap, len(names) * len(labels), options.confidence)
        return Comparison(
            split="file",
            data=self.table.source.name,
            n=len(gold),
            labels=list(labels.names),
            metric=_METRIC,
            confidence=options.confidence,
            resamples=resamples,
            systems={
                system.name: SystemFigures.evaluate(system, gold, title=system.name, run=system.name)
                for system in systems
            },
            pairs=compare_pairs(
                gold, systems, names, labels, metric=_METRIC, resamples=resamples, confidence=options.confidence
            ),
        )

    def finish(self, results: dict[str, SystemResult], comparisons: list[Comparison]) -> FileComparison:
        """Return the whole comparison."""
        ids = {name: np.concatenate(chunks) for name, chunks in self._ids.items()}
        given = {name: np.array(labels.names)[ids[name]] for name, labels in self.labels.items()}
        return FileComparison(
            rows=self.done,
            labels=self.table.labels,
            answers={
                name: dict(zip(labels.names, np.bincount(ids[name], minlength=len(labels)).tolist(), strict=True))
                for name, labels in self.labels.items()
            },
            results=results,
            comparisons=comparisons,
            agreed=[
                (ours, theirs, int((given[ours] == given[theirs]).sum()))
                for group in self.groups
                for ours, theirs in _pairs(group)
            ],
            disagreements=self.disagreements,
            shown=[row for kept in self._shown for row in kept][:ROWS_SHOWN],
            notes=self._notes(),
        )

    def _notes(self) -> list[str]:
        notes = [*self.table.notes]
        for name, unknown in self.unknown.items():
            more = f" and {len(unknown) - _NAMES_SHOWN:,} more" if len(unknown) > _NAMES_SHOWN else ""
            notes.append(
                f"No figures for {name}: its labels are {', '.join(self.labels[name].names)}, but the file also has "
                f"{', '.join(unknown[:_NAMES_SHOWN])}{more}. If they mean the same, map them."
            )
        for name, count in self._truncated.items():
            if count:
                notes.append(f"{count:,} rows are longer than {name} reads: their end had no part in its answers.")
        without = int((self.table.gold == UNLABELLED).sum())
        if self.table.names and without:
            notes.append(f"{without:,} rows have no label; the figures cover the other {self.table.rows - without:,}.")
        for group in self.groups:
            if len(group) > _ALL_PAIRS_UP_TO:
                notes.append(f"{len(group)} adapters have the same labels; each is compared with {group[0]}.")
        return notes


def _pairs(group: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of adapters to compare."""
    if len(group) <= _ALL_PAIRS_UP_TO:
        return list(combinations(group, 2))
    return [(name, group[0]) for name in group[1:]]
