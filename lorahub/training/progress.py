"""The progress of a training: what callers can follow, what a checkpoint holds, and the best weights so far.

In: a model with at least one trainable parameter. Out: everything that a checkpoint needs in addition to what
accelerate saves itself (optimizer, learning rates, random states). Frozen weights are never written.
"""

import dataclasses
import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

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


@dataclass(kw_only=True)
class TrainingProgress:
    """Counters and curve of a training.

    `batches` counts forward passes of one process, `seen` training claims of all of them. `recent` holds the last
    losses, `since_best` the evaluations since the best one, `resumed_at` the steps of the checkpoints from which
    training resumed. `curve` has one row per evaluation: step, loss, learning_rate and the validation metrics.
    """

    steps: int = 0
    planned_steps: int = 0
    batches: int = 0
    seen: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    best_step: int = 0
    best_value: float = -math.inf
    best_loss: float = math.inf
    since_best: int = 0
    interrupted: bool = False
    recent: list[float] = field(default_factory=list)
    curve: list[dict[str, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    resumed_at: list[int] = field(default_factory=list)

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

    def keep_if_best(self, value: float, loss: float) -> None:
        """Copy the current weights if the metric `value` is the highest so far; of equal values the lower loss wins.

        Equal values are frequent on a small validation split.
        """
        progress = self.progress
        progress.since_best += 1
        if (value, -loss) > (progress.best_value, -progress.best_loss):
            progress.best_value, progress.best_loss = value, loss
            progress.best_step, progress.since_best = progress.steps, 0
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
        # JSON keeps every float exactly; Python also writes infinite ones.
        (folder / _PROGRESS).write_text(json.dumps(dataclasses.asdict(self.progress)), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        self._set(load_file(folder / _TRAINED))
        self.best = load_file(folder / _BEST) if (folder / _BEST).exists() else None
        self.progress = TrainingProgress(**json.loads((folder / _PROGRESS).read_text(encoding="utf-8")))

    @torch.no_grad()
    def _set(self, values: dict[str, torch.Tensor]) -> None:
        for name, parameter in self.trained.items():
            parameter.copy_(values[name])
