"""Which base an adapter needs, and whether it fits a loaded one: by name, then by the shape of every tensor.

In: adapters, and a base that is not wrapped yet. Out: the configuration of the base, or an AdapterError that names the
difference.
"""

import logging
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import nn

from lorahub.config import BaseConfig
from lorahub.errors import AdapterError
from lorahub.hub import fetch, rules
from lorahub.models import adapters, architectures
from lorahub.models import base as bases
from lorahub.models.adapters import Adapter, AdapterInfo
from lorahub.models.base import Base

log = logging.getLogger(__name__)


def base_config(base: str | None, located: fetch.Located, adapter: AdapterInfo, settings: BaseConfig) -> BaseConfig:
    """Return the base to load for an adapter: `base` if given, else the one recorded in the adapter.

    Raises AdapterError if a repository on the Hub names a base other than MiniLM: a downloaded file must not choose
    what is fetched next.
    """
    if base is not None:
        return replace(settings, id=base)
    settings = replace(settings, quantize=adapter.quantize)
    if located.repo is None:
        return replace(settings, id=adapter.base_id or settings.id, revision=adapter.base_revision)
    if adapter.base_id.lower() != fetch.MINILM.lower():
        raise AdapterError(
            f"{located.repo} names {adapter.base_id or 'nothing'} as its base; no base is fetched on the word of a "
            f"downloaded file. If you trust it, give --base {adapter.base_id or 'ID'}."
        )
    return replace(settings, id=fetch.MINILM)


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """The layers that an adapter's config selects in its base, and those that its weights adapt.

    `selected` are layers of the base, without those of the heads; `unknown` are names in the config that select none of
    them. `norms` maps every adapted layer to the Frobenius norm of B with the scale. All are empty for a head alone.
    """

    selected: list[str]
    unknown: list[str]
    norms: dict[str, float]


class BaseShapes:
    """The shapes of a base's linear layers and of its head's tensors."""

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

    def check(self, adapter: Adapter, *, renamed: bool = False) -> None:
        """Raise AdapterError if an adapter was made for another base.

        `renamed` accepts a base in a folder of any name, if its tokenizer and shapes agree with the adapter's.
        """
        self._check_source(adapter, renamed=renamed)
        id = self._base.resolved.id
        for layer, (down, up) in adapter.lora.items():
            shape = (up.shape[0], down.shape[1])
            if self._linears.get(layer) != shape:
                own = self._linears.get(layer, "no such layer")
                raise AdapterError(
                    f"{adapter.name} adapts {layer} as {shape}, {id} has {own}: another base? It was trained on "
                    f"{adapter.base_id or 'an unknown one'}; give that with --base."
                )
        stored = {
            (head, key, tuple(value.shape)) for head, state in adapter.heads.items() for key, value in state.items()
        }
        different = sorted({f"{head}.{key}" for head, key, _ in stored ^ self._head(len(adapter.labels))})
        if different:
            # A missing tensor would stay random, an additional one would be ignored.
            raise AdapterError(
                f"{adapter.name}: its head and that of {id} differ in {', '.join(different[:3])}. "
                "Restore its weights or train again."
            )
        if adapter.probe is not None and adapter.probe.weight.shape[1] != self._features:
            raise AdapterError(
                f"{adapter.name}: its linear probe reads {adapter.probe.weight.shape[1]} features, {id} has "
                f"{self._features}. Restore it or train again."
            )

    def coverage(self, adapter: Adapter) -> Coverage:
        """Return which layers of the base an adapter selects and adapts."""
        selected, used = [], set[str]()
        for layer in self._linears:
            names = adapter.targets.selecting(layer)
            # As in peft: a layer in a module that is saved in full is not adapted.
            if names and rules.head_of(f"{layer}.", adapter.heads) is None:
                selected.append(layer)
                used |= names
        return Coverage(
            selected=selected,
            unknown=sorted(adapter.targets.names - used),
            norms={layer: float(up.norm()) for layer, (_, up) in adapter.lora.items()},
        )

    def _check_source(self, adapter: Adapter, *, renamed: bool) -> None:
        base = self._base
        differs = bool(adapter.base_id) and adapter.base_id.lower() != base.resolved.id.lower()
        if differs and renamed and base.resolved.origin == "folder":
            self._check_tokenizer(adapter)
        elif differs:
            raise AdapterError(
                f"{adapter.name} was trained on {adapter.base_id}, but the loaded base is {base.resolved.id}. "
                f"Give --base {adapter.base_id}, or load it by itself."
            )
        for what, trained, loaded in (
            ("revision", adapter.base_revision, base.resolved.revision),
            ("quantize", adapter.quantize, base.quantize),
        ):
            if trained != loaded:
                log.warning(
                    "%s was trained on %s with %s %s; %s is loaded: its answers may differ",
                    adapter.name, base.resolved.id, what, trained, loaded,
                )  # fmt: skip

    def _check_tokenizer(self, adapter: Adapter) -> None:
        """Raise AdapterError if the base has another vocabulary than the tokenizer saved with the adapter, if any."""
        own = None if adapter.folder is None else adapters.vocabulary(adapter.folder)
        if own is not None and own != self._base.tokenizer.get_vocab():
            raise AdapterError(
                f"{adapter.name} was trained on {adapter.base_id} with another tokenizer than that of the folder "
                f"{self._base.resolved.id}. Give its own base with --base."
            )
        log.warning(
            "%s was trained on %s; it is used with the folder %s, which has the same shapes",
            adapter.name, adapter.base_id, self._base.resolved.id,
        )  # fmt: skip

    @cached_property
    def _features(self) -> int:
        """Return the number of features of the base: its hidden size, except where a layer changes it (OPT-350m)."""
        batch = self._base.tokenizer(["a"], return_tensors="pt").to(self._base.device)
        with torch.inference_mode():
            return bases.features(self._base.model, dict(batch)).shape[1]

    def _head(self, labels: int) -> set[tuple[str, str, tuple[int, ...]]]:
        """Return the name and shape of every head tensor of an adapter with this many labels."""
        return {
            (head, key, (labels, *shape[1:]) if shape[:1] == (self._outputs,) else shape)
            for (head, key), shape in self._heads.items()
        }
