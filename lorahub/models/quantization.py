"""Bases in 4 bits: nf4 with double quantisation, and what a parameter then takes, counted in bytes.

In: the kind of quantisation and the modules that stay out of it. Out: the settings that transformers hands to
bitsandbytes. Source: QLoRA, arXiv:2305.14314, section 3.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from lorahub.errors import need

NONE, NF4 = "none", "nf4"
_BLOCK, _BLOCKS = 64, 256  # values that share a constant, and constants that share one


def reason(kind: str, whole: Iterable[str] = ()) -> str:
    """How the base is kept, in words."""
    if kind == NONE:
        return "none: the base's weights are kept whole"
    return f"{kind}: linear layers in 4 bits, double quantisation, products in bfloat16; kept whole: {', '.join(whole)}"


def settings(kind: str, whole: Iterable[str], *, double: bool = True) -> Any:
    """The `quantization_config` for from_pretrained, with the modules that are kept `whole`.

    Raises MissingPackageError where bitsandbytes is not installed.
    """
    need("bitsandbytes", extra="qlora")
    from transformers import BitsAndBytesConfig  # noqa: PLC0415 - only after bitsandbytes has been asked for

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=sorted(whole),
    )


def steady(model: nn.Module) -> None:
    """Keep quantised weights as they are for as long as they live.

    On some processors bitsandbytes repacks them at the first evaluation: that undoes the double quantisation, rounds
    the constants anew, so that training goes on from another base, and fails for widths that 64 does not divide.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - not torch's, so unknown to its types


def empty_layers(model: PreTrainedModel, kind: str, whole: Iterable[str]) -> PreTrainedModel:
    """Give a model on the meta device the 4-bit layers that a loaded one has; raises MissingPackageError."""
    how = settings(kind, whole)
    replace = need("transformers.integrations.bitsandbytes", extra="qlora").replace_with_bnb_linear
    dtype = model.dtype
    replaced: PreTrainedModel = replace(model, how.llm_int8_skip_modules, how)
    for parameter in replaced.parameters():
        if not is_packed(parameter):
            parameter.data = parameter.data.to(dtype)
    steady(replaced)
    return replaced


def packed(parameter: nn.Parameter, device: str) -> nn.Parameter:
    """What a 4-bit layer keeps of a weight that is on the meta device, without data.

    Two values a byte; an 8-bit constant for 64 values, a 32-bit one for 256 constants (the paper's section 3).
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
    kept: Any = nn.Parameter(empty(-(-parameter.numel() // 2), torch.uint8).view(-1, 1), requires_grad=False)
    kept.quant_state = state(
        absmax=empty(blocks, torch.uint8),
        shape=parameter.shape,
        code=empty(16, torch.float32),
        blocksize=_BLOCK,
        quant_type=NF4,
        dtype=parameter.dtype,
        offset=empty(1, torch.float32).squeeze(0),
        state2=nested,
    )
    return cast(nn.Parameter, kept)


def constants(parameter: nn.Parameter) -> list[torch.Tensor]:
    """The constants of a quantised parameter's blocks and its code books; none where it is whole."""
    state: Any = getattr(parameter, "quant_state", None)
    return [] if state is None else [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]


def operations() -> dict[Any, Callable[..., int]]:
    """Floating-point operations of bitsandbytes' own product, 2·rows·outputs·inputs, which torch has no formula for."""
    product = getattr(torch.ops.bitsandbytes, "gemm_4bit", None)
    if product is None:
        return {}

    def count(inputs: torch.Tensor, weight: torch.Tensor, shape: Sequence[int], *_: Any, **__: Any) -> int:
        return 2 * inputs.shape[:-1].numel() * shape[0] * shape[1]

    return {product: count}


def is_packed(parameter: nn.Parameter) -> bool:
    """Whether it is, or will be, a weight in 4 bits; bitsandbytes' class is not named, since it may not be there."""
    return hasattr(parameter, "compress_statistics")


def dense(module: nn.Module) -> torch.Tensor:
    """The weight (out, in) of a linear layer in float32, whatever it is kept in."""
    weight: Any = module.weight
    state = getattr(weight, "quant_state", None)
    whole: torch.Tensor = weight.detach()
    if state is not None:
        whole = need("bitsandbytes.functional", extra="qlora").dequantize_4bit(weight.data, state)
    return whole.float()


def count(parameter: nn.Parameter) -> int:
    """How many values a parameter holds: two a byte where it is quantised."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def bits_per_parameter(model: nn.Module) -> float:
    """Bits that a quantised parameter takes, its constants included, counted over the tensors that hold them."""
    quantised = [parameter for parameter in model.parameters() if getattr(parameter, "quant_state", None) is not None]
    held = sum(tensor.numel() * tensor.element_size() for item in quantised for tensor in _tensors(item))
    return 8 * held / sum(count(item) for item in quantised)


def _tensors(parameter: nn.Parameter) -> Iterator[torch.Tensor]:
    """The packed values and the constants of their blocks; the code book, one for all blocks, is left out."""
    state: Any = parameter.quant_state  # type: ignore[attr-defined]
    yield parameter.data
    yield state.absmax
    if state.nested:
        yield state.state2.absmax
        yield state.offset
