"""Differences between architectures: a table of what a model's structure does not show, and functions for the rest.

Heads and linear layers are found by structure, so an architecture without a row also trains, with `all-linear` or its
own layer names.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn
from transformers import PreTrainedModel

from lorahub.errors import ConfigError

ALL_LINEAR = "all-linear"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One row: `projections` maps q_proj, k_proj, v_proj, o_proj to the architecture's own layer names."""

    model_type: str
    projections: Mapping[str, str] = field(default_factory=dict)
    # Layers process each row of a batch separately, so rows may use different adapters. DeBERTa projects one table of
    # relative positions for all rows.
    mixes_adapters: bool = True
    # The head reads the first token or the mean. A decoder finds the last token by its id, which virtual tokens lack.
    soft_prompts: bool = True
    # Accepts keys and values from outside.
    prefixes: bool = False
    # Layers are BERT's, and the head reads only the first token.
    bert_layers: bool = False


def _projections(query: str, key: str, value: str, output: str) -> dict[str, str]:
    return {"q_proj": query, "k_proj": key, "v_proj": value, "o_proj": output}


_BERT = _projections("query", "key", "value", "attention.output.dense")
_LLAMA = _projections("q_proj", "k_proj", "v_proj", "o_proj")

ARCHITECTURES = {
    row.model_type: row
    for row in (
        Architecture(model_type="bert", projections=_BERT, prefixes=True, bert_layers=True),
        Architecture(model_type="roberta", projections=_BERT, prefixes=True, bert_layers=True),
        Architecture(model_type="xlm-roberta", projections=_BERT, prefixes=True, bert_layers=True),
        Architecture(model_type="distilbert", projections=_projections("q_lin", "k_lin", "v_lin", "out_lin")),
        Architecture(
            model_type="deberta-v2",
            projections=_projections("query_proj", "key_proj", "value_proj", "attention.output.dense"),
            mixes_adapters=False,
        ),
        # One fused layer gives queries, keys and values.
        Architecture(model_type="modernbert", projections=_projections("Wqkv", "Wqkv", "Wqkv", "attn.Wo")),
        Architecture(model_type="llama", projections=_LLAMA, soft_prompts=False, prefixes=True),
        Architecture(model_type="mistral", projections=_LLAMA, soft_prompts=False, prefixes=True),
        Architecture(model_type="qwen2", projections=_LLAMA, soft_prompts=False, prefixes=True),
        Architecture(model_type="qwen3", projections=_LLAMA, soft_prompts=False, prefixes=True),
        Architecture(model_type="gemma3_text", projections=_LLAMA, soft_prompts=False),
    )
}


def of(model_type: str) -> Architecture:
    """Return the row of a model type; for an unknown one, a row without optional abilities."""
    return ARCHITECTURES.get(model_type, Architecture(model_type=model_type, mixes_adapters=False, soft_prompts=False))


def head_names(model: PreTrainedModel, missing: Iterable[str] = ()) -> list[str]:
    """Return the names of the modules that are new for the task, and therefore trained and saved in full.

    These are the children of the model other than its backbone (`classifier`, DeBERTa's `pooler`, a decoder's `score`),
    and modules of the backbone whose weights the checkpoint lacks (`missing`: parameter names).
    """
    prefix = model.base_model_prefix
    names = [name for name, child in model.named_children() if name != prefix and any(True for _ in child.parameters())]
    fresh = {key.rsplit(".", 1)[0] for key in missing if key.startswith(f"{prefix}.")}
    return names + sorted(name.removeprefix(f"{prefix}.") for name in fresh)


def head_modules(model: PreTrainedModel, heads: Sequence[str]) -> list[tuple[str, nn.Module]]:
    """Return the modules named by `head_names`, with their full names."""
    return [item for item in model.named_modules() if any(_ends_with(item[0], head) for head in heads)]


def layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList] | None:
    """Return the full name of the list of transformer layers, and the list; None if the base does not have one list."""
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and name.startswith(f"{model.base_model_prefix}.")
    ]
    return lists[0] if len(lists) == 1 else None


def layer_numbers(model: PreTrainedModel, linears: Iterable[str]) -> tuple[dict[str, int], int]:
    """Return the number of the transformer layer that each linear layer is in, and the number of transformer layers.

    `linears` are full names in the order of the model. A linear layer before the transformer layers has the number 0;
    one behind them, such as a pooler, has their number. All are 0 if the base does not have one list of layers.
    """
    found = layers(model)
    if found is None:
        return dict.fromkeys(linears, 0), 0
    prefix, count = f"{found[0]}.", len(found[1])
    numbers, outside = {}, 0
    for linear in linears:
        inside = linear.startswith(prefix)
        numbers[linear] = int(linear.removeprefix(prefix).partition(".")[0]) if inside else outside
        outside = count if inside else outside
    return numbers, count


def linear_names(model: PreTrainedModel, heads: Iterable[str]) -> list[str]:
    """Return layer names that together match every linear layer of the backbone and none of the heads.

    A layer in a numbered block is named without the block (`attention.output.dense`), so one name covers all blocks.
    """
    backbone = f"{model.base_model_prefix}."
    skipped = tuple(f"{backbone}{name}" for name in heads)
    names = {
        re.sub(r"^.*\.\d+\.", "", name)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(backbone) and not name.startswith(skipped or "\0")
    }
    return sorted(names)


def target_names(model: PreTrainedModel, targets: Iterable[str], heads: Iterable[str]) -> list[str]:
    """Resolve `adapter.targets` to the architecture's own layer names; raises ConfigError for an unknown layer."""
    known = linear_names(model, heads)
    targets = list(targets)
    if targets == [ALL_LINEAR]:
        return known
    projections = of(model.config.model_type).projections
    chosen = []
    for target in targets:
        name = projections.get(target, target)
        if not any(_ends_with(layer, name) for layer in known):
            raise ConfigError(
                f"adapter.targets: {model.config.model_type} has no linear layer {target!r}; it has "
                f"{', '.join(known)}. Or use all-linear."
            )
        chosen.append(name)
    return sorted(set(chosen))


def _ends_with(layer: str, name: str) -> bool:
    return layer == name or layer.endswith(f".{name}")
