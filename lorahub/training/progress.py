"""The state of a training: what happened so far, the weights that are trained, and the best of them.

In: a model of which any part asks for gradients. Out: all of a training that a checkpoint must hold beside what
accelerate saves by itself (optimiser, learning rates, random numbers). The frozen rest of the model is never written.
"""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

_HAPPENED, _TRAINED, _BEST = "happened.json", "trained.safetensors", "best.safetensors"


@dataclass(kw_only=True)
class Fit:
    """What happened. `curve` has one row per evaluation: step, loss, learning_rate and the validation metrics.

    `batches` counts those of one process; `recent` holds the last losses; `since_best` counts evaluations;
    `resumed_at` has the step of every checkpoint that the training went on from.
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
    def samples_per_second(self) -> float:
        """Training claims seen a second."""
        return self.seen / self.seconds if self.seconds else 0.0


class State:
    """A training's `fit` and its weights: `trained`, the model's own by name, and `best`, a copy on the CPU."""

    def __init__(self, model: nn.Module) -> None:
        self.trained = {name: item for name, item in model.named_parameters() if item.requires_grad}
        self.best: dict[str, torch.Tensor] | None = None
        self.fit = Fit()

    def keep_best(self) -> None:
        """Remember the weights as they are now."""
        self.best = {name: item.detach().to("cpu", copy=True) for name, item in self.trained.items()}

    def restore_best(self) -> None:
        """Give the model its best weights again, where there are any."""
        if self.best is not None:
            self._set(self.best)

    def save(self, folder: Path) -> None:
        """Write everything into `folder`."""
        trained = {name: item.detach().contiguous() for name, item in self.trained.items()}
        save_file(trained, folder / _TRAINED)
        if self.best is not None:
            save_file(self.best, folder / _BEST)
        # Python writes a float so that it reads the same one back, infinite ones included.
        (folder / _HAPPENED).write_text(json.dumps(dataclasses.asdict(self.fit)), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Take over everything that `save` wrote."""
        self._set(load_file(folder / _TRAINED))
        self.best = load_file(folder / _BEST) if (folder / _BEST).exists() else None
        self.fit = Fit(**json.loads((folder / _HAPPENED).read_text(encoding="utf-8")))

    def _set(self, values: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(values[name])
