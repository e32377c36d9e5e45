"""Which tensors live when: every block of memory that torch asks for and gives back while code runs, and its work.

In: code that runs on tensors, with data or, under torch's FakeTensorMode, without. Out: a `Trace`: the blocks in the
order of their coming and going, each with the name of what it holds, and the floating-point operations.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# What is not named otherwise: what the backward pass needs of the forward pass, and what operations need in between.
ACTIVATIONS = "activations"


@dataclass(frozen=True, slots=True)
class Event:
    """A block that came (`size` bytes, above 0) or went (below 0). Blocks are numbered in the order of their coming."""

    block: int
    size: int


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which blocks are followed; views share the block of their tensor.

    `operations` counts those of matrix products, forward and backward, by torch's own formulas and by `formulas`, which
    get what the operation got. (torch's FlopCounterMode keeps tensors alive that a checkpointed layer has let go.)
    """

    def __init__(self, formulas: Mapping[Any, Callable[..., int]] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.formulas = {**flop_registry, **(formulas or {})}
        self.events: list[Event] = []
        self.marks: dict[int, str] = {}
        self.names: dict[int, str] = {}
        self.operations = 0
        self._known: dict[int, tuple[int, weakref.ref[Any]]] = {}
        self._count = 0

    def name(self, tensors: Iterable[torch.Tensor], name: str) -> None:
        """Say what tensors hold; those that were there before are followed from now on."""
        for tensor in tensors:
            self.names[self._follow(tensor)] = name

    def mark(self, name: str) -> None:
        """Remember this moment: `marks` has its name by the number of events before it."""
        self.marks[len(self.events)] = name

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, count it and follow what it returns."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula = self.formulas.get(func._overloadpacket)
        if formula is not None:
            self.operations += formula(*args, **kwargs, out_val=result)
        for item in tree_leaves(result):
            if isinstance(item, torch.Tensor):
                self._follow(item)
        return result

    def _follow(self, tensor: torch.Tensor) -> int:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            block, size = self._count, storage.nbytes()
            self._count += 1
            self.events.append(Event(block, size))

            def gone(_: Any) -> None:
                self.events.append(Event(block, -size))
                self._known.pop(key, None)

            self._known[key] = block, weakref.ref(storage, gone)
        return self._known[key][0]

    def peak(self, *, round_to: int = 1) -> dict[str, int]:
        """Bytes by name at the moment when all together were the most, each block rounded up."""
        live: Counter[str] = Counter()
        most, found = 0, dict(live)
        total = 0
        for event in self.events:
            size = -(-abs(event.size) // round_to) * round_to * (1 if event.size > 0 else -1)
            live[self.names.get(event.block, ACTIVATIONS)] += size
            total += size
            if total > most:
                most, found = total, dict(live)
        return found
