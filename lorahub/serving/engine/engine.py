"""The engine: one base, several adapters with their own label sets, answered in one forward pass.

In: texts and adapter names. Out: verdicts, per adapter, in the texts' order. There is no active adapter; a request sees
one consistent set of adapters from start to end, and the engine may be called from many threads.
"""

import logging
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
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
from lorahub.serving.engine import first_token, lora_layers
from lorahub.serving.engine.cache import Cache, Held
from lorahub.serving.engine.compatibility import Shapes
from lorahub.serving.engine.forward import Passes
from lorahub.serving.engine.scheduler import Job, Line
from lorahub.stats.verdicts import Calibration, Floats, abstains, calibrated, confidences, decide, softmax

log = logging.getLogger(__name__)

# Rows times tokens of one forward pass. A CPU core is busy from some 400 on, and with more than a thousand a layer's
# numbers do not fit into its cache, and claims are padded more (docs/log.md has the measurement).
_TOKENS_PER_THREAD = 512
_TOKENS_ON_GPU = 16384
# Kinds of jobs.
_LOGITS, _FEATURES = "logits", "features"


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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Served:
    """An adapter in memory: what is known of it, and its tensors on the base's device."""

    adapter: Adapter
    placed: lora_layers.Placed

    @property
    def bytes(self) -> int:
        """What its tensors take."""
        return self.placed.bytes


@dataclass(frozen=True, kw_only=True)
class Status:
    """What an engine holds now: every known adapter, the bytes of those in memory, and their limits; None is no limit.

    `requests` is how many wait or are being answered.
    """

    adapters: list[Held]
    bytes: int
    most_adapters: int | None
    most_bytes: int | None
    requests: int


