"""A file that was read through once, before hours are spent on it: every claim is a text, every label is known.

In: a csv, tsv, jsonl or parquet file, and which column holds what. Out: its label names, and which of them each row
has. The rows themselves are not kept. Knows nothing of adapters but their label sets.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lorahub.data import columns, tables
from lorahub.errors import DataError
from lorahub.labels import LabelSet

UNLABELLED = -1


@dataclass(frozen=True, kw_only=True)
class CheckedTable:
    """A file that was read through once: its columns, its label names, and each row's place in them (N,).

    A row without a label has the place -1.
    """

    source: Path
    claim: str
    evidence: str | None
    label: str | None
    names: list[str]
    gold: npt.NDArray[np.int64]

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.gold)

    @property
    def labels(self) -> dict[str, int]:
        """Label name -> how many rows carry it."""
        counts = np.bincount(self.gold[self.gold != UNLABELLED], minlength=len(self.names))
        return dict(zip(self.names, counts.tolist(), strict=True))

    def fit(self, labels: LabelSet) -> tuple[npt.NDArray[np.int64], list[str]]:
        """The gold ids (N,) in an adapter's label set, and the file's labels that it does not know.

        A name that differs only in case, or in spaces around it, is the same name.
        """
        found = [columns.guess(labels.names, (name,)) for name in self.names]
        known = [UNLABELLED if name is None else labels.ids[name] for name in found]
        ids = np.array([*known, UNLABELLED], dtype=np.int64)[self.gold]
        return ids, [name for name, fits in zip(self.names, found, strict=True) if fits is None]


def read(
    source: Path,
    *,
    claim: str,
    label: str | None = None,
    evidence: str | None = None,
    label_map: Mapping[str, str] | None = None,
) -> CheckedTable:
    """Read a file through and check every row, so that judging does not end in row 90,000.

    `label_map` turns a value of the label column into another name. Raises DataError naming the row.
    """
    chosen = [column for column in (claim, label, evidence) if column is not None]
    if len(set(chosen)) < len(chosen):
        raise DataError(f"{source.name}: claim, label and evidence are different columns; one is chosen twice.")
    present, renamed = tables.columns(source), label_map or {}
    for column in chosen:
        columns.choose(source.name, present, column, (), flag="the choice of columns")
    places: dict[str, int] = {}
    gold = []
    for number, row in enumerate(tables.read(source), start=1):
        where = f"{source.name}, row {number}: column"
        columns.clean_text(row.get(claim), f"{where} {claim!r}")
        if evidence is not None:
            columns.clean_text(row.get(evidence), f"{where} {evidence!r}", empty_ok=True)
        value = None if label is None else row.get(label)
        if value is None or value == "":
            gold.append(UNLABELLED)
        else:
            name = columns.label_text(value, f"{where} {label!r}")
            gold.append(places.setdefault(renamed.get(name, name), len(places)))
    if not gold:
        raise DataError(f"{source.name} has a header but no row. Add some.")
    return CheckedTable(
        source=source, claim=claim, evidence=evidence, label=label, names=list(places), gold=np.array(gold, np.int64)
    )
