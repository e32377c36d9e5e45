"""What an adapter_config.json may say, method by method, and the tensors that follow from it.

In: a config, and the names and shapes in a safetensors header. Out: sentences on what is wrong. The rule: a setting
that lorahub does not know must be unset, and a tensor whose name or shape does not follow from the config is refused,
because peft loads a tensor named like a base weight over the shared base.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lorahub.config import LARGEST_ALPHA, LARGEST_PROMPT, LARGEST_RANK

Shapes = Mapping[str, tuple[int, ...]]
Config = Mapping[str, Any]

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
# What the methods linear-probe and full leave in a run folder in place of these.
HEAD_CONFIG, HEAD_FILE = "head_config.json", "head.safetensors"
MODEL_CONFIG, MODEL_FILE = "config.json", "model.safetensors"
# The modules with weights that transformers' sequence classifiers have beside their backbone.
HEADS = frozenset(
    {"classifier", "score", "pre_classifier", "pooler", "head", "classification_head", "logits_proj",
     "sequence_summary"}
)  # fmt: skip
_LARGEST_SIZE = 65_536
# Settings of every method that may have a value. The others change how weights are made or found, or name what to
# import; lorahub neither writes nor reads them.
_COMMON = frozenset(
    {"base_model_name_or_path", "revision", "peft_type", "task_type", "modules_to_save", "inference_mode",
     "peft_version"}
)  # fmt: skip
_SOFT = frozenset(
    {"num_virtual_tokens", "token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules"}
)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What one peft type may say: `settings` that may have a value, of which `fixed` may have these alone.

    `check` reads the config; `tensors` reads names (without `prefix`) and shapes of all that belongs to no head.
    """

    prefix: str
    settings: frozenset[str]
    check: Callable[[Config], Iterator[str]]
    tensors: Callable[[Shapes, Config], Iterator[str]]
    fixed: Mapping[str, tuple[Any, ...]]


def config(found: Config) -> Iterator[str]:
    """Sentences on an adapter_config.json that says more than a known method for classification, plainly."""
    rule = RULES.get(str(found.get("peft_type")))
    if rule is None:
        known = ", ".join(RULES)
        yield f"{CONFIG_FILE}: peft_type is {str(found.get('peft_type'))[:60]!r}, and lorahub knows {known}"
        return
    if found.get("task_type") != "SEQ_CLS":
        yield f"{CONFIG_FILE}: task_type is {str(found.get('task_type'))[:60]!r}, and lorahub serves SEQ_CLS"
    for key in sorted(set(found) - _COMMON - rule.settings):
        if found[key]:
            kind = found["peft_type"]
            yield f"{CONFIG_FILE}: {key} is {str(found[key])[:60]!r}, which lorahub does not serve with {kind}"
    for key, values in rule.fixed.items():
        value = found.get(key, values[0])
        if not any(type(value) is type(allowed) and value == allowed for allowed in values):
            yield f"{CONFIG_FILE}: {key} is {str(value)[:60]!r}, which lorahub does not serve"
    yield from _names(found, "modules_to_save")
    yield from rule.check(found)


def tensors(shapes: Shapes, found: Config, labels: int) -> Iterator[str]:
    """Sentences on tensors that do not follow from a config that `config` found nothing wrong with."""
    rule = RULES[found["peft_type"]]
    heads = tuple(found["modules_to_save"])
    inner = {}
    for name, shape in shapes.items():
        short = name.removeprefix(rule.prefix)
        if short == name and name != _PROMPT:
            yield f"the tensor {name} in {WEIGHTS_FILE} is named unlike peft's"
        else:
            inner[short] = shape
    of_heads = {name: shape for name, shape in inner.items() if not _of_method(name) and head_of(name, heads)}
    yield from rule.tensors({name: shape for name, shape in inner.items() if name not in of_heads}, found)
    yield from _heads(of_heads, heads, labels, WEIGHTS_FILE)


def head_config(found: Config) -> Iterator[str]:
    """Sentences on a head_config.json that replaces more than a classification head."""
    for key in sorted(set(found) - {"base_model_name_or_path", "revision", "modules_to_save"}):
        yield f"{HEAD_CONFIG}: {key} is {str(found[key])[:60]!r}, which lorahub does not serve"
    yield from _names(found, "modules_to_save", HEAD_CONFIG)


def head(shapes: Shapes, found: Config, labels: int) -> Iterator[str]:
    """Sentences on the tensors of a head alone."""
    for name in shapes:
        if not head_of(name, found["modules_to_save"]):
            yield _strange(name, HEAD_FILE)
    yield from _heads(shapes, found["modules_to_save"], labels, HEAD_FILE)


