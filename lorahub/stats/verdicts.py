"""From logits to verdicts: the only code that chooses a label or computes a probability.

In: logits (N, C) float32 and a `Calibration`. Out: probabilities (N, C) and label ids (N,). `softmax` gives what peft
and transformers give; `calibrated` applies bias and temperature; `decide` applies the bias. Abstention changes
neither: it is a mark next to the label.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field

from lorahub import atomic, runfiles
from lorahub.errors import AdapterError
from lorahub.runfiles import Part

# Ten and more times what fitting can give: beyond, float32 probabilities are not finite, or all the same.
SMALLEST_TEMPERATURE, LARGEST_TEMPERATURE, LARGEST_BIAS = 1e-3, 1e3, 1e4
# Larger logits can overflow float32 when they are divided by the smallest temperature.
LARGEST_LOGIT = 1e30
Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


class Calibration(Part):
    """Values chosen on a validation split: a temperature and an additive bias per label (logits).

    With a `threshold`, a system abstains from a claim on which its confidence, the calibrated probability of its label,
    is below it; without one it never abstains.
    """

    model_config = ConfigDict(frozen=True)

    temperature: float = Field(
        default=1.0,
        ge=SMALLEST_TEMPERATURE,
        le=LARGEST_TEMPERATURE,
        description="the adapter's logits, with the bias added, are divided by it; chosen on the calibrating half of "
        "validation",
    )
    bias: tuple[Annotated[float, Field(ge=-LARGEST_BIAS, le=LARGEST_BIAS)], ...] = Field(
        default=(),
        description="added to the adapter's logits before the label is chosen; one value per label, or empty if it did "
        "not help on the selecting half of validation (logits)",
    )
    threshold: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="the adapter abstains from a claim on which its confidence is below it; 0 answers every claim, "
        "null means that no threshold was requested or reached: the adapter never abstains",
    )
    split: str | None = Field(default=None, description="split on which the values were chosen")

    def save(self, folder: Path) -> None:
        """Write `calibration.json` into `folder`."""
        atomic.write_json(folder / runfiles.CALIBRATION, self.model_dump())

    @classmethod
    def load(cls, folder: Path, labels: int) -> "Calibration":
        """Read `calibration.json`; a folder without it is uncalibrated. Raises AdapterError if it is damaged."""
        path = folder / runfiles.CALIBRATION
        if not path.exists():
            return cls()
        loaded = runfiles.read_json(path, cls)
        if len(loaded.bias) not in (0, labels):
            raise AdapterError(
                f"{path} does not fit {labels} labels: it has {len(loaded.bias)} biases. Restore it or train again."
            )
        return loaded


def softmax(logits: Floats) -> Floats:
    """Return the row-wise softmax (N, C), stable for large logits."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    normalized: Floats = shifted / shifted.sum(axis=-1, keepdims=True)
    return normalized


def _adjusted(logits: Floats, calibration: Calibration) -> Floats:
    return logits + np.asarray(calibration.bias, dtype=logits.dtype) if calibration.bias else logits


def calibrated(logits: Floats, calibration: Calibration) -> Floats:
    """Return probabilities (N, C) after bias and temperature; their arg max is the label of `decide`."""
    return softmax(_adjusted(logits, calibration) / np.float32(calibration.temperature))


def decide(logits: Floats, calibration: Calibration) -> Ids:
    """Return label ids (N,): the arg max after the stored bias."""
    ids: Ids = _adjusted(logits, calibration).argmax(axis=-1).astype(np.int64)
    return ids


def confidences(probabilities: Floats, ids: Ids) -> Floats:
    """Return the probability (N,) of each claim's label."""
    chosen: Floats = probabilities[np.arange(len(ids)), ids]
    return chosen


def abstains(confidence: Floats, calibration: Calibration) -> npt.NDArray[np.bool_]:
    """Return whether the calibrated confidence of each answer (N,) is below the stored threshold."""
    below: npt.NDArray[np.bool_] = confidence < (calibration.threshold or 0.0)
    return below
