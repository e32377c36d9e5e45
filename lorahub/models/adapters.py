"""Saving and loading adapter folders.

In: a trained model, or a folder. Out: plain PEFT files, or those of a full model or a head, without any path in them;
or an `Adapter`, after every tensor was checked against its config (hub/rules.py).
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from lorahub import atomic, records, runfiles
from lorahub.config import Quantization
from lorahub.errors import AdapterError, one_line
from lorahub.hub import rules, safety
from lorahub.labels import LabelSet
from lorahub.models import architectures, initialization
from lorahub.models import base as bases
from lorahub.models.base import Base
from lorahub.runfiles import Layout, Part
from lorahub.stats.baselines import LinearProbe
from lorahub.stats.verdicts import Calibration

_TOKENIZER, _TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
_A, _B, _MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
_PREFIX = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class AdapterInfo:
    """What a run folder says about an adapter, without its weights.

    `max_length` is the number of tokens after which its tokenizer truncates; None for a folder without a tokenizer.
    `reads_evidence` is whether it was trained on pairs of claim and evidence; None for a folder without a record.
    `quantize` is the quantization of the base during training. `folder` holds the adapter's files.
    """

    name: str
    labels: LabelSet
    base_id: str
    base_revision: str | None
    calibration: Calibration
    max_length: int | None
    reads_evidence: bool | None
    quantize: Quantization
    folder: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Adapter(AdapterInfo):
    """A LoRA adapter, or a head alone, in memory.

    `targets` are the layers that the config selects, none for a head. `lora` maps a layer's name in the base to
    (A (r, in), B (out, r)) with the scale folded into B, `magnitudes` to DoRA's magnitudes (out,); `heads` maps a head
    module's name to its state dict. All tensors are float32 and on the CPU.
    """

    targets: rules.Targets
    lora: dict[str, tuple[torch.Tensor, torch.Tensor]]
    magnitudes: dict[str, torch.Tensor]
    heads: dict[str, dict[str, torch.Tensor]]
    probe: LinearProbe | None


def save(model: nn.Module, folder: Path, base: Base, labels: LabelSet, layout: Layout = runfiles.PEFT) -> None:
    """Write the trained weights with the id and revision of the base, the labels and the tokenizer.

    Raises AdapterError if `load` would refuse the files, or the adapter has no effect.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if layout is runfiles.PEFT:
        _save_peft(model, folder, base)
    elif layout is runfiles.HEAD:
        _save_head(folder, base)
    else:
        # In one file of any size, so that one header describes all tensors.
        full: Any = model
        full.save_pretrained(folder, safe_serialization=True, max_shard_size="1TB")
    labels.save(folder)
    base.tokenizer.save_pretrained(folder)
    refused = safety.local(folder).refused
    if refused:
        raise AdapterError(f"the adapter is not saved: {refused[0]}. Train it again.")


def _save_peft(model: Any, folder: Path, base: Base) -> None:
    model.save_pretrained(folder, safe_serialization=True)
    (folder / runfiles.CARD).unlink(missing_ok=True)  # peft's placeholder
    config = json.loads((folder / runfiles.PEFT.config).read_text(encoding="utf-8"))
    tensors = load_file(folder / runfiles.PEFT.weights)
    # peft mistakes the `mlp_head` of its own prompt encoder for ModernBERT's head; only the prompts are needed.
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("prompt_encoder.")}
    if base.moved:
        tensors, config = initialization.as_plain_lora(tensors, config, base.moved)
    save_file(tensors, folder / runfiles.PEFT.weights, metadata={"format": "pt"})
    for names in ("target_modules", "feedforward_modules"):
        if config.get(names):
            config[names] = sorted(config[names])
    # peft adds `classifier` and `score` for every architecture.
    config["modules_to_save"] = list(base.heads)
    _write_config(folder / runfiles.PEFT.config, config, base)
    updates = [tensor for name, tensor in tensors.items() if ".lora_B." in name]
    if updates and not any(tensor.abs().max() > 0 for tensor in updates):
        raise AdapterError("the adapter learned nothing: every B matrix is 0. Train longer or raise the learning rate.")


def _save_head(folder: Path, base: Base) -> None:
    tensors = {
        f"{name}.{key}": tensor.detach().cpu().contiguous()
        for name, module in architectures.head_modules(base.model, base.heads)
        for key, tensor in module.state_dict().items()
    }
    save_file(tensors, folder / runfiles.HEAD.weights, metadata={"format": "pt"})
    _write_config(folder / runfiles.HEAD.config, {"modules_to_save": list(base.heads)}, base)


def _write_config(path: Path, config: rules.Config, base: Base) -> None:
    named = {**config, "base_model_name_or_path": base.resolved.id, "revision": base.resolved.revision}
    atomic.write_text(path, json.dumps(named, indent=2, sort_keys=True) + "\n")


def load(folder: Path, *, name: str | None = None) -> Adapter:
    """Check and read an adapter folder; raises AdapterError that names the file and the problem."""
    report = safety.local(folder)
    safety.refuse(report, folder)
    content = needs_own_base(report)
    if content is not None:
        raise AdapterError(
            f"{folder} holds {content}, which cannot share a base with other adapters: the engine serves lora, qlora, "
            "dora, rslora and linear-probe. `lorahub classify` and `lorahub evaluate` run it separately."
        )
    info = read_info(folder, report, name=name)
    stored = read_tensors(folder / report.layout.weights)
    tensors = {key.removeprefix(_PREFIX): tensor for key, tensor in stored.items()}
    lora = _updates(report.config, tensors)
    require_finite(info.name, {layer: up for layer, (_, up) in lora.items()})
    return Adapter(
        **vars(info),
        targets=rules.Targets.of(report.config),
        lora=lora,
        magnitudes={key.removesuffix(_MAGNITUDE): value for key, value in tensors.items() if key.endswith(_MAGNITUDE)},
        heads=_head_states(report.config["modules_to_save"], tensors),
        probe=LinearProbe.load(folder, len(info.labels)),
    )