def model_config(found: Config) -> Iterator[str]:
    """Sentences on the config.json of a whole model that is no sequence classifier, or brings code."""
    names = found.get("architectures")
    if not isinstance(names, list) or not names or not str(names[0]).endswith("ForSequenceClassification"):
        yield f"{MODEL_CONFIG}: architectures is {str(names)[:60]!r}, not a sequence classifier"
    for key in ("auto_map", "custom_pipelines"):
        if found.get(key):
            yield f"{MODEL_CONFIG}: {key} names code to run"


def model(shapes: Shapes, found: Config, labels: int) -> Iterator[str]:
    """Sentences on a whole model whose labels are others; its tensors are transformers' to check."""
    named = found.get("id2label")
    if not isinstance(named, dict) or len(named) != labels:
        yield f"labels.json names {labels} labels, and {MODEL_CONFIG} others"
    if not shapes:
        yield f"{MODEL_FILE} is empty"


def _heads(shapes: Shapes, heads: Iterable[str], labels: int, file: str) -> Iterator[str]:
    """Sentences on heads without a tensor, and on ones that do not end in one row per label."""
    found = {head_of(name, heads) for name in shapes}
    widths = {shape[0] for shape in shapes.values() if len(shape) == 2}
    for head in heads:
        if head not in found:
            yield f"{file} has no tensor of the head {head!r}: it would be random on every load"
    if labels and widths and labels not in widths:
        yield f"labels.json names {labels} labels and came with a head of {sorted(widths)} outputs"


def head_of(tensor: str, heads: Iterable[str]) -> str | None:
    """Which of `heads` a tensor of the base (named without peft's prefix) belongs to."""
    return next((head for head in heads if f".{head}." in f".{tensor}"), None)


def _of_method(tensor: str) -> bool:
    return tensor == _PROMPT or tensor.endswith(f".{_IA3}") or ".lora_" in tensor


def _names(found: Config, key: str, file: str = CONFIG_FILE) -> Iterator[str]:
    """A list of layer names, never a pattern, and heads that replace nothing of the backbone."""
    names = found.get(key)
    if not isinstance(names, list) or not names:
        yield (f"{file}: {key} is {str(names)[:60]!r}, not a list of layer names, and a pattern could match anything")
    elif not all(isinstance(name, str) and re.fullmatch(r"[\w.]{1,100}", name) for name in names):
        yield f"{file}: {key} holds what is no layer name"
    elif key == "modules_to_save" and not {name.split(".")[0] for name in names} <= HEADS:
        yield f"{file}: modules_to_save {names} replaces more than a classification head"


def _sizes(found: Config, keys: Iterable[str], largest: int) -> Iterator[str]:
    for key in keys:
        if type(found.get(key)) is not int or not 1 <= found[key] <= largest:
            yield f"{CONFIG_FILE}: {key} is {str(found.get(key))[:60]!r}, not a size between 1 and {largest}"


def _strange(tensor: str, file: str = WEIGHTS_FILE) -> str:
    return (
        f"the tensor {tensor} in {file} does not follow from the config and could overwrite the base for every adapter"
    )


def _adapted(layer: str, found: Config) -> bool:
    return any(f".{layer}".endswith(f".{target}") for target in found["target_modules"])


def _check_lora(found: Config) -> Iterator[str]:
    yield from _names(found, "target_modules")
    start, module = found.get("init_lora_weights", True), found.get("megatron_core")
    if start not in (True, False, "gaussian"):
        yield f"{CONFIG_FILE}: init_lora_weights {str(start)[:60]!r} would change the base's weights"
    if module not in (None, "megatron.core"):
        yield f"{CONFIG_FILE}: megatron_core names the module {str(module)[:60]!r} to import"
    rank, alpha = found.get("r"), found.get("lora_alpha")
    if type(rank) is not int or not 1 <= rank <= LARGEST_RANK:
        yield f"{CONFIG_FILE}: r is {str(rank)[:60]!r}, not a rank between 1 and {LARGEST_RANK}"
    if not isinstance(alpha, int | float) or not abs(alpha) <= LARGEST_ALPHA:
        yield f"{CONFIG_FILE}: lora_alpha is {str(alpha)[:60]!r}, not a number up to {LARGEST_ALPHA}"


