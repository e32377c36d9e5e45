"""Claims in memory: texts with gold labels, by split, and the description of their source.

Imports nothing from the rest of `data`.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lorahub.labels import LabelSet


@dataclass(frozen=True, kw_only=True)
class ClaimSet:
    """N claims: texts, gold label ids (N,) int64 and, for sentence pairs, N evidence texts.

    `weight` (N,) float64 is the weight of each claim in the training loss; None weighs all alike. `group` are the N
    sources and `date` (N,) float64 the dates of the claims, for splits; None without `data.group` and `data.date`.
    """

    texts: list[str]
    gold: npt.NDArray[np.int64]
    evidence: list[str] | None = None
    weight: npt.NDArray[np.float64] | None = None
    group: list[str] | None = None
    date: npt.NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: npt.NDArray[np.int64]) -> "ClaimSet":
        """Return the claims at `rows`, in that order."""
        return ClaimSet(
            texts=[self.texts[row] for row in rows],
            gold=self.gold[rows],
            evidence=None if self.evidence is None else [self.evidence[row] for row in rows],
            weight=None if self.weight is None else self.weight[rows],
            group=None if self.group is None else [self.group[row] for row in rows],
            date=None if self.date is None else self.date[rows],
        )

    def joined(self) -> list[str]:
        """Return one text per row: the claim, followed by its evidence if there is any."""
        if self.evidence is None:
            return self.texts
        return [f"{text} {evidence}" for text, evidence in zip(self.texts, self.evidence, strict=True)]

    def sha256(self, labels: LabelSet) -> str:
        """Return a fingerprint of texts, evidence and label names in order, independent of the file format."""
        digest = hashlib.sha256()
        for text, second, gold in zip(self.texts, self.evidence or [""] * len(self), self.gold, strict=True):
            digest.update("\x1f".join((text, second, labels.names[gold])).encode() + b"\x1e")
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Where claims come from, as a run record keeps it: the values by split are those that were used.

    `id` can be published: a Hub id, the name of a data set or a bare file name, never a path. `kind` is how it was
    read: "hub", "local copy", "shipped", "folder", "file" or "memory". `revision` is the commit of a Hub data set.
    """

    id: Annotated[str, Field(description="named set, Hub id, name of the folder or file, or `memory`")]
    kind: Annotated[
        str,
        Field(
            description="`hub`, `shipped`, `local copy` (of a named set), `folder`, `file` or `memory` (claims passed "
            "by a program)"
        ),
    ]
    revision: Annotated[str | None, Field(description="commit of the data set on the Hub; else null")] = None
    sha256: Annotated[
        dict[str, str],
        Field(description="fingerprint of texts, evidence and label names in order, independent of the file format"),
    ]
    rows: Annotated[dict[str, int], Field(description="claims that were used")]
    dropped_rows: Annotated[
        dict[str, int],
        Field(
            description="rows left out: by `data.drop_labels`, without a class on the Hub, or empty in a named set "
            "known for such rows; a split without any is absent, and for data without splits SPLIT is `all`"
        ),
    ] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ClaimData:
    """Claims by split with their labels, their source, and warnings for the user.

    `random` are the same claims in a random split, where the test split was made by source or date.
    """

    labels: LabelSet
    splits: dict[str, ClaimSet]
    source: DataSource
    warnings: list[str] = field(default_factory=list)
    random: dict[str, ClaimSet] | None = None

    @property
    def gold(self) -> dict[str, npt.NDArray[np.int64]]:
        """Gold label ids (N,) by split."""
        return {name: part.gold for name, part in self.splits.items()}
