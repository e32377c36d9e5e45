"""Truncation of a trained LoRA to a lower rank: each layer's update B·A becomes its best approximation of that rank.

In: a peft model in memory. Out: the same model at the lower rank, with the same scale s. The approximation of rank k
that is nearest in the Frobenius norm keeps the k largest singular values (Eckart and Young 1936, Psychometrika
1:211-218). They are computed from the factors: with B = Q R and A' = P T (QR), the singular values of B·A are those of
R T', an (r, r) matrix, so a layer's full matrix is never formed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lorahub.models import initialization


@dataclass(frozen=True, kw_only=True)
class Update:
    """One layer's update without the scale, B·A = left · diag(values) · right.

    `left` is (out, m), `values` (m,) in descending order and `right` (m, in), all float64 and on the CPU; m is the rank
    r, or less if the layer is narrower.
    """

    left: torch.Tensor
    values: torch.Tensor
    right: torch.Tensor

    def pair(self, rank: int) -> initialization.Pair:
        """Return A (rank, in) and B (out, rank) of the best approximation of that rank; beyond m they are 0."""
        root = self.values[:rank].sqrt()
        down, up = root[:, None] * self.right[:rank], self.left[:, :rank] * root
        return initialization.padded(down, rank), initialization.padded(up.T, rank).T.contiguous()


def decompose(down: torch.Tensor, up: torch.Tensor) -> Update:
    """Return the singular value decomposition of up (out, r) times down (r, in), from two QR decompositions."""
    outer, inner = (torch.linalg.qr(matrix.detach().cpu().double()) for matrix in (up, down.T))
    left, values, right = torch.linalg.svd(outer.R @ inner.R.T, full_matrices=False)
    return Update(left=outer.Q @ left, values=values, right=right @ inner.Q.T)


def updates(model: nn.Module) -> dict[str, Update]:
    """Return the decomposed update of every layer that LoRA adapts, by its name in the base."""
    return {
        name: decompose(module.lora_A["default"].weight, module.lora_B["default"].weight)
        for name, module in initialization.pairs(model)
    }


def kept(updates: Mapping[str, Update], rank: int) -> float:
    """Return the share of the updates' squared Frobenius norm, over all layers, that a truncation to `rank` keeps."""
    squares = [update.values.square() for update in updates.values()]
    return float(sum(item[:rank].sum() for item in squares) / sum(item.sum() for item in squares))


@torch.no_grad()
def truncate(model: Any, updates: Mapping[str, Update], rank: int) -> float:
    """Set every layer to its best approximation of rank `rank` and adapt the model's peft config; return alpha.

    The scale s stays: alpha becomes s·rank, or s·sqrt(rank) with rsLoRA (arXiv:2312.03732). DoRA's magnitudes stay too;
    peft divides by the norm of the truncated weight. With the same updates a model can be truncated again, also to a
    higher rank.
    """
    config = model.peft_config["default"]
    divisor = math.sqrt if config.use_rslora else float
    config.lora_alpha *= divisor(rank) / divisor(config.r)
    config.r = rank
    for name, module in initialization.pairs(model):
        for half, weight in zip((module.lora_A, module.lora_B), updates[name].pair(rank), strict=True):
            layer = half["default"]
            layer.weight = nn.Parameter(weight.to(layer.weight), requires_grad=layer.weight.requires_grad)
            layer.out_features, layer.in_features = weight.shape
        module.r["default"], module.lora_alpha["default"] = rank, config.lora_alpha
    return float(config.lora_alpha)
