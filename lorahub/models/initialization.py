"""Initializations of LoRA's A and B, and how such an adapter is saved as plain LoRA.

PiSSA (arXiv:2404.02948) and OLoRA (arXiv:2406.01775) move a part s·B0·A0 of each weight into the adapter. Loading such
an adapter would change the base for all others, so the difference to the original base is saved: s·(B·A - B0·A0), a
plain LoRA of twice the rank. LoftQ (arXiv:2310.08659, with one step) starts at the best low-rank approximation of the
quantization error and leaves the base unchanged.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from lorahub.errors import BaseModelError
from lorahub.hub import rules
from lorahub.models import quantization

MOVES_BASE = ("pissa", "olora")
LOFTQ = "loftq"
Pair = tuple[torch.Tensor, torch.Tensor]


def pairs(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the layers of a peft model that LoRA adapts, with their names in the base."""
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            yield name.removeprefix("base_model.model."), module


def moved(model: nn.Module) -> dict[str, Pair]:
    """Return A0 (r, in) and B0 (out, r) of each layer right after an initialization that changes the base."""
    return {
        name: (module.lora_A["default"].weight.detach().clone(), module.lora_B["default"].weight.detach().clone())
        for name, module in pairs(model)
    }


def as_plain_lora(
    tensors: dict[str, torch.Tensor], config: rules.Config, start: dict[str, Pair]
) -> tuple[dict[str, torch.Tensor], rules.Config]:
    """Return saved tensors and config as a LoRA on the original base: of twice the rank, with the same scale s."""
    changed, rank = dict(tensors), 2 * config["r"]
    for layer, (down, up) in start.items():
        of_a, of_b = (f"base_model.model.{layer}.lora_{part}.weight" for part in "AB")
        changed[of_a] = padded(torch.cat([tensors[of_a], down.to(tensors[of_a])]), rank)
        changed[of_b] = padded(torch.cat([tensors[of_b], -up.to(tensors[of_b])], dim=1).T, rank).T.contiguous()
    # s is alpha / r, or alpha / sqrt(r) with rsLoRA.
    alpha = config["lora_alpha"] * (2**0.5 if config.get("use_rslora") else 2)
    return changed, {**config, "r": rank, "lora_alpha": alpha, "init_lora_weights": True}


@torch.no_grad()
def loftq(model: nn.Module, folder: Path) -> None:
    """Set A and B to the best rank-r approximation of the error, s·B·A ≈ W - nf4(W); `folder` holds W."""
    for name, module in pairs(model):
        quantized = module.get_base_layer()
        lost = _original(folder, name).to(quantized.weight.device) - quantization.dense(quantized)
        rank = module.r["default"]
        left, values, right = torch.linalg.svd(lost, full_matrices=False)
        root = (values[:rank] / module.scaling["default"]).sqrt()
        module.lora_A["default"].weight.copy_(padded(root[:, None] * right[:rank], rank))
        module.lora_B["default"].weight.copy_(padded((left[:, :rank] * root).T, rank).T)


def padded(matrix: torch.Tensor, count: int) -> torch.Tensor:
    """Return `matrix` with rows of zeros up to `count`: a layer narrower than the rank has fewer singular vectors."""
    return nn.functional.pad(matrix, (0, 0, 0, count - len(matrix)))


def _original(folder: Path, layer: str) -> torch.Tensor:
    """Return a layer's weight from the base's files, where its name may lack the backbone's prefix."""
    names = (f"{layer}.weight", f"{layer.partition('.')[2]}.weight")
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            name = next((name for name in names if name in file.keys()), None)  # noqa: SIM118 - not a mapping
            if name is not None:
                weight: torch.Tensor = file.get_tensor(name).float()
                return weight
    raise BaseModelError(f"the base's files hold no {names[0]}, which adapter.init=loftq needs. Use another init.")
