"""Methods to adapt a base: a table with one row per method.

In: a loaded Base and an AdapterConfig. Out: the model to train, in which only the adapter and the heads are trainable.
Every method trains and saves the heads. A method that an architecture does not support is refused with those that it
does support.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    TaskType,
    get_peft_model,
)
from torch import nn

from lorahub import runfiles
from lorahub.config import LARGEST_RANK, AdapterConfig
from lorahub.errors import ConfigError
from lorahub.hub import rules
from lorahub.models import architectures, initialization, quantization
from lorahub.models.base import Base
from lorahub.runfiles import Layout

# Minimum number of claim tokens left next to a soft prompt.
_MIN_CLAIM_TOKENS = 8
# Abilities of an architecture that a method requires, and what it means to lack them.
_UNSUPPORTED = {
    "soft_prompts": "its head finds the last real token by its id, which virtual tokens do not have",
    "prefixes": "it is not known to accept keys and values from outside",
}


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of the table.

    `peft_config` makes peft's config; without it the base itself is trained, in whole or its heads only. `requires`
    names an ability of `architectures.Architecture`. `layout` is how the result is saved. `memory_efficient` methods
    recompute activations and page their optimizer by default. `bases` are the values of base.quantize and `inits` those
    of adapter.init that the method supports.
    """

    name: str
    peft_config: Callable[[Base, AdapterConfig], PeftConfig] | None
    requires: str | None = None
    layout: Layout = runfiles.PEFT
    memory_efficient: bool = False
    inits: tuple[str, ...] = ("default",)
    bases: tuple[str, ...] = (quantization.NONE, quantization.NF4)
    soft_prompt: bool = False

    def supports(self, base: Base) -> bool:
        """Return whether the architecture of a base has the ability that this method requires."""
        row = architectures.of(base.model.config.model_type)
        return self.requires is None or bool(getattr(row, self.requires))


def attach(base: Base, config: AdapterConfig) -> nn.Module:
    """Attach the adapter to the base, which changes in place, and return the model to train; raises ConfigError."""
    method = TABLE[config.method]
    model: nn.Module = base.model
    if method.peft_config is None:
        model.requires_grad_(method.layout is runfiles.FULL_MODEL)
        for _, head in architectures.head_modules(base.model, base.heads):
            head.requires_grad_(True)
    else:
        peft_config: Any = method.peft_config(base, config)
        # peft's own guess of the heads misses DeBERTa's pooler, for example.
        peft_config.task_type, peft_config.modules_to_save = TaskType.SEQ_CLS, list(base.heads)
        model = get_peft_model(base.model, peft_config)
    if config.init in initialization.MOVES_BASE:
        base.moved = initialization.moved(model)
    if config.init == initialization.LOFTQ:
        initialization.loftq(model, base.resolved.folder)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            # Trained weights are float32 whatever the dtype of the base; autocast does the rest.
            parameter.data = parameter.data.float()
    return model


def check(base: Base, config: AdapterConfig) -> None:
    """Raise ConfigError if the base does not support the method or has a head that may not be shared.

    Changes nothing except that virtual tokens shorten the base's inputs.
    """
    method, base_id = TABLE[config.method], base.resolved.id
    if method.requires is not None and not method.supports(base):
        supported = ", ".join(name for name, other in TABLE.items() if other.supports(base))
        raise ConfigError(
            f"adapter.method: {base_id} does not support {config.method}: {_UNSUPPORTED[method.requires]}. "
            f"Use one of {supported}."
        )
    if base.quantize not in method.bases:
        raise ConfigError(
            f"base.quantize: {config.method} works on a base with {' or '.join(method.bases)}; found {base.quantize}. "
            f"Use --set base.quantize={method.bases[0]}, or another adapter.method."
        )
    if config.init not in method.inits:
        raise ConfigError(
            f"adapter.init: {config.method} supports {' or '.join(method.inits)}; found {config.init!r}. Use one of "
            "these, or another adapter.method."
        )
    if config.init in initialization.MOVES_BASE:
        if 2 * config.trained_rank > LARGEST_RANK:
            raise ConfigError(
                f"adapter.init={config.init} is saved with twice the rank, and the maximum is {LARGEST_RANK}. Use an "
                f"adapter.rank up to {LARGEST_RANK // 2}."
            )
        if base.quantize != quantization.NONE:
            raise ConfigError(
                f"adapter.init={config.init} needs unquantized weights. Use loftq, or --set base.quantize=none."
            )
    if method.peft_config in (_lora, _ia3):
        _targets(base, config)
    unknown = [name for name in base.heads if name.split(".")[0] not in rules.HEADS]
    if unknown:
        raise ConfigError(
            f"{base_id} has its classification head in {', '.join(unknown)}, and adapters with such modules are not "
            f"loaded (allowed: {', '.join(sorted(rules.HEADS))}). Choose another base."
        )
    if method.soft_prompt:
        left = base.limit - config.prompt_tokens
        if left < _MIN_CLAIM_TOKENS:
            raise ConfigError(
                f"adapter.prompt_tokens={config.prompt_tokens} leaves {max(left, 0)} of the {base.limit} tokens of "
                f"{base_id} for a claim, fewer than {_MIN_CLAIM_TOKENS}. Use fewer."
            )
        if left < base.max_length:
            base.truncate_at(left, f"{base.limit} minus {config.prompt_tokens} virtual tokens")


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return the numbers of trainable and of all parameters."""
    sizes = [(quantization.count(parameter), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def _targets(base: Base, config: AdapterConfig) -> list[str]:
    targets = architectures.target_names(base.model, config.targets, base.heads)
    if config.last_layers is not None:
        # And what follows the layers, such as a pooler, which peft adapts by its full name.
        linears = [name for name, module in base.model.named_modules() if isinstance(module, nn.Linear)]
        numbers, _ = architectures.layer_numbers(base.model, linears)
        high = [f".{name}" for name in linears if numbers[name] >= _top_layers(base, config)[1].start]
        targets = [target for target in targets if any(name.endswith(f".{target}") for name in high)]
    if not targets:
        raise ConfigError(f"{base.resolved.id} has no linear layer to adapt. Choose another base.")
    return targets


def _top_layers(base: Base, config: AdapterConfig) -> tuple[str, range]:
    """Return the name of the base's list of layers, and the numbers that `adapter.layers=last:N` selects."""
    found, count = architectures.layers(base.model), config.last_layers or 0
    if found is None:
        raise ConfigError(
            f"adapter.layers={config.layers}: the layers of {base.resolved.id} are not one numbered list. "
            "Use adapter.layers=all."
        )
    name, layers = found
    if count > len(layers):
        raise ConfigError(
            f"adapter.layers={config.layers}: {base.resolved.id} has {len(layers)} layers. Use last:N with N up to "
            f"{len(layers)}, or all."
        )
    return name, range(len(layers) - count, len(layers))


