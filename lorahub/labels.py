"""Label sets: the names of the classes in id order, and the mapping between names and ids.

The order is that of the columns of the head. `labels.json` in a run folder holds it as a JSON list.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lorahub import atomic, runfiles
from lorahub.errors import AdapterError, DataError

LONGEST_NAME = 200
# The names that transformers gives to labels without names, followed by their id.
PLACEHOLDER = "LABEL_"


@dataclass(frozen=True)
class LabelSet:
    """Two or more distinct label names in id order."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            labels = f"only one label, {self.names[0]!r}" if self.names else "no label"
            raise DataError(
                f"there is {labels}; a classifier needs at least two. Check data.labels, data.label and data.label_map."
            )
        if len(set(self.names)) != len(self.names):
            raise DataError(f"label names repeat in {list(self.names)}; name each label once.")
        # hub/safety.py refuses adapters with such names.
        invalid = next((name for name in self.names if not name.isprintable() or len(name) > LONGEST_NAME), None)
        if invalid is not None:
            raise DataError(
                f"the label {invalid[:40]!r} holds control characters or more than {LONGEST_NAME} characters; "
                "a label is a short name. Check data.label."
            )

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each name."""
        return {name: index for index, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def encode(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the ids (N,) of `names`; raises KeyError for a label that is not in the set."""
        return np.fromiter((self.ids[name] for name in names), dtype=np.int64, count=len(names))

    @property
    def placeholders(self) -> bool:
        """Whether the names are LABEL_0, LABEL_1 and so on."""
        return all(name == f"{PLACEHOLDER}{index}" for index, name in enumerate(self.names))

    @property
    def id2label(self) -> dict[int, str]:
        """The mapping from id to name, as transformers' configs take it."""
        return dict(enumerate(self.names))

    def save(self, folder: Path) -> None:
        """Write `labels.json` into `folder`."""
        atomic.write_json(folder / runfiles.LABELS, list(self.names))

    @classmethod
    def load(cls, folder: Path) -> "LabelSet":
        """Read `labels.json`; raises AdapterError if it is missing or damaged."""
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
    def of_config(cls, id2label: Mapping[int, str] | None) -> "LabelSet | None":
        """Return the names in a model's config; None if they are not a label set."""
        names = [] if id2label is None else [str(id2label[index]) for index in sorted(id2label)]
        try:
            return cls(tuple(names))
        except DataError:
            return None

    @classmethod
    def from_values(cls, values: Iterable[str]) -> "LabelSet":
        """Return the distinct values in alphabetical order, independent of the order of rows."""
        return cls(tuple(sorted(set(values))))
