"""What the config of an adapter may contain, by method, and which tensors follow from it.

In: a config, and the names and shapes from a safetensors header. Out: sentences on what is wrong. The rule: a setting
that lorahub does not know must be unset, and a tensor whose name or shape does not follow from the config is refused,
because peft loads a tensor named like a base weight over the shared base.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lorahub.config import LARGEST_ALPHA, LARGEST_PROMPT, LARGEST_RANK
from lorahub.runfiles import FULL_MODEL, HEAD, LABELS, PEFT, Layout

Shapes = Mapping[str, tuple[int, ...]]
Config = Mapping[str, Any]

# The modules with weights that transformers' sequence classifiers have besides their backbone.
HEADS = frozenset(
    {"classifier", "score", "pre_classifier", "pooler", "head", "classification_head", "logits_proj",
     "sequence_summary"}
)  # fmt: skip
_MAX_SIZE = 65_536
# The prompt encoder, which peft builds whatever the adapter needs, has the square of it in values.
_MAX_ENCODER = 8_192
# The largest models have some hundreds of linear layers, whose names a config may list one by one.
MOST_TARGETS, _MOST_HEADS = 2_000, 20
_MOST_LAYERS = 10_000
# Settings that any method may have. The others change how weights are made or located, or name modules to import;
# lorahub neither writes nor reads them.
_COMMON = frozenset(
    {"base_model_name_or_path", "revision", "peft_type", "task_type", "modules_to_save", "inference_mode",
     "peft_version"}
)  # fmt: skip
_SOFT = frozenset(
    {"num_virtual_tokens", "token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules"}
)
# Settings of a full model by which transformers reads other weights, another config, or one setting for another.
_REDIRECTIONS = frozenset({"transformers_weights", "configuration_files", "attribute_map"})
# The heads that peft lists for every architecture, which has one of them.
_PEFT_HEADS = frozenset({"classifier", "score"})
_PROMPT, _IA3 = "prompt_embeddings", "ia3_l"
_NOT_SELECTED = "not among target_modules and layers_to_transform"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a config of one peft type may contain, and its tensors.

    Only `settings` may have a value, and those in `fixed` only the values there. `check` reads the config; `tensors`
    reads names (without `prefix`) and shapes of all tensors that do not belong to a head.
    """

    prefix: str
    settings: frozenset[str]
    check: Callable[[Config], Iterator[str]]
    tensors: Callable[[Shapes, Config], Iterator[str]]
    fixed: Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The layers that a checked config selects, as in peft (tuners_utils.check_target_module_exists).

    `names` are full names of layers, or endings of them. With `numbers`, an ending selects a layer only in one of these
    blocks; the number of a block follows the first of `lists` in the layer's name, or the first name if there are none.
    """

    names: frozenset[str]
    numbers: frozenset[int] | None = None
    lists: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Config) -> "Targets":
        """Return the targets of a config."""
        numbers, lists = config.get("layers_to_transform"), config.get("layers_pattern")
        return cls(
            names=frozenset(config.get("target_modules", ())),
            numbers=None if numbers in (None, []) else frozenset(_listed(numbers)),
            lists=tuple(_listed(lists)) if lists else (),
        )

    def selecting(self, layer: str) -> set[str]:
        """Return the names that select a layer; empty if it is not selected."""
        parts = layer.split(".")
        names = self.names.intersection(".".join(parts[start:]) for start in range(len(parts)))
        if self.numbers is None or layer in names or self._number(parts) in self.numbers:
            return set(names)
        return set()

    def _number(self, parts: list[str]) -> int | None:
        places = [place for place in range(1, len(parts) - 1) if parts[place].isdecimal()]
        if not self.lists:
            return next((int(parts[place]) for place in places if place > 1), None)
        return next((int(parts[place]) for name in self.lists for place in places if parts[place - 1] == name), None)


@dataclass(frozen=True, kw_only=True)
class LayoutRule:
    """The checks of one layout of a run folder: of its config, and of its tensors by config and number of labels."""

    config: Callable[[Config], Iterator[str]]
    tensors: Callable[[Shapes, Config, int], Iterator[str]]


def _check_config(config: Config) -> Iterator[str]:
    """Yield what an adapter_config.json contains beyond a plain classification adapter of a known method."""
    kind = str(config.get("peft_type"))
    rule = RULES.get(kind)
    if rule is None:
        yield f"{PEFT.config}: peft_type is {kind[:60]!r}; lorahub supports {', '.join(RULES)}"
        return
    if config.get("task_type") != "SEQ_CLS":
        yield f"{PEFT.config}: task_type is {_quoted(config.get('task_type'))}; lorahub supports SEQ_CLS"
    for key in sorted(set(config) - _COMMON - rule.settings):
        if config[key]:
            yield f"{PEFT.config}: {key[:60]} is {_quoted(config[key])}, which lorahub does not support with {kind}"
    for key, values in rule.fixed.items():
        value = config.get(key, values[0])
        if not any(type(value) is type(allowed) and value == allowed for allowed in values):
            yield f"{PEFT.config}: {key} is {_quoted(value)}, which lorahub does not support"
    yield from _check_names(config, "modules_to_save")
    yield from rule.check(config)


def _check_tensors(shapes: Shapes, config: Config, labels: int) -> Iterator[str]:
    """Yield the tensors that do not follow from a config which `_check_config` accepts."""
    rule = RULES[config["peft_type"]]
    heads = tuple(config["modules_to_save"])
    inner = {}
    for name, shape in shapes.items():
        short = name.removeprefix(rule.prefix)
        if short == name and name != _PROMPT:
            yield f"the tensor {name} in {PEFT.weights} does not have a name of peft's"
        else:
            inner[short] = shape
    of_heads = {name: shape for name, shape in inner.items() if not _of_method(name) and head_of(name, heads)}
    yield from rule.tensors({name: shape for name, shape in inner.items() if name not in of_heads}, config)
    yield from _check_heads(of_heads, heads, labels, PEFT.weights)


def _check_head_config(config: Config) -> Iterator[str]:
    """Yield what a head_config.json contains beyond a classification head."""
    for key in sorted(set(config) - {"base_model_name_or_path", "revision", "modules_to_save"}):
        yield f"{HEAD.config}: {key[:60]} is {_quoted(config[key])}, which lorahub does not support"
    yield from _check_names(config, "modules_to_save", HEAD.config)


def _check_head_tensors(shapes: Shapes, config: Config, labels: int) -> Iterator[str]:
    heads = config["modules_to_save"]
    for name in shapes:
        if not head_of(name, heads):
            yield _unexpected(name, HEAD.weights)
    yield from _check_heads(shapes, heads, labels, HEAD.weights)


def _check_model_config(config: Config) -> Iterator[str]:
    """Yield why a config.json is not that of a sequence classifier, that it brings code, or loads other files."""
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not str(names[0]).endswith("ForSequenceClassification"):
        yield f"{FULL_MODEL.config}: architectures is {_quoted(names)}, not a sequence classifier"
    for key in ("auto_map", "custom_pipelines"):
        if config.get(key):
            yield f"{FULL_MODEL.config}: {key} names code to run"
    for key in sorted(_REDIRECTIONS & set(config)):
        yield f"{FULL_MODEL.config}: {key} makes transformers load other files than {FULL_MODEL.weights}"


def _check_model_tensors(shapes: Shapes, config: Config, labels: int) -> Iterator[str]:
    """Yield whether the labels differ; transformers checks the tensors of a full model."""
    names = config.get("id2label")
    if not isinstance(names, dict) or len(names) != labels:
        yield f"{LABELS} names {labels} labels, and {FULL_MODEL.config} names others"
    if not shapes:
        yield f"{FULL_MODEL.weights} is empty"


def _check_heads(shapes: Shapes, heads: Iterable[str], labels: int, file: str) -> Iterator[str]:
    """Yield heads without a tensor, and heads whose outputs are not one per label."""
    present = {head_of(name, heads) for name in shapes}
    # Which of the two the base has is checked when it is loaded (serving/engine/compatibility.py).
    optional = _PEFT_HEADS if present & _PEFT_HEADS else set[str]()
    outputs = {shape[0] for shape in shapes.values() if len(shape) == 2}
    for head in heads:
        if head not in present and head not in optional:
            yield f"{file} has no tensor of the head {head!r}: it would be random on every load"
    if labels and outputs and labels not in outputs:
        yield f"{LABELS} names {labels} labels, but the head has {sorted(outputs)[:5]} outputs"


def head_of(tensor: str, heads: Iterable[str]) -> str | None:
    """Return which of `heads` a tensor (named without peft's prefix) belongs to; None if to none."""
    return next((head for head in heads if f".{head}." in f".{tensor}"), None)


def _of_method(tensor: str) -> bool:
    return tensor == _PROMPT or tensor.endswith(f".{_IA3}") or ".lora_" in tensor


def _check_names(config: Config, key: str, file: str = PEFT.config) -> Iterator[str]:
    """Yield why a setting is not a list of layer names, or replaces a part of the backbone."""
    names = config.get(key)
    most = MOST_TARGETS if key == "target_modules" else _MOST_HEADS
    if isinstance(names, list) and len(names) > most:
        yield f"{file}: {key} has {len(names):,} names, more than the {most:,} of any real adapter"
    elif not isinstance(names, list) or not names:
        yield f"{file}: {key} is {_quoted(names)}, not a list of layer names; a pattern could match anything"
    elif not all(isinstance(name, str) and re.fullmatch(r"[\w.]{1,100}", name) for name in names):
        yield f"{file}: {key} contains something that is not a layer name"
    elif key == "modules_to_save" and not {name.split(".")[0] for name in names} <= HEADS:
        yield f"{file}: modules_to_save {_quoted(names)} replaces more than a classification head"


def _check_sizes(config: Config, keys: Iterable[str], largest: int) -> Iterator[str]:
    for key in keys:
        if type(config.get(key)) is not int or not 1 <= config[key] <= largest:
            yield f"{PEFT.config}: {key} is {_quoted(config.get(key))}, not a size between 1 and {largest}"


def _quoted(value: Any) -> str:
    return repr(str(value)[:60])


def _unexpected(tensor: str, file: str = PEFT.weights) -> str:
    return (
        f"the tensor {tensor} in {file} does not follow from the config and could overwrite the base for every adapter"
    )


def _wrong_shape(tensor: str, shape: tuple[int, ...], reason: str) -> str:
    return f"{tensor} in {PEFT.weights} has the shape {shape}, {reason}"


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _check_layers(config: Config) -> Iterator[str]:
    """Yield why `layers_to_transform` are not numbers of layers, or `layers_pattern` not the names of their lists."""
    numbers, lists = config.get("layers_to_transform"), config.get("layers_pattern")
    known = numbers is None or all(type(number) is int and 0 <= number < _MOST_LAYERS for number in _listed(numbers))
    if not known or len(_listed(numbers)) > _MOST_LAYERS:
        yield f"{PEFT.config}: layers_to_transform is {_quoted(numbers)}, not numbers of layers"
    if lists and (numbers is None or len(_listed(lists)) > _MOST_HEADS):
        yield f"{PEFT.config}: layers_pattern is {_quoted(lists)}, without layers_to_transform or too long"
    elif lists and not all(isinstance(name, str) and re.fullmatch(r"\w{1,100}", name) for name in _listed(lists)):
        yield f"{PEFT.config}: layers_pattern is {_quoted(lists)}, not a name; a pattern could match anything"


def _check_lora(config: Config) -> Iterator[str]:
    yield from _check_names(config, "target_modules")
    yield from _check_layers(config)
    start, module = config.get("init_lora_weights", True), config.get("megatron_core")
    if not isinstance(start, bool) and start != "gaussian":
        yield f"{PEFT.config}: init_lora_weights {_quoted(start)} would change the base's weights"
    if module not in (None, "megatron.core"):
        yield f"{PEFT.config}: megatron_core names the module {_quoted(module)} to import"
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or not 1 <= rank <= LARGEST_RANK:
        yield f"{PEFT.config}: r is {_quoted(rank)}, not a rank between 1 and {LARGEST_RANK}"
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) <= LARGEST_ALPHA:
        yield f"{PEFT.config}: lora_alpha is {_quoted(alpha)}, not a number up to {LARGEST_ALPHA}"


