"""The precision of a training, on which the saved adapter and its figures do not depend.

In: a Config and a device. Out: a `MixedPrecision`. Trained weights are float32 always.
"""

from dataclasses import dataclass

import torch

from lorahub.config import Config
from lorahub.errors import ConfigError
from lorahub.models import cpu_layers, precision, quantization

_OF_TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16"}
# With fewer parameters, conversions take as long as the products.
_LOWER_FROM_PARAMETERS = 5_000_000


@dataclass(frozen=True, kw_only=True)
class MixedPrecision:
    """`no`, `bf16` or `fp16`, and the reason. If it `lowers`, frozen weights are rounded, in place of autocast."""

    name: str
    reason: str
    lowers: bool = False

    @property
    def autocast(self) -> str:
        """What accelerate is asked for."""
        return "no" if self.lowers else self.name


def can_lower(config: Config) -> bool:
    """Return whether the frozen weights may be in bfloat16 on a CPU: with LoRA on a base that is not quantized."""
    return config.adapter.method in cpu_layers.LOWERED and config.base.quantize == quantization.NONE


def check(config: Config, device: torch.device) -> None:
    """Raise ConfigError if a device does not support `train.mixed_precision`."""
    if config.train.mixed_precision == "fp16" and device.type == "cpu":
        raise ConfigError("train.mixed_precision=fp16 needs a GPU. Use --set train.mixed_precision=auto.")


def choose(config: Config, device: torch.device, parameters: int) -> MixedPrecision:
    """Resolve `train.mixed_precision` on a device for a base of so many parameters.

    Raises ConfigError if the device does not support it.
    """
    asked, lowers = config.train.mixed_precision, device.type == "cpu" and can_lower(config)
    check(config, device)
    if asked != "auto":
        return MixedPrecision(name=asked, reason=f"train.mixed_precision={asked}", lowers=lowers and asked == "bf16")
    half = precision.half(device)
    if half is not None:
        return MixedPrecision(name=_OF_TYPES[half], reason=f"a GPU that computes in {precision.name(half)}")
    units = precision.matrix_units() if device.type == "cpu" else None
    if units is None:
        return MixedPrecision(name="no", reason=f"no bfloat16 matrix units ({device.type})")
    if not lowers:
        return MixedPrecision(name="no", reason=f"on a CPU, bf16 is for {' and '.join(cpu_layers.LOWERED)}")
    if parameters < _LOWER_FROM_PARAMETERS:
        return MixedPrecision(name="no", reason="a small base gains nothing from bfloat16")
    return MixedPrecision(name="bf16", reason=f"the processor multiplies bfloat16 matrices ({units})", lowers=True)
