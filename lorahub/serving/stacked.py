"""Many adapters in one forward pass: every row of a batch carries its own adapter, and no adapter is ever active.

In: a base model and a `Table` of adapters. The base's linear layers are wrapped once; a wrapped layer adds to each row
its adapter's B·A·x, with the A and B of all adapters stacked and ranks padded with zeros. Head modules are wrapped
too, and run each adapter's own copy on that adapter's rows. Which adapter a row has travels in a context variable, so
that threads share the model without sharing a state.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lorahub.models import quantisation
from lorahub.models.adapters import Adapter


@dataclass(frozen=True, kw_only=True)
class Table:
    """An immutable set of adapters on one base; adding or dropping one makes a new table.

    Slot 0 is the bare base. `stacks` maps a layer to A (K+1, r, in) and B (K+1, out, r), the scale within B; `gains`
    maps one that a DoRA adapter adapts to a factor for every output (K+1, out); `heads` maps a slot to its head modules
    by name.
    """

    slots: Mapping[str, int]
    stacks: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    gains: Mapping[str, torch.Tensor]
    heads: Mapping[int, Mapping[str, nn.Module]]
    widths: Mapping[int, int]


@dataclass(frozen=True, kw_only=True)
class _Route:
    table: Table
    slots: torch.Tensor  # (B,) int64; (1,) where all rows have the same adapter


_route: ContextVar[_Route | None] = ContextVar("lorahub_route", default=None)


@contextmanager
def routed(table: Table, slots: torch.Tensor) -> Iterator[None]:
    """Give row i of the batches in this block the adapter in slot `slots[i]`; this thread only.

    A single slot holds for every row, however a layer arranges them.
    """
    token = _route.set(_Route(table=table, slots=slots))
    try:
        yield
    finally:
        _route.reset(token)


class StackedLinear(nn.Module):
    """A frozen linear layer plus each row's low-rank update."""

    def __init__(self, linear: nn.Module, name: str) -> None:
        super().__init__()
        self.linear, self.layer = linear, name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x (B, T, in) or (B, in) to (B, T, out) or (B, out)."""
        y: torch.Tensor = self.linear(x)
        route = _route.get()
        stack = None if route is None else route.table.stacks.get(self.layer)
        if route is None or stack is None:
            return y
        down, up = stack[0][route.slots], stack[1][route.slots]  # (B, r, in), (B, out, r)
        # (B, T, in), where T is 1 for pooled input; with one slot, (1, all tokens, in).
        flat = x.reshape(len(route.slots), -1, x.shape[-1]).to(down.dtype)
        update = torch.bmm(torch.bmm(flat, down.transpose(1, 2)), up.transpose(1, 2))  # (B, T, out)
        y = y + update.reshape(y.shape).to(y.dtype)
        gain = route.table.gains.get(self.layer)
        return y if gain is None else self._scaled(y, gain[route.slots])

    def _scaled(self, y: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        """Multiply what the weights gave, and not the bias, by each row's gain (B, out)."""
        rows = y.reshape(len(gain), -1, y.shape[-1])  # (B, T, out)
        bias: Any = 0 if self.linear.bias is None else self.linear.bias
        scaled: torch.Tensor = (rows - bias) * gain[:, None].to(y.dtype) + bias
        return scaled.reshape(y.shape)


class RoutedHead(nn.Module):
    """A head module of which every adapter has its own copy; outputs of different widths are padded with zeros."""

    def __init__(self, original: nn.Module, name: str) -> None:
        super().__init__()
        self.original, self.head = original, name

    def forward(self, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        """Map x, whose first dimension is the batch, with each row's own head."""
        route = _route.get()
        found: torch.Tensor
        if route is None:
            found = self.original(x, *args, **kwargs)
            return found
        if len(route.slots) == 1:
            only = route.table.heads.get(int(route.slots[0]), {}).get(self.head, self.original)
            found = only(x.to(_dtype(only, x)), *args, **kwargs)
            return found
        parts: list[tuple[torch.Tensor, torch.Tensor]] = []
        for slot in sorted(set(route.slots.tolist())):
            rows = (route.slots == slot).nonzero().squeeze(1)
            module = route.table.heads.get(slot, {}).get(self.head, self.original)
            parts.append((rows, module(x[rows].to(_dtype(module, x)), *args, **kwargs)))
        width = max(part.shape[-1] for _, part in parts)
        result = parts[0][1].new_zeros((x.shape[0], *parts[0][1].shape[1:-1], width))
        for rows, part in parts:
            result[rows, ..., : part.shape[-1]] = part
        return result


def _dtype(module: nn.Module, x: torch.Tensor) -> torch.dtype:
    first = next(module.parameters(), None)
    return x.dtype if first is None else first.dtype


def wrap(model: nn.Module, heads: Sequence[str]) -> None:
    """Replace the linear layers and head modules of a base, in place; without a route it answers as before."""
    head_modules = {name: module for name, module in model.named_modules() if _ends_with_any(name, heads)}
    inside = tuple(f"{name}." for name in head_modules)
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name not in head_modules and not name.startswith(inside or "\0")
    }
    for name, module in head_modules.items():
        _replace(model, name, RoutedHead(module, name))
    for name, module in linears.items():
        _replace(model, name, StackedLinear(module, name))


