"""Ways to adapt a base: a table with one row a method, each with a function that makes the model to train.

In: a loaded Base and an AdapterConfig. Out: the model with only adapter and heads trainable. Every method trains and
saves the heads. A method that an architecture cannot take is refused with those that it can.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft import (
    IA3Config,
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    TaskType,
    get_peft_model,
)
from torch import nn

from lorahub.config import LARGEST_RANK, AdapterConfig
from lorahub.errors import ConfigError
from lorahub.hub import rules, safety
from lorahub.hub.safety import Layout
from lorahub.models import architectures, initialization, quantization
from lorahub.models.base import Base

# Fewer tokens than these beside a prompt are no claim.
_FEWEST_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row. `attach` prepares the model for training, `refusal` says why a base cannot take the method.

    `layout` is how it is saved; `memory_efficient` methods recompute activations and page their
    optimizer by default. `bases` are the values of base.quantize, `inits` those of adapter.init that it works with.
    """

    name: str
    attach: Callable[[Base, AdapterConfig], nn.Module]
    refusal: Callable[[Base, AdapterConfig], str | None] = lambda base, config: None
    layout: Layout = safety.PEFT
    memory_efficient: bool = False
    inits: tuple[str, ...] = ("default",)
    bases: tuple[str, ...] = (quantization.NONE, quantization.NF4)
    soft_prompt: bool = False


def attach(base: Base, config: AdapterConfig) -> nn.Module:
    """Prepare the base for training; raises ConfigError where the architecture cannot take the method."""
    model = TABLE[config.method].attach(base, config)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            # Trained weights stay in float32 whatever the base is kept in; autocast does the rest.
            parameter.data = parameter.data.float()
    return model


def check(base: Base, config: AdapterConfig) -> None:
    """Raise ConfigError where this base cannot take the method, or has a head that may not be shared.

    Changes nothing, but for the claims' length where virtual tokens take room.
    """
    method = TABLE[config.method]
    why = method.refusal(base, config)
    if why is not None:
        able = ", ".join(name for name, other in TABLE.items() if other.refusal(base, config) is None)
        raise ConfigError(f"adapter.method: {base.resolved.id} cannot take {config.method}: {why}. It can take {able}.")
    if base.quantize not in method.bases:
        raise ConfigError(
            f"base.quantize: {config.method} works on a base with {' or '.join(method.bases)}; found {base.quantize}. "
            f"Use --set base.quantize={method.bases[0]}, or another adapter.method."
        )
    if config.init not in method.inits:
        raise ConfigError(
            f"adapter.init: {config.method} starts from {' or '.join(method.inits)}; found {config.init!r}. "
            "Use another, or another adapter.method."
        )
    if config.init in initialization.MOVES_BASE and 2 * config.trained_rank > LARGEST_RANK:
        raise ConfigError(
            f"adapter.init={config.init} is saved with twice the rank, of which {LARGEST_RANK} is the largest. "
            f"Use an adapter.rank up to {LARGEST_RANK // 2}."
        )
    if config.init in initialization.MOVES_BASE and base.quantize != quantization.NONE:
        raise ConfigError(f"adapter.init={config.init} needs whole weights. Use loftq, or --set base.quantize=none.")
    if _adapts_layers(config.method):
        _targets(base, config)
    unknown = [name for name in base.heads if name.split(".")[0] not in rules.HEADS]
    if unknown:
        raise ConfigError(
            f"{base.resolved.id} has its classification head in {', '.join(unknown)}, and adapters with such modules "
            f"are not loaded (known: {', '.join(sorted(rules.HEADS))}). Choose another base."
        )
    if method.soft_prompt:
        _make_room(base, config.prompt_tokens)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return (trainable, all) parameters."""
    sizes = [(quantization.count(parameter), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def _make_room(base: Base, tokens: int) -> None:
    if base.limit - tokens < _FEWEST_TOKENS:
        raise ConfigError(
            f"adapter.prompt_tokens: {base.resolved.id} takes {base.limit} tokens, of which {tokens} virtual ones "
            "leave too few for a claim. Use fewer."
        )
    base.shorten(base.limit - tokens, f"{base.limit} less {tokens} virtual ones")


def _adapts_layers(method: str) -> bool:
    return TABLE[method].attach in (_lora, _ia3)


def _targets(base: Base, config: AdapterConfig) -> list[str]:
    targets = architectures.target_names(base.model, config.targets, base.heads)
    if not targets:
        raise ConfigError(f"{base.resolved.id} has no linear layer to adapt. Choose another base.")
    return targets


def _with_peft(base: Base, config: Any) -> nn.Module:
    model: nn.Module = get_peft_model(base.model, config)
    return model


def _common(base: Base) -> dict[str, Any]:
    """What every peft config says. Heads are named outright: peft's guess misses DeBERTa's pooler and others."""
    return {"task_type": TaskType.SEQ_CLS, "modules_to_save": list(base.heads)}


def _lora(base: Base, config: AdapterConfig) -> nn.Module:
    start: Any = {"default": True, initialization.LOFTQ: True}.get(config.init, config.init)
    model = _with_peft(
        base,
        LoraConfig(
            r=config.trained_rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=_targets(base, config),
            use_rslora=config.method == "rslora",
            use_dora=config.method == "dora",
            init_lora_weights=start,
            **_common(base),
        ),
    )
    if config.init in initialization.MOVES_BASE:
        base.moved = initialization.moved(model)
    if config.init == initialization.LOFTQ:
        initialization.loftq(model, base.resolved.folder)
    return model


def _ia3(base: Base, config: AdapterConfig) -> nn.Module:
    # Factors on outputs alone: of the paper's three, the one on the input of the second feed-forward layer is not made.
    return _with_peft(base, IA3Config(target_modules=_targets(base, config), feedforward_modules=[], **_common(base)))


def _soft(base: Base, config: AdapterConfig, kind: type, *, of_heads: bool = False, **more: Any) -> nn.Module:
    """Virtual tokens; peft's guesses of the sizes miss architectures, and with grouped queries keys are narrower."""
    shape = base.model.config
    heads = (of_heads and getattr(shape, "num_key_value_heads", None)) or shape.num_attention_heads
    size = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    return _with_peft(
        base,
        kind(
            num_virtual_tokens=config.prompt_tokens,
            token_dim=heads * size if of_heads else shape.hidden_size,
            num_layers=shape.num_hidden_layers,
            num_attention_heads=heads,
            num_transformer_submodules=1,
            **more,
            **_common(base),
        ),
    )


