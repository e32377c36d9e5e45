"""The layers below the first adapted one, computed once per text for all adapters that leave them unchanged.

In: the text and the adapter of every row of a batch, and the number of each adapter's first layer. Out: stages, the
rows that are computed in each layer. An adapter whose first layer is 4 reads the base's own output of layer 3, so up to
there the rows of all such adapters with the same text are one row. It is computed as a row of the first of them, which
does not change these layers, and is copied for each of them in front of layer 4.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from lorahub.models import architectures
from lorahub.serving.engine import lora_layers
from lorahub.serving.engine.lora_layers import Stage, Stages
from lorahub.stats.verdicts import Ids

# A pass may have so many times its tokens in the layers that are computed once per adapter.
_MOST_EXPANDED = 4


def stages(texts: Sequence[int], counts: Sequence[int], first_layers: Sequence[int], device: torch.device) -> Stages:
    """Return the stages of a batch; none if every row is computed in every layer.

    `texts` is the text of each row (B,), the first `counts[0]` rows belong to the first adapter, and so on;
    `first_layers` are the adapters' first layers, in ascending order.
    """
    batch, adapters = np.arange(len(texts)), np.repeat(np.arange(len(counts)), counts)
    made: dict[int, Stage] = {}
    place_before = batch
    for layer in sorted({0, *first_layers}):
        own = sum(first <= layer for first in first_layers)  # adapters with rows of their own
        # A row of another adapter is computed as the first such row with the same text.
        shared = np.flatnonzero(adapters >= own)
        _, first_rows, text = np.unique(np.asarray(texts)[shared], return_index=True, return_inverse=True)
        computed_as = batch.copy()
        computed_as[shared] = shared[first_rows][text]
        rows, place = np.unique(computed_as, return_inverse=True)
        if layer == 0 and len(rows) == len(batch):
            return {}
        in_stage = [*counts[:own], *([len(first_rows)] if own < len(counts) else [])]
        made[layer] = Stage(
            rows=_index(rows, device),
            source=_index(place_before[rows], device),
            counts=in_stage,
            places=lora_layers.places(in_stage, device),
        )
        place_before = place
    return made


def rows_per_text(first_layers: Sequence[int], layers: int) -> float:
    """Return the rows that one text takes in a pass, on the mean over the base's layers."""
    adapters = len(first_layers)
    own = [sum(first <= layer for first in first_layers) for layer in range(layers)]
    rows = [min(count + 1, adapters) for count in own] or [adapters]
    # The layers of the adapters themselves may have more than that, up to a limit.
    return max(sum(rows) / len(rows), adapters / _MOST_EXPANDED)


def wrap(model: PreTrainedModel) -> int:
    """Let the transformer layers of a base follow the stages of a pass; return their number; 0 without such layers."""
    found = architectures.layers(model)
    if found is None:
        return 0
    layers = found[1]
    for number, layer in enumerate(layers):
        layer.register_forward_pre_hook(partial(_before, number), with_kwargs=True)
    layers[-1].register_forward_hook(partial(_after, len(layers)))
    return len(layers)


def _before(
    number: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Pre-hook of layer `number`: pass it the hidden states of its stage's rows, and their masks and positions."""
    route = lora_layers.current_route()
    if route is None or not route.stages:
        return None
    hidden, batch = route.enter(number, args[0]), route.rows
    rows = slice(batch) if route.stage is None else route.stage.rows

    def of_stage(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(of_stage, value))
        per_row = isinstance(value, torch.Tensor) and value.dim() > 1 and len(value) == batch
        return value[rows] if per_row else value

    return (hidden, *map(of_stage, args[1:])), {name: of_stage(value) for name, value in kwargs.items()}


def _after(layers: int, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
    """Hook of the last layer: continue with every row of the batch."""
    route = lora_layers.current_route()
    return None if route is None else route.enter(layers, output)


def _index(places: Ids, device: torch.device) -> slice | torch.Tensor:
    """Return an index of these places; a slice takes no copy."""
    if np.array_equal(places, np.arange(len(places))):
        return slice(len(places))
    return torch.from_numpy(places).to(device)