def _lora(base: Base, config: AdapterConfig) -> PeftConfig:
    init: Any = True if config.init in ("default", initialization.LOFTQ) else config.init
    chosen: dict[str, Any] = {}
    if config.last_layers is not None:
        name, numbers = _top_layers(base, config)
        chosen = {"layers_to_transform": list(numbers), "layers_pattern": name.rpartition(".")[2]}
    return LoraConfig(
        r=config.trained_rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=_targets(base, config),
        use_rslora=config.method == "rslora",
        use_dora=config.method == "dora",
        init_lora_weights=init,
        **chosen,
    )


def _ia3(base: Base, config: AdapterConfig) -> PeftConfig:
    # Scales outputs only: the paper's factor on the input of the second feed-forward layer is left out.
    return IA3Config(target_modules=_targets(base, config), feedforward_modules=[])


def _prompt(base: Base, config: AdapterConfig) -> PeftConfig:
    return _virtual_tokens(base, config, PromptTuningConfig, prompt_tuning_init="SAMPLE_VOCAB")


def _prefix(base: Base, config: AdapterConfig) -> PeftConfig:
    shape = base.model.config
    # With grouped queries there are fewer keys and values than queries.
    heads = getattr(shape, "num_key_value_heads", None) or shape.num_attention_heads
    size = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    return _virtual_tokens(base, config, PrefixTuningConfig, token_dim=heads * size, num_attention_heads=heads)


def _p_tuning(base: Base, config: AdapterConfig) -> PeftConfig:
    return _virtual_tokens(base, config, PromptEncoderConfig, encoder_hidden_size=base.model.config.hidden_size)


def _virtual_tokens(base: Base, config: AdapterConfig, kind: type[PeftConfig], **options: Any) -> PeftConfig:
    """Return a config with explicit sizes, since peft's guesses fail for some architectures."""
    shape = base.model.config
    sizes = {
        "num_virtual_tokens": config.prompt_tokens,
        "token_dim": shape.hidden_size,
        "num_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_transformer_submodules": 1,
    }
    return kind(**{**sizes, **options})


_LORA_INITS = ("default", "gaussian", *initialization.MOVES_BASE)
TABLE = {
    row.name: row
    for row in (
        Method(name="lora", peft_config=_lora, inits=_LORA_INITS),
        Method(
            name="qlora", peft_config=_lora, memory_efficient=True, bases=(quantization.NF4,),
            inits=("default", "gaussian", initialization.LOFTQ),
        ),
        Method(name="dora", peft_config=_lora, bases=(quantization.NONE,)),
        Method(name="rslora", peft_config=_lora, inits=_LORA_INITS),
        Method(name="prompt", peft_config=_prompt, requires="soft_prompts", soft_prompt=True),
        Method(name="prefix", peft_config=_prefix, requires="prefixes", soft_prompt=True),
        Method(name="p-tuning", peft_config=_p_tuning, requires="soft_prompts", soft_prompt=True),
        Method(name="ia3", peft_config=_ia3),
        Method(name="full", peft_config=None, bases=(quantization.NONE,), layout=runfiles.FULL_MODEL),
        Method(name="linear-probe", peft_config=None, layout=runfiles.HEAD),
    )
}  # fmt: skip
