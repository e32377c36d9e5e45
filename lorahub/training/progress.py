"""The progress of a training: what callers can follow, what a checkpoint holds, and the best weights so far.

In: a model with at least one trainable parameter. Out: everything that a checkpoint needs in addition to what
accelerate saves itself (optimizer, learning rates, random states). Frozen weights are never written.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lorahub.records import CurvePoint
from lorahub.runfiles import Part

log = logging.getLogger(__name__)

_PROGRESS, _TRAINED, _BEST = "progress.json", "trained.safetensors", "best.safetensors"


@dataclass(frozen=True, kw_only=True)
class Step:
    """An optimizer step, as callbacks and trackers get it; `validation` holds metrics after an evaluation."""

    step: int
    total: int
    loss: float
    learning_rate: float
    samples_per_second: float
    validation: dict[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """Callbacks of a training: `on_stage` with a sentence for each stage, `on_step` after each optimizer step.

    An exception in `on_step` ends the training and reaches the caller.
    """

    on_stage: Callable[[str], None] = lambda text: log.info("%s", text)
    on_step: Callable[[Step], None] = lambda step: None


class TrainingProgress(Part):
    """Counters and curve of a training.

    `batches` counts forward passes of one process, `seen` training claims of all of them. `recent` holds the last
    losses, `best` the evaluation whose weights are kept, `since_best` the evaluations after it, and `resumed_at` the
    steps of the checkpoints from which training resumed.
    """

    steps: int = 0
    planned_steps: int = 0
    batches: int = 0
    seen: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    best: CurvePoint | None = None
    since_best: int = 0
    interrupted: bool = False
    recent: list[float] = []
    curve: list[CurvePoint] = []
    warnings: list[str] = []
    resumed_at: list[int] = []

    @property
    def loss(self) -> float:
        """Mean of the recent losses."""
        return float(np.mean(self.recent))

    @property
    def samples_per_second(self) -> float:
        """Training claims per second."""
        return self.seen / self.seconds if self.seconds else 0.0


class TrainingState:
    """The progress of a training with its weights: `trained`, by name, and `best`, a copy of them on the CPU."""

    def __init__(self, model: nn.Module) -> None:
        self.trained = {name: item for name, item in model.named_parameters() if item.requires_grad}
        self.best: dict[str, torch.Tensor] | None = None
        self.progress = TrainingProgress()

    def add_evaluation(self, point: CurvePoint, metric: str) -> None:
        """Add an evaluation to the curve, and keep the current weights if its metric is the highest so far.

        Of equal values, which are frequent on a small validation split, the one with the lower loss wins.
        """
        progress, best = self.progress, self.progress.best
        progress.curve.append(point)
        progress.since_best += 1
        if best is None or _quality(point, metric) > _quality(best, metric):
            progress.best, progress.since_best = point, 0
            self.best = {name: item.detach().to("cpu", copy=True) for name, item in self.trained.items()}

    def restore_best(self) -> None:
        """Set the model to its best weights, if any were kept."""
        if self.best is not None:
            self._set(self.best)

    def save(self, folder: Path) -> None:
        """Write progress and weights into `folder`."""
        trained = {name: item.detach().contiguous() for name, item in self.trained.items()}
        save_file(trained, folder / _TRAINED)
        if self.best is not None:
            save_file(self.best, folder / _BEST)
        (folder / _PROGRESS).write_text(self.progress.model_dump_json(), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        self._set(load_file(folder / _TRAINED))
        self.best = load_file(folder / _BEST) if (folder / _BEST).exists() else None
        self.progress = TrainingProgress.model_validate_json((folder / _PROGRESS).read_bytes())

    @torch.no_grad()
    def _set(self, values: dict[str, torch.Tensor]) -> None:
        for name, parameter in self.trained.items():
            parameter.copy_(values[name])


def _quality(point: CurvePoint, metric: str) -> tuple[float, float]:
    return getattr(point, metric), -point.loss_validation
