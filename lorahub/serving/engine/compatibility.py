"""Whether an adapter was made for a base: by name, then by the shape of every tensor.

In: a base that is not yet wrapped, and adapters. Out: nothing, or an AdapterError that says what differs.
"""

import logging

from torch import nn

from lorahub.errors import AdapterError
from lorahub.models import architectures
from lorahub.models.adapters import Adapter
from lorahub.models.base import Base

log = logging.getLogger(__name__)


class Shapes:
    """What a base has room for: the sizes of its linear layers, and its head's tensors."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._outputs = base.model.config.num_labels
        self._linears = {
            name: (module.out_features, module.in_features)
            for name, module in base.model.named_modules()
            if isinstance(module, nn.Linear)
        }
        self._heads = {
            (name, key): tuple(value.shape)
            for name, module in architectures.head_modules(base.model, base.heads)
            for key, value in module.state_dict().items()
        }

    def check(self, adapter: Adapter) -> None:
        """Raise AdapterError where an adapter was made for another base."""
        self._check_source(adapter)
        id = self._base.resolved.id
        for layer, (down, up) in adapter.lora.items():
            found = (up.shape[0], down.shape[1])
            if self._linears.get(layer) != found:
                has = self._linears.get(layer, "no such layer")
                raise AdapterError(f"{adapter.name} adapts {layer} as {found}, {id} has {has}: another base?")
        own = {(head, key, tuple(value.shape)) for head, state in adapter.heads.items() for key, value in state.items()}
        wrong = sorted({f"{head}.{key}" for head, key, _ in own ^ self._head(len(adapter.labels))})
        if wrong:
            # A tensor that is not there would be random, one that has no place would be lost.
            raise AdapterError(
                f"{adapter.name}: its head and that of {id} differ in {', '.join(wrong[:3])}. "
                "Restore its weights or train again."
            )
        hidden = getattr(self._base.model.config.get_text_config(), "hidden_size", None)
        if adapter.probe is not None and hidden not in (None, adapter.probe.weight.shape[1]):
            raise AdapterError(
                f"{adapter.name}: its linear probe reads {adapter.probe.weight.shape[1]} features, {id} has {hidden}. "
                "Restore it or train again."
            )

    def _check_source(self, adapter: Adapter) -> None:
        id, revision = self._base.resolved.id, self._base.resolved.revision
        if adapter.base_id and adapter.base_id.lower() != id.lower():
            raise AdapterError(
                f"{adapter.name} was trained on {adapter.base_id}, but the loaded base is {id}. "
                f"Give --base {adapter.base_id}, or load it by itself."
            )
        if adapter.base_revision != revision:
            log.warning(
                "%s was trained on revision %s of %s; revision %s is loaded: its answers may differ",
                adapter.name, adapter.base_revision, id, revision,
            )  # fmt: skip
        if adapter.quantize != self._base.quantize:
            log.warning(
                "%s was trained on a base with quantize=%s; %s is loaded: its answers may differ",
                adapter.name, adapter.quantize, self._base.quantize,
            )  # fmt: skip

    def _head(self, labels: int) -> set[tuple[str, str, tuple[int, ...]]]:
        """The head's tensors with their shapes, as an adapter with this many labels has them."""
        return {
            (head, key, (labels, *shape[1:]) if shape[:1] == (self._outputs,) else shape)
            for (head, key), shape in self._heads.items()
        }