def _lora(shapes: Shapes, config: Config) -> Iterator[str]:
    """Check A (r, in) and B (out, r), always both; with DoRA also a magnitude (out,) for each pair."""
    rank, magnitude, targets = config["r"], ".lora_magnitude_vector", Targets.of(config)
    for name, shape in shapes.items():
        layer, _, kind = name.partition(".lora_")
        if kind in ("A.weight", "B.weight"):
            if not targets.selecting(layer):
                yield f"{layer} is adapted but {_NOT_SELECTED}"
            if len(shape) != 2 or shape[0 if kind[0] == "A" else 1] != rank:
                yield _wrong_shape(name, shape, f"which does not fit the config's rank {rank}")
            if f"{layer}.lora_{'B' if kind[0] == 'A' else 'A'}.weight" not in shapes:
                yield f"{layer} has only one half of its update in {PEFT.weights}"
            if config.get("use_dora") and f"{layer}{magnitude}" not in shapes:
                yield f"{layer} has no magnitude in {PEFT.weights}, which DoRA needs"
        elif f".lora_{kind}" == magnitude and config.get("use_dora"):
            if shape != shapes.get(f"{layer}.lora_B.weight", ())[:1]:
                yield _wrong_shape(name, shape, "which is not the layer's number of outputs")
        else:
            yield _unexpected(name)
    if not any(".lora_A." in name for name in shapes):
        yield f"{PEFT.weights} adapts no layer"


