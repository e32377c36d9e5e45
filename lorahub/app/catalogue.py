"""Which adapters there are, and which the engine has: the runs here, what was pulled, and the Hub's.

In: words to search for, a base, an adapter's id. Out: plain values. A visitor names the runs that the page knows and
repositories on the Hub, and no other path of this machine.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lorahub import records
from lorahub.errors import AdapterError, ConfigError, HubError
from lorahub.hub import fetch, search
from lorahub.hub import inspect as hub_inspect
from lorahub.hub.fetch import Located
from lorahub.hub.inspect import Inspection
from lorahub.hub.search import Found
from lorahub.serving.engine.engine import Engine

# Where to look, in the visitor's words.
HERE, HUB = "this machine", "the Hub"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What was found; `missing` says why the Hub's adapters are not among it, and is empty where they are."""

    found: list[Found]
    missing: str


class Catalogue:
    """The adapters in reach of one engine: runs under `root`, those that were `named` at the start, and the Hub's."""

    def __init__(self, engine: Engine, root: Path, named: Iterable[Located] = ()) -> None:
        self._engine, self._root, self._named = engine, root, list(named)

    def listing(self, *, words: str = "", base: str = "", where: Sequence[str] = (HERE,)) -> Listing:
        """The adapters whose id, data or labels hold all the words, newest first.

        Raises ConfigError where no place to look is given, HubError where only the Hub was asked and did not answer.
        """
        if not where or set(where) - {HERE, HUB}:
            raise ConfigError(f"Choose where to look: {HERE}, {HUB}, or both.")
        found, missing = [], ""
        if HERE in where:
            found += [*self._runs(base), *search.cached(base or None)]
        if HUB in where:
            try:
                found += search.hub(base or None)
            except HubError as error:
                if HERE not in where:
                    raise
                missing = f"The Hub's adapters are not listed: {error}"
        return Listing(found=[item for item in search.sort(found, None) if _holds(item, words)], missing=missing)

    def inspect(self, identifier: str) -> Inspection:
        """One adapter with its figures and what speaks against loading it. Raises AdapterError and HubError."""
        pulled = {f"{repo}@{row.commit_hash}": row.snapshot_path for repo, row in fetch.snapshots()}
        here = self._here(identifier)
        folder = here.folder if here else pulled.get(identifier)
        return replace(hub_inspect.adapter(str(folder) if folder else _on_the_hub(identifier)), id=identifier)

    def load(self, identifier: str) -> str:
        """Load an adapter into the running engine and return the name under which it answers.

        Raises AdapterError where it does not fit the base or is damaged, UnsafeAdapterError where it is not safe,
        HubError where the Hub refuses, ConfigError where it is loaded already or there is no room for it.
        """
        found = self._here(identifier)
        if found is None:
            repo, _, revision = _on_the_hub(identifier).partition("@")
            found = fetch.download(repo, revision or None)
        there = self._engine.name_of(found.folder)
        if there is not None:
            raise ConfigError(f"{identifier} is loaded already; it answers as {there}.")
        [name] = self._engine.add(found)
        return name

    def _runs(self, base: str) -> list[Found]:
        """The finished runs on this machine, by their names: those that were named, and those under the root."""
        runs = records.find(self._root)
        others = {one.folder for one in self._named if one.repo is None} - {folder for folder, _ in runs}
        runs += [(folder, records.load(folder)) for folder in others if (folder / records.FILE_NAME).exists()]
        found = [replace(search.describe_run(folder, record), id=folder.resolve().name) for folder, record in runs]
        return [item for item in found if item.fits(base)]

    def _here(self, identifier: str) -> Located | None:
        """An adapter that the page knows on this machine, by its name or, under the root, its path."""
        under = {name: path for path in self._root.glob("*") if path.is_dir() for name in (path.name, str(path))}
        named = next((one for one in self._named if one.name == identifier), None)
        return named or (fetch.adapter(under[identifier]) if identifier in under else None)


def _holds(item: Found, words: str) -> bool:
    text = " ".join((item.id, item.data, *item.labels)).casefold()
    return all(word in text for word in words.casefold().split())


def _on_the_hub(identifier: str) -> str:
    if fetch.hub_id(identifier) is None:
        raise AdapterError(f"{identifier!r} is no run that this page knows and no adapter on the Hub (USER/NAME).")
    return identifier
