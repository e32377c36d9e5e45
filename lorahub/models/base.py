"""Loading a base model with a sequence-classification head.

In: a BaseConfig and the label names. Out: a `Base`: model, tokenizer and the reasons for device, dtype, padding and
length. Weights are read from safetensors only, and code in a repository is never run.
"""

import inspect
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
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
from lorahub.models import architectures, precision, quantization

log = logging.getLogger(__name__)

# From this size on, frozen weights are kept in 16 bits on a GPU; below it float32 costs little and is exact.
_HALF_FROM_PARAMETERS = 500_000_000
# Labels of a base whose head is not used: an engine replaces it.
_ANY_LABELS = LabelSet(("LABEL_0", "LABEL_1"))
LOCAL = {"trust_remote_code": False, "local_files_only": True}


@dataclass(kw_only=True)
class Base:
    """A loaded base. `heads` are the modules that an adapter trains and saves in full.

    Inputs are truncated to `max_length` tokens, also by the tokenizer; the base accepts up to `limit`. `moved` maps a
    layer to what an initialization subtracted from its weight, as (A, B) without the scale. `own_labels` are the names
    in the config of the base.
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
    own_labels: LabelSet | None = None

    @property
    def precision(self) -> str:
        """The name of the dtype in which the frozen layers compute."""
        return precision.name(self.dtype if self.quantize == quantization.NONE else precision.of_4_bits(self.device))

    def truncate_at(self, tokens: int, why: str) -> None:
        """Truncate inputs to `tokens` tokens, or to the limit of the base if that is less."""
        tokens = min(tokens, self.limit)
        if tokens != self.max_length:
            self.max_length = self.tokenizer.model_max_length = tokens
            self.reasons["max_length"] = f"{tokens} tokens: {why}"


def choose_device(device: str) -> tuple[torch.device, str]:
    """Resolve `base.device`; return the device and the reason. Raises BaseModelError if it is not available."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device != "auto":
        if not available[device]:
            raise BaseModelError(f"base.device is {device}, but this machine has none. Use --set base.device=auto.")
        return torch.device(device), f"base.device={device}"
    name = next(name for name, usable in available.items() if usable)
    return torch.device(name), {"cuda": "CUDA GPU found", "mps": "Apple GPU found", "cpu": "no GPU found"}[name]


def choose_dtype(dtype: str, parameters: int, *, half: torch.dtype | None) -> tuple[torch.dtype, str]:
    """Resolve `base.dtype` of the frozen weights; return it and the reason. `half` is `precision.half(device)`."""
    if dtype != "auto":
        return getattr(torch, dtype), f"base.dtype={dtype}"
    if half is not None and parameters >= _HALF_FROM_PARAMETERS:
        return half, f"{parameters / 1e9:.1f}B frozen weights on a GPU that computes in {precision.name(half)}"
    return torch.float32, "exact; small bases and CPUs gain little from less"


def load(config: BaseConfig, labels: LabelSet | None = None, *, token: str | None = None) -> Base:
    """Load base and tokenizer, with a head initialized by torch's global generator; raises BaseModelError."""
    resolved = fetch.base(config.id, revision=config.revision, token=token)
    names = labels or _ANY_LABELS
    try:
        model_config = read_config(resolved.folder)
        tokenizer = AutoTokenizer.from_pretrained(resolved.folder, **LOCAL)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and more for damaged files
        raise BaseModelError(
            f"the base {resolved.id} cannot be loaded ({one_line(error)}). Is its folder complete?"
        ) from error
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        # transformers returns an empty tokenizer if there is none.
        raise BaseModelError(f"the base {resolved.id} has no tokenizer. Save its tokenizer into the same folder.")
    reasons: dict[str, str] = {}
    pad_token(tokenizer, resolved.id, reasons, last_position=_reads_last_position(model_config))
    _encode_special_tokens_as_text(tokenizer)
    own_labels = LabelSet.of_config(model_config.id2label)
    model_config.num_labels = len(names)
    model_config.id2label = names.id2label
    model_config.label2id = dict(names.ids)
    set_pad_token_id(model_config, tokenizer.pad_token_id)
    device, reasons["device"] = choose_device(config.device)
    skeleton = empty_model(model_config)
    size = sum(parameter.numel() for parameter in skeleton.parameters())
    dtype, reasons["dtype"] = choose_dtype(config.dtype, size, half=precision.half(device))
    quantized = None
    reasons["quantize"] = "none: full-precision weights"
    if config.quantize != quantization.NONE:
        kept = unquantized_modules(skeleton)
        computed = precision.of_4_bits(device)
        reasons["quantize"] = (
            f"{config.quantize}: linear layers in 4 bits, double quantization, computing in "
            f"{precision.name(computed)}; not quantized: {', '.join(kept)}"
        )
        quantized = quantization.settings(config.quantize, kept, computed)
    model, missing, replaced = _load_model(resolved, model_config, dtype, device, quantized)
    if replaced:
        count = "other" if own_labels is None else len(own_labels)
        reasons["head"] = f"new: the base has one for {count} labels, which is not used"
    quantization.disable_repacking(model)
    _use_inputs_of(model, tokenizer)
    if model_config.is_encoder_decoder:
        _end_with_eos(tokenizer, resolved.id)
    heads = architectures.head_names(model, missing)
    keep_in_float32(model, heads)
    limit = longest_input(model, tokenizer.model_max_length)
    max_length = min(config.max_length, limit)
    why = "base.max_length" if max_length == config.max_length else "the limit of the base"
    reasons["max_length"] = f"{max_length} tokens: {why}"
    # The tokenizer is saved with an adapter and truncates everywhere as in training.
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
        own_labels=own_labels,
    )


