"""Bases in 4 bits: nf4 with double quantization, through bitsandbytes. Source: QLoRA, arXiv:2305.14314, section 3."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from lorahub.errors import need

NONE, NF4 = "none", "nf4"
_BLOCK, _BLOCKS = 64, 256  # values that share a constant, and constants that share one


def settings(kind: str, kept: Iterable[str], computed: torch.dtype) -> Any:
    """Return the `quantization_config` for from_pretrained; the modules `kept` are not quantized.

    `computed` is the type in which the layers compute.

    Raises MissingPackageError if bitsandbytes is not installed.
    """
    need("bitsandbytes", extra="qlora")
    from transformers import BitsAndBytesConfig  # noqa: PLC0415 - imports bitsandbytes

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=computed,
        llm_int8_skip_modules=sorted(kept),
    )


def disable_repacking(model: nn.Module) -> None:
    """Keep quantized weights unchanged during evaluation.

    On some processors bitsandbytes repacks them at the first evaluation. That undoes the double quantization, rounds
    the constants again, so that training continues from another base, and fails for widths that 64 does not divide.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - unknown to torch's types


def empty_layers(model: PreTrainedModel, kind: str, kept: Iterable[str]) -> PreTrainedModel:
    """Give a model on the meta device the 4-bit layers of a loaded one; raises MissingPackageError."""
    config, dtype = settings(kind, kept, torch.bfloat16), model.dtype
    replace = need("transformers.integrations.bitsandbytes", extra="qlora").replace_with_bnb_linear
    replaced: PreTrainedModel = replace(model, config.llm_int8_skip_modules, config)
    for parameter in replaced.parameters():
        if not is_packed(parameter):
            parameter.data = parameter.data.to(dtype)
    disable_repacking(replaced)
    return replaced


def packed(parameter: nn.Parameter, device: str) -> nn.Parameter:
    """Return what a 4-bit layer stores of a weight on the meta device, without data.

    Two values per byte; an 8-bit constant for 64 values, a 32-bit one for 256 constants.
    """
    state = need("bitsandbytes.functional", extra="qlora").QuantState

    def empty(count: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(count, dtype=dtype, device=device)

    blocks = -(-parameter.numel() // _BLOCK)
    nested = state(
        absmax=empty(-(-blocks // _BLOCKS), torch.float32),
        code=empty(256, torch.float32),
        blocksize=_BLOCKS,
        dtype=torch.float32,
    )
    stored: Any = nn.Parameter(empty(-(-parameter.numel() // 2), torch.uint8).view(-1, 1), requires_grad=False)
    stored.quant_state = state(
        absmax=empty(blocks, torch.uint8),
        shape=parameter.shape,
        code=empty(16, torch.float32),
        blocksize=_BLOCK,
        quant_type=NF4,
        dtype=parameter.dtype,
        offset=empty(1, torch.float32).squeeze(0),
        state2=nested,
    )
    return cast(nn.Parameter, stored)


def is_packed(parameter: nn.Parameter) -> bool:
    """Return whether a weight is, or will be, in 4 bits; works without bitsandbytes."""
    return hasattr(parameter, "compress_statistics")


def constants(parameter: nn.Parameter) -> list[torch.Tensor]:
    """Return the block constants and code books of a parameter; none if it is not quantized."""
    state: Any = getattr(parameter, "quant_state", None)
    return [] if state is None else [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]


def operations() -> dict[Any, Callable[..., int]]:
    """Return the formula for bitsandbytes' product, 2·rows·outputs·inputs operations, which torch does not know."""
    product = getattr(torch.ops.bitsandbytes, "gemm_4bit", None)
    if product is None:
        return {}

    def count(inputs: torch.Tensor, weight: torch.Tensor, shape: Sequence[int], *_: Any, **__: Any) -> int:
        return 2 * inputs.shape[:-1].numel() * shape[0] * shape[1]

    return {product: count}


def dense(module: nn.Module) -> torch.Tensor:
    """Return the weight (out, in) of a linear layer in float32, dequantized if necessary."""
    weight: Any = module.weight
    state = getattr(weight, "quant_state", None)
    values: torch.Tensor = weight.detach()
    if state is not None:
        values = need("bitsandbytes.functional", extra="qlora").dequantize_4bit(weight.data, state)
    return values.float()


def count(parameter: nn.Parameter) -> int:
    """Return how many values a parameter holds: two per byte if it is quantized."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()
