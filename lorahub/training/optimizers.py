"""The optimiser: AdamW in one of four forms, and why that one.

In: what was asked for and where it runs. Out: a form that this device has, its reason, and the optimiser itself. Paged
forms (QLoRA, arXiv:2305.14314, section 3) let moments move to the CPU's memory when the GPU's is short; the arithmetic
is the same.
"""

from collections.abc import Sequence

import torch
from torch import nn

from lorahub.config import TrainConfig
from lorahub.errors import need

ADAMW = "adamw"
_BLOCK, _SMALLEST_IN_8_BITS = 256, 4096  # of bitsandbytes
_PAGED = "paged-"
_FORMS = {"paged-adamw": "PagedAdamW", "adamw8bit": "AdamW8bit", "paged-adamw8bit": "PagedAdamW8bit"}


def choose(wanted: str, device: torch.device, *, frugal: bool) -> tuple[str, str]:
    """Return the form and its reason; paging needs a GPU, and elsewhere the unpaged form takes its place."""
    form = wanted
    if wanted == "auto":
        form = "paged-adamw" if frugal else ADAMW
    if form.startswith(_PAGED) and device.type != "cuda":
        return form.removeprefix(_PAGED), f"{form} needs a GPU to page from, and this is {device.type}"
    if wanted == "auto":
        return form, "paged: the method spares memory" if frugal else "torch's own"
    return form, f"asked for with train.optimizer={wanted}"


def build(form: str, trained: Sequence[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimiser over the trained parameters."""
    if form == ADAMW:
        return torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
    kind = getattr(need("bitsandbytes", extra="qlora").optim, _FORMS[form])
    found: torch.optim.Optimizer = kind(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
    return found


def empty_moments(form: str, parameter: nn.Parameter) -> list[torch.Tensor]:
    """The two moments that bitsandbytes keeps of a parameter, without data.

    In 8 bits they have a float32 constant for each block of 256 values and a code book; small parameters' stay in 32
    bits (arXiv:2110.02861; bitsandbytes/optim/optimizer.py, min_8bit_size).
    """
    if not form.endswith("8bit") or parameter.numel() < _SMALLEST_IN_8_BITS:
        return [torch.empty_like(parameter, dtype=torch.float32) for _ in range(2)]
    blocks = -(-parameter.numel() // _BLOCK)
    one = [torch.empty_like(parameter, dtype=torch.uint8), *(parameter.new_empty(size) for size in (blocks, 256))]
    return [torch.empty_like(item) for _ in range(2) for item in one]
