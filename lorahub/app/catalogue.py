"""Catalogue of adapters: the runs on this machine, what was pulled, and the Hub's; loads one into the engine.

In: search words, a base, an adapter's id. Out: plain values. A visitor can name the runs that the page knows and
repositories on the Hub, but no other path of this machine. The Hub is asked without the owner's token, except for
repositories that the owner allows.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lorahub import records, runfiles
from lorahub.app.visitor_access import VisitorAccess
from lorahub.errors import AdapterError, ConfigError, HubError
from lorahub.hub import client, fetch, search
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
    """The adapters that match; `missing` says which are not listed because the Hub does not answer, if so."""

    adapters: list[AdapterInfo]
    missing: str


class Catalogue:
    """The adapters available to one engine: runs under `root`, those `named` at the start, and the Hub's.

    Of the Hub's, and of what was pulled from there, those that `access` lets visitors see.
    """

    def __init__(
        self, engine: Engine, root: Path, named: Iterable[Located] = (), access: VisitorAccess | None = None
    ) -> None:
        self._engine, self._root, self._named = engine, root, list(named)
        self._access = access or VisitorAccess()

    def runs(self, base: str = "") -> Listing:
        """Return the runs on this machine that fit the base, newest first, without what was pulled from the Hub."""
        return Listing(adapters=search.sort(self._runs(base), None), missing="")

    def listing(self, *, words: str = "", base: str = "", where: Sequence[str] = (HERE,)) -> Listing:
        """Return the adapters whose id, data or labels contain all the words, newest first.

        Raises ConfigError where `where` is not one or both of HERE and HUB, HubError where only the Hub is searched and
        it does not answer.
        """
        if not where or set(where) - {HERE, HUB}:
            raise ConfigError(f"Choose where to look: {HERE}, {HUB}, or both.")
        adapters, missing = [], []
        if HERE in where:
            pulled, reason = self._pulled(base)
            adapters += [*self._runs(base), *pulled]
            missing += [reason] if reason else []
        if HUB in where:
            try:
                adapters += self._on_hub(base)
            except HubError as error:
                if HERE not in where:
                    raise
                missing.append(f"The Hub's adapters are not listed: {error}")
        matching = [one for one in search.sort(adapters, None) if _matches(one, words)]
        return Listing(adapters=matching, missing=" ".join(missing))

    def inspect(self, identifier: str) -> Inspection:
        """Return an adapter's figures and safety findings; raises AdapterError and HubError."""
        local = self._local(identifier)
        if local is not None:
            return replace(search.inspect(str(local.folder.absolute())), id=identifier)
        repo, revision = _hub_id(identifier)
        self._access.check(repo)
        for name, row in fetch.snapshots(repo):
            if (name, row.commit_hash) == (repo, revision):
                return replace(search.inspect(str(row.snapshot_path)), id=identifier)
        return replace(search.inspect_remote(repo, revision, token=self._access.token(repo)), id=identifier)

    def load(self, identifier: str) -> str:
        """Load an adapter into the running engine and return the name under which it answers.

        Raises AdapterError where it does not fit the base, is damaged or not public, UnsafeAdapterError where it is not
        safe, HubError where the Hub refuses, ConfigError where it is loaded already or does not fit into memory.
        """
        located = self._local(identifier)
        if located is None:
            repo, revision = _hub_id(identifier)
            self._access.check(repo)
            located = fetch.download(repo, revision, token=self._access.token(repo))
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

    def _pulled(self, base: str) -> tuple[list[AdapterInfo], str]:
        """Return the adapters in the Hub's cache that visitors may see, and why some are not listed, if so."""
        pulled, reason = [], ""
        for one in search.cached(base or None):
            repo = one.id.partition("@")[0]
            # Where the Hub does not answer once, it is not asked again: a listing must not wait for each.
            if reason and self._access.token(repo) is False:
                continue
            try:
                pulled += [one] if self._access.sees(repo) else []
            except HubError as error:
                reason = f"Pulled adapters are not listed, because the Hub does not say which are public: {error}"
        return pulled, reason

    def _on_hub(self, base: str) -> list[AdapterInfo]:
        """Return the Hub's public adapters, and the private ones that the owner allows. Raises HubError."""
        adapters = search.hub(base or None, token=False)
        listed = {one.id for one in adapters}
        for repo in self._access.allowed:
            if repo not in listed:
                one = search.describe(client.call(partial(client.api().model_info, repo), doing=f"show {repo}"))
                adapters += [one] if one.fits(base) else []
        return adapters

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


def _hub_id(identifier: str) -> tuple[str, str | None]:
    hub_id = fetch.hub_id(identifier)
    if hub_id is None:
        raise AdapterError(f"{identifier!r} is neither a run of this page nor an adapter on the Hub (USER/NAME).")
    return hub_id
