"""Adapters compared on one file, which is judged as a stream.

In: a table that was checked, and adapters of one engine. Out: the judged file, and a `FileComparison`:
figures where the file's labels are an adapter's, the paired comparison of adapters that share their labels, and the
rows to look at first. Of the rows themselves only those are kept: of the others a label id and probabilities.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from lorahub.config import EvalConfig
from lorahub.data import columns
from lorahub.data.table_check import UNLABELLED, CheckedTable
from lorahub.errors import ConfigError
from lorahub.experiments.compare import pairs as comparing
from lorahub.experiments.compare.pairs import System
from lorahub.experiments.compare.result import Comparison, SystemFigures
from lorahub.labels import LabelSet
from lorahub.serving import files
from lorahub.serving.engine.engine import Verdict
from lorahub.serving.files import ROWS_AT_ONCE, Classifies
from lorahub.stats import metrics, paired
from lorahub.stats.verdicts import Floats, Ids

ROWS_SHOWN = 200
# More adapters than these on one label set are compared with the first of them alone: pairs grow with the square.
_ALL_PAIRS_UP_TO = 4
# Above so many claims half the resamples do: intervals are narrow there, and each resample takes long.
_MANY_CLAIMS, _FEWER_RESAMPLES = 20_000, 1000
_METRIC = "f1_macro"
_NAMES_SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class Given:
    """An adapter's answer to a row: its label, how sure it is, and whether a person should decide."""

    label: str
    confidence: float
    abstain: bool


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One row to look at: its number, claim and label in the file, and adapter -> what it answers."""

    row: int
    claim: str
    label: str | None
    answers: dict[str, Given]


@dataclass(frozen=True, kw_only=True)
class FileComparison:
    """What came out. By adapter: how many rows got which label, and the figures where the file's labels fit.

    `comparisons` has one for each label set that two or more adapters share, `agreed` the number of rows on which each
    pair of them gives the same label. `shown` are up to 200 rows: first those on which adapters of one label set differ
    (`disagreements` counts them all), then those that one of them has wrong, then the others.
    """

    rows: int
    labels: dict[str, int]
    answers: dict[str, dict[str, int]]
    results: dict[str, dict[str, Any]]
    comparisons: list[Comparison]
    agreed: list[tuple[str, str, int]]
    disagreements: int
    shown: list[Shown]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The plain form."""
        return asdict(self) | {"comparisons": [found.to_dict() for found in self.comparisons]}


@dataclass(frozen=True, kw_only=True)
class Step:
    """What was done so far: a share of the rows, and what is done now."""

    share: float
    text: str


def compare(
    engine: Classifies,
    table: CheckedTable,
    output: Path,
    adapters: Sequence[str],
    *,
    rows_at_once: int = ROWS_AT_ONCE,
    options: EvalConfig | None = None,
) -> Iterator[Step | FileComparison]:
    """Judge the file into `output`: yield a `Step` for each piece of work, and last the `FileComparison`.

    Who stops taking steps, or closes this, leaves no output behind. Raises ConfigError, DataError or AdapterError.
    """
    if not adapters:
        raise ConfigError("Choose at least one adapter.")
    collected = None
    chunks = files.stream(
        engine,
        table.source,
        output,
        adapters=adapters,
        claim=table.claim,
        evidence=table.evidence,
        rows_at_once=rows_at_once,
    )
    for rows, answers in chunks:
        collected = collected or _Collected(table, answers)
        collected.add(rows, answers)
        yield Step(share=collected.done / table.rows, text=f"{collected.done:,} of {table.rows:,} rows judged")
    assert collected is not None  # a table without rows is refused before
    yield Step(share=1.0, text="computing the figures and their intervals")
    options = options or EvalConfig()
    if table.rows > _MANY_CLAIMS and options.bootstrap > _FEWER_RESAMPLES:
        options = EvalConfig(bootstrap=_FEWER_RESAMPLES, confidence=options.confidence)
    results = {name: collected.score(name, options) for name in collected.fitting}
    comparisons = []
    for group in collected.groups():
        yield Step(share=1.0, text=f"comparing {', '.join(group)}")
        if group[0] in results:
            comparisons.append(collected.compare(group, options))
    yield collected.finish(results, comparisons)


