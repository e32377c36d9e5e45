"""Layers that train faster on a CPU: LoRA as one step of autograd, and dropout masks that cost no random numbers.

In: a model to train in float32. Out: the same model; its LoRA, dropout and attention layers compute the same functions
in training mode. In evaluation mode they are unchanged, as are parameters, names and saved files. `lower` keeps the
frozen weights in bfloat16 during training, for processors with units that multiply such matrices.

On a CPU, drawing the mask of a layer takes longer than the matrix product behind it. Masks are cut from one fixed
sequence of Bernoulli values, at an offset that torch's generator draws, so that a resumed training has the same masks.
"""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

# A mask begins at one of so many places of the sequence.
_OFFSETS = 2**20
_SEED = 0
_ATTENTION = "sdpa_cut_masks"
# Methods whose frozen weights may be in bfloat16 without autocast.
LOWERED = ("lora", "rslora")
_PRECISIONS = (torch.float32, torch.bfloat16)


def install(model: nn.Module) -> None:
    """Replace the dropout and LoRA layers of a model in place, and the dropout of its attention."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = MaskDropout
        elif type(module) is LoraLinear:
            module.__class__ = FusedLora
        elif isinstance(module, PreTrainedModel) and module.config._attn_implementation == "sdpa":
            module.config._attn_implementation = _ATTENTION


def lower(model: nn.Module) -> Callable[[], None]:
    """Round the frozen float32 weights to bfloat16; return a function that gives the model its own weights back."""
    kept = [
        (parameter, parameter.data)
        for parameter in model.parameters()
        if not parameter.requires_grad and parameter.dtype == torch.float32
    ]

    def restore() -> None:
        for parameter, data in kept:
            parameter.data = data

    for parameter, data in kept:
        parameter.data = data.bfloat16()
    return restore


class _Masks:
    """One sequence of masks by dropout probability: values are 0 with probability p, else 1 / (1 - p)."""

    def __init__(self) -> None:
        self._by_kind: dict[tuple[float, torch.dtype], torch.Tensor] = {}
        self._lock = threading.Lock()

    def cut(self, size: int, probability: float, dtype: torch.dtype) -> torch.Tensor:
        """Return `size` values from a random place, a view that must not be written to."""
        offset, kind = int(torch.randint(_OFFSETS, ())), (probability, dtype)
        with self._lock:
            values = self._by_kind.get(kind)
            if values is None or len(values) < _OFFSETS + size:
                # A longer sequence begins with the shorter one, so that masks do not depend on what came before.
                generator = np.random.Generator(np.random.SFC64(_SEED))
                kept = generator.random(_OFFSETS + size, dtype=np.float32) >= probability
                values = torch.from_numpy(kept.astype(np.float32)).mul_(1 / (1 - probability)).to(dtype)
                self._by_kind[kind] = values
        return values[offset : offset + size]


_MASKS = _Masks()


@torch.library.custom_op("lorahub::dropout_mask", mutates_args=())
def dropout_mask(like: torch.Tensor, probability: float) -> torch.Tensor:
    """Return a dropout mask of the shape and dtype of `like`."""
    return _MASKS.cut(like.numel(), probability, like.dtype).view(like.shape)


@dropout_mask.register_fake
def _(like: torch.Tensor, probability: float) -> torch.Tensor:
    # The masks of all layers share their memory.
    return like.new_empty(()).expand(like.shape)


class MaskDropout(nn.Dropout):
    """Dropout with masks from the shared sequence."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's own name
        """Return the input with values dropped and the others scaled, in training mode."""
        if not self.training or not self.p or input.dtype not in _PRECISIONS:
            return super().forward(input)
        dropped: torch.Tensor = input * dropout_mask(input.detach(), self.p)
        return dropped


class FusedLora(LoraLinear):  # type: ignore[misc]
    """peft's LoRA layer; in training, forward and backward pass are one step of autograd."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return W·x + b + s·B·A·dropout(x) for x (..., in)."""
        [name, *others] = self.active_adapters
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        plain = not (others or args or kwargs or self.merged or self.disable_adapters or self.lora_variant)
        plain = plain and not self.fan_in_fan_out  # a Conv1D holds its weight transposed
        weight = self.base_layer.weight
        if not (plain and self.training and x.dtype == weight.dtype and x.dtype in _PRECISIONS):
            result: torch.Tensor = super().forward(x, *args, **kwargs)
            return result
        probability = getattr(self.lora_dropout[name], "p", 0.0)
        mask = dropout_mask(x.detach(), probability) if probability else None
        fused: torch.Tensor = _LoraFunction.apply(x, mask, weight, self.base_layer.bias, down, up, self.scaling[name])  # type: ignore[no-untyped-call]
        # Not a view made inside the function, which a layer could not change in place (Longformer scales its queries).
        return fused.view(*x.shape[:-1], -1)


class _LoraFunction(torch.autograd.Function):
    """The products of a LoRA layer; W and b are frozen. Saves the dropped-out input and A·x.

    All products are in the precision of x and W, and the gradients of A and B in that of A and B.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, mask: Any, weight: Any, bias: Any, down: Any, up: Any, scale: float) -> torch.Tensor:
        """Return the output, flattened to (N, out), for x and mask (..., in), W (out, in), A (r, in) and B (out, r)."""
        ctx.trained = down.dtype
        rows, down, up = x.reshape(-1, x.shape[-1]), down.to(x.dtype), up.to(x.dtype)
        mask = None if mask is None else mask.view_as(rows)
        dropped = rows if mask is None else rows * mask
        inner = dropped @ down.T
        output = rows @ weight.T if bias is None else torch.addmm(bias, rows, weight.T)
        output.addmm_(inner, up.T, alpha=scale)
        ctx.save_for_backward(dropped, mask, weight, down, up, inner)
        ctx.scale, ctx.shape = scale, x.shape
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of x, A and B."""
        dropped, mask, weight, down, up, inner = ctx.saved_tensors
        gradient = gradient.reshape(-1, gradient.shape[-1])
        of_inner = (gradient @ up).mul_(ctx.scale)
        of_down = (of_inner.T @ dropped).to(ctx.trained)
        of_up = (gradient.T @ inner).to(ctx.trained).mul_(ctx.scale)
        of_input = None
        if ctx.needs_input_grad[0]:
            of_input = gradient @ weight
            if mask is None:
                of_input.addmm_(of_inner, down)
            else:
                of_input.addcmul_(of_inner @ down, mask)
            of_input = of_input.view(ctx.shape)
        return of_input, None, None, None, of_down, of_up, None


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Return attention (B, T, heads, size) for query, key and value (B, heads, T, size), with a cut mask as dropout."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    plain = query.shape == key.shape and position_bias is None and (attention_mask is not None or not causal)
    if not (dropout and plain and query.dtype in _PRECISIONS):
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            position_bias=position_bias,
            **kwargs,
        )
        return result
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
        else:
            scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1)
    weights = weights * dropout_mask(weights.detach(), dropout)
    return (weights @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(_ATTENTION, _attention)
AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
