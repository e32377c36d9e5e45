"""Label sets: the names of the classes in their fixed order, and the way between names and ids.

The order is the order of the head's columns. It is written to `labels.json` beside an adapter, a JSON list; no bare
index leaves the program without its name.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lorahub import atomic, runfiles
from lorahub.errors import AdapterError, DataError

LONGEST_NAME = 200


@dataclass(frozen=True)
class LabelSet:
    """Two or more distinct label names in id order."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            found = f"only one label, {self.names[0]!r}" if self.names else "no label"
            raise DataError(
                f"there is {found}; a classifier needs at least two. Check data.labels, data.label and data.label_map."
            )
        if len(set(self.names)) != len(self.names):
            raise DataError(f"label names repeat in {list(self.names)}; each label is named once.")
        # Such names are refused in an adapter's files, so they must not get that far.
        strange = next((name for name in self.names if not name.isprintable() or len(name) > LONGEST_NAME), None)
        if strange is not None:
            raise DataError(
                f"the label {strange[:40]!r} holds control characters or more than {LONGEST_NAME} characters; "
                "a label is a short name. Check data.label."
            )

    @cached_property
    def ids(self) -> dict[str, int]:
        """Name to id."""
        return {name: index for index, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def encode(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the ids (N,) of `names`; a KeyError names a label that is not in the set."""
        return np.fromiter((self.ids[name] for name in names), dtype=np.int64, count=len(names))

    @property
    def id2label(self) -> dict[int, str]:
        """The mapping that transformers' configs take."""
        return dict(enumerate(self.names))

    def save(self, folder: Path) -> None:
        """Write `labels.json` into `folder`."""
        atomic.write_json(folder / runfiles.LABELS, list(self.names))

    @classmethod
    def load(cls, folder: Path) -> "LabelSet":
        """Read `labels.json`; raises AdapterError where it is missing or no list of strings."""
        path = folder / runfiles.LABELS
        if not path.exists():
            raise AdapterError(f"{folder} has no {path.name}, the label names. Restore it or train again.")
        names = runfiles.read_json(path, list[str])
        if len(names) < 2 or len(set(names)) != len(names):
            raise AdapterError(
                f"{path} must hold at least two distinct label names; it holds {names}. Restore it or train again."
            )
        return cls(tuple(names))

    @classmethod
    def from_values(cls, values: Iterable[str]) -> "LabelSet":
        """The distinct values in alphabetical order: the same for every order of the rows."""
        return cls(tuple(sorted(set(values))))
