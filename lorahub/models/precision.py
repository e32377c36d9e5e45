"""The 16-bit type of a device: bfloat16 where the hardware computes in it, float16 on older GPUs.

`torch.cuda.is_bf16_supported()` does not tell: it is true on a T4 and a V100, which emulate bfloat16.
"""

import torch

# Compute capability of the first GPUs with bfloat16, the A100's (CUDA C++ Programming Guide, table of arithmetic
# instructions).
_FIRST_WITH_BFLOAT16 = (8, 0)


def of_capability(capability: tuple[int, int]) -> torch.dtype:
    """Return the 16-bit type in which a CUDA GPU of this compute capability computes."""
    return torch.bfloat16 if capability >= _FIRST_WITH_BFLOAT16 else torch.float16


def half(device: torch.device) -> torch.dtype | None:
    """Return the 16-bit type in which a device computes faster than in float32; None for other devices than CUDA."""
    return of_capability(torch.cuda.get_device_capability(device)) if device.type == "cuda" else None


def of_4_bits(device: torch.device) -> torch.dtype:
    """Return the type in which layers in 4 bits compute."""
    return half(device) or torch.bfloat16


def autocast(setting: str, half: torch.dtype | None) -> str:
    """Resolve `train.mixed_precision` to no, bf16 or fp16; `half` is that of the device."""
    if setting != "auto":
        return setting
    return {None: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}[half]


def name(dtype: torch.dtype) -> str:
    """Return the name of a type, as in `base.dtype`."""
    return str(dtype).removeprefix("torch.")
