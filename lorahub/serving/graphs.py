"""CUDA graphs: a short pass that comes again and again is recorded once, and a GPU repeats it without being told how.

In: the base and a padded batch, within a routed pass. Out: logits. Python launches some 90 kernels a layer, and a few
claims keep a GPU busy for less time than that takes: on an H200, one claim on four layers of Mistral-7B's shape takes
10.6 ms, of which the GPU works 1.6, and 2.5 ms replayed. Recording takes up to a second, and a pass of 2,560 tokens
gains a tenth (docs/engine.md): so only small passes are recorded, once they have come a few times.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from lorahub.errors import one_line
from lorahub.serving.stacked import Stack

log = logging.getLogger(__name__)

Batch = Mapping[str, torch.Tensor]
# Rows times tokens of the largest pass that is recorded, and how often it has come before.
_MOST_TOKENS, _SEEN_BEFORE = 1024, 4
# Recorded passes of one stack of adapters: other numbers of texts, other lengths.
_MOST_A_STACK = 8
# Lengths are padded to a multiple of so many tokens, so that they come again.
LENGTHS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class _Recorded:
    """A graph, the tensors that it reads its batch from, and the one that it leaves the logits in."""

    graph: torch.cuda.CUDAGraph
    inputs: Batch
    logits: torch.Tensor

    def replay(self, batch: Batch) -> torch.Tensor:
        for name, tensor in self.inputs.items():
            tensor.copy_(batch[name])
        self.graph.replay()
        return self.logits


class Graphs:
    """The recorded passes of one wrapped base; they go with their stacks. All calls come from one thread."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._works = True
        self._pool: Any = None
        # By stack, and by what else a pass depends on: how often it has come, or the recording.
        self._kept: WeakKeyDictionary[Stack, dict[object, int | _Recorded]] = WeakKeyDictionary()

    def logits(
        self, batch: Batch, stack: Stack, counts: Sequence[int], *, shared: bool, strength: float
    ) -> torch.Tensor:
        """The logits of a routed pass; a replayed one overwrites those before."""
        rows = batch["input_ids"]
        # With unequal counts the route has a tensor of its own for every pass.
        if not (self._works and rows.is_cuda and rows.numel() <= _MOST_TOKENS and len(set(counts)) == 1):
            return self._run(batch)
        kept = self._kept.setdefault(stack, {})
        key = (len(counts), shared, strength, rows.shape, *batch)
        # The one that is asked for moves to the end.
        found = kept.pop(key, 0)
        if found == _SEEN_BEFORE:
            found = self._record(batch) or 0
        kept[key] = found if isinstance(found, _Recorded) else found + 1
        if len(kept) > _MOST_A_STACK:
            del kept[next(iter(kept))]
        return found.replay(batch) if isinstance(found, _Recorded) else self._run(batch)

    def _run(self, batch: Batch) -> torch.Tensor:
        logits: torch.Tensor = self._model(**batch).logits
        return logits

    def _record(self, batch: Batch) -> _Recorded | None:
        """Record a pass; None where the base does what cannot be recorded, which is then not tried again."""
        inputs = {name: tensor.clone() for name, tensor in batch.items()}
        graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        try:
            # Libraries set up for a new stream what they cannot while recording.
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                self._run(inputs)
            torch.cuda.current_stream().wait_stream(aside)
            # Other threads may load adapters meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                logits = self._run(inputs)
        except RuntimeError as error:
            log.info("passes of this base are not recorded: %s", one_line(error))
            self._works = False
            return None
        return _Recorded(graph=graph, inputs=inputs, logits=logits)
