"""`lorahub estimate`: what a training will take, for any base, without its weights and without running it.

In: a recipe, methods and devices. Out: an `Estimate`. Of the base only config.json is read, and its tokenizer where the
claims' own lengths are counted; a step of each method then runs on tensors without data (`training.footprint`).
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lorahub import config as configs
from lorahub.config import AUTO, METHODS, Config
from lorahub.data import claims
from lorahub.data.batches import EncodedClaims
from lorahub.data.claimset import ClaimData
from lorahub.errors import ConfigError
from lorahub.experiments.estimate import costs, footprint, skeleton
from lorahub.experiments.estimate import cpu as estimate_cpu
from lorahub.experiments.estimate.costs import CPU, Device, Estimate
from lorahub.experiments.estimate.footprint import Footprint, Shape
from lorahub.hub import fetch
from lorahub.hub.fetch import Resolved
from lorahub.models import methods as table
from lorahub.models.base import Base
from lorahub.training import loop

log = logging.getLogger(__name__)

# What the tutorial compares.
DEFAULT = ("full", "lora", "qlora")
_LABELS = 2  # where no data says how many


@dataclass(frozen=True)
class _Kind:
    """What of a device changes a footprint."""

    gpu: bool
    bf16: bool


def estimate(
    recipe: str | Path | None = None,
    *,
    base: str | None = None,
    data: str | None = None,
    names: Sequence[str] = DEFAULT,
    devices: Sequence[str] = (CPU, *costs.GPUS),
    settings: Sequence[str] = (),
    token: str | None = None,
    on_method: Callable[[str], None] = log.info,
) -> Estimate:
    """Count memory and time of methods on devices, names of `costs.GPUS` or cpu, which is this machine.

    What `recipe` and `settings` say holds for all methods; what they leave open comes from each method's own recipe.
    Claims are as long as the data's, where `data` or the recipe names some, else as long as base.max_length allows.
    Raises ConfigError, BaseModelError or DataError.
    """
    _check(names)
    places = [estimate_cpu.here() if name == CPU else costs.gpu(name) for name in dict.fromkeys(devices)]
    flags = configs.flags(data=data, base=base, method=None, seed=None)
    wanted = {
        name: configs.load(recipe, [*flags, *settings, *configs.flags(data=None, base=None, method=name, seed=None)])
        for name in names
    }
    config = next(iter(wanted.values()))
    read = None if config.data.id == AUTO else claims.load(config.data, compare=False)
    texts = read is not None
    resolved = fetch.description(config.base.id, revision=config.base.revision, token=token, tokenizer=texts)
    described = skeleton.load(config.base, resolved, _labels(read), bf16_gpu=False, tokenizer=texts)
    shape, steps = _shape(config, described, read)
    found = []
    for name, asked in wanted.items():
        on_method(name)
        footprints: dict[_Kind, Footprint] = {}
        for place in places:
            kind = _kind(asked, place)
            if kind not in footprints:
                footprints[kind] = _footprint(asked, resolved, _labels(read), shape, kind)
            found.append(_cost(name, place, footprints[kind], kind, steps))
    return Estimate(
        base=resolved.id,
        parameters=table.count_parameters(described.model)[1],
        labels=_labels(read),
        batch_size=config.train.batch_size,
        tokens=shape.tokens,
        claims=None if read is None else len(read.splits["train"]),
        steps=steps,
        costs=found,
    )


def _check(names: Sequence[str]) -> None:
    for name in names:
        if name not in METHODS:
            raise ConfigError(f"--method takes some of {', '.join(METHODS)}; found {name!r}.")
        if table.TABLE[name].soft_prompt:
            able = ", ".join(other for other, row in table.TABLE.items() if not row.soft_prompt)
            raise ConfigError(f"--method {name}: virtual tokens are not counted. Take some of {able}.")
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"--method needs one or more that differ; found {', '.join(names) or 'none'}.")


def _labels(data: ClaimData | None) -> int:
    return _LABELS if data is None else len(data.labels)


def _shape(config: Config, base: Base, data: ClaimData | None) -> tuple[Shape, int | None]:
    """The longest claims in tokens, and the optimiser steps of the run where there are claims to count."""
    if data is None:
        return Shape(tokens=base.max_length, scoring_tokens=base.max_length), None
    train, validation = (
        EncodedClaims(data.splits[name], base.tokenizer, max_length=base.max_length) for name in ("train", "validation")
    )
    batches = -(-len(train) // config.train.batch_size)
    steps = loop.planned_steps(config.train, batches)[1]
    return Shape(tokens=max(train.lengths), scoring_tokens=max(validation.lengths)), steps


def _kind(config: Config, device: Device) -> _Kind:
    """How the loop runs there: train.mixed_precision=auto is bfloat16 on GPUs that have it."""
    there = device.is_gpu and device.bfloat16 is not None
    wanted = config.train.mixed_precision
    return _Kind(gpu=device.is_gpu, bf16=there if wanted == AUTO else wanted != "no")


def _footprint(config: Config, resolved: Resolved, labels: int, shape: Shape, kind: _Kind) -> Footprint:
    base = skeleton.load(config.base, resolved, labels, bf16_gpu=kind.gpu and kind.bf16)
    table.check(base, config.adapter)
    # Where A and B begin changes their values, and those are not there.
    config = replace(config, adapter=replace(config.adapter, init="default"))
    return footprint.of(base, config, shape, device="cuda" if kind.gpu else CPU, bf16=kind.bf16)


def _cost(name: str, place: Device, counted: Footprint, kind: _Kind, steps: int | None) -> costs.Cost:
    return costs.cost(
        name,
        place,
        counted.on_gpu() if kind.gpu else counted.on_cpu(),
        bfloat16=kind.bf16,
        operations=counted.operations,
        steps=steps,
        trainable=counted.trainable,
        total=counted.total,
    )
