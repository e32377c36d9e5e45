"""Integrity: whether the files of a run folder are those that its record describes.

In: a run folder, here or downloaded, and its record. Out: sha256 and size of each file, which a finished run records;
later, by group of files, what differs from that. It finds files that were changed, damaged or mixed up after the run.
It does not protect against anybody who changes record.json as well: a hash is not a signature.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from lorahub import runfiles
from lorahub.errors import AdapterError, DataError
from lorahub.labels import LabelSet
from lorahub.records import RecordedFile, RunRecord
from lorahub.runfiles import CALIBRATION, LABELS, Layout
from lorahub.stats.verdicts import Calibration

# Of a hash, and of labels or biases, that are shown.
_SHOWN_DIGITS, _LONGEST_TEXT = 16, 200


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A group of files, such as the tokenizer's, compared with the record.

    `recorded` says what the record holds about them; `changes` are phrases, one per difference. `unchanged` is None if
    the record holds nothing, as those of older versions.
    """

    group: str
    recorded: str
    changes: tuple[str, ...]
    unchanged: bool | None


def hash_bytes(content: bytes) -> RecordedFile:
    """Return sha256 and size of a content."""
    return RecordedFile(sha256=hashlib.sha256(content).hexdigest(), size=len(content))


def hash_file(path: Path) -> RecordedFile:
    """Return sha256 and size of a file, read as a stream; raises OSError, also if it is not a regular file."""
    with runfiles.open_file(path) as file:
        return RecordedFile(sha256=_sha256(file), size=os.fstat(file.fileno()).st_size)


def hash_files(folder: Path) -> dict[str, RecordedFile]:
    """Return sha256 and size of the files that a record names: all but itself, card, plots and predictions."""
    names = (name for group in _groups(runfiles.layout(folder)).values() for name in group)
    return {name: hash_file(folder / name) for name in names if (folder / name).exists()}


def compare(folder: Path, record: RunRecord) -> list[Comparison]:
    """Compare the files of a folder with its record, by group.

    Labels and calibration are also compared with the values in the record, which records without hashes hold too.
    """
    comparisons = []
    for group, names in _groups(runfiles.layout(folder)).items():
        changes, recorded = [], []
        if record.files:
            known = [name for name in names if name in record.files]
            recorded.append(
                f"sha256 {record.files[known[0]].sha256[:_SHOWN_DIGITS]}" if len(known) == 1 else f"{len(known)} files"
            )
            changes += [change for name in names for change in _file_changes(folder, name, record.files.get(name))]
        values = _VALUES.get(group)
        # The default of a record without a calibration says nothing about its file.
        if values and (group != "calibration" or "calibration" in record.environment.model_fields_set):
            recorded.append(f"{group} in the record")
            changes += values(folder, record)
        comparisons.append(
            Comparison(
                group=group,
                recorded=", ".join(recorded) or "not recorded",
                changes=tuple(changes),
                unchanged=not changes if recorded else None,
            )
        )
    return comparisons


def altered(folder: Path, record: RunRecord) -> tuple[str, ...]:
    """Return a phrase for each difference between the files of a folder and its record."""
    return tuple(change for comparison in compare(folder, record) for change in comparison.changes)


def _groups(layout: Layout) -> dict[str, tuple[str, ...]]:
    return {
        "labels": (LABELS,),
        "calibration": (CALIBRATION,),
        "adapter config": (layout.config,),
        "weights and heads": (layout.weights,),
        "tokenizer": runfiles.TOKENIZER_FILES,
        "probes": (runfiles.PROBE, runfiles.LINEAR_PROBE),
    }


def _sha256(file: BufferedReader) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _file_changes(folder: Path, name: str, recorded: RecordedFile | None) -> Iterator[str]:
    path = folder / name
    if not os.path.lexists(path):
        if recorded is not None:
            yield f"{name} is missing"
        return
    if recorded is None:
        yield f"{name} is not in the record"
        return
    try:
        with runfiles.open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size != recorded.size:
                yield f"{name} has {size:,} bytes instead of {recorded.size:,}"
                return
            sha256 = _sha256(file)
    except OSError as error:
        yield f"{name} cannot be read: {error.strerror or error}"
        return
    if sha256 != recorded.sha256:
        yield f"{name} has sha256 {sha256[:_SHOWN_DIGITS]} instead of {recorded.sha256[:_SHOWN_DIGITS]}"


def _label_changes(folder: Path, record: RunRecord) -> Iterator[str]:
    try:
        names = list(LabelSet.load(folder).names)
    except (AdapterError, DataError):
        yield f"{LABELS} holds no label names"
        return
    if names != record.labels:
        order = ", in another order" if sorted(names) == sorted(record.labels) else ""
        yield f"{LABELS} holds {_shorten(', '.join(names))} instead of {_shorten(', '.join(record.labels))}{order}"


def _calibration_changes(folder: Path, record: RunRecord) -> Iterator[str]:
    try:
        values = Calibration.load(folder, len(record.labels)).model_dump()
    except AdapterError:
        yield f"{CALIBRATION} holds no calibration of {len(record.labels)} labels"
        return
    recorded = record.environment.calibration.model_dump()
    for name in ("temperature", "bias", "threshold"):
        if values[name] != recorded[name]:
            found, expected = _shorten(str(values[name])), _shorten(str(recorded[name]))
            yield f"{name} in {CALIBRATION} is {found} instead of {expected}"


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 3]}..."


# The groups whose values the record holds beside their hashes.
_VALUES = {"labels": _label_changes, "calibration": _calibration_changes}
