"""From logits to verdicts: the only path by which a label is chosen or a probability shown.

In: logits (N, C) float32 and a `Calibration`. Out: probabilities (N, C) and label ids (N,). `softmax` gives what peft
and transformers give; `calibrated` applies bias and temperature; `decide` applies the bias. Whether a system abstains
changes neither: it is a mark beside the label.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lorahub import atomic
from lorahub.errors import AdapterError

FILE_NAME = "calibration.json"

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was chosen on a validation split: one temperature > 0 and one additive bias per label (logits).

    With a `threshold`, a system abstains from a claim on which its confidence, the calibrated probability of its label,
    is below it; without one it never abstains.
    """

    temperature: float = 1.0
    bias: tuple[float, ...] = ()
    threshold: float | None = None
    split: str | None = None

    def save(self, folder: Path) -> None:
        """Write `calibration.json` into `folder`."""
        atomic.write_json(folder / FILE_NAME, asdict(self))

    @classmethod
    def load(cls, folder: Path, labels: int) -> "Calibration":
        """Read `calibration.json`; a folder without one is uncalibrated. Raises AdapterError where it is damaged."""
        path = folder / FILE_NAME
        if not path.exists():
            return cls()
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            threshold = values.get("threshold")
            found = cls(
                temperature=float(values["temperature"]),
                bias=tuple(float(value) for value in values["bias"]),
                threshold=None if threshold is None else float(threshold),
                split=values.get("split"),
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise AdapterError(f"{path} is damaged ({error}). Restore it or train again.") from None
        if len(found.bias) not in (0, labels) or not np.isfinite([found.temperature, *found.bias]).all():
            raise AdapterError(
                f"{path} does not fit {labels} labels: it has {len(found.bias)} biases. Restore it or train again."
            )
        if found.temperature <= 0:
            raise AdapterError(f"{path}: the temperature is {found.temperature}; it must be above 0.")
        if found.threshold is not None and not 0 <= found.threshold <= 1:
            raise AdapterError(f"{path}: the abstain threshold is {found.threshold}; it must lie between 0 and 1.")
        return found


def softmax(logits: Floats) -> Floats:
    """Row-wise softmax (N, C), safe for large logits."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    normalised: Floats = shifted / shifted.sum(axis=-1, keepdims=True)
    return normalised


def _adjusted(logits: Floats, calibration: Calibration) -> Floats:
    return logits + np.asarray(calibration.bias, dtype=logits.dtype) if calibration.bias else logits


def calibrated(logits: Floats, calibration: Calibration) -> Floats:
    """Probabilities (N, C) after bias and temperature; their arg max is `decide`'s label."""
    return softmax(_adjusted(logits, calibration) / np.float32(calibration.temperature))


def decide(logits: Floats, calibration: Calibration) -> Ids:
    """Label ids (N,): the arg max after the stored bias."""
    ids: Ids = _adjusted(logits, calibration).argmax(axis=-1).astype(np.int64)
    return ids


def confidences(probabilities: Floats, ids: Ids) -> Floats:
    """The probability (N,) that each claim's own label has."""
    found: Floats = probabilities[np.arange(len(ids)), ids]
    return found


def abstains(confidence: Floats, calibration: Calibration) -> npt.NDArray[np.bool_]:
    """Whether each answer (N,) is to be marked: its calibrated confidence is below the stored threshold."""
    found: npt.NDArray[np.bool_] = confidence < (calibration.threshold or 0.0)
    return found
