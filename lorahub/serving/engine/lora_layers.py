"""Many adapters in one forward pass: every row of a batch has its own adapter.

In: a base model and a `Stack` of adapters. The base's linear layers are wrapped once; a wrapped layer adds B·A·x with
the A and B of each row's adapter, which are stacked with ranks padded with zeros. Head modules are wrapped too, and
apply each adapter's own copy to that adapter's rows. The rows of one adapter are contiguous, so that its matrices are
multiplied with all of them at once and never copied. The assignment of rows to adapters is a context variable: threads
share the model without shared state.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lorahub.models import architectures, quantization
from lorahub.models.adapters import Adapter, require_finite
from lorahub.serving.engine.stacks import LoadedAdapter, Pair, Stack

# Largest result, in rows times columns, for which a GPU multiplies all rows with the A of all adapters.
_MOST_BATCHED = 1 << 19


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The rows that are computed from one transformer layer on, if not all of a batch are (see `shared_layers`).

    `rows` are their places in the batch, `source` the places of their hidden states in the stage before, as slices if
    possible. The first `counts[0]` of them belong to the first adapter, and so on; `places` is each row's adapter.
    """

    rows: slice | torch.Tensor
    source: slice | torch.Tensor
    counts: Sequence[int]
    places: torch.Tensor | None


# Stages by the number of their first layer.
Stages = Mapping[int, Stage]


