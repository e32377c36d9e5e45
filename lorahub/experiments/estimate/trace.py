"""Record which tensors are alive when: each block of memory that torch allocates and frees, and the operations.

In: code that runs on tensors, with data or, under torch's FakeTensorMode, without. Out: a `Trace`: the blocks in the
order of their allocation and release, each with the name of its contents, and the floating-point operations.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# The name of unnamed blocks: what the backward pass keeps of the forward pass, and temporaries of operations.
ACTIVATIONS = "activations"


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which blocks are followed; views share the block of their tensor.

    `events` are (block, bytes) pairs, with bytes > 0 for an allocation and < 0 for a release; blocks are numbered in
    the order of their allocation. `operations` counts those of matrix products, forward and backward, by torch's own
    formulas and by `formulas`, which get the arguments of the operation. (torch's FlopCounterMode keeps tensors alive
    that a checkpointed layer has freed.)
    """

    def __init__(self, formulas: Mapping[Any, Callable[..., int]] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.formulas = {**flop_registry, **(formulas or {})}
        self.events: list[tuple[int, int]] = []
        self.operations = 0
        self._names: dict[int, str] = {}
        self._known: dict[int, tuple[int, weakref.ref[Any]]] = {}
        self._count = 0

    def name(self, tensors: Iterable[torch.Tensor], name: str) -> None:
        """Name the contents of tensors; those allocated before the context are followed from now on."""
        for tensor in tensors:
            self._names[self._follow(tensor)] = name

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, count it and follow its results."""
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
            self.events.append((block, size))

            def freed(_: Any) -> None:
                self.events.append((block, -size))
                self._known.pop(key, None)

            self._known[key] = block, weakref.ref(storage, freed)
        return self._known[key][0]

    def peak(self, *, round_to: int = 1) -> dict[str, int]:
        """Return bytes by name at the moment when their sum is largest, each block rounded up to `round_to`."""
        live: Counter[str] = Counter()
        peak: dict[str, int] = {}
        total = largest = 0
        for block, size in self.events:
            rounded = -(-abs(size) // round_to) * round_to * (1 if size > 0 else -1)
            live[self._names.get(block, ACTIVATIONS)] += rounded
            total += rounded
            if total > largest:
                largest, peak = total, dict(live)
        return peak
