"""What a training costs before it is run: bytes by component, seconds, and the GPUs that can hold it.

In: what `training.footprint` counted. Out: an `Estimate`, one `Cost` for each method and device.
"""

from dataclasses import asdict, dataclass
from typing import Any

from lorahub.errors import ConfigError

CPU = "cpu"
# Components in the order in which they are told and drawn, with the words for them.
COMPONENTS = {
    "weights": "weights",
    "quantisation": "quantisation constants",
    "adapters": "adapters and heads",
    "gradients": "gradients",
    "optimizer": "optimiser states",
    "activations": "activations",
    "best": "best weights so far",
    "heap": "freed, and kept by the heap",
    "process": "the process itself",
}
# What a process takes of a GPU before its first tensor: context, kernels, workspaces of cuBLAS. transformers'
# documentation measures 1.3 GB (huggingface.co/docs/transformers/model_memory_anatomy).
CONTEXT_BYTES = 1_300_000_000
# The share of the peak rate that training reaches: PaLM 46 % on TPUs (arXiv:2204.02311, section 4.1), Megatron 44 to
# 52 % on A100s (arXiv:2104.04473, table 1). Small bases reach less.
UTILISATION = 0.4


@dataclass(frozen=True, kw_only=True)
class Device:
    """Something that trains: its memory in bytes and its dense peak rates in TFLOP/s, in float32 and in bfloat16.

    `bfloat16` is None where it has none. The rates are the maker's, without sparsity, accumulating in float32.
    """

    name: str
    bytes: int
    float32: float
    bfloat16: float | None
    source: str

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.name != CPU

    def room(self) -> int:
        """Bytes that a training may take."""
        return self.bytes - (CONTEXT_BYTES if self.is_gpu else 0)


def _gpu(name: str, gigabytes: int, float32: float, bfloat16: float | None, source: str) -> Device:
    return Device(name=name, bytes=gigabytes * 10**9, float32=float32, bfloat16=bfloat16, source=source)


GPUS = {
    device.name: device
    for device in (
        _gpu("t4", 16, 8.1, None, "NVIDIA T4 datasheet"),
        _gpu("rtx3090", 24, 35.6, 71.0, "NVIDIA GA102 whitepaper, table 2"),
        _gpu("rtx4090", 24, 82.6, 165.2, "NVIDIA Ada whitepaper, table 2"),
        _gpu("l4", 24, 30.3, 121.0, "NVIDIA L4 datasheet"),
        _gpu("a10g", 24, 35.0, 70.0, "AWS A10G datasheet"),
        _gpu("rtx5090", 32, 104.8, 209.5, "NVIDIA Blackwell RTX whitepaper, table 2"),
        _gpu("a100-40gb", 40, 19.5, 312.0, "NVIDIA A100 datasheet"),
        _gpu("l40s", 48, 91.6, 362.0, "NVIDIA L40S datasheet"),
        _gpu("a100-80gb", 80, 19.5, 312.0, "NVIDIA A100 datasheet"),
        _gpu("h100", 80, 67.0, 989.0, "NVIDIA H100 datasheet, SXM"),
        _gpu("h200", 141, 67.0, 989.0, "NVIDIA H200 datasheet, SXM"),
        _gpu("b200", 180, 75.0, 2250.0, "NVIDIA HGX B200 datasheet, an eighth"),
    )
}


def gpu(name: str) -> Device:
    """The row of a GPU; raises ConfigError naming those that are known."""
    found = GPUS.get(name.lower().replace("_", "-").replace(" ", "-"))
    if found is None:
        raise ConfigError(f"--gpu: {name!r} is not in the table; it has {', '.join([*GPUS, CPU])}.")
    return found


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One method on one device: bytes by component at the peak, floating-point operations of a step, and seconds.

    `seconds` is the whole training's, None where its steps are not known.
    """

    method: str
    device: str
    capacity_bytes: int
    trainable_parameters: int
    total_parameters: int
    components: dict[str, int]
    peak_bytes: int
    fits: bool
    operations: int
    seconds_per_step: float
    seconds: float | None


def cost(
    method: str, device: Device, components: dict[str, int], *, bfloat16: bool, operations: int, steps: int | None,
    trainable: int, total: int,
) -> Cost:  # fmt: skip
    """Put a footprint beside a device: seconds are operations / (peak rate · utilisation)."""
    peak = sum(components.values())
    rate = device.bfloat16 if bfloat16 and device.bfloat16 is not None else device.float32
    seconds = operations / (rate * 1e12 * UTILISATION)
    return Cost(
        method=method,
        device=device.name,
        capacity_bytes=device.bytes,
        trainable_parameters=trainable,
        total_parameters=total,
        components={name: components.get(name, 0) for name in COMPONENTS},
        peak_bytes=peak,
        fits=peak <= device.room(),
        operations=operations,
        seconds_per_step=seconds,
        seconds=None if steps is None else steps * seconds,
    )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Methods on devices, and what they were counted for. `claims` and `steps` are None without data."""

    base: str
    parameters: int
    labels: int
    batch_size: int
    tokens: int
    claims: int | None
    steps: int | None
    costs: list[Cost]

    def to_dict(self) -> dict[str, Any]:
        """The plain form, ready for JSON."""
        return asdict(self)
