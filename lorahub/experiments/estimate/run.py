"""`lorahub estimate`: memory and time of a training for any base, without its weights and without running it.

In: a recipe, methods and devices. Out: an `Estimate`. Of the base only config.json is read, and its tokenizer if the
claims' own lengths are counted; a step of each method then runs on tensors without data (`footprint.measure_step`).
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import torch

from lorahub import config as configs
from lorahub.config import AUTO, Config
from lorahub.data import claims
from lorahub.data.batches import EncodedClaims
from lorahub.data.claimset import ClaimData
from lorahub.errors import ConfigError
from lorahub.experiments.estimate import costs, footprint, skeleton
from lorahub.experiments.estimate.costs import CPU, Device, Estimate
from lorahub.experiments.estimate.footprint import Footprint
from lorahub.hub import fetch
from lorahub.method_names import METHODS
from lorahub.models import methods as method_table
from lorahub.models import precision
from lorahub.models.base import Base
from lorahub.training import loop, mixed_precision

log = logging.getLogger(__name__)

# The methods that the tutorial compares.
DEFAULT_METHODS = ("full", "lora", "qlora")
_LABELS = 2  # without data
_SIDE = 1024  # of the matrices that measure the rate of a CPU


def estimate(
    recipe: str | Path | None = None,
    *,
    base: str | None = None,
    data: str | None = None,
    methods: Sequence[str] = DEFAULT_METHODS,
    devices: Sequence[str] = (CPU, *costs.GPUS),
    settings: Sequence[str] = (),
    token: str | None = None,
) -> Estimate:
    """Count memory and time of methods on devices, names of `costs.GPUS` or cpu, which is this machine.

    `recipe` and `settings` hold for all methods; fields that they do not set come from each method's own recipe. Claims
    have the lengths of the data, if `data` or the recipe names any, else base.max_length tokens. Raises ConfigError,
    BaseModelError or DataError.
    """
    _check(methods)
    targets = [_cpu_device() if name == CPU else costs.gpu(name) for name in dict.fromkeys(devices)]
    settings = [*configs.flags(data=data, base=base, method=None, seed=None), *settings]
    by_method = {method: configs.load(recipe, [*settings, f"adapter.method={method}"]) for method in methods}
    config = by_method[methods[0]]
    read = None if config.data.id == AUTO else claims.load(config.data, compare=False)
    labels = _LABELS if read is None else len(read.labels)
    resolved = fetch.description(config.base.id, revision=config.base.revision, token=token, tokenizer=read is not None)
    described = skeleton.load(config.base, resolved, labels, half=False, tokenizer=read is not None)
    train_tokens, eval_tokens, steps = _size(config, described, read)
    rows = []
    for method, method_config in by_method.items():
        log.info("counting %s", method)
        # adapter.init changes only the values of A and B, which do not exist here.
        counted = replace(method_config, adapter=replace(method_config.adapter, init="default"))
        footprints: dict[tuple[bool, bool], Footprint] = {}
        for device in targets:
            half = _uses_half(method_config, device, method_table.count_parameters(described.model)[1])
            key = device.is_gpu, half
            if key not in footprints:
                empty = skeleton.load(method_config.base, resolved, labels, half=device.is_gpu and half)
                method_table.check(empty, method_config.adapter)
                footprints[key] = footprint.measure_step(
                    empty,
                    counted,
                    train_tokens=train_tokens,
                    eval_tokens=eval_tokens,
                    device="cuda" if device.is_gpu else CPU,
                    half=half,
                )
            step = footprints[key]
            rows.append(
                costs.cost(
                    method,
                    device,
                    step.on_gpu() if device.is_gpu else step.on_cpu(),
                    half=half,
                    operations=step.operations,
                    steps=steps,
                    trainable=step.trainable,
                    total=step.total,
                )
            )
    return Estimate(
        base=resolved.id,
        parameters=method_table.count_parameters(described.model)[1],
        labels=labels,
        batch_size=config.train.batch_size,
        tokens=train_tokens,
        claims=None if read is None else len(read.splits["train"]),
        steps=steps,
        costs=rows,
    )


def _check(methods: Sequence[str]) -> None:
    for name in methods:
        if name not in METHODS:
            raise ConfigError(f"--method takes some of {', '.join(METHODS)}; found {name!r}.")
        if method_table.TABLE[name].soft_prompt:
            countable = ", ".join(other for other, row in method_table.TABLE.items() if not row.soft_prompt)
            raise ConfigError(f"--method {name}: virtual tokens are not counted. Use some of {countable}.")
    if not methods or len(set(methods)) < len(methods):
        raise ConfigError(f"--method needs one or more different methods; found {', '.join(methods) or 'none'}.")


def _size(config: Config, base: Base, data: ClaimData | None) -> tuple[int, int, int | None]:
    """Return the longest training and validation claims in tokens, and the optimizer steps of the run."""
    if data is None:
        return base.max_length, base.max_length, None
    train, validation = (
        EncodedClaims(data.splits[name], base.tokenizer, max_length=base.max_length) for name in ("train", "validation")
    )
    batches = -(-len(train) // config.train.batch_size)
    return max(train.lengths), max(validation.lengths), loop.planned_steps(config.train, batches)[1]


def _uses_half(config: Config, device: Device, parameters: int) -> bool:
    """Return whether the loop runs in 16 bits there, for a base of so many parameters."""
    if device.is_gpu:
        return config.train.mixed_precision != "no"
    return mixed_precision.choose(config, torch.device(CPU), parameters).name != "no"


def _cpu_device() -> Device:
    """Return this machine: its main memory, and its rates in products of two matrices."""
    return Device(
        name=CPU,
        bytes=int(psutil.virtual_memory().total),
        float32=_rate(torch.float32),
        half=_rate(torch.bfloat16) if precision.matrix_units() else None,
        source=f"measured: two matrices of {_SIDE} x {_SIDE}",
    )


def _rate(dtype: torch.dtype) -> float:
    """Return the best rate of three products of two matrices, in TFLOP/s."""
    left, right = torch.ones(_SIDE, _SIDE, dtype=dtype), torch.ones(_SIDE, _SIDE, dtype=dtype)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - started)
    return 2 * _SIDE**3 / min(seconds) / 1e12
