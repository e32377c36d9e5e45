"""Predictions: one system's raw logits on one split, as a run keeps them in `predictions/SPLIT.SYSTEM.parquet`.

A row holds its number, the sha256 of the claim, the gold id and the logits, and no text. Whoever has the claims can
tell from the sha256 that they are the same; others learn nothing of them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lorahub.errors import AdapterError, one_line
from lorahub.labels import LabelSet
from lorahub.stats.verdicts import Floats, Ids

FOLDER = "predictions"


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """N claims by their sha256, their gold ids (N,) and a system's logits (N, C)."""

    sha256: Sequence[str]
    gold: Ids
    logits: Floats

    def save(self, folder: Path, split: str, system: str) -> None:
        """Write the file of a system on a split into the run folder `folder`."""
        columns = {
            "row": pa.array(range(len(self.gold)), pa.int32()),
            "sha256": pa.array(self.sha256, pa.string()),
            "gold": pa.array(self.gold, pa.int32()),
            "logits": pa.array(list(self.logits), pa.list_(pa.float32())),
        }
        path = path_of(folder, split, system)
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), path)

    @classmethod
    def load(cls, folder: Path, split: str, system: str, *, labels: int) -> "Predictions | None":
        """Read what a run folder keeps of a system on a split; None where it keeps nothing.

        Raises AdapterError where the file is damaged or does not fit `labels` labels.
        """
        path = path_of(folder, split, system)
        if not path.exists():
            return None
        try:
            table = pq.read_table(path, columns=["sha256", "gold", "logits"])
            found = cls(
                sha256=[str(value) for value in table["sha256"].to_pylist()],
                gold=np.array(table["gold"].to_pylist(), dtype=np.int64),
                logits=np.array(table["logits"].to_pylist(), dtype=np.float32),
            )
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            raise AdapterError(f"{path} is damaged ({one_line(error)}). Restore it or train again.") from None
        fits = found.logits.ndim == 2 and found.logits.shape[1] == labels and len(found.gold) > 0
        if not fits or not np.isfinite(found.logits).all() or not ((found.gold >= 0) & (found.gold < labels)).all():
            raise AdapterError(f"{path} does not hold finite logits of {labels} labels. Restore it or train again.")
        return found

    def relabelled(self, own: LabelSet, wanted: LabelSet) -> "Predictions":
        """The same with the ids and columns of `wanted`, which has the names of `own` in any order."""
        columns = [own.ids[name] for name in wanted.names]
        places = np.argsort(columns).astype(np.int64)
        return Predictions(sha256=self.sha256, gold=places[self.gold], logits=self.logits[:, columns])


def path_of(folder: Path, split: str, system: str) -> Path:
    """The file of a system on a split in a run folder."""
    return folder / FOLDER / f"{split}.{system}.parquet"


def fingerprints(texts: Sequence[str]) -> list[str]:
    """The sha256 of each claim, as one text with its evidence (`ClaimSet.joined`)."""
    return [hashlib.sha256(text.encode()).hexdigest() for text in texts]
