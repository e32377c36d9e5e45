"""A trial of a base before it is trained: a few short forward passes that show what its config does not.

In: a loaded base, and later the model to train. Out: nothing, or one line on why the base cannot be trained.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lorahub.data.batches import encode
from lorahub.errors import ConfigError, one_line
from lorahub.models.base import Base, features

_SHORT, _WORDS = "Rents may fall.", 24
# Largest difference between the logits of a text alone and beside a longer one, relative to the largest logit. It is
# rounding up to here: 16-bit numbers have 8 or 11 significant bits.
_ROUNDING = {"float32": 1e-2, "float16": 5e-2, "bfloat16": 2e-1}


def of_base(base: Base) -> None:
    """Raise ConfigError if a base cannot answer claims, or if a text changes the answer to another one.

    Runs a short text, the same one beside a longer one, and one of `max_length` tokens.
    """
    model = base.model
    alone = _run(base, lambda: _logits(base, model, [_SHORT]))
    beside = _run(base, lambda: _logits(base, model, [_SHORT, "a word " * (_WORDS // 2)]))
    expected = (2, model.config.num_labels)
    if tuple(beside.shape) != expected:
        raise ConfigError(_refusal(base, f"it gives logits of shape {tuple(beside.shape)} in place of {expected}"))
    difference = float((beside[:1] - alone).abs().max() / alone.abs().max().clamp(min=1e-6))
    if not difference <= _ROUNDING[base.precision]:
        raise ConfigError(_refusal(base, "the answer to a claim depends on the claims that are computed with it"))
    _run(base, lambda: _logits(base, model, ["a word " * base.max_length]))
    _run(base, lambda: features(model, _batch(base, [_SHORT])))


def of_model(base: Base, model: nn.Module) -> None:
    """Raise ConfigError if a model with an attached adapter does not run."""
    _run(base, lambda: _logits(base, model, [_SHORT]))


def _batch(base: Base, texts: list[str]) -> dict[str, torch.Tensor]:
    items = encode(base.tokenizer, texts, None, max_length=base.max_length).items
    return dict(base.tokenizer.pad(items, return_tensors="pt").to(base.device))


def _logits(base: Base, model: Any, texts: list[str]) -> torch.Tensor:
    logits: torch.Tensor = model(**_batch(base, texts)).logits
    return logits.float()


def _run(base: Base, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    was_training = base.model.training
    base.model.eval()
    try:
        with torch.no_grad():
            return compute()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # models raise any of them for inputs that they do not support
        raise ConfigError(_refusal(base, one_line(error))) from error
    finally:
        base.model.train(was_training)


def _refusal(base: Base, reason: str) -> str:
    return (
        f"the base {base.resolved.id} ({base.model.config.model_type}) cannot be trained on claims: {reason}. "
        "Choose another base: `lorahub bases` lists those that were tested."
    )
