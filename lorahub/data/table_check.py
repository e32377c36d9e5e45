"""Check a whole file before a long evaluation starts: every claim is text, every label is readable.

In: a file of any format that `tables` reads, and its columns. Out: the label names of the file, and the label of each
row. The rows are not kept. Adapters matter only through their label sets.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lorahub.data import columns, label_check, tables
from lorahub.errors import DataError
from lorahub.labels import LabelSet

UNLABELLED = -1


@dataclass(frozen=True, kw_only=True)
class CheckedTable:
    """A file whose rows were all checked: its columns, its label names, and the index of each row's label (N,).

    A row without a label has the index -1. `notes` are sentences for the user: what was assumed to read the file, and
    what is odd about its labels.
    """

    source: Path
    claim: str
    evidence: str | None
    label: str | None
    names: list[str]
    gold: npt.NDArray[np.int64]
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.gold)

    @property
    def labels(self) -> dict[str, int]:
        """Number of rows by label name."""
        counts = np.bincount(self.gold[self.gold != UNLABELLED], minlength=len(self.names))
        return dict(zip(self.names, counts.tolist(), strict=True))

    def fit(self, labels: LabelSet) -> tuple[npt.NDArray[np.int64], list[str]]:
        """Return the gold ids (N,) in an adapter's label set, and the labels of the file that it lacks.

        Names that differ only in case or in surrounding spaces are the same.
        """
        matches = [columns.guess(labels.names, (name,)) for name in self.names]
        ids = [UNLABELLED if match is None else labels.ids[match] for match in matches]
        unknown = [name for name, match in zip(self.names, matches, strict=True) if match is None]
        return np.array([*ids, UNLABELLED], dtype=np.int64)[self.gold], unknown


def read(
    source: Path,
    *,
    claim: str,
    label: str | None = None,
    evidence: str | None = None,
    label_map: Mapping[str, str] | None = None,
) -> CheckedTable:
    """Read a file once and check every row, so that an evaluation does not fail at row 90,000.

    `label_map` renames values of the label column. Raises DataError naming the row.
    """
    chosen = [column for column in (claim, label, evidence) if column is not None]
    if len(set(chosen)) < len(chosen):
        raise DataError(f"{source.name}: claim, label and evidence need different columns; one is chosen twice.")
    table = columns.without_header(replace(tables.open_table(source), title=source.name), chosen)
    claim = columns.choose(table, claim, (), flag="the choice of columns")
    label, evidence = (
        None if column is None else columns.choose(table, column, (), flag="the choice of columns")
        for column in (label, evidence)
    )
    flag = columns.check_holds_texts(table, claim, named=True, flag="")
    indexes: dict[str, int] = {}
    gold, texts = [], Counter[str]()
    for number, row in enumerate(table.rows(), start=1):
        where = f"{source.name}, row {number}: column"
        columns.clean_text(columns.cell(row, claim), f"{where} {claim!r}")
        if evidence is not None:
            columns.clean_text(columns.cell(row, evidence), f"{where} {evidence!r}", empty_ok=True)
        value = None if label is None else columns.cell(row, label)
        if value is None or value == "":
            gold.append(UNLABELLED)
        else:
            name = columns.label_text(value, f"{where} {label!r}")
            gold.append(indexes.setdefault(name, len(indexes)))
            texts[str(value)] += 1
    if not gold:
        raise DataError(f"{source.name} has a header but no rows. Add some.")
    form = columns.label_form(indexes)
    renamed = {form(value): name for value, name in (label_map or {}).items()}
    named = [renamed.get(form(value), form(value)) for value in indexes]
    names = list(dict.fromkeys(named))
    ids = np.array([*(names.index(name) for name in named), UNLABELLED], dtype=np.int64)
    if label is not None:
        label_check.check_no_score(source.name, label, texts)
    return CheckedTable(
        source=source,
        claim=claim,
        evidence=evidence,
        label=label,
        names=names,
        gold=ids[np.array(gold, np.int64)],
        notes=[f"{note}." for note in (*table.notes, *([flag] if flag else []))],
    )