def unquantized_modules(model: PreTrainedModel) -> list[str]:
    """Return the modules that are not quantized: the heads and a pooler, which is new if the checkpoint lacks it."""
    return [*architectures.head_names(model), f"{model.base_model_prefix}.pooler"]


def keep_in_float32(model: PreTrainedModel, heads: list[str]) -> None:
    """Keep the heads in float32, with their inputs, whatever the dtype of the frozen weights; so do peft's copies."""
    for _, module in architectures.head_modules(model, heads):
        module.float()
        module.register_forward_pre_hook(_to_float32)


def _to_float32(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(item.float() if item.is_floating_point() else item for item in inputs)


def _load_model(
    resolved: fetch.Resolved, model_config: Any, dtype: torch.dtype, device: torch.device, quantized: Any
) -> tuple[PreTrainedModel, list[str], list[str]]:
    """Return the model, the names of the weights that are new, and of those that replace ones of another shape.

    `quantized` is the `quantization_config` or None; only a quantized model is loaded to `device`.
    """
    require_own_weights(model_config, f"the base {resolved.id}")
    # transformers reports a new head as missing weights, but here that is intended.
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
            # A head for another number of labels is replaced by a new one; `damaged` refuses other differences.
            ignore_mismatched_sizes=True,
            device_map={"": str(device)} if quantized else None,
            quantization_config=quantized,
            **LOCAL,
        )
    except Exception as error:  # as in `load`
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
    replaced = sorted(str(key) for key, *_ in info["mismatched_keys"])
    damaged = [key for key in replaced if key.startswith(prefix)]
    if damaged:
        raise BaseModelError(
            f"the base {resolved.id} has weights of other shapes than its config.json describes (first: {damaged[0]}). "
            "Is its folder complete?"
        )
    layers = [key for key in missing if key.startswith(prefix) and any(part.isdigit() for part in key.split("."))]
    if layers:
        raise BaseModelError(
            f"the base {resolved.id} lacks {len(layers)} of its own weights (first: {layers[0]}). Is it complete?"
        )
    return model, [*missing, *replaced], replaced


def pad_token(
    tokenizer: PreTrainedTokenizerBase, name: str, reasons: dict[str, str], *, last_position: bool = False
) -> None:
    """Give the tokenizer a pad token (eos if it has none) and pad on the right.

    For a head that reads the last position, a pad token or not (`last_position`, as XLNet's), pad on the left.
    """
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise BaseModelError(f"the tokenizer of {name} has neither a pad nor an end-of-sequence token.")
        tokenizer.pad_token = tokenizer.eos_token
        reasons["pad_token"] = f"{tokenizer.eos_token!r} (eos): the tokenizer has no pad token"
    else:
        reasons["pad_token"] = f"{tokenizer.pad_token!r}: the tokenizer's own"
    if last_position:
        tokenizer.padding_side = "left"
        reasons["padding_side"] = "left: the head reads the last position, and positions are relative"
    else:
        tokenizer.padding_side = "right"
        reasons["padding_side"] = "right: heads read the first or the last real token, and positions count from 0"


