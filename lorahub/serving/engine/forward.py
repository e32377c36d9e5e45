"""One forward pass for the texts of one or more requests.

In: slices of jobs. Out: per slice logits (texts, adapters, widest head), or the base's features (texts, H) for a job
without adapters. The rows of one adapter are contiguous (see `lora_layers`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lorahub.models.base import Base, features
from lorahub.serving.engine import cuda_graphs, lora_layers, shared_layers, stacks
from lorahub.serving.engine.scheduler import Slice
from lorahub.stats.verdicts import Floats


class ForwardPass:
    """Forward passes of one wrapped base."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._stacks = stacks.StackCache()
        self._graphs = cuda_graphs.Graphs(base.model)

    def forget(self, adapter: stacks.LoadedAdapter) -> None:
        """Free the stacked copies of an adapter and the recordings made with them."""
        self._stacks.forget(adapter)

    def run(self, slices: Sequence[Slice]) -> list[Floats]:
        """Process slices that can share a pass: all with adapters, or all without."""
        with torch.inference_mode():
            items = [part.job.items[place] for part in slices for place in part.places]
            adapters = set().union(*(part.job.adapters for part in slices))
            batch = self._padded(items, most_rows=len(items) * len(adapters))
            if adapters:
                return self._logits(slices, batch)
            output: Floats = features(self._base.model, batch).float().cpu().numpy()
        return np.split(output, np.cumsum([len(part.places) for part in slices])[:-1])

    def _padded(self, items: list[dict[str, list[int]]], *, most_rows: int) -> dict[str, torch.Tensor]:
        """Pad to the longest text; on a GPU to a multiple of tokens if the pass is short enough to be recorded."""
        longest = max(len(item["input_ids"]) for item in items)
        length = -(-longest // cuda_graphs.LENGTHS) * cuda_graphs.LENGTHS
        short = 0 < most_rows * length <= cuda_graphs.MOST_TOKENS and length <= self._base.limit
        multiple = cuda_graphs.LENGTHS if short and self._base.device.type == "cuda" else None
        padded: Any = self._base.tokenizer.pad(items, return_tensors="pt", pad_to_multiple_of=multiple)
        return {key: value.to(self._base.device) for key, value in padded.items()}

    def _logits(self, slices: Sequence[Slice], batch: dict[str, torch.Tensor]) -> list[Floats]:
        requested = [set(part.job.adapters) for part in slices]
        adapters, stack = self._stacks.get(set().union(*requested), superset=len(slices) > 1)
        stops = np.cumsum([len(part.places) for part in slices]).tolist()
        texts = [range(stop - len(part.places), stop) for part, stop in zip(slices, stops, strict=True)]
        # The rows of each adapter are the texts of the slices that request it, as positions in the batch.
        rows: list[int] = []
        counts, blocks = [], {}
        for adapter in adapters:
            before = len(rows)
            for number in range(len(slices)):
                if adapter in requested[number]:
                    blocks[adapter, number] = slice(len(rows), len(rows) + len(texts[number]))
                    rows += texts[number]
            counts.append(len(rows) - before)
        shared = all(len(names) == len(adapters) for names in requested)
        if shared:
            batch = {key: value.repeat(len(adapters), 1) for key, value in batch.items()}
        else:
            index = torch.tensor(rows, device=self._base.device)
            batch = {key: value[index] for key, value in batch.items()}
        strength, device = slices[0].job.strength, self._base.device
        stages = shared_layers.stages(rows, counts, [adapter.first_layer for adapter in adapters], device)
        with lora_layers.routed(stack, counts, device, shared=shared, strength=strength, stages=stages):
            output = self._graphs.logits(batch, stack, counts, shared=shared, strength=strength, stages=stages)
        logits = output.float().cpu().numpy()  # (rows, widest)
        outputs = []
        for number, part in enumerate(slices):
            width = max(adapter.num_labels for adapter in part.job.adapters)
            blocks_of_slice = [logits[blocks[adapter, number], :width] for adapter in part.job.adapters]
            outputs.append(np.stack(blocks_of_slice, axis=1))
        return outputs