def _lora(shapes: Shapes, found: Config) -> Iterator[str]:
    """A (r, in) and B (out, r), always both; with DoRA a magnitude (out,) beside each pair, else none."""
    rank, magnitude = found["r"], ".lora_magnitude_vector"
    for name, shape in shapes.items():
        layer, _, kind = name.partition(".lora_")
        if kind in ("A.weight", "B.weight"):
            if not _adapted(layer, found):
                yield f"{layer} is adapted but not among target_modules"
            if len(shape) != 2 or shape[0 if kind[0] == "A" else 1] != rank:
                yield f"{name} in {WEIGHTS_FILE} has the shape {shape}, which does not fit the config's rank {rank}"
            if f"{layer}.lora_{'B' if kind[0] == 'A' else 'A'}.weight" not in shapes:
                yield f"{layer} has only one half of its update in {WEIGHTS_FILE}"
            if found.get("use_dora") and f"{layer}{magnitude}" not in shapes:
                yield f"{layer} has no magnitude in {WEIGHTS_FILE}, which DoRA needs"
        elif f".lora_{kind}" == magnitude and found.get("use_dora"):
            if shape != shapes.get(f"{layer}.lora_B.weight", ())[:1]:
                yield f"{name} in {WEIGHTS_FILE} has the shape {shape}, which is not the layer's number of outputs"
        else:
            yield _strange(name)
    if not any(".lora_A." in name for name in shapes):
        yield f"{WEIGHTS_FILE} adapts no layer"


def _check_ia3(found: Config) -> Iterator[str]:
    yield from _names(found, "target_modules")


def _ia3(shapes: Shapes, found: Config) -> Iterator[str]:
    """One factor for every output of a layer, (out, 1)."""
    for name, shape in shapes.items():
        layer, _, kind = name.rpartition(".")
        if kind != _IA3:
            yield _strange(name)
        elif not _adapted(layer, found):
            yield f"{layer} is adapted but not among target_modules"
        elif len(shape) != 2 or shape[1] != 1:
            yield f"{name} in {WEIGHTS_FILE} has the shape {shape}, not one factor an output"
    if not shapes:
        yield f"{WEIGHTS_FILE} adapts no layer"


def _check_prompt(found: Config) -> Iterator[str]:
    yield from _sizes(found, ["num_virtual_tokens"], LARGEST_PROMPT)
    yield from _sizes(found, sorted(_SOFT - {"num_virtual_tokens"}), _LARGEST_SIZE)


def _check_encoded(found: Config) -> Iterator[str]:
    yield from _check_prompt(found)
    yield from _sizes(found, ["encoder_hidden_size"], _LARGEST_SIZE)


def _prompt(shapes: Shapes, found: Config) -> Iterator[str]:
    return _soft(shapes, (found["num_virtual_tokens"], found["token_dim"]))


def _prefix(shapes: Shapes, found: Config) -> Iterator[str]:
    """Keys and values of every layer for every virtual token."""
    return _soft(shapes, (found["num_virtual_tokens"], 2 * found["num_layers"] * found["token_dim"]))


def _soft(shapes: Shapes, wanted: tuple[int, int]) -> Iterator[str]:
    for name, shape in shapes.items():
        if name != _PROMPT:
            yield _strange(name)
        elif shape != wanted:
            yield f"{name} in {WEIGHTS_FILE} has the shape {shape}, where the config asks for {wanted}"
    if _PROMPT not in shapes:
        yield f"{WEIGHTS_FILE} has no {_PROMPT}"


_PROMPT, _IA3 = "prompt_embeddings", "ia3_l"
# What peft puts before the name of a module of the base.
_LAYERS, _IN_FRONT = "base_model.model.", "base_model."
RULES = {
    "LORA": Rule(
        prefix=_LAYERS,
        settings=frozenset(
            {"r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "target_modules", "bias",
             "init_lora_weights", "megatron_core", "qalora_group_size"}
        ),
        check=_check_lora,
        tensors=_lora,
        fixed={"bias": ("none",), "use_rslora": (False, True), "use_dora": (False, True)},
    ),
    "IA3": Rule(
        prefix=_LAYERS,
        settings=frozenset({"target_modules", "init_ia3_weights"}),
        check=_check_ia3,
        tensors=_ia3,
        # Factors on inputs (feedforward_modules) are not served.
        fixed={"init_ia3_weights": (True, False)},
    ),
    "PROMPT_TUNING": Rule(
        prefix=_IN_FRONT,
        settings=_SOFT | {"prompt_tuning_init"},
        check=_check_prompt,
        tensors=_prompt,
        # TEXT would load a tokenizer that the config names.
        fixed={"prompt_tuning_init": ("RANDOM", "SAMPLE_VOCAB"), "num_transformer_submodules": (1,)},
    ),
    "PREFIX_TUNING": Rule(
        prefix=_IN_FRONT,
        settings=_SOFT | {"encoder_hidden_size"},
        check=_check_encoded,
        tensors=_prefix,
        fixed={"num_transformer_submodules": (1,)},
    ),
    "P_TUNING": Rule(
        prefix=_IN_FRONT,
        settings=_SOFT
        | {"encoder_hidden_size", "encoder_num_layers", "encoder_reparameterization_type", "encoder_dropout"},
        check=_check_encoded,
        tensors=_prompt,
        fixed={
            "num_transformer_submodules": (1,), "encoder_reparameterization_type": ("MLP",), "encoder_num_layers": (2,),
        },
    ),
}  # fmt: skip