class Engine:
    """One base with many adapters.

    `base` is a Hub id, a folder or `minilm`; left out, it is the base of the first adapter. An adapter is a folder, a
    run's name, `user/name[@revision]`, or what `hub.fetch` has located. At most `most_adapters` and `most_bytes` of
    them are in memory: the least recently used one leaves it, and is loaded again when a request names it. Requests of
    many threads share forward passes; at most `most_requests` wait or are being answered. What is private is fetched
    with `token`, else with the login. Raises BaseModelError, AdapterError and ConfigError.

    Every request takes `stop`: set it, and the request ends before its next pass with concurrent.futures'
    CancelledError. A request raises AdapterError where an adapter is not known, ConfigError where texts and evidence
    do not go together, EngineBusyError where the engine takes no more.
    """

    def __init__(
        self,
        base: str | None = None,
        adapters: Iterable[str | Path | fetch.Located] = (),
        *,
        config: BaseConfig | None = None,
        most_adapters: int | None = None,
        most_bytes: int | None = None,
        most_requests: int = 256,
        token: str | None = None,
    ) -> None:
        self._token, self._most_adapters, self._most_bytes = token, most_adapters, most_bytes
        # Before the base, which takes longer.
        found = [item if isinstance(item, fetch.Located) else fetch.adapter(item, token=token) for item in adapters]
        loaded = [adapter_files.load(item.folder, name=item.name) for item in found]
        self._cache: Cache[_Served] = Cache(self._load, self._forget, most=most_adapters, most_bytes=most_bytes)
        settings = config or BaseConfig()
        if base is not None:
            settings = replace(settings, id=base)
        elif loaded:
            first = loaded[0]
            settings = base_for(found[0], first.base_id, first.base_revision, first.quantize, settings)
        self._base = bases.load(settings, token=token)
        self._shapes = Shapes(self._base)
        lora_layers.wrap(self._base.model, self._base.heads)
        first_token.wrap(self._base.model)
        self._passes = Passes(self._base)
        self._line = Line(self._passes.run, tokens=self.tokens_per_pass, most=most_requests)
        # A fast tokenizer keeps where it truncates as state.
        self._tokenizing = threading.Lock()
        for adapter in loaded:
            self._shapes.check(adapter)
        for source, adapter in zip(found, loaded, strict=True):
            self._cache.add(source, self._place(adapter))

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
    def tokens_per_pass(self) -> int:
        """Rows times tokens of one forward pass, padding included; a single text may have more."""
        on_cpu = self._base.device.type == "cpu"
        return _TOKENS_PER_THREAD * torch.get_num_threads() if on_cpu else _TOKENS_ON_GPU

    @property
    def adapters(self) -> dict[str, Adapter]:
        """The adapters that are in memory now, by name."""
        return {name: item.adapter for name, item in self._cache.items().items()}

    @property
    def names(self) -> list[str]:
        """The adapters that may be asked, in memory or not, in the order of adding."""
        return [held.name for held in self._cache.known()]

    def name_of(self, folder: Path) -> str | None:
        """The name under which the adapter of a folder answers; None where it was not added."""
        return self._cache.name_of(folder)

    def status(self) -> Status:
        """What is known, in memory, pinned and in use now, with its bytes."""
        known = self._cache.known()
        return Status(
            adapters=known,
            bytes=sum(held.bytes for held in known if held.loaded),
            most_adapters=self._most_adapters,
            most_bytes=self._most_bytes,
            requests=self._line.requests,
        )

    def add(self, *adapters: str | Path | fetch.Located, pin: bool = False) -> list[str]:
        """Load adapters and return the names under which they answer; a folder's name, numbered where it is taken.

        All are read and checked before the first is added; `pin` keeps them in memory. Raises EngineBusyError where
        requests under way leave no room for a while, ConfigError where pinned adapters leave none.
        """
        found = [
            item if isinstance(item, fetch.Located) else fetch.adapter(item, token=self._token) for item in adapters
        ]
        loaded = [self._load(item, item.name) for item in found]
        return [self._cache.add(source, item, pinned=pin) for source, item in zip(found, loaded, strict=True)]

    def warm_up(self) -> None:
        """Run a short and a longest text, so that no request waits for what a device does once: kernels, memory."""
        for text in ("a", "a " * self._base.max_length):
            self._line.answer([Job(items=self._encode([text], None, self._base.max_length, False), kind=_FEATURES)])
            self.logits([text])

    def drop(self, name: str) -> None:
        """Forget an adapter; requests under way finish with it."""
        self._cache.drop(name)

    def pin(self, name: str, pinned: bool = True) -> None:
        """Keep an adapter in memory whatever else is loaded, or no longer."""
        self._cache.pin(name, pinned)

    def _load(self, source: fetch.Located, name: str) -> _Served:
        adapter = adapter_files.load(source.folder, name=name)
        self._shapes.check(adapter)
        return self._place(adapter)

    def _place(self, adapter: Adapter) -> _Served:
        return _Served(adapter=adapter, placed=lora_layers.place(self._base.model, adapter, self._base.device))

    def _forget(self, item: _Served) -> None:
        self._passes.forget(item.placed)

    def classify(
        self,
        texts: Sequence[str],
        adapters: Sequence[str] | None = None,
        *,
        evidence: Sequence[str] | None = None,
        adjust: bool = True,
        strength: float = 1.0,
        stop: threading.Event | None = None,
    ) -> dict[str, list[Verdict]]:
        """Return adapter name -> one Verdict per text, for all or the named adapters.

        `adjust=False` decides without the bias that was chosen on validation, and marks no answer as to abstain from.
        `strength` is as in `logits`; calibration and threshold were chosen with 1.
        """
        with self._cache.holding(adapters) as served:
            logits = self._logits(served, texts, evidence, strength, stop)
        known = {name: item.adapter for name, item in served.items()}
        return {
            name: verdicts(logits[name], adapter.labels.names, adapter.calibration if adjust else Calibration())
            for name, adapter in known.items()
        }

    def logits(
        self,
        texts: Sequence[str],
        adapters: Sequence[str] | None = None,
        *,
        evidence: Sequence[str] | None = None,
        strength: float = 1.0,
        stop: threading.Event | None = None,
    ) -> dict[str, Floats]:
        """Return adapter name -> raw logits (N, C), equal to what peft gives.

        `strength` multiplies what the adapters change in the base's weights: with 0 their heads read the base itself.
        """
        with self._cache.holding(adapters) as served:
            return self._logits(served, texts, evidence, strength, stop)

    def classify_base(
        self,
        texts: Sequence[str],
        adapters: Sequence[str] | None = None,
        *,
        evidence: Sequence[str] | None = None,
        stop: threading.Event | None = None,
    ) -> dict[str, list[Verdict]]:
        """What the base says without the adapter: each adapter's linear probe on the frozen base's features.

        Adapters that came without a probe are left out.
        """
        with self._cache.holding(adapters) as served:
            known = {name: item.adapter for name, item in served.items() if item.adapter.probe is not None}
        if not texts:
            return {name: [] for name in known}
        found: dict[str, list[Verdict]] = {}
        groups = self._by_input(known, evidence, len(texts))
        jobs = {seen: Job(items=self._encode(texts, evidence, *seen), kind=_FEATURES) for seen in groups}
        self._line.answer(list(jobs.values()), stop=stop)
        for seen, names in groups.items():
            features = _in_order(jobs[seen])
            for name in names:
                probe = known[name].probe
                if probe is not None:
                    found[name] = verdicts(probe.logits(features), known[name].labels.names, Calibration())
        return {name: found[name] for name in known}

    def _by_input(
        self, adapters: Mapping[str, Adapter], evidence: Sequence[str] | None, texts: int
    ) -> dict[tuple[int, bool], list[str]]:
        """The adapters that see the same tokens: grouped by where their input is cut and whether evidence is in it.

        Evidence goes to those that were trained with it, and to those of which nobody knows.
        """
        if evidence is not None and len(evidence) != texts:
            raise ConfigError(f"{texts} texts came with {len(evidence)} pieces of evidence; give one each.")
        groups: dict[tuple[int, bool], list[str]] = {}
        for name, adapter in adapters.items():
            length = min(adapter.max_length or self._base.max_length, self._base.limit)
            if adapter.reads_evidence and evidence is None:
                log.warning("%s was trained on claims with evidence; without evidence its answers mean less", name)
            groups.setdefault((length, evidence is not None and adapter.reads_evidence is not False), []).append(name)
        return groups

    def _logits(
        self,
        served: Mapping[str, _Served],
        texts: Sequence[str],
        evidence: Sequence[str] | None,
        strength: float,
        stop: threading.Event | None,
    ) -> dict[str, Floats]:
        """Raw logits by adapter: one pass for all that read the same, or one each where rows cannot be mixed."""
        if not math.isfinite(strength):
            raise ConfigError(f"strength is {strength}; give a number, 1 for the adapters as they were trained.")
        known = {name: item.adapter for name, item in served.items()}
        if not texts:
            return {name: np.zeros((0, len(adapter.labels)), np.float32) for name, adapter in known.items()}
        mixes = architectures.of(self._base.model.config.model_type).mixes_adapters
        jobs: list[tuple[list[str], Job]] = []
        for seen, group in self._by_input(known, evidence, len(texts)).items():
            items = self._encode(texts, evidence, *seen)
            for names in [group] if mixes else [[name] for name in group]:
                placed = [served[name].placed for name in names]
                kind = _LOGITS if mixes else placed[0]
                jobs.append((names, Job(items=items, adapters=placed, kind=kind, strength=strength)))
        self._line.answer([job for _, job in jobs], stop=stop)
        found: dict[str, Floats] = {}
        for names, job in jobs:
            logits = _in_order(job)  # (N, K, widest)
            for place, name in enumerate(names):
                found[name] = np.ascontiguousarray(logits[:, place, : len(known[name].labels)])
        return {name: found[name] for name in served}

    def _encode(
        self, texts: Sequence[str], evidence: Sequence[str] | None, max_length: int, paired: bool
    ) -> list[dict[str, list[int]]]:
        second = list(evidence) if paired and evidence is not None else None
        with self._tokenizing:
            return encode(self._base.tokenizer, list(texts), second, max_length=max_length)


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


def _in_order(job: Job) -> Floats:
    """A finished job's results (N, ...) in the order of its texts."""
    found = np.zeros((len(job.items), *job.results[0][1].shape[1:]), np.float32)
    for places, values in job.results:
        found[places] = values
    return found
