"""The tensors of several adapters, stacked for one forward pass.

In: loaded adapters. Out: a `Stack` with their A and B as one tensor per layer, of the highest rank, padded with zeros.
"""

import threading
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import torch
from torch import nn

from lorahub.models.adapters import Adapter

Pair = tuple[torch.Tensor, torch.Tensor]
# Number of sets of adapters that stay stacked.
_MOST_STACKS = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedAdapter:
    """One adapter with its tensors on the base's device, ready to be stacked.

    `lora` maps a layer to A (r, in) and B (out, r), with the scale in B. A layer adapted by DoRA computes
    gain · (W + B·A) x + bias: `lora` has the gain in B, and `gains` maps the layer to the factor and the summand,
    (out,) each, that correct the base's own output. `heads` maps a head module's name to the adapter's own. Below the
    transformer layer with the number `first_layer` it computes what the base computes.
    """

    adapter: Adapter
    first_layer: int
    lora: Mapping[str, Pair]
    gains: Mapping[str, Pair]
    heads: Mapping[str, nn.Module]

    @property
    def num_labels(self) -> int:
        """The number of labels."""
        return len(self.adapter.labels)

    @property
    def bytes(self) -> int:
        """The memory of its tensors on the device."""
        tensors = [tensor for pair in (*self.lora.values(), *self.gains.values()) for tensor in pair]
        tensors += [parameter for head in self.heads.values() for parameter in head.parameters()]
        return sum(tensor.nbytes for tensor in tensors)


@dataclass(frozen=True, kw_only=True, eq=False)
class Stack:
    """The adapters of one forward pass, in order.

    `lora` maps a layer to the transposed A (K, in, r) and B (K, r, out) of all adapters; `gains` maps a layer adapted
    by DoRA to factors and summands, (K, 1, out) each; `heads` maps a head module's name to one module per adapter.
    """

    lora: Mapping[str, Pair]
    gains: Mapping[str, Pair]
    heads: Mapping[str, Sequence[nn.Module]]


def stack(adapters: Sequence[LoadedAdapter]) -> Stack:
    """Stack adapters with ranks padded to the highest; a single adapter is not copied."""
    layers = dict.fromkeys(layer for adapter in adapters for layer in adapter.lora)
    scaled = dict.fromkeys(layer for adapter in adapters for layer in adapter.gains)
    return Stack(
        lora={layer: _pairs([adapter.lora.get(layer) for adapter in adapters]) for layer in layers},
        gains={layer: _gains([adapter.gains.get(layer) for adapter in adapters]) for layer in scaled},
        heads={name: [adapter.heads[name] for adapter in adapters] for name in adapters[0].heads},
    )


class StackCache:
    """The most recently requested sets of adapters, stacked. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stacks: dict[tuple[LoadedAdapter, ...], Stack] = {}

    def get(self, adapters: Set[LoadedAdapter], *, superset: bool) -> tuple[tuple[LoadedAdapter, ...], Stack]:
        """Return the adapters, ordered by their first layer, and their stack.

        With `superset` it may be a cached one with more adapters.
        """
        with self._lock:
            cached = [key for key in self._stacks if adapters == set(key) or (superset and adapters < set(key))]
            key = min(cached, key=len, default=tuple(sorted(adapters, key=lambda adapter: adapter.first_layer)))
            # The requested one moves to the end.
            stacked = self._stacks.pop(key, None) or stack(key)
            self._stacks[key] = stacked
            if len(self._stacks) > _MOST_STACKS:
                del self._stacks[next(iter(self._stacks))]
        return key, stacked

    def forget(self, adapter: LoadedAdapter) -> None:
        """Free the memory of every set with this adapter."""
        with self._lock:
            self._stacks = {key: stacked for key, stacked in self._stacks.items() if adapter not in key}


def _pairs(pairs: Sequence[Pair | None]) -> Pair:
    """Return A (K, in, r) and B (K, r, out) of one layer; zeros for an adapter that does not adapt it."""
    adapted = [pair for pair in pairs if pair is not None]
    down, up = adapted[0]
    if len(pairs) == 1:
        return down.T[None], up.T[None]
    rank = max(pair[0].shape[0] for pair in adapted)
    # On a GPU the A of all adapters are interleaved row by row, so that `batched_down_projection` needs no copy.
    downs = down.new_zeros(down.shape[1], len(pairs), rank).transpose(0, 1)
    downs = downs if down.is_cuda else downs.contiguous()
    ups = up.new_zeros(len(pairs), rank, up.shape[0])
    for place, pair in enumerate(pairs):
        if pair is not None:
            downs[place, :, : pair[0].shape[0]], ups[place, : pair[1].shape[1]] = pair[0].T, pair[1].T
    return downs, ups


def _gains(pairs: Sequence[Pair | None]) -> Pair:
    """Return factors and summands (K, 1, out) of one layer; 1 and 0 without DoRA."""
    first = next(pair for pair in pairs if pair is not None)
    neutral = torch.ones_like(first[0]), torch.zeros_like(first[1])
    factors, summands = zip(*(pair or neutral for pair in pairs), strict=True)
    return torch.stack(factors)[:, None], torch.stack(summands)[:, None]
