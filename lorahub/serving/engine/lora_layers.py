"""Many adapters in one forward pass: every row of a batch carries its own adapter, and no adapter is ever active.

In: a base model and a `Stack` of adapters. The base's linear layers are wrapped once; a wrapped layer adds to each row
its adapter's B·A·x, with the A and B of the stack's adapters side by side and ranks padded with zeros. Head modules are
wrapped too, and run each adapter's own copy on that adapter's rows. The rows of one adapter stand together, so that its
matrices are multiplied with all of them at once and never copied. Which rows are whose travels in a context variable:
threads share the model without sharing a state.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lorahub.models import quantization
from lorahub.models.adapters import Adapter

_Pair = tuple[torch.Tensor, torch.Tensor]
# Rows times columns up to which a GPU multiplies all rows with the A of all adapters.
_FEW = 1 << 19
# Sets of adapters that stay stacked.
_MOST_STACKS = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Placed:
    """One adapter on the base's device, ready to be stacked.

    `lora` maps a layer to A (r, in) and B (out, r), the scale within B. A layer that DoRA adapts answers with
    gain · (W + B·A) x + bias: `lora` holds the gain within B, and `gains` what makes the base's own answer right, a
    factor and a summand for every output, (out,) each. `heads` maps a head module's name to the adapter's own.
    """

    lora: Mapping[str, _Pair]
    gains: Mapping[str, _Pair]
    heads: Mapping[str, nn.Module]
    labels: int

    @property
    def bytes(self) -> int:
        """What its tensors take on the device."""
        tensors = [tensor for pair in (*self.lora.values(), *self.gains.values()) for tensor in pair]
        tensors += [parameter for head in self.heads.values() for parameter in head.parameters()]
        return sum(tensor.nbytes for tensor in tensors)


@dataclass(frozen=True, kw_only=True, eq=False)
class Stack:
    """The adapters of one forward pass, in order.

    `lora` maps a layer to the A of all (K, in, r) and the B (K, r, out), both turned round; `gains` maps one that a
    DoRA adapter adapts to factors and summands, (K, 1, out) each; `heads` maps a head module's name to one an adapter.
    """

    lora: Mapping[str, _Pair]
    gains: Mapping[str, _Pair]
    heads: Mapping[str, Sequence[nn.Module]]


@dataclass(kw_only=True, eq=False)
class _Route:
    """Whose rows are whose: the first `counts[0]` are the first adapter's, and so on.

    `places` is each row's adapter (B,), None where all have the same number of rows. Where these are the same texts for
    every adapter (`shared`), `embedded` is what the embeddings gave: K times the same rows. Of what the adapters change
    in the base's weights there is `strength`.
    """

    stack: Stack
    counts: Sequence[int]
    places: torch.Tensor | None
    shared: bool
    strength: float
    embedded: torch.Tensor | None = None

    def of_rows(self, pair: _Pair) -> _Pair:
        """A pair of the stack's tensors (K, ...), or one entry a row (B, ...)."""
        return pair if self.places is None else (pair[0][self.places], pair[1][self.places])

    def down(self, x: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        """Each group's rows (K, n, in) times its own A (K, in, r): (K, n, r)."""
        groups, rows, _ = x.shape
        few = groups * rows * groups * down.shape[2] <= _FEW
        # With an A for every row there is a copy of each already.
        if x.is_cuda and groups > 1 and few and self.places is None:
            return every_down(x, down)
        return torch.matmul(x, down)


_route: ContextVar[_Route | None] = ContextVar("lorahub_route", default=None)


@contextmanager
def routed(
    stack: Stack, counts: Sequence[int], device: torch.device, *, shared: bool, strength: float
) -> Iterator[None]:
    """Give the first `counts[0]` rows of a batch the stack's first adapter, and so on; in this block and thread only.

    `shared` says that every adapter has the same texts in the same order. With a single adapter every row is its own,
    however a layer arranges them. `strength` multiplies what the adapters change in the base's weights: with 0 the
    adapters' heads read the base itself.
    """
    places = None
    if len(set(counts)) > 1:
        places = torch.arange(len(counts), device=device).repeat_interleave(torch.tensor(counts, device=device))
    shared = shared and len(counts) > 1
    token = _route.set(_Route(stack=stack, counts=counts, places=places, shared=shared, strength=strength))
    try:
        yield
    finally:
        _route.reset(token)


def is_routed() -> bool:
    """Whether a routed pass is under way in this thread."""
    return _route.get() is not None


class StackedLinear(nn.Module):
    """A frozen linear layer plus each row's low-rank update."""

    def __init__(self, linear: nn.Module, name: str) -> None:
        super().__init__()
        self.linear, self.layer = linear, name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x (B, T, in) or (B, in) to (B, T, out) or (B, out)."""
        route = _route.get()
        shape = x.shape[:-1]
        copies = 1
        if route is not None and x is route.embedded:
            # The same rows for every adapter: the base's product is worked out once.
            copies = len(route.counts)
            x = x[: len(x) // copies]
        pair = None if route is None else route.stack.lora.get(self.layer)
        y: torch.Tensor
        if route is None or pair is None:
            y = self.linear(x)
            return y if copies == 1 else y.repeat(copies, *[1] * (y.dim() - 1))
        down, up = route.of_rows(pair)
        groups = len(down) // copies
        flat = x.reshape(groups, -1, x.shape[-1]).to(down.dtype)  # (K, rows of one adapter x T, in)
        gain = route.stack.gains.get(self.layer)
        if copies == 1 and gain is None and type(self.linear) is nn.Linear and self.linear.bias is not None:
            weight = self.linear.weight
            if weight.dtype == up.dtype:
                # The update first and the base's product on top of it: `linear` would begin by copying the bias.
                y = torch.baddbmm(self.linear.bias, route.down(flat, down), up, alpha=route.strength)
                return y.view(-1, len(weight)).addmm_(flat.view(-1, x.shape[-1]), weight.T).view(*shape, len(weight))
        y = self.linear(x)
        wide = y.reshape(groups, -1, y.shape[-1])
        if gain is not None:
            factor, summand = route.of_rows(gain)
            if route.strength != 1:
                # DoRA changes W to gain · (W + B·A): of this change too there is `strength` times as much.
                factor, summand = 1 + route.strength * (factor - 1), route.strength * summand
            wide = torch.addcmul(summand, wide.to(up.dtype), factor)
        update = route.down(flat, down)
        # In place where that can be: on a CPU, fresh memory for every layer costs more than the sums.
        in_place = len(wide) == len(up)
        if wide.dtype == up.dtype:
            wide = (wide.baddbmm_ if in_place else wide.baddbmm)(update, up, alpha=route.strength)
        else:
            # The base is in fewer bits: the sum is worked out in those of the adapters and rounded once.
            wide = (wide.add_ if in_place else wide.add)(torch.matmul(update, up), alpha=route.strength)
        return wide.view(*shape, y.shape[-1]).to(y.dtype)


def every_down(x: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Rows (K, n, in) times A (K, in, r), from one product of all rows with all A: each row keeps its adapter's part.

    A few rows times a narrow matrix occupy as many of a GPU's processors as there are adapters. This is K times the
    arithmetic on all of them: on an H200 with 8 adapters 10 microseconds in place of 75 for 160 rows of 4,096, and 46
    in place of 135 for 2,560.
    """
    groups, rows, width = x.shape
    every = x.reshape(-1, width) @ down.transpose(0, 1).reshape(width, -1)
    return every.view(groups, rows, groups, -1).diagonal(dim1=0, dim2=2).permute(2, 0, 1)


def _only_texts(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
    """Leave the embeddings each text once, where every adapter reads the same."""
    route = _route.get()
    if route is None or not route.shared:
        return None
    rows = sum(route.counts)

    def once(value: Any) -> Any:
        there = isinstance(value, torch.Tensor) and len(value) == rows
        return value[: route.counts[0]] if there else value

    return tuple(map(once, args)), {name: once(value) for name, value in kwargs.items()}


def _for_every_adapter(module: nn.Module, args: tuple[Any, ...], found: torch.Tensor) -> torch.Tensor | None:
    """Give every adapter the embedded texts."""
    route = _route.get()
    if route is None or not route.shared:
        return None
    route.embedded = found.repeat(len(route.counts), *[1] * (found.dim() - 1))
    return route.embedded


class RoutedHead(nn.Module):
    """A head module of which every adapter has its own copy; outputs of different widths are padded with zeros."""

    def __init__(self, original: nn.Module, name: str) -> None:
        super().__init__()
        self.original, self.head = original, name

    def forward(self, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        """Map x, whose first dimension is the batch, with each row's own head."""
        route = _route.get()
        if route is None:
            found: torch.Tensor = self.original(x, *args, **kwargs)
            return found
        heads = route.stack.heads[self.head]
        if len(heads) == 1:
            return _run(heads[0], x, *args, **kwargs)
        bounds = pairwise(accumulate(route.counts, initial=0))
        parts = [_run(head, x[start:stop], *args, **kwargs) for head, (start, stop) in zip(heads, bounds, strict=True)]
        width = max(part.shape[-1] for part in parts)
        return torch.cat([nn.functional.pad(part, (0, width - part.shape[-1])) for part in parts])


def _run(head: nn.Module, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
    """A head's answer in the precision that its weights have."""
    first = next(head.parameters(), None)
    found: torch.Tensor = head(x if first is None else x.to(first.dtype), *args, **kwargs)
    return found


def wrap(model: PreTrainedModel, heads: Sequence[str]) -> None:
    """Replace the linear layers and head modules of a base, in place; without a route it answers as before."""
    embeddings = getattr(model.base_model, "embeddings", None) or model.get_input_embeddings()
    embeddings.register_forward_pre_hook(_only_texts, with_kwargs=True)
    embeddings.register_forward_hook(_for_every_adapter)
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


def place(model: nn.Module, adapter: Adapter, device: torch.device) -> Placed:
    """Bring an adapter to the device of a wrapped base; the caller has checked that it fits.

    DoRA's gain m / |W + B·A| is worked out here, once. Source: arXiv:2402.09353, equation 5.
    """
    originals = {module.head: module.original for module in model.modules() if isinstance(module, RoutedHead)}
    linears = {module.layer: module.linear for module in model.modules() if isinstance(module, StackedLinear)}
    lora, gains = dict(adapter.lora), {}
    for layer, magnitude in adapter.magnitudes.items():
        down, up = adapter.lora[layer]
        gain = magnitude / torch.linalg.norm(quantization.dense(linears[layer]).cpu() + up @ down, dim=1)
        bias = getattr(linears[layer], "bias", None)
        summand = torch.zeros_like(gain) if bias is None else (1 - gain) * bias.detach().cpu().float()
        lora[layer], gains[layer] = (down, gain[:, None] * up), (gain, summand)
    return Placed(
        lora={layer: (down.to(device), up.to(device)) for layer, (down, up) in lora.items()},
        gains={layer: (gain.to(device), summand.to(device)) for layer, (gain, summand) in gains.items()},
        heads={name: _head(original, adapter.heads.get(name, {}), device) for name, original in originals.items()},
        labels=len(adapter.labels),
    )


def stack(adapters: Sequence[Placed]) -> Stack:
    """Stack adapters, padding ranks; one alone is not copied."""
    layers = dict.fromkeys(layer for adapter in adapters for layer in adapter.lora)
    scaled = dict.fromkeys(layer for adapter in adapters for layer in adapter.gains)
    return Stack(
        lora={layer: _pairs([adapter.lora.get(layer) for adapter in adapters]) for layer in layers},
        gains={layer: _gains([adapter.gains.get(layer) for adapter in adapters]) for layer in scaled},
        heads={name: [adapter.heads[name] for adapter in adapters] for name in adapters[0].heads},
    )


class Stacks:
    """The sets of adapters that were asked for last, stacked; safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[tuple[Placed, ...], Stack] = {}

    def of(self, wanted: Set[Placed], *, larger: bool) -> tuple[tuple[Placed, ...], Stack]:
        """These adapters in some order, stacked; `larger` takes a set that is kept and has others too."""
        with self._lock:
            kept = [key for key in self._kept if wanted == set(key) or (larger and wanted < set(key))]
            key = min(kept, key=len, default=tuple(wanted))
            # The one that is asked for moves to the end.
            found = self._kept.pop(key, None) or stack(key)
            self._kept[key] = found
            if len(self._kept) > _MOST_STACKS:
                del self._kept[next(iter(self._kept))]
        return key, found

    def forget(self, adapter: Placed) -> None:
        """Free the memory of every set with this adapter."""
        with self._lock:
            self._kept = {key: kept for key, kept in self._kept.items() if adapter not in key}


def _pairs(pairs: Sequence[_Pair | None]) -> _Pair:
    """A (K, in, r) and B (K, r, out) of one layer; an adapter without the layer has zeros."""
    there = [pair for pair in pairs if pair is not None]
    down, up = there[0]
    if len(pairs) == 1:
        return down.T[None], up.T[None]
    rank = max(pair[0].shape[0] for pair in there)
    # In memory the A of all stand side by side, row by row, so that `every_down` needs no copy; a CPU wants each whole.
    downs = down.new_zeros(down.shape[1], len(pairs), rank).transpose(0, 1)
    downs = downs if down.is_cuda else downs.contiguous()
    ups = up.new_zeros(len(pairs), rank, up.shape[0])
    for place, pair in enumerate(pairs):
        if pair is not None:
            downs[place, :, : pair[0].shape[0]], ups[place, : pair[1].shape[1]] = pair[0].T, pair[1].T
    return downs, ups


def _gains(pairs: Sequence[_Pair | None]) -> _Pair:
    """Factors and summands (K, 1, out) of one layer; 1 and 0 without DoRA."""
    there = next(pair for pair in pairs if pair is not None)
    neutral = torch.ones_like(there[0]), torch.zeros_like(there[1])
    factors, summands = zip(*(pair or neutral for pair in pairs), strict=True)
    return torch.stack(factors)[:, None], torch.stack(summands)[:, None]


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
