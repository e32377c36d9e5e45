"""The gradients of a training's optimizer steps; also a program, for several processes: BASE OUT SETTING…"""

import sys

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lorahub import config as configs
from lorahub.data.claimset import ClaimData, ClaimSet, DataSource
from lorahub.labels import LabelSet
from lorahub.training import run

TEXTS = [
    f"the {word} may {verb} ." for word in ("flu", "city", "bus") for verb in ("rises", "falls", "cures", "causes")
]
# The second label is rare.
GOLD = np.array([0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0])
CLAIMS = ClaimSet(texts=TEXTS, gold=GOLD)
DATA = ClaimData(
    labels=LabelSet(("common", "rare")),
    splits=dict.fromkeys(("train", "validation", "test"), CLAIMS),
    source=DataSource(id="memory", kind="memory", sha256={}, rows={}, dropped_rows={}),
)


def config(base, *settings):
    """Return a config whose steps do not change the weights, without dropout and clipping."""
    return configs.load(
        None,
        [
            f"base.id={base}", "train.class_weights=balanced", "adapter.dropout=0", "train.learning_rate=1e-30",
            "train.weight_decay=0", "train.max_grad_norm=1e9", "train.min_steps=1", "train.epochs=1", *settings,
        ],
    )  # fmt: skip


def of_steps(base, *settings, data=DATA):
    """Train for one epoch and return the gradients of each step, by parameter."""
    steps = []

    def record(optimizer, args, kwargs):
        steps.append([item.grad.clone() for group in optimizer.param_groups for item in group["params"]])

    hook = register_optimizer_step_pre_hook(record)
    try:
        run.validate(config(base, *settings), data)
    finally:
        hook.remove()
    return steps


if __name__ == "__main__":
    base, out, *rest = sys.argv[1:]
    torch.save(of_steps(base, *rest), out)
