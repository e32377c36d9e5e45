"""The engine: one base and several adapters with their own label sets, computed in one forward pass.

In: texts and adapter names. Out: logits or verdicts per adapter, in the texts' order. There is no active adapter. A
request uses one consistent set of adapters from start to end, and many threads may call the engine.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from lorahub.config import BaseConfig
from lorahub.data.batches import Encoded, encode, words_read
from lorahub.hub import fetch
from lorahub.models import adapters as adapter_files
from lorahub.models import architectures
from lorahub.models import base as bases
from lorahub.models.adapters import Adapter
from lorahub.serving.engine import first_token, lora_layers, shared_layers
from lorahub.serving.engine.cache import AdapterStatus, Cache
from lorahub.serving.engine.compatibility import BaseShapes, Coverage, base_config
from lorahub.serving.engine.forward import ForwardPass
from lorahub.serving.engine.scheduler import Job, Scheduler
from lorahub.serving.engine.stacks import LoadedAdapter
from lorahub.serving.predictor import Prediction, Predictor, Request, Verdict, finite

# Rows times tokens of one forward pass. A CPU core is busy from about 400 on; above 1,000 the activations of a layer
# leave its cache, and there is more padding (measured in docs/log.md).
_TOKENS_PER_THREAD = 512
_TOKENS_ON_GPU = 16384
# Kinds of jobs.
_LOGITS, _FEATURES = "logits", "features"


@dataclass(frozen=True, kw_only=True)
class Status:
    """The state of an engine: every known adapter, the bytes of those in memory, and the limits (None: no limit).

    `requests` is the number of requests that wait or are in progress.
    """

    adapters: list[AdapterStatus]
    bytes: int
    most_adapters: int | None
    most_bytes: int | None
    requests: int


class Engine(Predictor):
    """One base with many adapters.

    `base` is a Hub id, a folder or `minilm`; by default the base of the first adapter. An adapter is a folder, the name
    of a run, `user/name[@revision]`, or the result of `hub.fetch.adapter`. At most `most_adapters` and `most_bytes` of
    them are in memory: the least recently used one is evicted, and loaded again on its next request. Requests of many
    threads share forward passes; at most `most_requests` wait or are in progress. Private repositories are fetched with
    `token`, by default the login. Raises BaseModelError, AdapterError and ConfigError.
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
        located = [fetch.adapter(item, token=token) for item in adapters]
        loaded = [adapter_files.load(item.folder, name=item.name) for item in located]
        self._cache = Cache(self._load, self._on_evict, most_adapters=most_adapters, most_bytes=most_bytes)
        settings = config or BaseConfig()
        if loaded:
            settings = base_config(base, located[0], loaded[0], settings)
        elif base is not None:
            settings = replace(settings, id=base)
        self._base = bases.load(settings, token=token)
        self._shapes = BaseShapes(self._base)
        lora_layers.wrap(self._base.model, self._base.heads)
        first_token.wrap(self._base.model)
        self._layers = shared_layers.wrap(self._base.model)
        self._forward = ForwardPass(self._base)
        self._scheduler = Scheduler(self._forward.run, tokens=self.tokens_per_pass, most=most_requests)
        # A fast tokenizer keeps its truncation length as state.
        self._tokenizing = threading.Lock()
        # Adapters given together with their base may have known it by another name.
        self._given = frozenset(item.folder for item in located) if base is not None else frozenset()
        self._insert(located, loaded)

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
        """The device of the base."""
        return str(self._base.device)

    @property
    def precision(self) -> str:
        """The name of the dtype in which the base computes."""
        return self._base.precision

    @property
    def tokens_per_pass(self) -> int:
        """Rows times tokens of one forward pass, padding included; a single text may have more."""
        on_cpu = self._base.device.type == "cpu"
        return _TOKENS_PER_THREAD * torch.get_num_threads() if on_cpu else _TOKENS_ON_GPU

    @property
    def adapters(self) -> dict[str, Adapter]:
        """The adapters in memory, by name."""
        return {name: item.adapter for name, item in self._cache.loaded().items()}

    @property
    def names(self) -> list[str]:
        """The names of all known adapters, in memory or evicted, in the order of adding."""
        return [adapter.name for adapter in self._cache.status()]

    def name_of(self, folder: Path) -> str | None:
        """Return the name of the adapter loaded from a folder; None if there is none."""
        return self._cache.name_of(folder)

    def folder_of(self, name: str) -> Path:
        """Return the folder of a known adapter; raises AdapterError for an unknown name."""
        return self._cache.source(name).folder

    def coverage(self, name: str) -> Coverage:
        """Return which layers of the base an adapter's config selects and which its weights adapt.

        Raises AdapterError for an unknown name.
        """
        with self._cache.hold([name]) as held:
            return self._shapes.coverage(held[name].adapter)

    def status(self) -> Status:
        """Return which adapters are known, in memory, pinned and in use, with their bytes."""
        known = self._cache.status()
        return Status(
            adapters=known,
            bytes=sum(adapter.bytes for adapter in known if adapter.loaded),
            most_adapters=self._most_adapters,
            most_bytes=self._most_bytes,
            requests=self._scheduler.requests,
        )

    def add(self, *adapters: str | Path | fetch.Located, pin: bool = False) -> list[str]:
        """Load adapters and return their names: those of their folders, numbered if taken; `pin` forbids eviction.

        All are read and checked before the first is added. Raises EngineBusyError if adapters in use leave no memory
        within 30 seconds, ConfigError if pinned adapters leave none.
        """
        located = [fetch.adapter(item, token=self._token) for item in adapters]
        return self._insert(located, [adapter_files.load(item.folder, name=item.name) for item in located], pin=pin)

    def drop(self, name: str) -> None:
        """Remove an adapter; requests in progress finish with it."""
        self._cache.drop(name)

    def pin(self, name: str, pinned: bool = True) -> None:
        """Keep an adapter in memory regardless of the limits, or make it evictable again."""
        self._cache.pin(name, pinned)

    def warm_up(self) -> None:
        """Run a short and a longest text, so that no request waits for the one-time setup of a device."""
        for text in ("a", "a " * self._base.max_length):
            encoded = self._encode([text], None, self._base.max_length)
            self._scheduler.run([Job(items=encoded.items, kind=_FEATURES)])
            self.compute(Request([text]))

    def compute(self, request: Request) -> dict[str, Prediction]:
        """Return adapter name -> prediction, from one pass for all adapters whose rows can be mixed in a batch."""
        mixes = architectures.of(self._base.model.config.model_type).mixes_adapters
        with self._cache.hold(request.adapters) as held:
            if len(request.texts) == 0:
                return {
                    name: Prediction(logits=np.zeros((0, item.num_labels), np.float32), labels=item.adapter.labels)
                    for name, item in held.items()
                }
            jobs: list[tuple[list[str], Encoded, Job]] = []
            for names, encoded in self._tokenize(held, request):
                for group in [names] if mixes else [[name] for name in names]:
                    loaded = [held[name] for name in group]
                    # Rows of an encoder-decoder need equal numbers of end tokens: pairs have more than claims.
                    kind = _LOGITS if mixes else (loaded[0], encoded.paired)
                    rows = shared_layers.rows_per_text([item.first_layer for item in loaded], self._layers)
                    job = Job(
                        items=encoded.items, adapters=loaded, kind=kind, strength=request.strength, rows_per_text=rows
                    )
                    jobs.append((group, encoded, job))
            self._scheduler.run([job for _, _, job in jobs], stop=request.stop)
        predictions = {}
        for group, encoded, job in jobs:
            logits = job.output()  # (N, K, widest)
            for place, name in enumerate(group):
                adapter = held[name].adapter
                predictions[name] = Prediction(
                    logits=np.ascontiguousarray(logits[:, place, : len(adapter.labels)]),
                    labels=adapter.labels,
                    calibration=adapter.calibration,
                    truncated=encoded.truncated,
                )
        return {name: predictions[name] for name in held}

    def classify_base(
        self,
        texts: Sequence[str],
        adapters: Sequence[str] | None = None,
        *,
        evidence: Sequence[str] | None = None,
        stop: threading.Event | None = None,
    ) -> dict[str, list[Verdict]]:
        """Return the verdicts of the base without adapters: each adapter's linear probe on the frozen base's features.

        Adapters without a probe are left out. Arguments and errors are those of `logits`.
        """
        request = Request(texts, adapters, evidence=evidence, stop=stop)
        with self._cache.hold(request.adapters) as held:
            probed = {name: item for name, item in held.items() if item.adapter.probe is not None}
        if len(request.texts) == 0:
            return {name: [] for name in probed}
        groups = self._tokenize(probed, request)
        jobs = [Job(items=encoded.items, kind=_FEATURES) for _, encoded in groups]
        self._scheduler.run(jobs, stop=stop)
        predictions = {}
        for (names, encoded), job in zip(groups, jobs, strict=True):
            features = job.output()  # (N, H)
            for name in names:
                adapter = probed[name].adapter
                assert adapter.probe is not None
                predictions[name] = Prediction(
                    logits=adapter.probe.logits(features), labels=adapter.labels, truncated=encoded.truncated
                )
        finite(predictions)
        return {name: predictions[name].verdicts() for name in probed}

    def words_read(self, name: str, text: str, *, evidence: str | None = None) -> int:
        """Return how many words of a text, followed by its evidence, an adapter reads before its limit of tokens.

        Raises AdapterError for an unknown name.
        """
        request = Request([text], [name], evidence=None if evidence is None else [evidence])
        with self._cache.hold([name]) as held:
            adapter = held[name].adapter
        second = None if request.evidence_for(name, adapter) is None else evidence
        with self._tokenizing:
            return words_read(self._base.tokenizer, text, second, max_length=self._length(adapter))

    def _load(self, source: fetch.Located, name: str) -> LoadedAdapter:
        """Load an evicted adapter again."""
        adapter = adapter_files.load(source.folder, name=name)
        self._shapes.check(adapter, renamed=source.folder in self._given)
        return lora_layers.load(self._base.model, adapter_files.named_by(adapter, self._base), self._base.device)

    def _on_evict(self, adapter: LoadedAdapter) -> None:
        self._forward.forget(adapter)

    def _insert(self, located: Sequence[fetch.Located], adapters: Sequence[Adapter], *, pin: bool = False) -> list[str]:
        """Add checked adapters to the cache and return their names."""
        for item, adapter in zip(located, adapters, strict=True):
            self._shapes.check(adapter, renamed=item.folder in self._given)
        adapters = [adapter_files.named_by(adapter, self._base) for adapter in adapters]
        loaded = [lora_layers.load(self._base.model, adapter, self._base.device) for adapter in adapters]
        return [self._cache.add(source, item, pinned=pin) for source, item in zip(located, loaded, strict=True)]

    def _length(self, adapter: Adapter) -> int:
        """Return the number of tokens after which the input of an adapter is truncated."""
        return min(adapter.max_length or self._base.max_length, self._base.limit)

    def _tokenize(self, held: Mapping[str, LoadedAdapter], request: Request) -> list[tuple[list[str], Encoded]]:
        """Return groups of adapters that read the same tokens, each with the tokenized texts.

        Adapters differ in where their input is truncated and in whether they read the evidence.
        """
        groups: dict[tuple[int, bool], list[str]] = {}
        for name, item in held.items():
            length = self._length(item.adapter)
            paired = request.evidence_for(name, item.adapter) is not None
            groups.setdefault((length, paired), []).append(name)
        return [
            (names, self._encode(request.texts, request.evidence if paired else None, length))
            for (length, paired), names in groups.items()
        ]

    def _encode(self, texts: Sequence[str], evidence: Sequence[str] | None, max_length: int) -> Encoded:
        with self._tokenizing:
            return encode(self._base.tokenizer, texts, evidence, max_length=max_length)
