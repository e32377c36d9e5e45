"""Ways to adapt a base: one function a method, each returning a peft model.

In: a loaded Base and an AdapterConfig. Out: the model with only adapter and heads trainable.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model

from lorahub.config import AdapterConfig
from lorahub.errors import ConfigError
from lorahub.hub import safety
from lorahub.models import architectures
from lorahub.models.base import Base


@dataclass(frozen=True, kw_only=True)
class LoraSize:
    """Parameters of one adapted matrix: `parameters` in A and B, `full` in the matrix, `saving` = 1 - their ratio."""

    parameters: int
    full: int
    saving: float


def lora_size(outputs: int, inputs: int, rank: int) -> LoraSize:
    """Count what LoRA trains in place of an (outputs, inputs) matrix: r·(outputs + inputs).

    W' = W + (alpha / r)·B·A with B (outputs, r) and A (r, inputs): arXiv:2106.09685, section 4.1.
    """
    parameters, full = rank * (outputs + inputs), outputs * inputs
    return LoraSize(parameters=parameters, full=full, saving=1 - parameters / full)


def attach(base: Base, config: AdapterConfig) -> PeftModel:
    """Attach a fresh adapter to the base; raises ConfigError where the architecture cannot take it."""
    model = _METHODS[config.method](base, config)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            # Trained weights stay in float32 whatever the base is kept in; autocast does the rest.
            parameter.data = parameter.data.float()
    return model


def check(base: Base, config: AdapterConfig) -> None:
    """Raise ConfigError where the architecture has no such layers or no head that may be shared; change nothing."""
    _targets(base, config)
    unknown = [name for name in base.heads if name.split(".")[0] not in safety.HEADS]
    if unknown:
        raise ConfigError(
            f"{base.resolved.id} has its classification head in {', '.join(unknown)}, and adapters with such modules "
            f"are not loaded (known: {', '.join(sorted(safety.HEADS))}). Choose another base."
        )


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """Return (trainable, all) parameters."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def _targets(base: Base, config: AdapterConfig) -> list[str]:
    targets = architectures.target_names(base.model, config.targets, base.heads)
    if not targets:
        raise ConfigError(f"{base.resolved.id} has no linear layer to adapt. Choose another base.")
    return targets


def _lora(base: Base, config: AdapterConfig) -> PeftModel:
    return get_peft_model(
        base.model,
        LoraConfig(
            task_type=TaskType.SEQ_CLS,
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=_targets(base, config),
            # Named outright: peft's guess misses DeBERTa's pooler and DistilBERT's pre_classifier.
            modules_to_save=list(base.heads),
        ),
    )


_METHODS: dict[str, Callable[[Base, AdapterConfig], PeftModel]] = {"lora": _lora}
