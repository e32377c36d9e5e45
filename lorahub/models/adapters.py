"""Adapter folders: plain PEFT files, written without a path and read with every tensor accounted for.

In: a trained peft model, or a folder. Out: `adapter_config.json` and `adapter_model.safetensors` that peft and
transformers load by themselves; or an `Adapter`, its tensors checked against its config before anything uses them
(the rules are in hub/safety.py).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file

from lorahub import atomic, records
from lorahub.errors import AdapterError, one_line
from lorahub.hub import safety
from lorahub.hub.safety import CONFIG_FILE, WEIGHTS_FILE
from lorahub.labels import LabelSet
from lorahub.models.base import Base
from lorahub.scoring.baselines import LinearProbe
from lorahub.scoring.verdicts import Calibration

TOKENIZER_CONFIG = "tokenizer_config.json"
_A, _B = ".lora_A.weight", ".lora_B.weight"


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


def save(model: PeftModel, folder: Path, base: Base, labels: LabelSet) -> None:
    """Write the adapter as plain PEFT files that name the base by id and revision, with its labels and tokenizer.

    Raises AdapterError where the files would be refused on loading, or the adapter still does nothing (B = 0).
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
    labels.save(folder)
    base.tokenizer.save_pretrained(folder)
    wrong = safety.local(folder).refused
    if wrong:
        raise AdapterError(f"the adapter is not saved: {wrong[0]}. Train it again.")
    updates = [tensor for name, tensor in load_file(folder / WEIGHTS_FILE).items() if ".lora_B." in name]
    if not any(tensor.abs().max() > 0 for tensor in updates):
        raise AdapterError("the adapter has learnt nothing: every B matrix is 0. Train longer or raise the rate.")


def load(folder: Path, *, name: str | None = None) -> Adapter:
    """Read an adapter folder after looking at it; raises AdapterError naming the file and what is wrong with it."""
    report = safety.local(folder)
    safety.refuse(report, folder)
    labels = LabelSet.load(folder)
    try:
        stored = load_file(folder / WEIGHTS_FILE)
    except (SafetensorError, OSError) as error:
        raise AdapterError(
            f"{folder / WEIGHTS_FILE} is damaged ({one_line(error)}). Restore it or train again."
        ) from None
    tensors = {key.removeprefix(safety.PREFIX): tensor.float() for key, tensor in stored.items()}
    return Adapter(
        name=name or folder.resolve().name,
        labels=labels,
        base_id=str(report.config.get("base_model_name_or_path") or ""),
        base_revision=report.config.get("revision"),
        lora=_updates(report.config, tensors),
        heads=_head_states(report.config["modules_to_save"], tensors),
        calibration=Calibration.load(folder, len(labels)),
        probe=LinearProbe.load(folder, len(labels)),
        max_length=_max_length(folder),
        reads_evidence=_reads_evidence(folder),
    )


def load_with_peft(folder: Path, base: Base) -> PeftModel:
    """Load the folder onto a fresh base the way any peft user would; `base` must have the adapter's label count.

    Raises AdapterError where its weights do not fit the base.
    """
    try:
        return PeftModel.from_pretrained(base.model, folder).eval()
    except (RuntimeError, ValueError, KeyError, TypeError) as error:  # sizes, layers and settings that peft refuses
        raise AdapterError(
            f"peft cannot load {folder} onto {base.resolved.id} ({one_line(error)}). Was it made for another base?"
        ) from error


def _max_length(folder: Path) -> int | None:
    path = folder / TOKENIZER_CONFIG
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("model_max_length")
    except (ValueError, RecursionError, AttributeError) as error:
        raise AdapterError(f"{path} is damaged ({one_line(error)}). Restore it or train again.") from None
    # transformers writes 1e30 for "no limit".
    return int(found) if isinstance(found, int | float) and found >= 1 else None


def _reads_evidence(folder: Path) -> bool | None:
    if not (folder / records.FILE_NAME).exists():
        return None
    return records.load(folder).asked.get("data", {}).get("evidence") is not None


def _updates(
    config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A layer's name to (A, B), the scale folded into B."""
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
    layers = sorted(key.removesuffix(_A) for key in tensors if key.endswith(_A))
    return {layer: (tensors[layer + _A], tensors[layer + _B] * scale) for layer in layers}


def _head_states(heads: Iterable[str], tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """A head module's name in the base to its state dict."""
    states: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        head = None if ".lora_" in key else safety.head_of(key, heads)
        if head is not None:
            module, _, parameter = key.rpartition(f"{head}.")
            states.setdefault(module + head, {})[parameter] = tensor
    return states