def _ia3(shapes: Shapes, config: Config) -> Iterator[str]:
    """Check one factor for every output of a layer, (out, 1)."""
    targets = Targets.of(config)
    for name, shape in shapes.items():
        layer, _, kind = name.rpartition(".")
        if kind != _IA3:
            yield _unexpected(name)
        elif not targets.selecting(layer):
            yield f"{layer} is adapted but {_NOT_SELECTED}"
        elif len(shape) != 2 or shape[1] != 1:
            yield _wrong_shape(name, shape, "not one factor per output")
    if not shapes:
        yield f"{PEFT.weights} adapts no layer"


def _check_prompt(config: Config) -> Iterator[str]:
    yield from _check_sizes(config, ["num_virtual_tokens"], LARGEST_PROMPT)
    yield from _check_sizes(config, sorted(_SOFT - {"num_virtual_tokens"}), _MAX_SIZE)


def _check_encoded(config: Config) -> Iterator[str]:
    yield from _check_prompt(config)
    yield from _check_sizes(config, ["encoder_hidden_size"], _MAX_ENCODER)


def _prompt(shapes: Shapes, config: Config) -> Iterator[str]:
    return _soft(shapes, (config["num_virtual_tokens"], config["token_dim"]))


def _prefix(shapes: Shapes, config: Config) -> Iterator[str]:
    """Check keys and values of every layer for every virtual token."""
    return _soft(shapes, (config["num_virtual_tokens"], 2 * config["num_layers"] * config["token_dim"]))


