"""A model's answers on claims: logits for the metrics, features for the linear probe.

In: a model and encoded claims. Out: float32 arrays on the CPU in the claims' own order, whatever order they were
computed in and on however many processes.
"""

from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorahub.data.batches import EncodedClaims, scoring_batches
from lorahub.models.features import features as base_features
from lorahub.stats.verdicts import Floats

Forward = Callable[[dict[str, torch.Tensor]], torch.Tensor]


def logits(
    model: nn.Module,
    claims: EncodedClaims,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int,
    accelerator: Accelerator,
) -> Floats:
    """Return logits (N, C) of a sequence classifier."""
    return _compute(lambda batch: model(**batch).logits, model, claims, tokenizer, batch_size, accelerator)


def features(
    model: PreTrainedModel,
    claims: EncodedClaims,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int,
    accelerator: Accelerator,
) -> Floats:
    """Return the backbone's last hidden states averaged over the real tokens, (N, H)."""
    return _compute(lambda batch: base_features(model, batch), model, claims, tokenizer, batch_size, accelerator)


def _compute(
    forward: Forward,
    model: nn.Module,
    claims: EncodedClaims,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    accelerator: Accelerator,
) -> Floats:
    was_training = model.training
    model.eval()
    loader = scoring_batches(claims, tokenizer, batch_size=batch_size)
    # Every process takes each n-th batch; rows are put back by number, so nothing depends on how they were dealt.
    mine = list(loader.batch_sampler)[accelerator.process_index :: accelerator.num_processes]  # type: ignore[arg-type]
    parts = []
    # In the precision of `model` itself: one that accelerate has prepared does its own autocast.
    with torch.inference_mode():
        for rows in mine:
            batch = send_to_device(loader.collate_fn([claims[row] for row in rows]), accelerator.device)  # type: ignore[misc]
            batch.pop("labels"), batch.pop("row")
            parts.append((rows, forward(batch).float().cpu().numpy()))
    if was_training:
        model.train()
    gathered = _gather(parts, accelerator)
    width = gathered[0][1].shape[1]
    result = np.zeros((len(claims), width), dtype=np.float32)
    for rows, values in gathered:
        result[rows] = values
    return result


def _gather(parts: list[tuple[list[int], Floats]], accelerator: Accelerator) -> list[tuple[list[int], Floats]]:
    """The parts of all processes, on every process."""
    if accelerator.num_processes == 1:
        return parts
    found: list[tuple[list[int], Floats]] = accelerator.gather_for_metrics(parts, use_gather_object=True)
    return found
