"""A bounded cache of adapters: which are in memory, which can be evicted, and which are in use.

In: loaded adapters, limits, and a function that loads an adapter again. Out: the adapters of a request, held from its
start to its end as one consistent set. Above the limits the least recently used adapter is evicted, never one that is
pinned or in use. An evicted adapter stays known and is loaded again on its next request.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from lorahub.errors import ConfigError, EngineBusyError
from lorahub.hub.fetch import Located
from lorahub.runfiles import free_name
from lorahub.serving.engine.stacks import LoadedAdapter
from lorahub.serving.predictor import select_names

# Seconds that a request waits for memory before it fails with EngineBusyError.
_WAIT_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class AdapterStatus:
    """One known adapter: its size in memory, and whether it is in memory, pinned there, and in use."""

    name: str
    bytes: int
    loaded: bool
    pinned: bool
    in_use: bool


@dataclass(kw_only=True, eq=False)
class _Entry:
    name: str
    source: Located
    bytes: int
    pinned: bool
    adapter: LoadedAdapter | None  # None after eviction
    users: int = 0
    last_used: int = 0
    loading: threading.Lock = field(default_factory=threading.Lock)


class Cache:
    """Adapters by name, at most `most_adapters` and `most_bytes` of them in memory; None means no limit. Thread-safe.

    `load` loads an evicted adapter again; `on_evict` is called with each evicted adapter.
    """

    def __init__(
        self,
        load: Callable[[Located, str], LoadedAdapter],
        on_evict: Callable[[LoadedAdapter], None],
        *,
        most_adapters: int | None = None,
        most_bytes: int | None = None,
    ) -> None:
        for name, limit in (("most_adapters", most_adapters), ("most_bytes", most_bytes)):
            if limit is not None and limit < 1:
                raise ConfigError(f"{name} is {limit}; give at least 1, or None for no limit.")
        self._load, self._on_evict, self._most_adapters, self._most_bytes = load, on_evict, most_adapters, most_bytes
        self._entries: dict[str, _Entry] = {}
        self._waiting: list[object] = []
        self._changed = threading.Condition()
        self._clock = count(1)

    def add(self, source: Located, adapter: LoadedAdapter, *, pinned: bool = False) -> str:
        """Add an adapter and return its name: that of its source, numbered if it is taken.

        Raises ConfigError if it does not fit together with the pinned adapters, EngineBusyError if adapters in use
        leave no memory within 30 seconds.
        """
        with self._changed:
            name = free_name(source.name, self._entries)
            entry = _Entry(name=name, source=source, bytes=adapter.bytes, pinned=pinned, adapter=adapter)
            self._free_memory([entry])
            # Another thread may have taken the name while this one waited for memory.
            entry.name = name = free_name(source.name, self._entries)
            entry.last_used = next(self._clock)
            self._entries[name] = entry
            self._changed.notify_all()
        return name

    def drop(self, name: str) -> None:
        """Remove an adapter; a request that uses it finishes with it. Raises AdapterError for an unknown name."""
        with self._changed:
            (entry,) = self._select([name])
            del self._entries[name]
            if not entry.users:
                self._evict(entry)
            self._changed.notify_all()

    def name_of(self, folder: Path) -> str | None:
        """Return the name of the adapter loaded from a folder; None if there is none."""
        path = folder.resolve()
        with self._changed:
            names = (entry.name for entry in self._entries.values() if entry.source.folder.resolve() == path)
            return next(names, None)

    def source(self, name: str) -> Located:
        """Return where an adapter was loaded from; raises AdapterError for an unknown name."""
        with self._changed:
            (entry,) = self._select([name])
            return entry.source

    def pin(self, name: str, pinned: bool) -> None:
        """Keep an adapter in memory, or make it evictable again; raises the errors of `hold`."""
        with self.hold([name]), self._changed:
            self._entries[name].pinned = pinned

    def status(self) -> list[AdapterStatus]:
        """Return the status of every known adapter, in the order of adding."""
        with self._changed:
            return [
                AdapterStatus(
                    name=entry.name,
                    bytes=entry.bytes,
                    loaded=entry.adapter is not None,
                    pinned=entry.pinned,
                    in_use=entry.users > 0,
                )
                for entry in self._entries.values()
            ]

    def loaded(self) -> dict[str, LoadedAdapter]:
        """Return the adapters in memory by name, in the order of adding."""
        with self._changed:
            return {entry.name: entry.adapter for entry in self._entries.values() if entry.adapter is not None}

    @contextmanager
    def hold(self, names: Sequence[str] | None) -> Iterator[dict[str, LoadedAdapter]]:
        """Hold the named adapters, or all in memory, against eviction until the block ends; load the evicted ones.

        Raises AdapterError for an unknown name, and the errors of `add`.
        """
        with self._changed:
            if names is None:
                entries = [entry for entry in self._entries.values() if entry.adapter is not None]
            else:
                entries = self._select(names)
            self._free_memory(entries)
            for entry in entries:
                entry.users += 1
                entry.last_used = next(self._clock)
        try:
            yield {entry.name: self._loaded(entry) for entry in entries}
        finally:
            with self._changed:
                for entry in entries:
                    entry.users -= 1
                    if not entry.users and self._entries.get(entry.name) is not entry:  # dropped in the meantime
                        self._evict(entry)
                self._changed.notify_all()

    def _loaded(self, entry: _Entry) -> LoadedAdapter:
        """Return the adapter of a held entry, loaded once if it was evicted."""
        with entry.loading:
            adapter = entry.adapter
            if adapter is None:
                adapter = self._load(entry.source, entry.name)
                with self._changed:
                    entry.adapter = adapter
            return adapter

    def _select(self, names: Sequence[str]) -> list[_Entry]:
        return [self._entries[name] for name in select_names(names, self._entries)]

    def _free_memory(self, wanted: Sequence[_Entry]) -> None:
        """Wait until the wanted adapters fit with those that cannot be evicted, then evict others as needed."""
        pinned = [entry for entry in self._entries.values() if entry.pinned and entry not in wanted]
        names = ", ".join(entry.name for entry in wanted)
        if not self._fit([*wanted, *pinned]):
            raise ConfigError(
                f"{names} and {len(pinned)} pinned adapters do not fit into memory at once; the limit is "
                f"{self._limits()}. Request fewer at once, unpin some, or raise the limit."
            )
        ticket = object()
        self._waiting.append(ticket)
        try:
            # In order of arrival: otherwise requests for adapters in memory could keep the others waiting forever.
            fits = self._changed.wait_for(
                lambda: self._waiting[0] is ticket and self._fit(self._retained(wanted)), timeout=_WAIT_SECONDS
            )
        finally:
            self._waiting.remove(ticket)
            self._changed.notify_all()
        if not fits:
            raise EngineBusyError(
                f"no memory for {names}: other requests use their adapters, and the limit is {self._limits()}. "
                "Try again in a moment."
            )
        retained = self._retained(wanted)
        others = [entry for entry in self._entries.values() if entry.adapter is not None and entry not in retained]
        for entry in sorted(others, key=lambda entry: -entry.last_used):
            if self._fit([*retained, entry]):
                retained.append(entry)
            else:
                self._evict(entry)

    def _retained(self, wanted: Sequence[_Entry]) -> list[_Entry]:
        """Return the wanted entries and those that cannot be evicted: pinned or in use, also before they are loaded."""
        others = (entry for entry in self._entries.values() if entry not in wanted)
        return [*wanted, *(entry for entry in others if entry.pinned or entry.users)]

    def _fit(self, entries: Sequence[_Entry]) -> bool:
        few = self._most_adapters is None or len(entries) <= self._most_adapters
        return few and (self._most_bytes is None or sum(entry.bytes for entry in entries) <= self._most_bytes)

    def _limits(self) -> str:
        limits = [] if self._most_adapters is None else [f"{self._most_adapters} adapters"]
        return " and ".join(limits + ([] if self._most_bytes is None else [f"{self._most_bytes:,} bytes"]))

    def _evict(self, entry: _Entry) -> None:
        adapter, entry.adapter = entry.adapter, None
        if adapter is not None:
            self._on_evict(adapter)
