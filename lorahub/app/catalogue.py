"""Catalogue of adapters: the runs on this machine, what was pulled, and the Hub's; loads one into the engine.

In: search words, a base, an adapter's id. Out: plain values. A visitor can name the runs that the page knows and
repositories on the Hub, but no other path of this machine.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lorahub import records, runfiles
from lorahub.errors import AdapterError, ConfigError, HubError
from lorahub.hub import fetch, search
from lorahub.hub.fetch import Located
from lorahub.hub.search import AdapterInfo, Inspection
from lorahub.records import RunRecord
from lorahub.serving.engine.engine import Engine

log = logging.getLogger(__name__)
# The places to search, as the page and the endpoint name them.
HERE, HUB = "this machine", "the Hub"
Runs = dict[str, tuple[Path, RunRecord]]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The adapters that match; `missing` says why those of the Hub are not listed, if so."""

    adapters: list[AdapterInfo]
    missing: str


class Catalogue:
    """The adapters available to one engine: runs under `root`, those `named` at the start, and the Hub's."""

    def __init__(self, engine: Engine, root: Path, named: Iterable[Located] = ()) -> None:
        self._engine, self._root, self._named = engine, root, list(named)

    def listing(self, *, words: str = "", base: str = "", where: Sequence[str] = (HERE,)) -> Listing:
        """Return the adapters whose id, data or labels contain all the words, newest first.

        Raises ConfigError where `where` is not one or both of HERE and HUB, HubError where only the Hub is searched and
        it does not answer.
        """
        if not where or set(where) - {HERE, HUB}:
            raise ConfigError(f"Choose where to look: {HERE}, {HUB}, or both.")
        adapters, missing = [], ""
        if HERE in where:
            adapters += [*self._runs(base), *search.cached(base or None)]
        if HUB in where:
            try:
                adapters += search.hub(base or None)
            except HubError as error:
                if HERE not in where:
                    raise
                missing = f"The Hub's adapters are not listed: {error}"
        return Listing(adapters=[one for one in search.sort(adapters, None) if _matches(one, words)], missing=missing)

    def inspect(self, identifier: str) -> Inspection:
        """Return an adapter's figures and safety findings; raises AdapterError and HubError."""
        pulled = {f"{repo}@{row.commit_hash}": row.snapshot_path for repo, row in fetch.snapshots()}
        local = self._local(identifier)
        folder = local.folder if local else pulled.get(identifier)
        return replace(search.inspect(str(folder) if folder else _hub_id(identifier)), id=identifier)

    def load(self, identifier: str) -> str:
        """Load an adapter into the running engine and return the name under which it answers.

        Raises AdapterError where it does not fit the base or is damaged, UnsafeAdapterError where it is not safe,
        HubError where the Hub refuses, ConfigError where it is loaded already or does not fit into memory.
        """
        located = self._local(identifier)
        if located is None:
            repo, _, revision = _hub_id(identifier).partition("@")
            located = fetch.download(repo, revision or None)
        loaded = self._engine.name_of(located.folder)
        if loaded is not None:
            raise ConfigError(f"{identifier} is loaded already; it answers as {loaded}.")
        [name] = self._engine.add(located)
        return name

    def _runs(self, base: str) -> list[AdapterInfo]:
        """Return the finished runs on this machine that fit the base."""
        runs = finished_runs(self._root, [one for one in self._named if one.repo is None])
        adapters = [replace(search.describe_run(*run), id=run[0].resolve().name) for run in runs.values()]
        return [one for one in adapters if one.fits(base)]

    def _local(self, identifier: str) -> Located | None:
        """Return an adapter that the page knows on this machine, by its name or, under the root, its path."""
        for one in self._named:
            if one.name == identifier:
                return one
        for folder in self._root.glob("*"):
            if folder.is_dir() and identifier in (folder.name, str(folder)):
                return fetch.adapter(folder)
        return None


def finished_runs(root: Path, named: Iterable[Located]) -> Runs:
    """Return folder and record by the adapter's name: the named ones first, then those under `root`, newest first."""
    found: dict[Path, tuple[str, RunRecord]] = {}
    for one in named:
        if runfiles.is_finished(one.folder):
            try:
                found[one.folder.resolve()] = (one.name, records.load(one.folder))
            except (AdapterError, OSError) as error:
                log.warning("%s is left out: %s", one.folder, error)
    for folder, record in records.find(root):
        found.setdefault(folder.resolve(), (folder.name, record))
    runs: Runs = {}
    for folder, (name, record) in found.items():
        runs[runfiles.free_name(name, runs)] = (folder, record)
    return runs


def _matches(adapter: AdapterInfo, words: str) -> bool:
    text = " ".join((adapter.id, adapter.data, *adapter.labels)).casefold()
    return all(word in text for word in words.casefold().split())


def _hub_id(identifier: str) -> str:
    if fetch.hub_id(identifier) is None:
        raise AdapterError(f"{identifier!r} is no run that this page knows and no adapter on the Hub (USER/NAME).")
    return identifier
