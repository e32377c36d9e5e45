"""Bases in 4 bits: nf4 with double quantisation, and what a parameter then takes, counted in bytes.

In: the kind of quantisation and the modules that stay out of it. Out: the settings that transformers hands to
bitsandbytes. Source: QLoRA, arXiv:2305.14314, section 3.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from lorahub.errors import need

NONE, NF4 = "none", "nf4"


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
