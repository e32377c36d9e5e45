"""Loading a base model with a sequence-classification head, each choice with its reason.

In: a BaseConfig and the label names. Out: a `Base`: model, tokenizer and the reasons for device, dtype, padding and
length. Weights come from safetensors only, and code in a repository is never run.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers import logging as transformers_logging

from lorahub.config import BaseConfig
from lorahub.errors import BaseModelError, one_line
from lorahub.hub import fetch
from lorahub.labels import LabelSet
from lorahub.models import architectures, quantization

log = logging.getLogger(__name__)

# Above this size the frozen weights are kept in bfloat16 on a GPU; below, float32 costs little and changes no answer.
_BF16_FROM_PARAMETERS = 500_000_000
# The labels that an engine's base is loaded with; its heads are replaced.
_ANY_LABELS = LabelSet(("LABEL_0", "LABEL_1"))


@dataclass(kw_only=True)
class Base:
    """A loaded base. `heads` are the modules that an adapter trains and saves in full.

    Inputs are cut after `max_length` tokens, and the tokenizer says so too; the base would take up to `limit`.
    `moved` is what an initialisation took out of a layer's weight, as (A, B) without the scale.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    resolved: fetch.Resolved
    heads: list[str]
    max_length: int
    limit: int
    device: torch.device
    dtype: torch.dtype
    quantize: str = quantization.NONE
    reasons: dict[str, str] = field(default_factory=dict)
    moved: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def shorten(self, tokens: int, why: str) -> None:
        """Cut inputs after `tokens` tokens where they are cut later now."""
        if tokens < self.max_length:
            self.max_length = self.tokenizer.model_max_length = tokens
            self.reasons["max_length"] = f"{tokens} tokens: {why}"


def choose_device(wanted: str) -> tuple[torch.device, str]:
    """Return the device and why; raises BaseModelError where the wanted one is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted != "auto":
        if not there[wanted]:
            raise BaseModelError(f"base.device is {wanted}, but this machine has none. Use --set base.device=auto.")
        return torch.device(wanted), f"asked for with base.device={wanted}"
    name = next(name for name, available in there.items() if available)
    reason = {"cuda": "a CUDA GPU is there", "mps": "an Apple GPU is there", "cpu": "no GPU is there"}[name]
    return torch.device(name), reason


def choose_dtype(wanted: str, parameters: int, *, bf16_gpu: bool) -> tuple[torch.dtype, str]:
    """Return the dtype of the frozen weights and why; `bf16_gpu` is whether a GPU with bfloat16 takes them."""
    if wanted != "auto":
        return getattr(torch, wanted), f"asked for with base.dtype={wanted}"
    if bf16_gpu and parameters >= _BF16_FROM_PARAMETERS:
        return torch.bfloat16, f"{parameters / 1e9:.1f}B frozen weights on a GPU with bfloat16"
    return torch.float32, "float32 is exact, and small or CPU-bound bases gain little from less"


def load(config: BaseConfig, labels: LabelSet | None = None, *, token: str | None = None) -> Base:
    """Load base and tokenizer; the head is fresh, from torch's global generator. Raises BaseModelError."""
    resolved = fetch.base(config.id, revision=config.revision, token=token)
    names = labels or _ANY_LABELS
    settings: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    try:
        model_config = read_config(resolved.folder)
        tokenizer = AutoTokenizer.from_pretrained(resolved.folder, **settings)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and more for what it cannot read
        raise BaseModelError(
            f"the base {resolved.id} cannot be loaded ({one_line(error)}). Is its folder complete?"
        ) from error
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        # transformers makes up an empty tokenizer where there is none, for which every word is unknown.
        raise BaseModelError(f"the base {resolved.id} has no tokenizer. Save its tokenizer into the same folder.")
    reasons: dict[str, str] = {}
    pad_token(tokenizer, resolved.id, reasons)
    model_config.num_labels = len(names)
    model_config.id2label = names.id2label
    model_config.label2id = dict(names.ids)
    set_pad_token_id(model_config, tokenizer.pad_token_id)
    device, reasons["device"] = choose_device(config.device)
    skeleton = empty_model(model_config)
    size = sum(parameter.numel() for parameter in skeleton.parameters())
    bf16_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported()
    dtype, reasons["dtype"] = choose_dtype(config.dtype, size, bf16_gpu=bf16_gpu)
    whole: list[str] = []
    if config.quantize != quantization.NONE:
        whole = unquantised(skeleton)
        settings |= {"device_map": {"": str(device)}}
        settings |= {"quantization_config": quantization.settings(config.quantize, whole)}
    reasons["quantize"] = quantization.reason(config.quantize, whole)
    model, missing = _load_model(resolved, model_config, dtype, settings)
    quantization.steady(model)
    heads = architectures.head_names(model, missing)
    keep_in_float32(model, heads)
    limit = longest_input(model_config, tokenizer.model_max_length)
    max_length = min(config.max_length, limit)
    why = "base.max_length" if max_length == config.max_length else "the base takes no more"
    reasons["max_length"] = f"{max_length} tokens: {why}"
    # Saved with an adapter, the tokenizer then truncates for everyone as it did in training.
    tokenizer.model_max_length = max_length
    for name, reason in reasons.items():
        log.info("%s: %s", name, reason)
    return Base(
        model=model.to(device).eval(),
        tokenizer=tokenizer,
        resolved=resolved,
        heads=heads,
        max_length=max_length,
        limit=limit,
        device=device,
        dtype=dtype,
        quantize=config.quantize,
        reasons=reasons,
    )


