"""The 16-bit type of a GPU, bfloat16 or on older ones float16, and the matrix units of a processor.

`torch.cuda.is_bf16_supported()` does not tell: it is true on a T4 and a V100, which emulate bfloat16.
"""

import os
from collections.abc import Mapping
from typing import Any

import torch

# Compute capability of the first GPUs with bfloat16, the A100's (CUDA C++ Programming Guide, table of arithmetic
# instructions).
_FIRST_WITH_BFLOAT16 = (8, 0)
# oneDNN uses no more than the instruction set that these name (its documentation, "CPU Dispatcher Control").
_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_UNLIMITED = ("", "DEFAULT", "ALL")


def of_capability(capability: tuple[int, int]) -> torch.dtype:
    """Return the 16-bit type in which a CUDA GPU of this compute capability computes."""
    return torch.bfloat16 if capability >= _FIRST_WITH_BFLOAT16 else torch.float16


def half(device: torch.device) -> torch.dtype | None:
    """Return the 16-bit type in which a device computes faster than in float32; None for other devices than CUDA."""
    return of_capability(torch.cuda.get_device_capability(device)) if device.type == "cuda" else None


def of_4_bits(device: torch.device) -> torch.dtype:
    """Return the type in which layers in 4 bits compute."""
    return half(device) or torch.bfloat16


def matrix_units() -> str | None:
    """Return the name of the units that multiply bfloat16 matrices; None if there are none, or if oneDNN is limited.

    Instructions for bfloat16 vectors (AVX512_BF16) alone are not counted: conversions cost what they save.
    """
    # Older versions of torch lack the function.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if capabilities.get("amx_bf16"):
        limit = next(filter(None, map(os.environ.get, _LIMITS)), "").upper()
        return "AMX" if limit in _UNLIMITED or "AMX" in limit else None
    if capabilities.get("architecture") == "arm64" and capabilities.get("bf16"):
        return "BFMMLA"
    return None


def name(dtype: torch.dtype) -> str:
    """Return the name of a dtype, as in `bfloat16`."""
    return str(dtype).removeprefix("torch.")