def _encode_special_tokens_as_text(tokenizer: PreTrainedTokenizerBase) -> None:
    """Encode a special token that is written in a text as plain text; the setting is saved with the tokenizer."""
    tokenizer.split_special_tokens = tokenizer.init_kwargs["split_special_tokens"] = True


def _use_inputs_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the tokenizer return only inputs that the model takes."""
    accepted = inspect.signature(model.forward).parameters
    tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name in accepted]


def _end_with_eos(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Let every input end with the end-of-sequence token, which the head of an encoder-decoder reads.

    Raises BaseModelError if the tokenizer has none, pads with it, or cannot be changed.
    """
    eos = tokenizer.eos_token_id
    if eos is None or eos == tokenizer.pad_token_id:
        raise BaseModelError(
            f"the head of {name} reads the end-of-sequence token, and its tokenizer has none of its own. Give the "
            "tokenizer an eos_token that is not its pad_token."
        )
    if eos in tokenizer("a")["input_ids"]:
        return
    inner = getattr(tokenizer, "backend_tokenizer", None)
    if inner is None or tokenizer.num_special_tokens_to_add():
        raise BaseModelError(
            f"the head of {name} reads the end-of-sequence token, and its tokenizer does not add it. Save a tokenizer "
            "that ends every text with it."
        )
    token = tokenizer.eos_token
    inner.post_processor = processors.TemplateProcessing(
        single=f"$A {token}", pair=f"$A {token} $B {token}", special_tokens=[(token, eos)]
    )


def read_config(folder: Path) -> Any:
    """Read the config of a model folder, with the key-value cache off: every text is read once."""
    config = AutoConfig.from_pretrained(folder, **LOCAL)
    config.use_cache = config.get_text_config().use_cache = False
    return config


def require_own_weights(model_config: Any, name: str) -> None:
    """Raise BaseModelError if a config makes transformers load another file than model.safetensors or its shards.

    The config is asked as transformers asks it, because its file may set this in several ways.
    """
    other = getattr(model_config, "transformers_weights", None)
    if other is not None:
        raise BaseModelError(
            f"the config.json of {name} names {str(other)[:60]!r} as weights to load (transformers_weights), which are "
            "not the ones that lorahub checks. Remove this setting or use another."
        )


def _reads_last_position(model_config: Any) -> bool:
    """Return whether the head reads the last position of the input, padding included (XLNet)."""
    return getattr(model_config, "summary_type", None) == "last" and model_config.model_type == "xlnet"


def set_pad_token_id(model_config: Any, pad: int) -> None:
    """Set the pad token in a config: decoders pool the last token that is not padding, by this id."""
    model_config.pad_token_id = pad
    model_config.get_text_config().pad_token_id = pad


def longest_input(model: PreTrainedModel, tokens: float) -> int:
    """Return the longest input of a base in tokens; `tokens` is the limit of its tokenizer.

    Bases with relative positions have no limit of their own: none in the config, or -1 (XLNet). Bases like RoBERTa
    count positions from the padding index of their position embeddings plus 1, so the first ones are never used.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is None or positions <= 0:
        return int(tokens)
    skipped = [
        module.padding_idx + 1
        for name, module in model.named_modules()
        if "position" in name.rpartition(".")[2] and getattr(module, "padding_idx", None) is not None
    ]
    return int(min(positions - max(skipped, default=0), tokens))


def empty_model(model_config: Any) -> PreTrainedModel:
    """Return the model that a config describes, on the meta device."""
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(model_config)


def features(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the last hidden states averaged over each claim's tokens, (B, H), of `input_ids` and `attention_mask`.

    Those of an encoder-decoder are the encoder's. A base that shortens the sequence gives its first position. A linear
    probe on these features is the baseline of an adapter, and the app's `base` column.
    """
    backbone: Any = model.base_model
    if model.config.is_encoder_decoder:
        # The decoder reads its input through a mask of the past; the encoder reads all of it.
        backbone = backbone.get_encoder()
    hidden: torch.Tensor = backbone(**batch).last_hidden_state  # (B, T, H)
    mask = batch.get("attention_mask")
    if mask is None or hidden.shape[1] != mask.shape[1]:
        # Pooling has shortened the sequence (Funnel), and its tokens are no longer the claim's.
        return hidden[:, 0]
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
