"""Optimizers: AdamW in one of four forms.

Paged forms move moments to main memory when the GPU's is short (QLoRA, arXiv:2305.14314, section 3); the arithmetic is
the same.
"""

from collections.abc import Sequence

import torch
from torch import nn

from lorahub.config import TrainConfig
from lorahub.errors import need

ADAMW = "adamw"
_PAGED = "paged-"
_BITSANDBYTES = {"paged-adamw": "PagedAdamW", "adamw8bit": "AdamW8bit", "paged-adamw8bit": "PagedAdamW8bit"}
_BLOCK, _MIN_8BIT_SIZE = 256, 4096  # of bitsandbytes


def choose(form: str, device: torch.device, *, memory_efficient: bool) -> tuple[str, str]:
    """Resolve `train.optimizer` for a device; return the form and its reason. Paged forms need a GPU."""
    reason = f"train.optimizer={form}"
    if form == "auto" and memory_efficient:
        form, reason = "paged-adamw", "the method is memory-efficient"
    elif form == "auto":
        form, reason = ADAMW, "default"
    if form.startswith(_PAGED) and device.type != "cuda":
        return form.removeprefix(_PAGED), f"{form} needs a GPU, and this is {device.type}"
    return form, reason


def build(form: str, trained: Sequence[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimizer of the trained parameters."""
    kind = torch.optim.AdamW
    if form != ADAMW:
        kind = getattr(need("bitsandbytes", extra="qlora").optim, _BITSANDBYTES[form])
    return kind(trained, lr=config.learning_rate, weight_decay=config.weight_decay)


def empty_moments(form: str, parameter: nn.Parameter) -> list[torch.Tensor]:
    """Return the two moments that bitsandbytes keeps of a parameter, without data.

    In 8 bits they have a float32 constant for each block of 256 values and a code book; small parameters stay in 32
    bits (arXiv:2110.02861; bitsandbytes/optim/optimizer.py, min_8bit_size).
    """
    if not form.endswith("8bit") or parameter.numel() < _MIN_8BIT_SIZE:
        return [torch.empty_like(parameter, dtype=torch.float32) for _ in range(2)]
    blocks = -(-parameter.numel() // _BLOCK)
    one = [torch.empty_like(parameter, dtype=torch.uint8), *(parameter.new_empty(size) for size in (blocks, 256))]
    return [torch.empty_like(item) for _ in range(2) for item in one]
