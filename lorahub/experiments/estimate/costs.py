"""The cost of a training before it runs: bytes by component, seconds, and the GPUs that can hold it.

In: bytes and operations of a step, as `experiments.estimate.footprint` counts them. Out: an `Estimate` with one `Cost`
for each method and device; and `LoraSize`, the parameters of LoRA on one matrix.
"""

from dataclasses import dataclass

from lorahub.errors import ConfigError
from lorahub.reports.result import Result

CPU = "cpu"
# Components of the peak in the order of tables and pictures, with their names there.
COMPONENTS = {
    "weights": "weights",
    "quantisation": "quantization constants",
    "adapters": "adapters and heads",
    "gradients": "gradients",
    "optimizer": "optimizer states",
    "activations": "activations",
    "best": "best weights so far",
    "overhead": "process and allocator",
}
# What a process takes of a GPU before its first tensor: context, kernels, cuBLAS workspaces. The documentation of
# transformers measures 1.3 GB (huggingface.co/docs/transformers/model_memory_anatomy).
CONTEXT_BYTES = 1_300_000_000
# The share of the peak rate that training reaches: PaLM 46 % on TPUs (arXiv:2204.02311, section 4.1), Megatron 44 to
# 52 % on A100s (arXiv:2104.04473, table 1). Small bases reach less.
UTILIZATION = 0.4


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device to train on: its memory in bytes and its dense peak rates in TFLOP/s, in float32 and in 16 bits.

    `half` is the rate in bfloat16, on GPUs that do not compute in it (T4) in float16; None on a CPU. The rates are the
    manufacturer's, without sparsity, accumulating in float32.
    """

    name: str
    bytes: int
    float32: float
    half: float | None
    source: str

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.name != CPU

    @property
    def usable_bytes(self) -> int:
        """Bytes that a training may take."""
        return self.bytes - (CONTEXT_BYTES if self.is_gpu else 0)


def _gpu(name: str, gigabytes: int, float32: float, half: float | None, source: str) -> Device:
    return Device(name=name, bytes=gigabytes * 10**9, float32=float32, half=half, source=source)


GPUS = {
    device.name: device
    for device in (
        _gpu("t4", 16, 8.1, 65.0, "NVIDIA T4 datasheet"),
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
    """Return a GPU of the table; raises ConfigError naming those that it has."""
    device = GPUS.get(name.lower().replace("_", "-").replace(" ", "-"))
    if device is None:
        raise ConfigError(f"--gpu: {name!r} is not in the table; it has {', '.join([*GPUS, CPU])}.")
    return device


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One method on one device: bytes by component at the peak, floating-point operations of a step, and seconds.

    `seconds` is the whole training's, None if the number of its steps is not known.
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
    method: str, device: Device, components: dict[str, int], *, half: bool, operations: int, steps: int | None,
    trainable: int, total: int,
) -> Cost:  # fmt: skip
    """Compare the bytes of a step with a device's memory; seconds are operations / (peak rate · utilization)."""
    peak = sum(components.values())
    rate = device.half if half and device.half is not None else device.float32
    seconds = operations / (rate * 1e12 * UTILIZATION)
    return Cost(
        method=method,
        device=device.name,
        capacity_bytes=device.bytes,
        trainable_parameters=trainable,
        total_parameters=total,
        components={name: components.get(name, 0) for name in COMPONENTS},
        peak_bytes=peak,
        fits=peak <= device.usable_bytes,
        operations=operations,
        seconds_per_step=seconds,
        seconds=None if steps is None else steps * seconds,
    )


@dataclass(frozen=True, kw_only=True)
class Estimate(Result):
    """Methods on devices, and what they were counted for. `claims` and `steps` are None without data."""

    base: str
    parameters: int
    labels: int
    batch_size: int
    tokens: int
    claims: int | None
    steps: int | None
    costs: list[Cost]


@dataclass(frozen=True, kw_only=True)
class LoraSize(Result):
    """Parameters of LoRA on one (outputs, inputs) weight matrix W: `a` in A, `b` in B, and `full` in W."""

    outputs: int
    inputs: int
    rank: int
    a: int
    b: int
    parameters: int
    full: int
    saving: float


def lora_size(outputs: int, inputs: int, rank: int) -> LoraSize:
    """Count the parameters that LoRA trains in place of an (outputs, inputs) matrix: r·(outputs + inputs).

    W' = W + (alpha / r)·B·A with B (outputs, r) and A (r, inputs): arXiv:2106.09685, section 4.1. Raises ConfigError if
    the matrix cannot have that rank.
    """
    if not 1 <= rank <= min(outputs, inputs):
        raise ConfigError(
            f"a {outputs}x{inputs} matrix has ranks from 1 to {min(outputs, inputs)}; found --rank {rank}."
        )
    a, b, full = rank * inputs, outputs * rank, outputs * inputs
    return LoraSize(
        outputs=outputs, inputs=inputs, rank=rank, a=a, b=b, parameters=a + b, full=full, saving=1 - (a + b) / full
    )