def _soft(shapes: Shapes, expected: tuple[int, int]) -> Iterator[str]:
    for name, shape in shapes.items():
        if name != _PROMPT:
            yield _unexpected(name)
        elif shape != expected:
            yield _wrong_shape(name, shape, f"but the config requires {expected}")
    if _PROMPT not in shapes:
        yield f"{PEFT.weights} has no {_PROMPT}"


# What peft puts before the name of a module of the base.
_LAYERS, _WRAPPER = "base_model.model.", "base_model."
RULES = {
    "LORA": Rule(
        prefix=_LAYERS,
        settings=frozenset(
            {"r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "target_modules", "layers_to_transform",
             "layers_pattern", "bias", "init_lora_weights", "megatron_core", "qalora_group_size"}
        ),
        check=_check_lora,
        tensors=_lora,
        fixed={"bias": ("none",), "use_rslora": (False, True), "use_dora": (False, True)},
    ),
    "IA3": Rule(
        prefix=_LAYERS,
        settings=frozenset({"target_modules", "init_ia3_weights"}),
        check=lambda config: _check_names(config, "target_modules"),
        tensors=_ia3,
        # Factors on inputs (feedforward_modules) are not supported.
        fixed={"init_ia3_weights": (True, False)},
    ),
    "PROMPT_TUNING": Rule(
        prefix=_WRAPPER,
        settings=_SOFT | {"prompt_tuning_init"},
        check=_check_prompt,
        tensors=_prompt,
        # TEXT would load a tokenizer that the config names.
        fixed={"prompt_tuning_init": ("RANDOM", "SAMPLE_VOCAB"), "num_transformer_submodules": (1,)},
    ),
    "PREFIX_TUNING": Rule(
        prefix=_WRAPPER,
        settings=_SOFT | {"encoder_hidden_size"},
        check=_check_encoded,
        tensors=_prefix,
        fixed={"num_transformer_submodules": (1,)},
    ),
    "P_TUNING": Rule(
        prefix=_WRAPPER,
        settings=_SOFT
        | {"encoder_hidden_size", "encoder_num_layers", "encoder_reparameterization_type", "encoder_dropout"},
        check=_check_encoded,
        tensors=_prompt,
        fixed={
            "num_transformer_submodules": (1,), "encoder_reparameterization_type": ("MLP",), "encoder_num_layers": (2,),
        },
    ),
}  # fmt: skip
LAYOUTS: Mapping[Layout, LayoutRule] = {
    PEFT: LayoutRule(config=_check_config, tensors=_check_tensors),
    HEAD: LayoutRule(config=_check_head_config, tensors=_check_head_tensors),
    FULL_MODEL: LayoutRule(config=_check_model_config, tensors=_check_model_tensors),
}
