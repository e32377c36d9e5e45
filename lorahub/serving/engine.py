"""The engine: one base, several adapters with their own label sets, answered in one forward pass.

In: texts and adapter names. Out: verdicts, per adapter, in the texts' order. There is no active adapter; a request sees
one consistent set of adapters from start to end, and the engine may be called from many threads.
"""

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from lorahub.config import BaseConfig
from lorahub.data.batches import encode
from lorahub.errors import AdapterError, ConfigError
from lorahub.hub import fetch
from lorahub.models import adapters as adapter_files
from lorahub.models import architectures
from lorahub.models import base as bases
from lorahub.models.adapters import Adapter
from lorahub.models.features import features
from lorahub.scoring.verdicts import Calibration, Floats, abstains, calibrated, confidences, decide, softmax
from lorahub.serving import stacked

log = logging.getLogger(__name__)

# Rows times tokens of one forward pass: enough to keep the arithmetic units busy, little enough to stay in memory.
_TOKENS_PER_PASS = 8192


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One answer. `probabilities` is the plain softmax by label name; `calibrated` is after bias and temperature.

    `abstain` says that the confidence is below the adapter's threshold: a person should decide. The label stays.
    """

    label: str
    probabilities: dict[str, float]
    calibrated: dict[str, float]
    abstain: bool = False

    @property
    def confidence(self) -> float:
        """The calibrated probability of the label."""
        return self.calibrated[self.label]


@dataclass(frozen=True, kw_only=True)
class _Served:
    """What one request sees: the adapters and their stacked form, replaced together."""

    adapters: Mapping[str, Adapter]
    table: stacked.Table


class Engine:
    """One base with many adapters.

    `base` is a Hub id, a folder or `minilm`; left out, it is the base of the first adapter. An adapter is a folder, a
    run's name, `user/name[@revision]`, or what `hub.fetch` has located. What is private is fetched with `token`, else
    with the login. Raises BaseModelError and AdapterError.
    """

    def __init__(
        self,
        base: str | None = None,
        adapters: Iterable[str | Path | fetch.Located] = (),
        *,
        config: BaseConfig | None = None,
        token: str | None = None,
    ) -> None:
        self._token = token
        # Before the base, which takes longer.
        found = [item if isinstance(item, fetch.Located) else fetch.adapter(item, token=token) for item in adapters]
        loaded = [adapter_files.load(item.folder, name=item.name) for item in found]
        settings = config or BaseConfig()
        if base is not None:
            settings = replace(settings, id=base)
        elif loaded:
            first = loaded[0]
            settings = base_for(found[0], first.base_id, first.base_revision, first.quantize, settings)
        self._base = bases.load(settings, token=token)
        self._linears = {
            name: (module.out_features, module.in_features)
            for name, module in self._base.model.named_modules()
            if isinstance(module, torch.nn.Linear)
        }
        stacked.wrap(self._base.model, self._base.heads)
        self._heads = {
            module.head: {key: tuple(value.shape) for key, value in module.original.state_dict().items()}
            for module in self._base.model.modules()
            if isinstance(module, stacked.RoutedHead)
        }
        self._lock = threading.Lock()
        # A fast tokenizer keeps where it truncates as state.
        self._tokenizing = threading.Lock()
        self._served = self._serve([])
        self._add(loaded)

    @property
    def base_id(self) -> str:
        """The Hub id or folder name of the base."""
        return self._base.resolved.id

    @property
    def base_revision(self) -> str | None:
        """The commit of the base on the Hub; None for a folder."""
        return self._base.resolved.revision

    @property
    def device(self) -> str:
        """Where the base runs."""
        return str(self._base.device)

    @property
    def adapters(self) -> dict[str, Adapter]:
        """The adapters that are loaded now, by name."""
        return dict(self._served.adapters)

    def add(self, *adapters: str | Path) -> list[str]:
        """Load adapters and return the names under which they answer; a folder's name, numbered where it is taken."""
        found = [fetch.adapter(adapter, token=self._token) for adapter in adapters]
        return self._add([adapter_files.load(item.folder, name=item.name) for item in found])

    def _add(self, loaded: Sequence[Adapter]) -> list[str]:
        for adapter in loaded:
            self._check_fits(adapter)
        with self._lock:
            present = list(self._served.adapters.values())
            for adapter in loaded:
                present.append(_named(adapter, {item.name for item in present}))
            self._served = self._serve(present)
        return [adapter.name for adapter in present[len(present) - len(loaded) :]]

    def drop(self, name: str) -> None:
        """Unload an adapter; requests under way finish with it."""
        with self._lock:
            self._pick(self._served, [name])
            self._served = self._serve([item for item in self._served.adapters.values() if item.name != name])

    def classify(
        self,
        texts: Sequence[str],
        adapters: Sequence[str] | None = None,
        *,
        evidence: Sequence[str] | None = None,
        adjust: bool = True,
    ) -> dict[str, list[Verdict]]:
        """Return adapter name -> one Verdict per text, for all or the named adapters.

        `adjust=False` decides without the bias that was chosen on validation, and marks no answer as to abstain from.
        """
        served = self._served
        chosen = self._pick(served, adapters)
        logits = self._logits(served, texts, list(chosen), evidence)
        return {
            name: verdicts(logits[name], adapter.labels.names, adapter.calibration if adjust else Calibration())
            for name, adapter in chosen.items()
        }

    def logits(
        self, texts: Sequence[str], adapters: Sequence[str] | None = None, *, evidence: Sequence[str] | None = None
    ) -> dict[str, Floats]:
        """Return adapter name -> raw logits (N, C), equal to what peft gives."""
        served = self._served
        return self._logits(served, texts, list(self._pick(served, adapters)), evidence)

    def classify_base(
        self,
        texts: Sequence[str],
        adapters: Sequence[str] | None = None,
        *,
        evidence: Sequence[str] | None = None,
    ) -> dict[str, list[Verdict]]:
        """What the base says without the adapter: each adapter's linear probe on the frozen base's features.

        Adapters that came without a probe are left out.
        """
        served = self._served
        probes = {
            name: (adapter.probe, adapter.labels.names)
            for name, adapter in self._pick(served, adapters).items()
            if adapter.probe is not None
        }
        if not texts:
            return {name: [] for name in probes}
        found: dict[str, list[Verdict]] = {}
        groups = self._by_input(served, list(probes), texts, evidence)
        for (length, paired), group in groups.items():
            parts = [
                (rows, features(self._base.model, batch).float().cpu().numpy())
                for rows, batch in self._batches(texts, evidence if paired else None, max_length=length)
            ]
            known = _in_order(parts, len(texts))
            for name in group:
                probe, labels = probes[name]
                found[name] = verdicts(probe.logits(known), labels, Calibration())
        return found

    def _by_input(
        self, served: _Served, names: Sequence[str], texts: Sequence[str], evidence: Sequence[str] | None
    ) -> dict[tuple[int, bool], list[str]]:
        """The adapters that see the same tokens: grouped by where their input is cut and whether evidence is in it.

        Evidence goes to those that were trained with it, and to those of which nobody knows.
        """
        if evidence is not None and len(evidence) != len(texts):
            raise ConfigError(f"{len(texts)} texts came with {len(evidence)} pieces of evidence; give one each.")
        groups: dict[tuple[int, bool], list[str]] = {}
        for name in names:
            adapter = served.adapters[name]
            length = min(adapter.max_length or self._base.max_length, self._base.limit)
            if adapter.reads_evidence and evidence is None:
                log.warning("%s was trained on claims with evidence; without evidence its answers mean less", name)
            groups.setdefault((length, evidence is not None and adapter.reads_evidence is not False), []).append(name)
        return groups

    def _pick(self, served: _Served, names: Sequence[str] | None) -> dict[str, Adapter]:
        if names is None:
            return dict(served.adapters)
        for name in names:
            if name not in served.adapters:
                loaded = ", ".join(served.adapters) or "none"
                raise AdapterError(f"no adapter {name!r} is loaded; loaded: {loaded}.")
        return {name: served.adapters[name] for name in names}

    def _logits(
        self, served: _Served, texts: Sequence[str], names: list[str], evidence: Sequence[str] | None
    ) -> dict[str, Floats]:
        """Raw logits by adapter: one pass for all that read the same, or one each where rows cannot be mixed."""
        if not texts:
            return {name: np.zeros((0, len(served.adapters[name].labels)), np.float32) for name in names}
        mixes = architectures.of(self._base.model.config.model_type).mixes_adapters
        found: dict[str, Floats] = {}
        for (length, paired), group in self._by_input(served, names, texts, evidence).items():
            for together in [group] if mixes else [[name] for name in group]:
                found |= self._pass(served, texts, together, evidence if paired else None, max_length=length)
        return found

    def _pass(
        self,
        served: _Served,
        texts: Sequence[str],
        names: list[str],
        evidence: Sequence[str] | None,
        *,
        max_length: int,
    ) -> dict[str, Floats]:
        """One row per (text, adapter), the adapters of a text side by side."""
        slots = torch.tensor([served.table.slots[name] for name in names], device=self._base.device)
        parts = []
        for rows, batch in self._batches(texts, evidence, max_length=max_length, copies=len(names)):
            repeated = {key: value.repeat_interleave(len(names), dim=0) for key, value in batch.items()}
            routes = slots if len(names) == 1 else slots.repeat(len(rows))
            with stacked.routed(served.table, routes), torch.inference_mode():
                logits = self._base.model(**repeated).logits.float().cpu().numpy()  # (texts x K, widest)
            parts.append((rows, logits.reshape(len(rows), len(names), -1)))
        found = _in_order(parts, len(texts))
        return {
            name: np.ascontiguousarray(found[:, place, : len(served.adapters[name].labels)])
            for place, name in enumerate(names)
        }

    def _batches(
        self, texts: Sequence[str], evidence: Sequence[str] | None, *, max_length: int, copies: int = 1
    ) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """Padded batches of similar lengths, each with the places of its texts; `copies` rows will share a text."""
        base = self._base
        second = None if evidence is None else list(evidence)
        with self._tokenizing:
            items = encode(base.tokenizer, list(texts), second, max_length=max_length)
        order = sorted(range(len(items)), key=lambda row: -len(items[row]["input_ids"]))
        start = 0
        while start < len(order):
            longest = len(items[order[start]]["input_ids"])
            stop = start + max(1, _TOKENS_PER_PASS // (longest * copies))
            rows = order[start:stop]
            with torch.inference_mode():
                padded = base.tokenizer.pad([items[row] for row in rows], return_tensors="pt")
                yield rows, {key: value.to(base.device) for key, value in padded.items()}
            start = stop

    def _serve(self, adapters: Sequence[Adapter]) -> _Served:
        return _Served(
            adapters={adapter.name: adapter for adapter in adapters},
            table=stacked.table(self._base.model, adapters, self._base.device),
        )

    def _check_fits(self, adapter: Adapter) -> None:
        """Raise AdapterError where an adapter was made for another base: by name, then by shape."""
        if adapter.base_id and adapter.base_id.lower() != self.base_id.lower():
            raise AdapterError(
                f"{adapter.name} was trained on {adapter.base_id}, but the loaded base is {self.base_id}. "
                f"Give --base {adapter.base_id}, or load it by itself."
            )
        if adapter.base_revision != self._base.resolved.revision:
            log.warning(
                "%s was trained on revision %s of %s; revision %s is loaded: its answers may differ",
                adapter.name, adapter.base_revision, self.base_id, self._base.resolved.revision,
            )  # fmt: skip
        if adapter.quantize != self._base.quantize:
            log.warning(
                "%s was trained on a base with quantize=%s; %s is loaded: its answers may differ",
                adapter.name, adapter.quantize, self._base.quantize,
            )  # fmt: skip
        for layer, (down, up) in adapter.lora.items():
            found = (up.shape[0], down.shape[1])
            if self._linears.get(layer) != found:
                has = self._linears.get(layer, "no such layer")
                raise AdapterError(f"{adapter.name} adapts {layer} as {found}, {self.base_id} has {has}: another base?")
        own = {(head, key, tuple(value.shape)) for head, state in adapter.heads.items() for key, value in state.items()}
        wrong = sorted({f"{head}.{key}" for head, key, _ in own ^ self._head_shapes(len(adapter.labels))})
        if wrong:
            # A tensor that is not there would be random, one that has no place would be lost.
            raise AdapterError(
                f"{adapter.name}: its head and that of {self.base_id} differ in {', '.join(wrong[:3])}. "
                "Restore its weights or train again."
            )
        hidden = getattr(self._base.model.config.get_text_config(), "hidden_size", None)
        if adapter.probe is not None and hidden not in (None, adapter.probe.weight.shape[1]):
            raise AdapterError(
                f"{adapter.name}: its linear probe reads {adapter.probe.weight.shape[1]} features, {self.base_id} has "
                f"{hidden}. Restore it or train again."
            )

    def _head_shapes(self, labels: int) -> set[tuple[str, str, tuple[int, ...]]]:
        """The head's tensors with their shapes, as an adapter with this many labels has them."""
        outputs = self._base.model.config.num_labels
        return {
            (head, key, (labels, *shape[1:]) if shape[:1] == (outputs,) else shape)
            for head, shapes in self._heads.items()
            for key, shape in shapes.items()
        }


def verdicts(logits: Floats, names: Sequence[str], calibration: Calibration) -> list[Verdict]:
    """Turn logits (N, C) into verdicts with label names."""
    plain, shown, ids = softmax(logits), calibrated(logits, calibration), decide(logits, calibration)
    marked = abstains(confidences(shown, ids), calibration)
    return [
        Verdict(
            label=names[int(best)],
            probabilities=dict(zip(names, raw.tolist(), strict=True)),
            calibrated=dict(zip(names, sure.tolist(), strict=True)),
            abstain=bool(mark),
        )
        for best, raw, sure, mark in zip(ids, plain, shown, marked, strict=True)
    ]


def base_for(
    found: fetch.Located, base_id: str, revision: str | None, quantize: str, settings: BaseConfig
) -> BaseConfig:
    """The base to load for an adapter: a repository on the Hub does not choose it, unless it is our own."""
    settings = replace(settings, quantize=quantize)
    if found.repo is None:
        return replace(settings, id=base_id or settings.id, revision=revision)
    if base_id.lower() != fetch.MINILM.lower():
        raise AdapterError(
            f"{found.repo} says that its base is {base_id or 'nothing'}; no base is fetched on the word of a "
            f"downloaded file. If you trust it, give --base {base_id or 'ID'}."
        )
    return replace(settings, id=fetch.MINILM)


def _named(adapter: Adapter, taken: set[str]) -> Adapter:
    name, number = adapter.name, 2
    while name in taken:
        name, number = f"{adapter.name}-{number}", number + 1
    return Adapter(**{**vars(adapter), "name": name})


def _in_order(parts: Sequence[tuple[list[int], Floats]], count: int) -> Floats:
    """Put per-batch results (rows, ...) back into the texts' order."""
    if not parts:
        return np.zeros((0, 0), np.float32)
    result = np.zeros((count, *parts[0][1].shape[1:]), dtype=np.float32)
    for rows, values in parts:
        result[rows] = values
    return result
