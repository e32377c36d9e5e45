"""Predictions: one system's raw logits on one split, as a run keeps them in `predictions/SPLIT.SYSTEM.parquet`.

A row holds its number, the sha256 of the claim, the gold id and the logits, but no text. The sha256 shows whether two
systems answered the same claims without revealing them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lorahub import runfiles
from lorahub.errors import AdapterError, one_line
from lorahub.labels import LabelSet
from lorahub.stats.verdicts import LARGEST_LOGIT, Floats, Ids

_LARGEST_FILE = 2**31


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
        """Read the predictions of a system on a split; None if the run folder has none.

        Raises AdapterError if the file is damaged or does not fit `labels` labels.
        """
        path = path_of(folder, split, system)
        if not path.exists():
            return None
        try:
            with runfiles.open_file(path, limit=_LARGEST_FILE, folder=folder) as file:
                table = pq.read_table(file, columns=["sha256", "gold", "logits"])
            predictions = cls(
                sha256=[str(value) for value in table["sha256"].to_pylist()],
                gold=np.array(table["gold"].to_pylist(), dtype=np.int64),
                logits=np.array(table["logits"].to_pylist(), dtype=np.float32),
            )
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            raise AdapterError(f"{path} is damaged ({one_line(error)}). Restore it or train again.") from None
        fits = predictions.logits.ndim == 2 and predictions.logits.shape[1] == labels and len(predictions.gold) > 0
        ids_fit = ((predictions.gold >= 0) & (predictions.gold < labels)).all()
        if not fits or not ids_fit or not (np.abs(predictions.logits) < LARGEST_LOGIT).all():
            raise AdapterError(f"{path} does not hold finite logits of {labels} labels. Restore it or train again.")
        return predictions

    def relabelled(self, own: LabelSet, wanted: LabelSet) -> "Predictions":
        """Return the same with the ids and columns of `wanted`, which has the names of `own` in any order."""
        columns = [own.ids[name] for name in wanted.names]
        places = np.argsort(columns).astype(np.int64)
        return Predictions(sha256=self.sha256, gold=places[self.gold], logits=self.logits[:, columns])


def path_of(folder: Path, split: str, system: str) -> Path:
    """Return the file of a system on a split in a run folder."""
    return folder / runfiles.PREDICTIONS / f"{split}.{system}.parquet"


def fingerprints(texts: Sequence[str]) -> list[str]:
    """Return the sha256 of each claim, as one text with its evidence (`ClaimSet.joined`)."""
    return [hashlib.sha256(text.encode()).hexdigest() for text in texts]
