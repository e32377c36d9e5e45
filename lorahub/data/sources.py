"""Finding data: a name, a Hub id, a folder or a file becomes streams of rows, one per split.

Looked up in this order: a named set (in `$LORAHUB_DATA/NAME`, in the package, on the Hub), a file or folder of that
path, the Hub. A folder that bears a set's name is given as `./NAME`. What was found is told by `kind`, so that a record
never claims more than what ran.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorahub.data import hub_rows, tables
from lorahub.data.named import DEFAULT, FALLBACK, NAMED, NamedSet, named_set
from lorahub.errors import DataError

SPLITS = ("train", "validation", "test")
# Other people's names for our splits; an exact name wins over an alias.
_ALIASES = {"valid": "validation", "val": "validation", "dev": "validation"}

Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split: its rows on demand, its columns, and the name that errors give it."""

    title: str
    columns: tuple[str, ...]
    rows: Callable[[], Rows]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where data was found. `id` is publishable: a Hub id, a set's name or a bare file name, never a path."""

    id: str
    kind: str
    splits: dict[str, Split]
    named: NamedSet | None = None
    revision: str | None = None
    note: str | None = None


def find(identifier: str, *, revision: str | None = None, split: str = "train", token: str | None = None) -> Source:
    """Locate a data set that has the split, or a train split; one file, or one split on the Hub, is `all`.

    One on the Hub may be `user/name@revision`. Raises DataError naming the places tried.
    """
    if identifier == "auto":
        return _find_auto(revision, split, token)
    path = Path(identifier)
    hub_id, _, at = identifier.partition("@")
    named = named_set(hub_id)
    local = _local_copy(identifier)
    if named and local:
        return Source(id=identifier, kind="local copy", splits=_folder_splits(local, split), named=named)
    if named and named.folder:
        return Source(id=identifier, kind="shipped", splits=_folder_splits(named.folder, split), named=named)
    if named is None and path.is_dir():
        return Source(id=path.resolve().name, kind="folder", splits=_folder_splits(path, split))
    if named is None and (path.exists() or path.suffix.lower() in tables.SUFFIXES):
        tables.check(path)
        return Source(id=path.name, kind="file", splits={"all": _file_split(path)})
    if named and named.hub_id is None:
        raise DataError(
            f"the data set {identifier!r} is not on the Hub. Put its train, validation and test files into "
            f"a folder {identifier}/ and set LORAHUB_DATA to the folder above it."
        )
    if named is None and hub_id.count("/") != 1:
        raise DataError(
            f"there is no data set {identifier!r}: it is no file, no folder, no Hub id (user/name) and none of "
            f"{', '.join(NAMED)}."
        )
    return _find_on_hub(hub_id, named, revision or at or None, split, token)


def _find_auto(revision: str | None, split: str, token: str | None) -> Source:
    wanted = NAMED[DEFAULT]
    if _local_copy(DEFAULT) or (wanted.hub_id and hub_rows.reachable(wanted.hub_id)):
        return find(DEFAULT, revision=revision, split=split, token=token)
    found = find(FALLBACK, split=split)
    note = f"{DEFAULT} cannot be reached, so the shipped {FALLBACK} is used; choose data with --data."
    return Source(id=found.id, kind=found.kind, splits=found.splits, named=found.named, note=note)


def _find_on_hub(hub_id: str, named: NamedSet | None, revision: str | None, split: str, token: str | None) -> Source:
    hub_id = named.hub_id if named and named.hub_id else hub_id
    found = hub_rows.load(hub_id, revision=revision or (named.revision if named else None), token=token)
    splits = {
        _ALIASES.get(name, name): Split(title=f"{hub_id} ({name})", columns=columns, rows=rows)
        for name, (columns, rows) in found.splits.items()
    }
    if splits and "train" not in splits and split not in splits:
        # A data set with one published split, whatever its name, is split by our seed.
        splits = {"all": next(iter(splits.values()))}
    return Source(id=hub_id, kind="hub", splits=splits, named=named, revision=found.commit)


def _local_copy(name: str) -> Path | None:
    root = os.environ.get("LORAHUB_DATA")
    folder = Path(root) / name if root else None
    return folder if folder is not None and name in NAMED and folder.is_dir() else None


def at_hand(identifier: str) -> bool:
    """Whether a named set lies on this machine, shipped or in `$LORAHUB_DATA`, so that it is read without the Hub."""
    named = named_set(identifier)
    return named is not None and (named.folder is not None or _local_copy(identifier) is not None)


def _folder_splits(folder: Path, split: str) -> dict[str, Split]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = _ALIASES.get(path.stem.lower(), path.stem.lower())
        if name not in SPLITS or path.suffix.lower() not in tables.SUFFIXES:
            continue
        if name in found:
            raise DataError(f"{folder} holds both {found[name].name} and {path.name} for {name}. Keep one of them.")
        found[name] = path
    if "train" not in found and split not in found:
        raise DataError(
            f"{folder} has no {split} file. A data folder holds train, validation and test, "
            f"each as one of {', '.join(tables.SUFFIXES)}; validation and test may be missing."
        )
    return {name: _file_split(found[name]) for name in SPLITS if name in found}


def _file_split(path: Path) -> Split:
    return Split(title=str(path), columns=tuple(tables.columns(path)), rows=lambda: tables.read(path))
