"""The systems to compare, and their answers: stored by a run, or computed now.

In: names of adapters, or RUN:SYSTEM for a baseline of a run. Out: entries, and the predictions of each on one split.
Answers stored in `predictions/` are read without torch. Systems with different claims or labels are refused: their
difference would mean nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lorahub import records, runfiles
from lorahub.config import DataConfig
from lorahub.data import sources
from lorahub.data.claimset import ClaimData
from lorahub.errors import ConfigError, DataError, need
from lorahub.hub import fetch, recorded
from lorahub.hub.fetch import Located
from lorahub.labels import LabelSet
from lorahub.records import RunRecord
from lorahub.stats.predictions import Predictions, fingerprints
from lorahub.stats.results import SYSTEMS

ADAPTER = "adapter"
BASELINES = tuple(name for name in SYSTEMS if name != ADAPTER)
STORED, COMPUTED = "stored", "computed"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One system of a run; `record` is None for an adapter without one."""

    run: str
    system: str
    located: Located
    labels: LabelSet
    record: RunRecord | None

    @property
    def name(self) -> str:
        """The name in the comparison: RUN, or RUN:SYSTEM for a baseline."""
        return self.run if self.system == ADAPTER else f"{self.run}:{self.system}"

    def of_run(self, system: str) -> "Entry":
        """Return another system of the same run."""
        return replace(self, system=system)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A system's predictions; `source` says whether they were stored by its run or computed now."""

    predictions: Predictions
    source: str


class Systems:
    """Finds runs and reads their data, each once.

    `data` and `base` replace the recorded ones; private repositories are read with `token`, or with the stored login.
    `evaluated` is the name of the split that is used: `split`, or `all` if `data` is a file that no run was trained on.
    """

    def __init__(self, *, split: str, data: str | None, base: str | None, token: str | None) -> None:
        self.split, self.data, self.base, self.token = split, data, base, token
        self.evaluated = split
        self._runs: dict[Path, Entry] = {}
        self._read: dict[str, ClaimData] = {}

    def find(self, identifier: str) -> Entry:
        """Return the named system; raises ConfigError for an unknown system, AdapterError if there is no such run."""
        run, colon, system = identifier.rpartition(":")
        if not colon or Path(identifier).is_dir():
            run, system = identifier, ADAPTER
        if system not in SYSTEMS:
            raise ConfigError(f"{identifier}: {system!r} is not a system of a run; use one of {', '.join(SYSTEMS)}.")
        located = fetch.adapter(run, token=self.token)
        folder = located.folder.resolve()
        if folder not in self._runs:
            has_record = runfiles.is_finished(folder)
            self._runs[folder] = Entry(
                run=runfiles.free_name(located.name, {entry.run for entry in self._runs.values()}),
                system=ADAPTER,
                located=located,
                labels=LabelSet.load(folder),
                record=records.load(folder) if has_record else None,
            )
        return self._runs[folder].of_run(system)

    def stored(self, entry: Entry) -> Predictions | None:
        """Return the predictions that the run stored of a system, or None."""
        return Predictions.load(entry.located.folder, self.split, entry.system, labels=len(entry.labels))

    def answers(self, entry: Entry, labels: LabelSet) -> Answers:
        """Return a system's predictions in the order of `labels`: the stored ones if they are of the same claims.

        Raises DataError if the system has other labels, or is a baseline without stored predictions.
        """
        if set(entry.labels.names) != set(labels.names):
            raise DataError(
                f"{entry.name} has the labels {', '.join(entry.labels.names)}, but the first system has "
                f"{', '.join(labels.names)}. Compare adapters with the same labels."
            )
        predictions, source = self.stored(entry), STORED
        if predictions is not None and self.data is not None and not self._same_claims(entry, predictions):
            predictions = None
        if predictions is None:
            if entry.system != ADAPTER:
                raise DataError(
                    f"{entry.run} has no stored predictions of its {entry.system} baseline on "
                    f"{self.data or self.split}, and baselines cannot be computed now. Compare it on the validation or "
                    "test split of its own data."
                )
            predictions, source = self._compute(entry), COMPUTED
        return Answers(predictions=predictions.relabelled(entry.labels, labels), source=source)

    def claims(self, entry: Entry) -> ClaimData:
        """Return the data to evaluate a system on: `data`, or the recorded one; raises DataError if there is neither.

        `data` is read once, with the columns and label names of the run that needs it first.
        """
        key = self.data or entry.run
        if key not in self._read:
            self._read[key] = self._load(entry)
        return self._read[key]

    def _load(self, entry: Entry) -> ClaimData:
        if self.data is not None:
            config = recorded.data_config(entry.record, self.data) if entry.record else DataConfig(id=self.data)
            runs = [run.located for run in self._runs.values()]
            claims, self.evaluated = recorded.evaluation_claims(config, self.split, runs, token=self.token)
            return claims
        if entry.record is None:
            raise DataError(f"{entry.name} has no {runfiles.RECORD} that names its data. Give the data with --data.")
        return recorded.data(entry.located, entry.record, token=self.token)

    @property
    def notes(self) -> list[str]:
        """What the reader should know about `data`: whether all of it is evaluated, or what a run was trained on."""
        return self._read[self.data].warnings if self.data in self._read else []

    def texts(self, entry: Entry, predictions: Predictions) -> list[str] | None:
        """Return the texts of the claims, or None if they are not on this machine or have changed since."""
        available = (self.data or entry.run) in self._read
        if not available and entry.record is not None:
            available = sources.at_hand(entry.record.environment.data.id)
        try:
            same = available and self._same_claims(entry, predictions)
        except DataError:  # other data is stored under this name now
            same = False
        return self.claims(entry).splits[self.evaluated].texts if same else None

    def _same_claims(self, entry: Entry, predictions: Predictions) -> bool:
        part = self.claims(entry).splits.get(self.evaluated)
        return part is not None and fingerprints(part.joined()) == list(predictions.sha256)

    def _compute(self, entry: Entry) -> Predictions:
        """Return the answers of the adapter, computed now."""
        data = self.claims(entry)
        need("torch", extra="train")
        from lorahub.serving import evaluate
        from lorahub.serving.loading import open_predictors

        base = recorded.base(entry.located, entry.record, instead=self.base) if entry.record else None
        (predictor,) = open_predictors([entry.located], base.id if base else self.base, settings=base, token=self.token)
        gold, prediction = evaluate.predict(predictor, predictor.names[0], data, self.evaluated)
        return Predictions(
            sha256=fingerprints(data.splits[self.evaluated].joined()), gold=gold, logits=prediction.logits
        )


def check_same_claims(entries: Sequence[Entry], answers: Mapping[str, Answers], split: str) -> None:
    """Raise DataError if two systems were evaluated on different claims or against different gold labels."""
    first = entries[0]
    ours = answers[first.name].predictions
    for entry in entries[1:]:
        theirs = answers[entry.name].predictions
        if list(ours.sha256) != list(theirs.sha256):
            shared = len(set(ours.sha256) & set(theirs.sha256))
            raise DataError(
                f"{first.name} and {entry.name} were evaluated on different {split} claims: of {len(ours.sha256):,} "
                f"and {len(theirs.sha256):,}, {shared:,} have the same sha256. Compare runs on one data set, or give "
                "--data."
            )
        differ = int((ours.gold != theirs.gold).sum())
        if differ:
            raise DataError(
                f"{first.name} and {entry.name} have the same {split} claims, but {differ:,} have a different gold "
                "label. Compare runs on one version of the data, or give --data."
            )