class _Collected:
    """What is kept of the answers while they come: label ids and probabilities of all rows, and the rows to show.

    The first answers tell each adapter's labels: in id order, as in every verdict.
    """

    def __init__(self, table: CheckedTable, first: Mapping[str, Sequence[Verdict]]) -> None:
        self.table, self.done, self.disagreements = table, 0, 0
        self.labels = {name: LabelSet(tuple(verdicts[0].probabilities)) for name, verdicts in first.items()}
        fits = {name: table.fit(labels) for name, labels in self.labels.items()}
        self.unknown = {name: unknown for name, (_, unknown) in fits.items() if unknown}
        self.gold = {name: ids for name, (ids, _) in fits.items()}
        self.fitting = [name for name in self.labels if table.names and name not in self.unknown]
        self._ids: dict[str, list[Ids]] = {name: [] for name in self.labels}
        self._probabilities: dict[str, list[Floats]] = {name: [] for name in self.labels}
        self._shown: tuple[list[Shown], list[Shown], list[Shown]] = ([], [], [])

    def groups(self) -> list[list[str]]:
        """The adapters that share their labels, in whatever order these have; one alone is no group."""
        found: dict[frozenset[str], list[str]] = {}
        for name, labels in self.labels.items():
            found.setdefault(frozenset(labels.names), []).append(name)
        return [names for names in found.values() if len(names) > 1]

    def add(self, rows: Sequence[Mapping[str, Any]], answers: Mapping[str, Sequence[Verdict]]) -> None:
        """Keep what is needed of a chunk."""
        for name, verdicts in answers.items():
            self._ids[name].append(self.labels[name].encode([verdict.label for verdict in verdicts]))
            self._probabilities[name].append(
                np.array([list(verdict.calibrated.values()) for verdict in verdicts], dtype=np.float32)
            )
        differ, wrong = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
        for group in self.groups():
            given = np.array([[verdict.label for verdict in answers[name]] for name in group])
            differ |= (given != given[0]).any(axis=0)
        for name in self.fitting:
            gold = self.gold[name][self.done : self.done + len(rows)]
            wrong |= (self._ids[name][-1] != gold) & (gold != UNLABELLED)
        self.disagreements += int(differ.sum())
        for place, row in enumerate(rows):
            kept = self._shown[0 if differ[place] else 1 if wrong[place] else 2]
            if len(kept) < ROWS_SHOWN:
                kept.append(self._show(self.done + place, row, {name: found[place] for name, found in answers.items()}))
        self.done += len(rows)

    def _show(self, place: int, row: Mapping[str, Any], answers: Mapping[str, Verdict]) -> Shown:
        gold = int(self.table.gold[place])
        return Shown(
            row=place + 1,
            claim=columns.clean_text(row[self.table.claim], self.table.claim),
            label=None if gold == UNLABELLED else self.table.names[gold],
            answers={
                name: Given(label=verdict.label, confidence=verdict.confidence, abstain=verdict.abstain)
                for name, verdict in answers.items()
            },
        )

    def _system(self, name: str, labels: LabelSet) -> System:
        """An adapter's answers to the labelled rows, with the ids and columns of `labels`."""
        own, rows = self.labels[name], self.gold[name] != UNLABELLED
        order = [own.ids[label] for label in labels.names]
        return System(
            name=name,
            answers=np.argsort(order).astype(np.int64)[np.concatenate(self._ids[name])[rows]],
            probabilities=np.concatenate(self._probabilities[name])[rows][:, order],
        )

    def score(self, name: str, options: EvalConfig) -> dict[str, Any]:
        """The results block of an adapter whose labels fit, as a record would hold it."""
        labels, gold = self.labels[name], self.gold[name]
        system = self._system(name, labels)
        return metrics.score(
            gold[gold != UNLABELLED],
            system.answers,
            system.probabilities,
            labels,
            resamples=options.bootstrap,
            confidence=options.confidence,
        )

    def compare(self, group: Sequence[str], options: EvalConfig) -> Comparison:
        """The paired comparison of adapters with one label set, on the labelled rows."""
        labels, gold = self.labels[group[0]], self.gold[group[0]]
        gold = gold[gold != UNLABELLED]
        systems = [self._system(name, labels) for name in group]
        pairs = _pairs(group)
        resamples = paired.enough_resamples(options.bootstrap, len(pairs) * len(labels), options.confidence)
        return Comparison(
            split="file",
            data=self.table.source.name,
            n=len(gold),
            labels=list(labels.names),
            metric=_METRIC,
            confidence=options.confidence,
            resamples=resamples,
            systems={system.name: _judged(system, gold) for system in systems},
            pairs=comparing.compare(gold, systems, pairs, labels, resamples=resamples, confidence=options.confidence),
            disagreements=[],
            required=None,
            notes=[],
        )

    def finish(self, results: dict[str, dict[str, Any]], comparisons: list[Comparison]) -> FileComparison:
        """Everything together."""
        names = {name: np.array(labels.names) for name, labels in self.labels.items()}
        given = {name: np.concatenate(found) for name, found in self._ids.items()}
        return FileComparison(
            rows=self.done,
            labels=self.table.labels,
            answers={
                name: dict(zip(labels.names, np.bincount(given[name], minlength=len(labels)).tolist(), strict=True))
                for name, labels in self.labels.items()
            },
            results=results,
            comparisons=comparisons,
            agreed=[
                (ours, theirs, int((names[ours][given[ours]] == names[theirs][given[theirs]]).sum()))
                for group in self.groups()
                for ours, theirs in _pairs(group)
            ],
            disagreements=self.disagreements,
            shown=[row for kept in self._shown for row in kept][:ROWS_SHOWN],
            notes=self._notes(),
        )

    def _notes(self) -> list[str]:
        notes = []
        for name, unknown in self.unknown.items():
            more = f" and {len(unknown) - _NAMES_SHOWN:,} more" if len(unknown) > _NAMES_SHOWN else ""
            notes.append(
                f"No figures for {name}: it knows the labels {', '.join(self.labels[name].names)}; the file also has "
                f"{', '.join(unknown[:_NAMES_SHOWN])}{more}. If they mean the same, map them."
            )
        without = int((self.table.gold == UNLABELLED).sum())
        if self.table.names and without:
            notes.append(f"{without:,} rows have no label: the figures are of the other {self.table.rows - without:,}.")
        for group in self.groups():
            if len(group) > _ALL_PAIRS_UP_TO:
                notes.append(f"{len(group)} adapters share their labels: each is compared with {group[0]}.")
        return notes


def _pairs(group: Sequence[str]) -> list[tuple[str, str]]:
    """Which adapters of a label set are compared."""
    if len(group) <= _ALL_PAIRS_UP_TO:
        return list(combinations(group, 2))
    return [(name, group[0]) for name in group[1:]]


def _judged(system: System, gold: Ids) -> SystemFigures:
    return SystemFigures(
        title=system.name,
        run=system.name,
        system="adapter",
        source="computed",
        ece=metrics.expected_calibration_error(gold, system.answers, system.probabilities),
        **metrics.quick(gold, system.answers),
    )
