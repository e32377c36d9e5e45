"""A bounded cache of adapters: which are in memory, which may go, and which a request holds.

In: adapters that were loaded, limits, and a function that loads one again. Out: what a request holds from its start to
its end, one consistent set. Over the limits the least recently used adapter leaves memory, never one that is pinned or
that a request holds; it stays known, and is loaded again when it is named. Knows nothing of models.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from lorahub.errors import AdapterError, ConfigError, EngineBusyError
from lorahub.hub.fetch import Located

# Seconds that a request waits for others to let go of their adapters, before it is told to come again.
_PATIENCE = 30.0


class Loaded(Protocol):
    """An adapter in memory."""

    @property
    def bytes(self) -> int:
        """What it takes."""


Item = TypeVar("Item", bound=Loaded)


@dataclass(frozen=True, kw_only=True)
class Held:
    """One known adapter: the bytes that it takes in memory, whether it is there, is kept there, and is answering."""

    name: str
    bytes: int
    loaded: bool
    pinned: bool
    in_use: bool


@dataclass(kw_only=True, eq=False)
class _Entry(Generic[Item]):
    name: str
    source: Located
    bytes: int
    pinned: bool
    item: Item | None  # None where it has left memory
    users: int = 0
    used: int = 0
    loading: threading.Lock = field(default_factory=threading.Lock)


class Cache(Generic[Item]):
    """Adapters by name, at most `most` and `most_bytes` of them in memory; None is no limit. Safe for many threads.

    `load` brings one back that had to leave; `leave` is told of each that leaves.
    """

    def __init__(
        self,
        load: Callable[[Located, str], Item],
        leave: Callable[[Item], None],
        *,
        most: int | None = None,
        most_bytes: int | None = None,
    ) -> None:
        for name, limit in (("most_adapters", most), ("most_bytes", most_bytes)):
            if limit is not None and limit < 1:
                raise ConfigError(f"{name} is {limit}; at least 1, or None for no limit.")
        self._load, self._leave, self._most, self._most_bytes = load, leave, most, most_bytes
        self._entries: dict[str, _Entry[Item]] = {}
        self._tickets: list[object] = []
        self._changed = threading.Condition()
        self._clock = count(1)

    def add(self, source: Located, item: Item, *, pinned: bool = False) -> str:
        """Keep an adapter and return its name: its source's, numbered where that is taken.

        Raises ConfigError where it does not fit beside the pinned ones, EngineBusyError where those in use leave no
        room for a while.
        """
        with self._changed:
            name = free_name(source.name, self._entries)
            entry = _Entry(name=name, source=source, bytes=item.bytes, pinned=pinned, item=item)
            self._make_room([entry])
            # Another thread may have taken the name while this one waited for room.
            entry.name = name = free_name(source.name, self._entries)
            entry.used = next(self._clock)
            self._entries[name] = entry
            self._changed.notify_all()
        return name

    def drop(self, name: str) -> None:
        """Forget an adapter; a request that holds it finishes with it. Raises AdapterError where none has the name."""
        with self._changed:
            (entry,) = self._named([name])
            del self._entries[name]
            if not entry.users:
                self._evict(entry)
            self._changed.notify_all()

    def name_of(self, folder: Path) -> str | None:
        """The name under which the adapter of a folder is known; None where it is not."""
        with self._changed:
            found = (
                entry.name for entry in self._entries.values() if entry.source.folder.resolve() == folder.resolve()
            )
            return next(found, None)

    def pin(self, name: str, pinned: bool) -> None:
        """Keep an adapter in memory whatever else is loaded, or no longer; raises as `holding`."""
        with self.holding([name]), self._changed:
            self._entries[name].pinned = pinned

    def known(self) -> list[Held]:
        """Every adapter, in the order of adding."""
        with self._changed:
            return [
                Held(
                    name=entry.name,
                    bytes=entry.bytes,
                    loaded=entry.item is not None,
                    pinned=entry.pinned,
                    in_use=entry.users > 0,
                )
                for entry in self._entries.values()
            ]

    def items(self) -> dict[str, Item]:
        """The adapters in memory by name, in the order of adding."""
        with self._changed:
            return {entry.name: entry.item for entry in self._entries.values() if entry.item is not None}

    @contextmanager
    def holding(self, names: Sequence[str] | None) -> Iterator[dict[str, Item]]:
        """Hold the named adapters, or all that are in memory: none of them leaves it before the block ends.

        What has left memory is loaded again. Raises AdapterError for an unknown name, and as `add`.
        """
        with self._changed:
            if names is None:
                entries = [entry for entry in self._entries.values() if entry.item is not None]
            else:
                entries = self._named(list(dict.fromkeys(names)))
            self._make_room(entries)
            for entry in entries:
                entry.users += 1
                entry.used = next(self._clock)
        try:
            yield {entry.name: self._item(entry) for entry in entries}
        finally:
            with self._changed:
                for entry in entries:
                    entry.users -= 1
                    if not entry.users and self._entries.get(entry.name) is not entry:  # dropped meanwhile
                        self._evict(entry)
                self._changed.notify_all()

    def _item(self, entry: _Entry[Item]) -> Item:
        """What an entry that is held has, loaded where it is not there; two threads load it once."""
        with entry.loading:
            item = entry.item
            if item is None:
                item = self._load(entry.source, entry.name)
                with self._changed:
                    entry.item = item
            return item

    def _named(self, names: Sequence[str]) -> list[_Entry[Item]]:
        for name in names:
            if name not in self._entries:
                there = ", ".join(self._entries) or "none"
                raise AdapterError(f"no adapter {name!r} is loaded; loaded: {there}.")
        return [self._entries[name] for name in names]

    def _make_room(self, wanted: Sequence[_Entry[Item]]) -> None:
        """Wait until the wanted adapters fit beside what cannot leave, and let leave what has to."""
        pinned = [entry for entry in self._entries.values() if entry.pinned and entry not in wanted]
        if not self._fit([*wanted, *pinned]):
            raise ConfigError(
                f"{_listed(wanted)} and {len(pinned)} pinned adapters do not fit into memory at once; the limit is "
                f"{self._limits()}. Ask for fewer at once, unpin some, or raise the limit."
            )
        ticket = object()
        self._tickets.append(ticket)
        try:
            # In order of arrival: else those whose adapters are in memory anyway would keep the others out for ever.
            there = self._changed.wait_for(
                lambda: self._tickets[0] is ticket and self._fit([*wanted, *self._staying(wanted)]), timeout=_PATIENCE
            )
        finally:
            self._tickets.remove(ticket)
            self._changed.notify_all()
        if not there:
            raise EngineBusyError(
                f"no room for {_listed(wanted)}: other requests hold their adapters, and the limit is "
                f"{self._limits()}. Try again in a moment."
            )
        staying = [*wanted, *self._staying(wanted)]
        present = [entry for entry in self._entries.values() if entry.item is not None and entry not in staying]
        for entry in sorted(present, key=lambda entry: -entry.used):
            if self._fit([*staying, entry]):
                staying.append(entry)
            else:
                self._evict(entry)

    def _staying(self, wanted: Sequence[_Entry[Item]]) -> list[_Entry[Item]]:
        """What cannot leave beside the wanted: a held one counts before it is loaded."""
        entries = (entry for entry in self._entries.values() if entry not in wanted)
        return [entry for entry in entries if entry.pinned or entry.users]

    def _fit(self, entries: Sequence[_Entry[Item]]) -> bool:
        few = self._most is None or len(entries) <= self._most
        return few and (self._most_bytes is None or sum(entry.bytes for entry in entries) <= self._most_bytes)

    def _limits(self) -> str:
        limits = []
        if self._most is not None:
            limits.append(f"{self._most} adapters")
        if self._most_bytes is not None:
            limits.append(f"{self._most_bytes:,} bytes")
        return " and ".join(limits)

    def _evict(self, entry: _Entry[Item]) -> None:
        item, entry.item = entry.item, None
        if item is not None:
            self._leave(item)


def _listed(entries: Sequence[_Entry[Item]]) -> str:
    return ", ".join(entry.name for entry in entries)


def free_name(name: str, taken: Iterable[str]) -> str:
    """A name, numbered where it is taken."""
    free, number = name, 2
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    return free
