"""Truncation: a trained LoRA cut to a lower rank, each layer's update B·A replaced by its best copy of that rank.

In: a peft model in memory. Out: the same model, its layers at the lower rank, the scale s unchanged. The copy of rank k
that is nearest in the Frobenius norm keeps the k largest singular values (Eckart and Young 1936, Psychometrika
1:211-218). They come from the factors: with B = Q R and A' = P T (QR), the singular values of B·A are those of R T',
which is (r, r), so that a layer's full matrix is never formed.
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

    `left` is (out, m), `values` (m,) in falling order and `right` (m, in), all float64 and on the CPU; m is the rank r,
    or less where the layer is narrower.
    """

    left: torch.Tensor
    values: torch.Tensor
    right: torch.Tensor

    def pair(self, rank: int) -> initialization.Pair:
        """A (rank, in) and B (out, rank) of the best copy of that rank; what is beyond m is zeros."""
        root = self.values[:rank].sqrt()
        down, up = root[:, None] * self.right[:rank], self.left[:, :rank] * root
        return initialization.padded(down, rank), initialization.padded(up.T, rank).T.contiguous()


def decompose(down: torch.Tensor, up: torch.Tensor) -> Update:
    """The singular value decomposition of up (out, r) times down (r, in), from two QR decompositions."""
    outer, inner = (torch.linalg.qr(matrix.detach().cpu().double()) for matrix in (up, down.T))
    left, values, right = torch.linalg.svd(outer.R @ inner.R.T, full_matrices=False)
    return Update(left=outer.Q @ left, values=values, right=right @ inner.Q.T)


def updates(model: nn.Module) -> dict[str, Update]:
    """The decomposed update of every layer that LoRA adapts, by its name in the base."""
    return {
        name: decompose(module.lora_A["default"].weight, module.lora_B["default"].weight)
        for name, module in initialization.pairs(model)
    }


def kept(found: Mapping[str, Update], rank: int) -> float:
    """The share of the updates' squared Frobenius norm, over all layers, that a truncation to `rank` keeps."""
    squares = [update.values.square() for update in found.values()]
    return float(sum(item[:rank].sum() for item in squares) / sum(item.sum() for item in squares))


@torch.no_grad()
def truncate(model: Any, found: Mapping[str, Update], rank: int) -> float:
    """Set every layer to its best copy of rank `rank`, and the model's config to what peft saves of it; return alpha.

    The scale s stays: alpha becomes s·rank, or s·sqrt(rank) with rsLoRA (arXiv:2312.03732). DoRA's magnitudes stay too;
    peft divides by the length of the truncated weight, as it does by that of any. A model can be truncated again, up as
    well as down, as long as the updates are at hand.
    """
    config = model.peft_config["default"]
    of_rank = math.sqrt if config.use_rslora else float
    config.lora_alpha *= of_rank(rank) / of_rank(config.r)
    config.r = rank
    for name, module in initialization.pairs(model):
        for half, weight in zip((module.lora_A, module.lora_B), found[name].pair(rank), strict=True):
            layer = half["default"]
            layer.weight = nn.Parameter(weight.to(layer.weight), requires_grad=layer.weight.requires_grad)
            layer.out_features, layer.in_features = weight.shape
        module.r["default"], module.lora_alpha["default"] = rank, config.lora_alpha
    return float(config.lora_alpha)
