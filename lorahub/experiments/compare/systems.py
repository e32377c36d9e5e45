"""The systems that are compared: found by name, with the answers that a run kept or that the engine gives now.

In: adapters as a person names them, RUN:SYSTEM for a baseline of a run. Out: entries, and for each its predictions on
one split. Answers that are kept in `predictions/` are read without torch. Systems that were judged on other claims, or
that know other labels, are refused: a difference between them would mean nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lorahub import records
from lorahub.config import DataConfig
from lorahub.data import sources
from lorahub.data.claimset import ClaimData
from lorahub.errors import ConfigError, DataError, need
from lorahub.hub import fetch, recorded
from lorahub.hub.fetch import Located
from lorahub.labels import LabelSet
from lorahub.records import SYSTEMS, RunRecord
from lorahub.stats.predictions import Predictions, fingerprints

ADAPTER = "adapter"
BASELINES = tuple(name for name in SYSTEMS if name != ADAPTER)
STORED, COMPUTED = "stored", "computed"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One system: the run it belongs to, which of its systems it is, and its name in the comparison."""

    name: str
    run: str
    system: str
    located: Located
    labels: LabelSet
    record: RunRecord | None


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a system answered, and whether that was stored by its run or computed now."""

    predictions: Predictions
    source: str


class Systems:
    """The runs that were named and the data that was read, each once.

    `data` and `base` stand in for the recorded ones; what is private is fetched with `token`, else with the login.
    `judged` is the name of the split that answers: `split`, or `all` where `data` is a file that no run was trained on.
    """

    def __init__(self, *, split: str, data: str | None, base: str | None, token: str | None) -> None:
        self.split, self.data, self.base, self.token = split, data, base, token
        self.judged = split
        self._entries: dict[tuple[Path, str], Entry] = {}
        self._read: dict[str, ClaimData] = {}

    def find(self, identifier: str) -> Entry:
        """The system that is named; raises ConfigError for an unknown system, AdapterError where there is no run."""
        run, colon, system = identifier.rpartition(":")
        if not colon or Path(identifier).is_dir():
            run, system = identifier, ADAPTER
        if system not in SYSTEMS:
            raise ConfigError(f"{identifier}: after the colon stands one of {', '.join(SYSTEMS)}; found {system!r}.")
        located = fetch.adapter(run, token=self.token)
        folder = located.folder.resolve()
        known = next((entry for (path, _), entry in self._entries.items() if path == folder), None)
        if known is None:
            has_record = (folder / records.FILE_NAME).exists()
            name = self._free(located.name)
            known = self._entries[folder, ADAPTER] = Entry(
                name=name,
                run=name,
                system=ADAPTER,
                located=located,
                labels=LabelSet.load(folder),
                record=records.load(folder) if has_record else None,
            )
        return self.of_run(known, system)

    def of_run(self, entry: Entry, system: str) -> Entry:
        """Another system of the same run."""
        key = entry.located.folder.resolve(), system
        name = entry.run if system == ADAPTER else f"{entry.run}:{system}"
        return self._entries.setdefault(key, replace(entry, name=name, system=system))

    def _free(self, name: str) -> str:
        taken, number = {entry.run for entry in self._entries.values()}, 2
        free = name
        while free in taken:
            free, number = f"{name}-{number}", number + 1
        return free

    def stored(self, entry: Entry) -> Predictions | None:
        """What the run kept of a system; None where it kept nothing."""
        return Predictions.load(entry.located.folder, self.split, entry.system, labels=len(entry.labels))

    def answers(self, entry: Entry, labels: LabelSet) -> Answers:
        """A system's predictions in the order of `labels`: the stored ones if they are of the claims asked for.

        Raises DataError where the system knows other labels, or is a baseline of which nothing is kept.
        """
        if set(entry.labels.names) != set(labels.names):
            raise DataError(
                f"{entry.name} knows the labels {', '.join(entry.labels.names)}, the first system "
                f"{', '.join(labels.names)}. Compare adapters for the same labels."
            )
        found = self.stored(entry)
        if found is not None and self.data is not None:
            asked = fingerprints(self.claims(entry).splits[self.judged].joined())
            found = found if list(found.sha256) == asked else None
        if found is not None:
            return Answers(predictions=found.relabelled(entry.labels, labels), source=STORED)
        if entry.system != ADAPTER:
            raise DataError(
                f"{entry.run} keeps no answers of its {entry.system} baseline on {self.data or self.split}, and they "
                "cannot be computed now. Compare it on the validation or test split of its own data."
            )
        return Answers(predictions=self._compute(entry).relabelled(entry.labels, labels), source=COMPUTED)

    def claims(self, entry: Entry) -> ClaimData:
        """The data to judge a system on: what was given, else the recorded; raises DataError where there is neither.

        What was given is read as the system's run read its own data, and once for all.
        """
        key = self.data or entry.run
        if key not in self._read:
            self._read[key] = self._load(entry)
        return self._read[key]

    def _load(self, entry: Entry) -> ClaimData:
        if self.data is not None:
            asked = recorded.reading(entry.record, self.data) if entry.record else DataConfig(id=self.data)
            named = list({item.run: item.located for item in self._entries.values()}.values())
            found, self.judged = recorded.to_judge(asked, self.split, named, token=self.token)
            return found
        if entry.record is None:
            raise DataError(f"{entry.name} has no {records.FILE_NAME} that names its data. Give it with --data.")
        return recorded.data(entry.located, entry.record, token=self.token)

    @property
    def notes(self) -> list[str]:
        """What is to be known of the data that was given: whether all of it is judged, or what a run had not seen."""
        return self._read[self.data].warnings if self.data in self._read else []

    def texts(self, entry: Entry, answered: Predictions) -> list[str] | None:
        """The texts of the claims, where they lie on this machine and are those that were answered."""
        at_hand = (self.data or entry.run) in self._read
        if not at_hand and entry.record is not None:
            at_hand = sources.at_hand(entry.record.environment["data"]["id"])
        try:
            part = self.claims(entry).splits[self.judged] if at_hand else None
        except DataError:  # what lies here under that name is something else now
            return None
        return part.texts if part and fingerprints(part.joined()) == list(answered.sha256) else None

    def _compute(self, entry: Entry) -> Predictions:
        """What the adapter answers now."""
        data = self.claims(entry)
        need("torch", extra="train")
        from lorahub.serving import evaluate
        from lorahub.serving.single import answering

        base = recorded.base(entry.located, entry.record, instead=self.base) if entry.record else None
        (answers,) = answering([entry.located], base.id if base else self.base, settings=base, token=self.token)
        gold, logits = evaluate.answer(answers, next(iter(answers.adapters)), data, self.judged)
        return Predictions(sha256=fingerprints(data.splits[self.judged].joined()), gold=gold, logits=logits)


def check_same(entries: Sequence[Entry], known: Mapping[str, Answers], split: str) -> None:
    """Raise DataError where two systems were judged on different claims or by different gold labels."""
    first = entries[0]
    ours = known[first.name].predictions
    for entry in entries[1:]:
        theirs = known[entry.name].predictions
        if list(ours.sha256) != list(theirs.sha256):
            shared = len(set(ours.sha256) & set(theirs.sha256))
            raise DataError(
                f"{first.name} and {entry.name} were judged on different {split} claims: of {len(ours.sha256):,} and "
                f"{len(theirs.sha256):,}, {shared:,} share their sha256. Compare runs on one data set, or give --data."
            )
        differ = int((ours.gold != theirs.gold).sum())
        if differ:
            raise DataError(
                f"{first.name} and {entry.name} have the same {split} claims, but {differ:,} with another gold label. "
                "Compare runs on one version of the data, or give --data."
            )
