"""Adapter folders: plain PEFT files, written without a path and read with every tensor accounted for.

In: a trained peft model, or a folder. Out: `adapter_config.json` and `adapter_model.safetensors` that peft and
transformers load by themselves; or an `Adapter`, its tensors checked against its config before anything uses them.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file

from lorahub import atomic, records
from lorahub.errors import AdapterError, one_line
from lorahub.hub.safety import CONFIG_FILE, WEIGHTS_FILE
from lorahub.labels import LabelSet
from lorahub.models.base import Base
from lorahub.scoring.baselines import LinearProbe
from lorahub.scoring.verdicts import Calibration

TOKENIZER_CONFIG = "tokenizer_config.json"
_PREFIX = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A LoRA adapter in memory.

    `lora` maps a layer's name in the base to (A (r, in), B (out, r)) with the scale folded into B; `heads` maps a head
    module's name to its state dict. Both are float32 and on the CPU. `max_length` is where its tokenizer cuts an input,
    in tokens; None where the folder has no tokenizer. `reads_evidence` tells whether it was trained on pairs of claim
    and evidence; None where the folder has no record.
    """

    name: str
    labels: LabelSet
    base_id: str
    base_revision: str | None
    lora: dict[str, tuple[torch.Tensor, torch.Tensor]]
    heads: dict[str, dict[str, torch.Tensor]]
    calibration: Calibration
    probe: LinearProbe | None
    max_length: int | None
    reads_evidence: bool | None


def save(model: PeftModel, folder: Path, base: Base) -> None:
    """Write the adapter as plain PEFT files that name the base by id and revision.

    Raises AdapterError where a head tensor is missing from the file or the adapter still does nothing (B = 0).
    """
    model.save_pretrained(folder, safe_serialization=True)
    # peft writes a placeholder card; ours is written from the record.
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base.resolved.id
    config["revision"] = base.resolved.revision
    config["target_modules"] = sorted(config["target_modules"])
    # peft adds `classifier` and `score` whether the architecture has them or not.
    config["modules_to_save"] = list(base.heads)
    atomic.write_text(folder / CONFIG_FILE, json.dumps(config, indent=2, sort_keys=True) + "\n")
    tensors = load_file(folder / WEIGHTS_FILE)
    check_heads(folder, base.heads, tensors)
    _check_finite(folder, tensors)
    if not any(tensor.abs().max() > 0 for name, tensor in tensors.items() if ".lora_B." in name):
        raise AdapterError("the adapter has learnt nothing: every B matrix is 0. Train longer or raise the rate.")


def load(folder: Path, *, name: str | None = None) -> Adapter:
    """Read and check an adapter folder; raises AdapterError naming the file and what is wrong with it."""
    if not folder.is_dir():
        raise AdapterError(f"there is no adapter folder {folder}. `lorahub runs` lists the runs that exist.")
    config = _read_config(folder)
    tensors = _read_tensors(folder)
    labels = LabelSet.load(folder)
    _check_finite(folder, tensors)
    lora = _lora_layers(folder, config, tensors)
    heads = _head_states(config, tensors)
    if not heads:
        check_heads(folder, config["modules_to_save"] or ["classifier"], tensors)
    known = {key for pair in lora.values() for key in pair[2]} | {key for state in heads.values() for key in state[1]}
    extra = sorted(set(tensors) - known)
    if extra:
        # peft would load such a tensor over the base's weight of that name, and spoil the base for every adapter.
        raise AdapterError(
            f"{folder / WEIGHTS_FILE} holds tensors that its config does not explain: {len(extra)}, "
            f"first {extra[0]}. Such a file can overwrite the base; it is not loaded. Train again."
        )
    states = {module: state for module, (state, _) in heads.items()}
    _check_label_count(folder, labels, states)
    return Adapter(
        name=name or folder.resolve().name,
        labels=labels,
        base_id=str(config.get("base_model_name_or_path") or ""),
        base_revision=config.get("revision"),
        lora={layer: (a, b) for layer, (a, b, _) in lora.items()},
        heads=states,
        calibration=Calibration.load(folder, len(labels)),
        probe=LinearProbe.load(folder),
        max_length=_max_length(folder),
        reads_evidence=_reads_evidence(folder),
    )


def load_with_peft(folder: Path, base: Base) -> PeftModel:
    """Load the folder onto a fresh base the way any peft user would; `base` must have the adapter's label count."""
    return PeftModel.from_pretrained(base.model, folder).eval()


def _max_length(folder: Path) -> int | None:
    path = folder / TOKENIZER_CONFIG
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("model_max_length")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise AdapterError(f"{path} is damaged ({one_line(error)}). Restore it or train again.") from None
    # transformers writes 1e30 for "no limit".
    return int(found) if isinstance(found, int | float) and found >= 1 else None