@dataclass(kw_only=True, eq=False)
class Route:
    """The adapter of every one of `rows` rows: the first `counts[0]` belong to the first adapter, and so on.

    `places` is each row's adapter (B,), None if all have the same number of rows. If the texts are the same for every
    adapter (`shared`), `copied` are hidden states that no adapter has changed yet, K times the same rows. `strength`
    scales the adapters' updates. `stage` is the current one of `stages`.
    """

    stack: Stack
    rows: int
    counts: Sequence[int]
    places: torch.Tensor | None
    shared: bool
    strength: float
    stages: Stages
    stage: Stage | None = None
    copied: torch.Tensor | None = None

    def enter(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """Begin the stage of a transformer layer, if it has one, and return the hidden states of its rows."""
        stage = self.stages.get(layer)
        if stage is None:
            return hidden
        unchanged = len(self.counts) == 1
        self.stage, self.counts, self.places = stage, stage.counts, stage.places
        hidden = hidden[stage.source]
        if self.shared and unchanged:
            self.copied = hidden
        return hidden

    def of_rows(self, pair: Pair) -> Pair:
        """Return a pair of the stack's tensors (K, ...), or one entry per row (B, ...)."""
        rows = slice(len(self.counts)) if self.places is None else self.places
        return pair[0][rows], pair[1][rows]

    def down(self, x: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        """Multiply each group's rows (K, n, in) with its own A (K, in, r): (K, n, r)."""
        groups, rows, _ = x.shape
        small = groups * rows * groups * down.shape[2] <= _MOST_BATCHED
        # With one A per row, the A are copies already.
        if x.is_cuda and groups > 1 and small and self.places is None:
            return batched_down_projection(x, down)
        return torch.matmul(x, down)


_route: ContextVar[Route | None] = ContextVar("lorahub_route", default=None)


@contextmanager
def routed(
    stack: Stack, counts: Sequence[int], device: torch.device, *, shared: bool, strength: float, stages: Stages
) -> Iterator[None]:
    """Assign the first `counts[0]` rows of a batch to the stack's first adapter, and so on, in this block and thread.

    `shared` means that every adapter has the same texts in the same order. `strength` multiplies the adapters' updates
    of the base weights. `stages` are those of `shared_layers.stages`.
    """
    shared = shared and len(counts) > 1
    token = _route.set(
        Route(
            stack=stack,
            rows=sum(counts),
            counts=counts,
            places=places(counts, device),
            shared=shared,
            strength=strength,
            stages=stages,
        )
    )
    try:
        yield
    finally:
        _route.reset(token)


def current_route() -> Route | None:
    """Return the route of the `routed` block that this thread is in; None outside of one."""
    return _route.get()


def places(counts: Sequence[int], device: torch.device) -> torch.Tensor | None:
    """Return the adapter of every row (B,); None if all adapters have the same number of rows."""
    if len(set(counts)) == 1:
        return None
    return torch.arange(len(counts), device=device).repeat_interleave(torch.tensor(counts, device=device))


class StackedLinear(nn.Module):
    """A frozen linear layer plus the low-rank update of each row's adapter."""

    def __init__(self, linear: nn.Module, name: str) -> None:
        super().__init__()
        self.linear, self.layer = linear, name

    @property
    def weight(self) -> torch.Tensor:
        """The weight of the linear layer, whose dtype some architectures read (T5)."""
        return self.linear.weight  # type: ignore[no-any-return,return-value]

    @property
    def bias(self) -> torch.Tensor | None:
        """The bias of the linear layer."""
        return self.linear.bias  # type: ignore[return-value]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x (B, T, in) or (B, in) to (B, T, out) or (B, out)."""
        route = _route.get()
        shape = x.shape[:-1]
        copies = 1
        if route is not None and x is route.copied:
            # The same rows for every adapter: the base's product is computed once.
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
                # The base's product is added to the update: `linear` would begin with a copy of the bias.
                y = torch.baddbmm(self.linear.bias, route.down(flat, down), up, alpha=route.strength)
                return y.view(-1, len(weight)).addmm_(flat.view(-1, x.shape[-1]), weight.T).view(*shape, len(weight))
        y = self.linear(x)
        wide = y.reshape(groups, -1, y.shape[-1])
        if gain is not None:
            factor, summand = route.of_rows(gain)
            if route.strength != 1:
                # DoRA changes W to gain · (W + B·A); `strength` scales this change too.
                factor, summand = 1 + route.strength * (factor - 1), route.strength * summand
            wide = torch.addcmul(summand, wide.to(up.dtype), factor)
        update = route.down(flat, down)
        # In place if possible: on a CPU, new memory for every layer costs more than the sums.
        in_place = len(wide) == len(up)
        if wide.dtype == up.dtype:
            wide = (wide.baddbmm_ if in_place else wide.baddbmm)(update, up, alpha=route.strength)
        else:
            # The base has a lower precision: the sum is computed in that of the adapters and rounded once.
            wide = (wide.add_ if in_place else wide.add)(torch.matmul(update, up), alpha=route.strength)
        return wide.view(*shape, y.shape[-1]).to(y.dtype)


def batched_down_projection(x: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Multiply rows (K, n, in) with A (K, in, r) as one product of all rows with all A, and keep each adapter's part.

    K narrow products occupy only K multiprocessors of a GPU. One product is K times the arithmetic on all of them: on
    an H200 with 8 adapters 10 instead of 75 microseconds for 160 rows of 4,096, and 46 instead of 135 for 2,560.
    """
    groups, rows, width = x.shape
    product = x.reshape(-1, width) @ down.transpose(0, 1).reshape(width, -1)
    return product.view(groups, rows, groups, -1).diagonal(dim1=0, dim2=2).permute(2, 0, 1)


def _keep_unique_texts(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
    """Pre-hook: pass each text to the embeddings once if every adapter reads the same texts."""
    route = _route.get()
    if route is None or not route.shared:
        return None
    rows = sum(route.counts)

    def once(value: Any) -> Any:
        per_row = isinstance(value, torch.Tensor) and len(value) == rows
        return value[: route.counts[0]] if per_row else value

    return tuple(map(once, args)), {name: once(value) for name, value in kwargs.items()}


def _repeat_for_adapters(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
    """Hook: repeat the embedded texts for every adapter."""
    route = _route.get()
    if route is None or not route.shared:
        return None
    route.copied = output.repeat(len(route.counts), *[1] * (output.dim() - 1))
    return route.copied


class RoutedHead(nn.Module):
    """A head module with one copy per adapter; outputs of different widths are padded with zeros."""

    def __init__(self, original: nn.Module, name: str) -> None:
        super().__init__()
        self.original, self.head = original, name

    def forward(self, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        """Apply to x, whose first dimension is the batch, the head of each row's adapter."""
        route = _route.get()
        if route is None:
            output: torch.Tensor = self.original(x, *args, **kwargs)
            return output
        heads = route.stack.heads[self.head]
        if len(heads) == 1:
            return _run_head(heads[0], x, *args, **kwargs)
        bounds = pairwise(accumulate(route.counts, initial=0))
        parts = [
            _run_head(head, x[start:stop], *args, **kwargs) for head, (start, stop) in zip(heads, bounds, strict=True)
        ]
        width = max(part.shape[-1] for part in parts)
        return torch.cat([nn.functional.pad(part, (0, width - part.shape[-1])) for part in parts])


def _run_head(head: nn.Module, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
    """Apply a head in the precision of its weights."""
    first = next(head.parameters(), None)
    output: torch.Tensor = head(x if first is None else x.to(first.dtype), *args, **kwargs)
    return output


def wrap(model: PreTrainedModel, heads: Sequence[str]) -> None:
    """Wrap the linear layers and head modules of a base, in place; outside a `routed` block its output is unchanged."""
    embeddings = getattr(model.base_model, "embeddings", None) or model.get_input_embeddings()
    embeddings.register_forward_pre_hook(_keep_unique_texts, with_kwargs=True)
    embeddings.register_forward_hook(_repeat_for_adapters)
    head_modules = dict(architectures.head_modules(model, heads))
    inside = tuple(f"{name}." for name in head_modules)
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name not in head_modules and not name.startswith(inside or "\0")
    }
    for name, module in head_modules.items():
        model.set_submodule(name, RoutedHead(module, name))
    for name, linear in linears.items():
        model.set_submodule(name, StackedLinear(linear, name))


def load(model: nn.Module, adapter: Adapter, device: torch.device) -> LoadedAdapter:
    """Copy an adapter, already checked to fit, to the device of a wrapped base.

    DoRA's gain m / |W + B·A| is computed here, once; AdapterError if it is not finite. Source: arXiv:2402.09353,
    equation 5.
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
        require_finite(adapter.name, {layer: lora[layer][1], f"{layer} (DoRA)": gain})
    numbers, count = architectures.layer_numbers(model, linears)
    return LoadedAdapter(
        adapter=adapter,
        first_layer=min((numbers[layer] for layer in lora), default=count),
        lora={layer: (down.to(device), up.to(device)) for layer, (down, up) in lora.items()},
        gains={layer: (gain.to(device), summand.to(device)) for layer, (gain, summand) in gains.items()},
        heads={name: _head(original, adapter.heads.get(name, {}), device) for name, original in originals.items()},
    )


def _head(original: nn.Module, state: Mapping[str, torch.Tensor], device: torch.device) -> nn.Module:
    """Return a copy of a head module with an adapter's tensors and its number of outputs."""
    module = deepcopy(original)
    for name, tensor in state.items():
        owner, _, parameter = name.rpartition(".")
        target = module.get_submodule(owner)
        setattr(target, parameter, nn.Parameter(tensor.to(device), requires_grad=False))
        if parameter == "weight" and isinstance(target, nn.Linear):
            target.out_features, target.in_features = tensor.shape
    return module.eval()
