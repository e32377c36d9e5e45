"""One trained model on a base of its own, for methods that cannot share one: soft prompts, (IA)3, a whole model.

In: a run folder. Out: what a caller of `Engine.logits` gets, the adapter's name -> raw logits (N, C), in the texts'
order. `answering` opens adapters in the one way or the other.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from lorahub.config import BaseConfig
from lorahub.data.batches import encode
from lorahub.errors import ConfigError
from lorahub.hub import fetch, safety
from lorahub.hub.fetch import Located
from lorahub.labels import LabelSet
from lorahub.models import adapters as adapter_files
from lorahub.models import base as bases
from lorahub.serving.engine.cache import free_name
from lorahub.serving.engine.engine import Engine, base_for
from lorahub.stats.verdicts import Calibration, Floats

log = logging.getLogger(__name__)

_ROWS_PER_PASS = 64


class Known(Protocol):
    """What a judgement needs to know of an adapter."""

    @property
    def labels(self) -> LabelSet:
        """Its labels in id order."""

    @property
    def calibration(self) -> Calibration:
        """Its bias and temperature."""

    @property
    def base_id(self) -> str:
        """The Hub id or folder name of the base that it was trained on."""


class Answers(Protocol):
    """What gives logits by adapter: an `Engine`, or one model `Alone`."""

    @property
    def adapters(self) -> Mapping[str, Known]:
        """The adapters by name."""

    @property
    def base_revision(self) -> str | None:
        """The commit of the base on the Hub; None for a folder."""

    def logits(
        self, texts: Sequence[str], adapters: Sequence[str] | None = None, *, evidence: Sequence[str] | None = None
    ) -> dict[str, Floats]:
        """Adapter name -> raw logits (N, C)."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What is known of a run; see Adapter."""

    labels: LabelSet
    calibration: Calibration
    base_id: str
    reads_evidence: bool | None


class Alone:
    """A run's model, loaded as peft and transformers load it.

    `base` is as the engine's; a whole model needs none. It answers under `name`. Raises BaseModelError and
    AdapterError.
    """

    def __init__(
        self, found: Located, base: str | None, settings: BaseConfig, *, name: str, token: str | None = None
    ) -> None:
        folder, report = found.folder, safety.local(found.folder)
        safety.refuse(report, folder)
        labels, notes = LabelSet.load(folder), adapter_files.trained_on(folder)
        base_id = str(report.config.get("base_model_name_or_path") or notes["base_id"])
        if report.layout is safety.WHOLE:
            chosen = replace(settings, id=str(folder), revision=None)
        elif base is not None:
            chosen = replace(settings, id=base)
        else:
            chosen = base_for(found, base_id, report.config.get("revision"), notes["quantize"], settings)
        self._base = bases.load(chosen, labels, token=token)
        whole = report.layout is safety.WHOLE
        self._model = self._base.model if whole else adapter_files.load_with_peft(folder, self._base)
        self._name = name
        self._trained = Trained(
            labels=labels,
            calibration=Calibration.load(folder, len(labels)),
            base_id=base_id,
            reads_evidence=notes["reads_evidence"],
        )

    @property
    def adapters(self) -> Mapping[str, Known]:
        """The one adapter by its name."""
        return {self._name: self._trained}

    @property
    def base_revision(self) -> str | None:
        """The commit of the base on the Hub; None for a folder, and for a whole model."""
        return self._base.resolved.revision

    def logits(
        self, texts: Sequence[str], adapters: Sequence[str] | None = None, *, evidence: Sequence[str] | None = None
    ) -> dict[str, Floats]:
        """Return the name -> raw logits (N, C)."""
        base, trained = self._base, self._trained
        if evidence is not None and len(evidence) != len(texts):
            raise ConfigError(f"{len(texts)} texts came with {len(evidence)} pieces of evidence; give one each.")
        if trained.reads_evidence and evidence is None:
            log.warning("%s was trained on claims with evidence; without evidence its answers mean less", self._name)
        second = None if evidence is None or trained.reads_evidence is False else list(evidence)
        items = encode(base.tokenizer, list(texts), second, max_length=base.max_length)
        order = sorted(range(len(items)), key=lambda row: -len(items[row]["input_ids"]))
        found = np.zeros((len(items), len(trained.labels)), np.float32)
        for start in range(0, len(order), _ROWS_PER_PASS):
            rows = order[start : start + _ROWS_PER_PASS]
            batch = base.tokenizer.pad([items[row] for row in rows], return_tensors="pt").to(base.device)
            with torch.inference_mode():
                found[rows] = self._model(**batch).logits.float().cpu().numpy()
        return {self._name: found}


def answering(
    adapters: Sequence[str | Path | Located],
    base: str | None = None,
    *,
    settings: BaseConfig | None = None,
    token: str | None = None,
) -> list[Answers]:
    """Open adapters: together in one engine, and each that cannot share a base alone, which is said.

    A name that is taken is numbered. Raises BaseModelError and AdapterError.
    """
    settings = settings or BaseConfig()
    found = [item if isinstance(item, Located) else fetch.adapter(item, token=token) for item in adapters]
    kinds = [adapter_files.needs_own_base(safety.local(item.folder)) for item in found]
    shared = [item for item, kind in zip(found, kinds, strict=True) if kind is None]
    opened: list[Answers] = [Engine(base, shared, config=settings, token=token)] if shared else []
    for item, kind in zip(found, kinds, strict=True):
        if kind is not None:
            name = free_name(item.name, [name for answers in opened for name in answers.adapters])
            if len(found) > 1:
                log.warning("%s holds %s and shares no base: it runs apart, on one of its own", name, kind)
            opened.append(Alone(item, base, settings, name=name, token=token))
    return opened