def needs_own_base(report: safety.Report) -> str | None:
    """Return what a run folder holds, in words, if it cannot share a base with other adapters; else None."""
    if report.layout is runfiles.FULL_MODEL:
        return "a whole model"
    kind = report.config.get("peft_type", "LORA")
    return None if kind == "LORA" else f"{kind} weights"


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a safetensors file in float32; raises AdapterError if it is damaged."""
    try:
        return {key: tensor.float() for key, tensor in load_file(runfiles.regular(path)).items()}
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path} is damaged ({one_line(error)}). Restore it or train again.") from None


def require_finite(name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise AdapterError if a tensor, after it was converted and scaled, holds values that are not finite."""
    for layer, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise AdapterError(
                f"{name}: the update of {layer} holds values that are not finite numbers in float32. "
                "Restore its weights or train again."
            )


def load_with_peft(folder: Path, base: Base) -> nn.Module:
    """Load a folder onto a fresh base, as any user of peft and transformers would.

    `base` must have the adapter's number of labels; its inputs are truncated as the adapter's tokenizer does. Raises
    AdapterError if the weights do not fit the base.
    """
    try:
        return _load_onto(folder, base).eval()
    except (RuntimeError, ValueError, KeyError, TypeError) as error:  # sizes, layers and settings that peft refuses
        raise AdapterError(
            f"peft cannot load {folder} onto {base.resolved.id} ({one_line(error)}). Was it made for another base?"
        ) from error


def _load_onto(folder: Path, base: Base) -> nn.Module:
    base.truncate_at(_max_length(folder) or base.max_length, "as in training")
    layout = runfiles.layout(folder)
    model: nn.Module = base.model
    if layout is runfiles.PEFT:
        model = PeftModel.from_pretrained(base.model, folder)
    elif layout is runfiles.HEAD:
        unexpected = base.model.load_state_dict(read_tensors(folder / layout.weights), strict=False).unexpected_keys
        if unexpected:
            names = ", ".join(unexpected)
            raise AdapterError(f"{folder} holds {names}, which {base.resolved.id} does not have. Use its own base.")
    else:
        config = AutoConfig.from_pretrained(folder, **bases.LOCAL)
        bases.require_own_weights(config, str(folder))
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, config=config, use_safetensors=True, dtype=base.dtype, **bases.LOCAL
        ).to(base.device)
    return model


def read_info(folder: Path, report: safety.Report, *, name: str | None = None) -> AdapterInfo:
    """Read what a checked folder says about an adapter; raises AdapterError for a damaged file."""
    config, labels = report.config, LabelSet(tuple(report.labels))
    record = records.load(folder) if runfiles.is_finished(folder) else None
    base_id = config.get("base_model_name_or_path") or (record.environment.base_id if record else None)
    return AdapterInfo(
        name=name or folder.resolve().name,
        labels=labels,
        base_id=str(base_id or ""),
        base_revision=config.get("revision"),
        calibration=Calibration.load(folder, len(labels)),
        max_length=_max_length(folder),
        reads_evidence=None if record is None else record.config.data.evidence is not None,
        quantize=record.config.base.quantize if record else "none",
        folder=folder,
    )


class _Model(Part):
    vocab: Any = None


class _Added(Part):
    content: str
    id: int


class _Tokenizer(Part):
    model: _Model
    added_tokens: list[_Added] = []


def vocabulary(folder: Path) -> dict[str, int] | None:
    """Return the tokens in `tokenizer.json` with their ids; None if there is no such file or no such list in it."""
    path = folder / _TOKENIZER
    if not path.exists():
        return None
    stored = runfiles.read_json(path, _Tokenizer)
    added = {token.content: token.id for token in stored.added_tokens}
    if isinstance(stored.model.vocab, dict):
        return {**stored.model.vocab, **added}
    if isinstance(stored.model.vocab, list):
        return {**{str(entry[0]): index for index, entry in enumerate(stored.model.vocab)}, **added}
    return None


def named_by(adapter: Adapter, base: Base) -> Adapter:
    """Return the adapter with the label names of its base's config, if it has none of its own."""
    own = base.own_labels
    if adapter.labels.placeholders and own is not None and len(own) == len(adapter.labels):
        return replace(adapter, labels=own)
    return adapter


class _TokenizerConfig(Part):
    model_max_length: Any = None


def _max_length(folder: Path) -> int | None:
    path = folder / _TOKENIZER_CONFIG
    length = runfiles.read_json(path, _TokenizerConfig).model_max_length if path.exists() else None
    # transformers writes 1e30 for "no limit".
    return int(length) if isinstance(length, int | float) and 1 <= length < math.inf else None


def _updates(config: rules.Config, tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return (A, B) by layer name, with the scale folded into B."""
    if "r" not in config:
        return {}
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
    layers = sorted(key.removesuffix(_A) for key in tensors if key.endswith(_A))
    return {layer: (tensors[layer + _A], tensors[layer + _B] * scale) for layer in layers}


def _head_states(heads: Iterable[str], tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Return the state dict of each head module, by its name in the base."""
    states: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        head = None if ".lora_" in key else rules.head_of(key, heads)
        if head is not None:
            module, _, parameter = key.rpartition(f"{head}.")
            states.setdefault(module + head, {})[parameter] = tensor
    return states
