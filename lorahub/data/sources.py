"""Find a data set by name, Hub id, folder or file, and open it as one stream of rows per split.

Search order: a named set (in `$LORAHUB_DATA/NAME`, in the package, on the Hub), a file or folder at that path, the Hub.
Write `./NAME` for a folder that has the name of a named set. `kind` is the kind of place that holds the data.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from lorahub.data import hub_rows, tables
from lorahub.data.named import DEFAULT, FALLBACK, NAMED, NamedSet, named_set
from lorahub.data.rows import Table
from lorahub.errors import DataError

SPLITS = ("train", "validation", "test")
# Other common names of the splits.
_ALIASES = {"valid": "validation", "val": "validation", "dev": "validation"}


@dataclass(frozen=True, kw_only=True)
class Source:
    """A located data set. `id` can be published: a Hub id, a name or a bare file name, never a path.

    `revision` is the commit of a Hub data set; `note` is a warning for the user.
    """

    id: str
    kind: str
    splits: dict[str, Table]
    named: NamedSet | None = None
    revision: str | None = None
    note: str | None = None


def find(
    identifier: str,
    *,
    revision: str | None = None,
    split: str = "train",
    sheet: str | None = None,
    token: str | None = None,
) -> Source:
    """Find a data set that has `split` or a train split; a single file, or a single split on the Hub, is `all`.

    A Hub id may have a revision: `user/name@revision`. `sheet` is that of xlsx files. Raises DataError naming what was
    tried.
    """
    if identifier == "auto":
        return _find_auto(revision, split, token)
    path = Path(identifier)
    hub_id, _, at = identifier.partition("@")
    named = named_set(hub_id)
    local = _local_copy(identifier)
    if named and local:
        return Source(id=identifier, kind="local copy", splits=_folder_splits(local, split, sheet), named=named)
    if named and named.folder:
        return Source(id=identifier, kind="shipped", splits=_folder_splits(named.folder, split, sheet), named=named)
    if named is None and path.is_dir():
        return Source(id=path.resolve().name, kind="folder", splits=_folder_splits(path, split, sheet))
    if named is None and (path.exists() or path.suffix.lower() in tables.SUFFIXES):
        return Source(id=path.name, kind="file", splits={"all": tables.open_table(path, sheet=sheet)})
    if sheet is not None:
        raise DataError(f"data.sheet={sheet} is for xlsx files, but {identifier!r} is none. Leave it out.")
    if named and named.hub_id is None:
        raise DataError(
            f"the data set {identifier!r} is not on the Hub. Put its train, validation and test files into "
            f"a folder {identifier}/ and set LORAHUB_DATA to the folder above it."
        )
    if named is None and hub_id.count("/") != 1:
        raise DataError(
            f"there is no data set {identifier!r}: it is not a file, a folder, a Hub id (user/name) or one of "
            f"{', '.join(NAMED)}."
        )
    return _find_on_hub(hub_id, named, revision or at or None, split, token)


def _find_auto(revision: str | None, split: str, token: str | None) -> Source:
    wanted = NAMED[DEFAULT]
    if _local_copy(DEFAULT) or (wanted.hub_id and hub_rows.reachable(wanted.hub_id)):
        return find(DEFAULT, revision=revision, split=split, token=token)
    note = f"{DEFAULT} cannot be reached, so the shipped {FALLBACK} is used; choose data with --data."
    return replace(find(FALLBACK, split=split), note=note)


def _find_on_hub(hub_id: str, named: NamedSet | None, revision: str | None, split: str, token: str | None) -> Source:
    hub_id = named.hub_id if named and named.hub_id else hub_id
    loaded, commit = hub_rows.load(hub_id, revision=revision or (named.revision if named else None), token=token)
    splits = {_ALIASES.get(name, name): table for name, table in loaded.items()}
    if splits and "train" not in splits and split not in splits:
        # The first split of a data set without train, whatever its name, is split by the seed.
        splits = {"all": next(iter(splits.values()))}
    return Source(id=hub_id, kind="hub", splits=splits, named=named, revision=commit)


def _local_copy(name: str) -> Path | None:
    root = os.environ.get("LORAHUB_DATA")
    folder = Path(root) / name if root else None
    return folder if folder is not None and name in NAMED and folder.is_dir() else None


def at_hand(identifier: str) -> bool:
    """Return whether a named set is shipped or in `$LORAHUB_DATA`, so that it is read without the Hub."""
    named = named_set(identifier)
    return named is not None and (named.folder is not None or _local_copy(identifier) is not None)


def _folder_splits(folder: Path, split: str, sheet: str | None = None) -> dict[str, Table]:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = _ALIASES.get(path.stem.lower(), path.stem.lower())
        if name not in SPLITS or path.suffix.lower() not in tables.SUFFIXES:
            continue
        if name in files:
            raise DataError(f"{folder} holds both {files[name].name} and {path.name} for {name}. Keep one of them.")
        files[name] = tables.check(path, folder=folder)
    if "train" not in files and split not in files:
        raise DataError(
            f"{folder} has no {split} file. A data folder holds train, validation and test, "
            f"each as one of {', '.join(tables.SUFFIXES)}; validation and test may be missing."
        )
    return {name: tables.open_table(files[name], sheet=sheet) for name in SPLITS if name in files}