def _reads_evidence(folder: Path) -> bool | None:
    if not (folder / records.FILE_NAME).exists():
        return None
    return records.load(folder).asked.get("data", {}).get("evidence") is not None


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AdapterError(
            f"{folder} has no {CONFIG_FILE}: it is no adapter folder, or the run did not finish."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AdapterError(f"{path} is not valid JSON ({error}). Restore it or train again.") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise AdapterError(f"{path} describes a {kind or 'nameless'} adapter; lorahub serves LORA.")
    if config.get("task_type") != "SEQ_CLS":
        raise AdapterError(f"{path} has task_type {config.get('task_type')!r}; a classifier has SEQ_CLS.")
    unsupported = [key for key in ("use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern") if config.get(key)]
    if unsupported or config.get("bias", "none") != "none":
        raise AdapterError(f"{path} uses {', '.join(unsupported) or 'bias'}, which lorahub does not serve yet.")
    for key in ("target_modules", "modules_to_save"):
        if not isinstance(config.get(key), list) or not all(isinstance(item, str) for item in config[key]):
            raise AdapterError(
                f"{path}: {key} must be a list of layer names, found {config.get(key)!r}. Write them out."
            )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise AdapterError(f"{path}: r is {rank!r} and lora_alpha {alpha!r}. Restore it or train again.")
    return config


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / WEIGHTS_FILE
    if not path.exists():
        pickled = [item.name for item in folder.iterdir() if item.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        found = f" It holds {pickled[0]}: pickled weights can run code and are not loaded." if pickled else ""
        raise AdapterError(f"{folder} has no {WEIGHTS_FILE}.{found} Restore it or train again.")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise AdapterError(f"{path} is damaged ({one_line(error)}). Restore it or train again.") from None


def check_heads(folder: Path, heads: Iterable[str], tensors: Iterable[str]) -> None:
    """Raise AdapterError unless the file holds every head module: a head that is not there is random on every load."""
    keys = list(tensors)
    for head in heads:
        if not any(f".{head}." in f".{key}" for key in keys):
            raise AdapterError(
                f"{folder / WEIGHTS_FILE} has no tensor of the head {head!r}: it would be random on every load. "
                "Train the adapter again."
            )


def _check_finite(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise AdapterError(f"{folder / WEIGHTS_FILE}: {name} holds values that are not numbers. Train again.")


def _lora_layers(
    folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]
) -> dict[str, tuple[torch.Tensor, torch.Tensor, tuple[str, str]]]:
    rank = config["r"]
    scale = config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
    layers = {}
    for key in sorted(tensors):
        if not key.endswith(".lora_A.weight"):
            continue
        other = key.replace(".lora_A.", ".lora_B.")
        layer = key.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
        down, up = tensors[key].float(), tensors.get(other)
        if up is None or not down.ndim == up.ndim == 2 or down.shape[0] != rank or up.shape[1] != rank:
            raise AdapterError(
                f"{folder / WEIGHTS_FILE}: {layer} has no A and B of rank {rank}, as its config says. "
                "Restore both files or train again."
            )
        if not any(layer == target or layer.endswith(f".{target}") for target in config["target_modules"]):
            raise AdapterError(f"{folder / WEIGHTS_FILE}: {layer} is adapted but not among target_modules.")
        layers[layer] = (down, up.float() * scale, (key, other))
    if not layers:
        raise AdapterError(f"{folder / WEIGHTS_FILE} adapts no layer. Was it saved from a LoRA model?")
    return layers


def _head_states(
    config: dict[str, Any], tensors: dict[str, torch.Tensor]
) -> dict[str, tuple[dict[str, torch.Tensor], list[str]]]:
    """Head module name to (its state dict, the file's keys for it)."""
    states: dict[str, tuple[dict[str, torch.Tensor], list[str]]] = {}
    for head in config["modules_to_save"]:
        keys = [key for key in tensors if f".{head}." in key and ".lora_" not in key]
        for key in keys:
            module, _, parameter = key.removeprefix(_PREFIX).rpartition(f"{head}.")
            state, used = states.setdefault(module + head, ({}, []))
            state[parameter] = tensors[key].float()
            used.append(key)
    return states


def _check_label_count(folder: Path, labels: LabelSet, heads: dict[str, dict[str, torch.Tensor]]) -> None:
    """The last head's output must have one column per label."""
    widths = {tensor.shape[0] for state in heads.values() for name, tensor in state.items() if name.endswith("weight")}
    if len(labels) not in widths:
        raise AdapterError(
            f"{folder}: labels.json names {len(labels)} labels, but no head has that many outputs "
            f"(found {sorted(widths)}). They are from different runs: restore both or train again."
        )
