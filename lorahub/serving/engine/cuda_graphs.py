"""CUDA graphs: short passes that repeat are recorded once and replayed without Python's launch overhead.

In: the base and a padded batch, within a `routed` block. Out: logits. Python launches some 90 kernels per layer, which
takes longer than the GPU needs for a few claims: on an H200, one claim on four layers of Mistral-7B's shape takes
10.6 ms, of which the GPU works 1.6, and 2.5 ms replayed. Recording takes up to a second, and a pass of 2,560 tokens
gains a tenth (docs/engine.md): so only small passes are recorded, after a few repetitions.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from lorahub.errors import one_line
from lorahub.serving.engine.lora_layers import Stages
from lorahub.serving.engine.stacks import Stack

log = logging.getLogger(__name__)

Batch = Mapping[str, torch.Tensor]
# Rows times tokens of the largest pass that is recorded.
MOST_TOKENS = 1024
# Such passes are padded to a multiple of this number of tokens, so that shapes repeat.
LENGTHS = 16
# Repetitions before a pass is recorded, and the maximum number of recordings per stack of adapters.
_SEEN_BEFORE, _MOST_RECORDED = 4, 8
# Maximum number of counted keys; above it the counts are reset.
_MOST_COUNTED = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class _Recording:
    """A graph, its input tensors, the stages whose indices it reads, and the tensor that it writes the logits to."""

    graph: torch.cuda.CUDAGraph
    inputs: Batch
    stages: Stages
    logits: torch.Tensor

    def replay(self, batch: Batch) -> torch.Tensor:
        for name, tensor in self.inputs.items():
            tensor.copy_(batch[name])
        self.graph.replay()
        return self.logits


@dataclass(kw_only=True, eq=False)
class _StackRecordings:
    """The passes with one stack, by everything else that they depend on: their counts and recordings."""

    counts: Counter[object] = field(default_factory=Counter)
    recorded: dict[object, _Recording] = field(default_factory=dict)


class Graphs:
    """The recorded passes of one wrapped base, freed with their stacks. All calls come from one thread."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._works = True
        self._stream: torch.cuda.Stream | None = None
        self._recordings: WeakKeyDictionary[Stack, _StackRecordings] = WeakKeyDictionary()

    def logits(
        self, batch: Batch, stack: Stack, counts: Sequence[int], *, shared: bool, strength: float, stages: Stages
    ) -> torch.Tensor:
        """Return the logits of a pass; a replay overwrites the logits of earlier ones."""
        rows = batch["input_ids"]
        # Else every pass has new tensors that assign the rows.
        repeats = len(set(counts)) == 1 and (shared or not stages)
        if not (self._works and rows.is_cuda and rows.numel() <= MOST_TOKENS and repeats):
            return self._run(batch)
        passes = self._recordings.setdefault(stack, _StackRecordings())
        key = (len(counts), shared, strength, rows.shape, *batch)
        recording = passes.recorded.get(key)
        if recording is None:
            if len(passes.counts) > _MOST_COUNTED:
                passes.counts.clear()
            passes.counts[key] += 1
            if passes.counts[key] <= _SEEN_BEFORE:
                return self._run(batch)
            del passes.counts[key]
            recording = self._record(batch, stages)
            if recording is None:
                return self._run(batch)
            if len(passes.recorded) == _MOST_RECORDED:
                del passes.recorded[next(iter(passes.recorded))]
            passes.recorded[key] = recording
        return recording.replay(batch)

    def _run(self, batch: Batch) -> torch.Tensor:
        logits: torch.Tensor = self._model(**batch).logits
        return logits

    def _record(self, batch: Batch, stages: Stages) -> _Recording | None:
        """Record a pass; None if memory is short or the base runs an operation that cannot be recorded."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        inputs, graph = {name: tensor.clone() for name, tensor in batch.items()}, torch.cuda.CUDAGraph()
        # Recordings are replayed one after the other, so they can share one memory pool.
        others = [recording.graph for passes in self._recordings.values() for recording in passes.recorded.values()]
        self._stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(self._stream):
                # Libraries initialize a new stream in this call, which they cannot do during a recording.
                self._run(inputs)
                # Other threads may load adapters at the same time.
                with torch.cuda.graph(
                    graph,
                    pool=others[0].pool() if others else None,
                    stream=self._stream,
                    capture_error_mode="thread_local",
                ):
                    logits = self._run(inputs)
        except RuntimeError as error:
            log.info("a pass is not recorded: %s", one_line(error))
            # Memory may be free another time; any other failure repeats.
            self._works = isinstance(error, torch.cuda.OutOfMemoryError)
            return None
        torch.cuda.current_stream().wait_stream(self._stream)
        return _Recording(graph=graph, inputs=inputs, stages=stages, logits=logits)