def _prompt(base: Base, config: AdapterConfig) -> nn.Module:
    return _soft(base, config, PromptTuningConfig, prompt_tuning_init="SAMPLE_VOCAB")


def _prefix(base: Base, config: AdapterConfig) -> nn.Module:
    return _soft(base, config, PrefixTuningConfig, of_heads=True)


def _p_tuning(base: Base, config: AdapterConfig) -> nn.Module:
    return _soft(base, config, PromptEncoderConfig, encoder_hidden_size=base.model.config.hidden_size)


def _full(base: Base, config: AdapterConfig) -> nn.Module:
    base.model.requires_grad_(True)
    return _trained(base)


def _heads_only(base: Base, config: AdapterConfig) -> nn.Module:
    base.model.requires_grad_(False)
    for _, module in architectures.head_modules(base.model, base.heads):
        module.requires_grad_(True)
    return _trained(base)


def _trained(base: Base) -> nn.Module:
    model: nn.Module = base.model
    return model


def _hides_the_last_token(base: Base, config: AdapterConfig) -> str | None:
    if architectures.of(base.model.config.model_type).soft_prompts:
        return None
    return "its head reads the last real token, and behind a soft prompt it takes padding for one"


def _takes_no_prefix(base: Base, config: AdapterConfig) -> str | None:
    if architectures.of(base.model.config.model_type).prefixes:
        return None
    return f"{base.model.config.model_type} is not known to take keys and values from outside"


_LORA_INITS = ("default", "gaussian", *initialization.MOVES_BASE)
TABLE = {
    row.name: row
    for row in (
        Method(name="lora", attach=_lora, inits=_LORA_INITS),
        Method(
            name="qlora", attach=_lora, memory_efficient=True, bases=(quantization.NF4,),
            inits=("default", "gaussian", initialization.LOFTQ),
        ),
        Method(name="dora", attach=_lora, bases=(quantization.NONE,)),
        Method(name="rslora", attach=_lora, inits=_LORA_INITS),
        Method(name="prompt", attach=_prompt, refusal=_hides_the_last_token, soft_prompt=True),
        Method(name="prefix", attach=_prefix, refusal=_takes_no_prefix, soft_prompt=True),
        Method(name="p-tuning", attach=_p_tuning, refusal=_hides_the_last_token, soft_prompt=True),
        Method(name="ia3", attach=_ia3),
        Method(name="full", attach=_full, bases=(quantization.NONE,), layout=safety.WHOLE),
        Method(name="linear-probe", attach=_heads_only, layout=safety.HEAD),
    )
}  # fmt: skip
