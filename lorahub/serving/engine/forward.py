"""One forward pass: texts of one or more requests, each with its adapters, become logits.

In: shares of jobs. Out: logits (texts, adapters, widest head) a share, or the base's features (texts, H) for a job
without adapters. The rows of one adapter stand together (`stacked`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lorahub.models.base import Base
from lorahub.models.features import features
from lorahub.serving.engine import cuda_graphs, lora_layers
from lorahub.serving.engine.scheduler import Share
from lorahub.stats.verdicts import Floats


class Passes:
    """Forward passes of one wrapped base."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._stacks = lora_layers.Stacks()
        self._graphs = cuda_graphs.Graphs(base.model)

    def forget(self, adapter: lora_layers.Placed) -> None:
        """Free what is kept of an adapter."""
        self._stacks.forget(adapter)

    def run(self, shares: Sequence[Share]) -> list[Floats]:
        """Answer shares that go together: all with adapters, or all without."""
        with torch.inference_mode():
            items = [share.job.items[place] for share in shares for place in share.places]
            adapters = set().union(*(share.job.adapters for share in shares))
            batch = self._padded(items, most_rows=len(items) * len(adapters))
            if adapters:
                return self._logits(shares, batch)
            found: Floats = features(self._base.model, batch).float().cpu().numpy()
        return np.split(found, np.cumsum([len(share.places) for share in shares])[:-1])

    def _padded(self, items: list[dict[str, list[int]]], *, most_rows: int) -> dict[str, torch.Tensor]:
        """Pad to the longest text; on a GPU a little further where the pass is short enough to be recorded."""
        longest = max(len(item["input_ids"]) for item in items)
        length = -(-longest // cuda_graphs.LENGTHS) * cuda_graphs.LENGTHS
        short = 0 < most_rows * length <= cuda_graphs.MOST_TOKENS and length <= self._base.limit
        multiple = cuda_graphs.LENGTHS if short and self._base.device.type == "cuda" else None
        padded: Any = self._base.tokenizer.pad(items, return_tensors="pt", pad_to_multiple_of=multiple)
        return {key: value.to(self._base.device) for key, value in padded.items()}

    def _logits(self, shares: Sequence[Share], batch: dict[str, torch.Tensor]) -> list[Floats]:
        wanted = [set(share.job.adapters) for share in shares]
        adapters, stack = self._stacks.of(set().union(*wanted), larger=len(shares) > 1)
        stops = np.cumsum([len(share.places) for share in shares]).tolist()
        texts = [range(stop - len(share.places), stop) for share, stop in zip(shares, stops, strict=True)]
        # Each adapter's rows are the texts of the shares that ask for it, as places in the batch.
        rows: list[int] = []
        counts, blocks = [], {}
        for adapter in adapters:
            before = len(rows)
            for number in range(len(shares)):
                if adapter in wanted[number]:
                    blocks[adapter, number] = slice(len(rows), len(rows) + len(texts[number]))
                    rows += texts[number]
            counts.append(len(rows) - before)
        shared = all(len(names) == len(adapters) for names in wanted)
        if shared:
            batch = {key: value.repeat(len(adapters), 1) for key, value in batch.items()}
        else:
            index = torch.tensor(rows, device=self._base.device)
            batch = {key: value[index] for key, value in batch.items()}
        strength = shares[0].job.strength
        with lora_layers.routed(stack, counts, self._base.device, shared=shared, strength=strength):
            answers = self._graphs.logits(batch, stack, counts, shared=shared, strength=strength)
        logits = answers.float().cpu().numpy()  # (rows, widest)
        found = []
        for number, share in enumerate(shares):
            width = max(adapter.labels for adapter in share.job.adapters)
            parts = [logits[blocks[adapter, number], :width] for adapter in share.job.adapters]
            found.append(np.stack(parts, axis=1))
        return found