def table(model: nn.Module, adapters: Sequence[Adapter], device: torch.device) -> Table:
    """Stack adapters for a wrapped base; the caller has checked that they fit it."""
    originals = {module.head: module.original for module in model.modules() if isinstance(module, RoutedHead)}
    layers = sorted({layer for adapter in adapters for layer in adapter.lora})
    stacks = {layer: _stack(layer, adapters, device) for layer in layers}
    linears = {module.layer: module.linear for module in model.modules() if isinstance(module, StackedLinear)}
    scaled = sorted({layer for adapter in adapters for layer in adapter.magnitudes})
    gains = {layer: _gain(layer, linears[layer], adapters, device) for layer in scaled}
    heads = {
        slot: {name: _head(originals[name], state, device) for name, state in adapter.heads.items()}
        for slot, adapter in enumerate(adapters, start=1)
    }
    return Table(
        slots={adapter.name: slot for slot, adapter in enumerate(adapters, start=1)},
        stacks=stacks,
        gains=gains,
        heads=heads,
        widths={slot: len(adapter.labels) for slot, adapter in enumerate(adapters, start=1)},
    )


def _stack(layer: str, adapters: Sequence[Adapter], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """A (K+1, r, in) and B (K+1, out, r) of one layer; slot 0 and adapters without the layer are zeros."""
    pairs = [adapter.lora.get(layer) for adapter in adapters]
    there = [pair for pair in pairs if pair is not None]
    rank = max(down.shape[0] for down, _ in there)
    inputs, outputs = there[0][0].shape[1], there[0][1].shape[0]
    down = torch.zeros(len(adapters) + 1, rank, inputs)
    up = torch.zeros(len(adapters) + 1, outputs, rank)
    for slot, pair in enumerate(pairs, start=1):
        if pair is not None:
            down[slot, : pair[0].shape[0]], up[slot, :, : pair[1].shape[1]] = pair
    return down.to(device), up.to(device)


def _gain(layer: str, linear: nn.Module, adapters: Sequence[Adapter], device: torch.device) -> torch.Tensor:
    """The gain m / |W + B·A| of one layer by slot, (K+1, out); 1 without DoRA. Source: arXiv:2402.09353, equation 5."""
    weight = quantisation.dense(linear).cpu()
    gain = torch.ones(len(adapters) + 1, weight.shape[0])
    for slot, adapter in enumerate(adapters, start=1):
        if layer in adapter.magnitudes:
            down, up = adapter.lora[layer]
            gain[slot] = adapter.magnitudes[layer] / torch.linalg.norm(weight + up @ down, dim=1)
    return gain.to(device)


def _head(original: nn.Module, state: Mapping[str, torch.Tensor], device: torch.device) -> nn.Module:
    """A copy of a head module with an adapter's tensors, whatever their number of outputs."""
    module = deepcopy(original)
    for name, tensor in state.items():
        owner, _, parameter = name.rpartition(".")
        target = module.get_submodule(owner)
        setattr(target, parameter, nn.Parameter(tensor.to(device), requires_grad=False))
        if parameter == "weight" and isinstance(target, nn.Linear):
            target.out_features, target.in_features = tensor.shape
    return module.eval()


def _ends_with_any(name: str, heads: Sequence[str]) -> bool:
    return any(name == head or name.endswith(f".{head}") for head in heads)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, module)
