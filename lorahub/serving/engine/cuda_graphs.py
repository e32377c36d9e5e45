"""CUDA graphs: a short pass that comes again and again is recorded once, and a GPU repeats it without being told how.

In: the base and a padded batch, within a routed pass. Out: logits. Python launches some 90 kernels a layer, and a few
claims keep a GPU busy for less time than that takes: on an H200, one claim on four layers of Mistral-7B's shape takes
10.6 ms, of which the GPU works 1.6, and 2.5 ms replayed. Recording takes up to a second, and a pass of 2,560 tokens
gains a tenth (docs/engine.md): so only small passes are recorded, once they have come a few times.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from lorahub.errors import one_line
from lorahub.serving.engine.lora_layers import Stack

log = logging.getLogger(__name__)

Batch = Mapping[str, torch.Tensor]
# Rows times tokens of the largest pass that is recorded.
MOST_TOKENS = 1024
# Lengths of such passes are padded to a multiple of so many tokens, so that they come again.
LENGTHS = 16
# How often a pass has come before it is recorded, and the recordings of one stack of adapters.
_SEEN_BEFORE, _MOST_RECORDED = 4, 8
# Shapes and strengths of which is known how often they came; then counting begins anew.
_MOST_COUNTED = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class _Recording:
    """A graph, the tensors that it reads its batch from, and the one that it leaves the logits in."""

    graph: torch.cuda.CUDAGraph
    inputs: Batch
    logits: torch.Tensor

    def replay(self, batch: Batch) -> torch.Tensor:
        for name, tensor in self.inputs.items():
            tensor.copy_(batch[name])
        self.graph.replay()
        return self.logits


@dataclass(kw_only=True, eq=False)
class _Known:
    """Of the passes with one stack, by what else they depend on: how often they came, and the recordings."""

    counted: dict[object, int] = field(default_factory=dict)
    recorded: dict[object, _Recording] = field(default_factory=dict)

    def came_often(self, key: object) -> bool:
        """Count a pass; True when it has come often enough before, and then counting begins anew."""
        before = self.counted.pop(key, 0)
        if before == _SEEN_BEFORE:
            return True
        if len(self.counted) == _MOST_COUNTED:
            self.counted.clear()
        self.counted[key] = before + 1
        return False

    def keep(self, key: object, recording: _Recording) -> None:
        """Keep a recording; the oldest one goes where there are too many."""
        if len(self.recorded) == _MOST_RECORDED:
            del self.recorded[next(iter(self.recorded))]
        self.recorded[key] = recording


class Graphs:
    """The recorded passes of one wrapped base; they go with their stacks. All calls come from one thread."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._works = True
        self._stream: torch.cuda.Stream | None = None
        self._known: WeakKeyDictionary[Stack, _Known] = WeakKeyDictionary()

    def logits(
        self, batch: Batch, stack: Stack, counts: Sequence[int], *, shared: bool, strength: float
    ) -> torch.Tensor:
        """The logits of a routed pass; a replayed one overwrites those before."""
        rows = batch["input_ids"]
        # With unequal counts the route has a tensor of its own for every pass.
        if not (self._works and rows.is_cuda and rows.numel() <= MOST_TOKENS and len(set(counts)) == 1):
            return self._run(batch)
        known = self._known.setdefault(stack, _Known())
        key = (len(counts), shared, strength, rows.shape, *batch)
        recording = known.recorded.get(key)
        if recording is None and known.came_often(key):
            recording = self._record(batch)
            if recording is not None:
                known.keep(key, recording)
        return self._run(batch) if recording is None else recording.replay(batch)

    def _run(self, batch: Batch) -> torch.Tensor:
        logits: torch.Tensor = self._model(**batch).logits
        return logits

    def _record(self, batch: Batch) -> _Recording | None:
        """Record a pass; None where memory is short, or where the base does what cannot be recorded, now or ever."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        inputs, graph = {name: tensor.clone() for name, tensor in batch.items()}, torch.cuda.CUDAGraph()
        # Recordings are replayed one after the other, so that they may share what they compute in.
        others = [recording.graph for known in self._known.values() for recording in known.recorded.values()]
        self._stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(self._stream):
                # Libraries set up for a new stream what they cannot while recording.
                self._run(inputs)
                # Other threads may load adapters meanwhile.
                with torch.cuda.graph(
                    graph,
                    pool=others[0].pool() if others else None,
                    stream=self._stream,
                    capture_error_mode="thread_local",
                ):
                    logits = self._run(inputs)
        except RuntimeError as error:
            log.info("a pass is not recorded: %s", one_line(error))
            # Memory may be there another time; what else a base does it does every time.
            self._works = isinstance(error, torch.cuda.OutOfMemoryError)
            return None
        torch.cuda.current_stream().wait_stream(self._stream)
        return _Recording(graph=graph, inputs=inputs, logits=logits)