def unquantised(model: PreTrainedModel) -> list[str]:
    """The modules that stay out of quantisation: the heads, and a pooler inside the backbone.

    A pooler is new, and then trained as a head, where the checkpoint lacks it.
    """
    return [*architectures.head_names(model), f"{model.base_model_prefix}.pooler"]


def keep_in_float32(model: PreTrainedModel, heads: list[str]) -> None:
    """Trained modules stay exact whatever the frozen weights are kept in; peft's copies of them keep both changes."""
    for _, module in architectures.head_modules(model, heads):
        module.float()
        module.register_forward_pre_hook(_to_float32)


def _to_float32(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(item.float() if item.is_floating_point() else item for item in inputs)


def _load_model(
    resolved: fetch.Resolved, model_config: Any, dtype: torch.dtype, settings: dict[str, Any]
) -> tuple[PreTrainedModel, list[str]]:
    # transformers reports a fresh head as an alarming table of missing weights; here it is what was asked for.
    before = transformers_logging.get_verbosity()
    progress = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            resolved.folder,
            config=model_config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **settings,
        )
    except Exception as error:  # as above: no common base
        raise BaseModelError(
            f"the base {resolved.id} ({model_config.model_type}) cannot be loaded for classification "
            f"({one_line(error)}). Is its folder complete?"
        ) from error
    finally:
        transformers_logging.set_verbosity(before)
        if progress:
            transformers_logging.enable_progress_bar()
    missing = list(info["missing_keys"])
    prefix = f"{model.base_model_prefix}."
    layers = [key for key in missing if key.startswith(prefix) and any(part.isdigit() for part in key.split("."))]
    if layers:
        raise BaseModelError(
            f"the base {resolved.id} lacks {len(layers)} of its own weights (first: {layers[0]}). Is it complete?"
        )
    return model, missing


def pad_token(tokenizer: PreTrainedTokenizerBase, name: str, reasons: dict[str, str]) -> None:
    """Give the tokenizer a pad token (eos if it has none) and pad on the right."""
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise BaseModelError(f"the tokenizer of {name} has neither a pad nor an end-of-sequence token.")
        tokenizer.pad_token = tokenizer.eos_token
        reasons["pad_token"] = f"{tokenizer.eos_token!r} (eos): the tokenizer has no pad token"
    else:
        reasons["pad_token"] = f"{tokenizer.pad_token!r}: the tokenizer's own"
    tokenizer.padding_side = "right"
    reasons["padding_side"] = "right: heads read the first or the last real token, and positions count from 0"


def read_config(folder: Path) -> Any:
    """A folder's config for a model that reads every text once, so that a decoder keeps no keys and values."""
    found = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    found.use_cache = found.get_text_config().use_cache = False
    return found


def set_pad_token_id(model_config: Any, pad: int) -> None:
    """Say in a config which token is padding."""
    # Decoders pool the last token that is not padding and read its id from the config they were built with.
    model_config.pad_token_id = pad
    model_config.get_text_config().pad_token_id = pad


def longest_input(model_config: Any, tokens: float) -> int:
    """The longest input that the base takes; `tokens` is what its tokenizer allows."""
    positions = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    if positions is None:
        return int(tokens)
    if architectures.of(model_config.model_type).positions_offset:
        positions -= model_config.pad_token_id + 1
    return int(min(positions, tokens))


def empty_model(model_config: Any) -> PreTrainedModel:
    """The model that the config describes, without its weights."""
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(model_config)
