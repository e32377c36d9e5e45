"""Data sets on the Hub, read with the datasets library as the same streams of rows as files."""

import posixpath
from collections.abc import Iterator
from functools import partial
from typing import Any

from lorahub.data.rows import Row, Table
from lorahub.errors import DataError, need, one_line

# The value of a row without a label in a column of class labels, for which the datasets library writes -1.
NO_LABEL = "no label (-1)"
_PROBE_SECONDS = 4.0
# The column types of the datasets library whose values are in the data set itself. To read one of the others (Image,
# Audio, Video, Pdf, …), the library opens the file that its cell names: any file of this machine or, with the token of
# the user, of any repository.
_VALUES = ("Value", "ClassLabel", "Json", "Array2D", "Array3D", "Array4D", "Array5D")
_LISTS = ("List", "LargeList", "Sequence")


def reachable(hub_id: str) -> bool:
    """Return whether the Hub answers for this data set within a few seconds."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(hub_id, timeout=_PROBE_SECONDS)
    except (HfHubHTTPError, OSError, ValueError):
        return False
    except Exception as error:
        # huggingface_hub uses httpx or httpx2, by its version; their errors share no base class.
        if type(error).__module__.startswith("httpx"):
            return False
        raise
    return True


def load(hub_id: str, *, revision: str | None, token: str | None = None) -> tuple[dict[str, Table], str]:
    """Return the splits of a Hub data set, with class labels as names, and its commit; raises DataError."""
    datasets = need("datasets", extra="train")
    from huggingface_hub import HfApi

    try:
        # A branch may move while it is read, so the commit is resolved first.
        commit = str(HfApi(token=token).dataset_info(hub_id, revision=revision).sha)
        builder = datasets.load_dataset_builder(hub_id, revision=commit, token=token)
        if builder.hash != commit:
            # If nothing there is readable, the library falls back to any other revision in its cache.
            raise DataError(f"the datasets library can read nothing at {commit}")
        check_files(builder)
        builder.download_and_prepare()
        splits = builder.as_dataset()
    except Exception as error:  # the errors of the library share no base class
        raise DataError(
            f"the data set {hub_id!r} cannot be loaded from the Hub ({one_line(error)}). "
            "Check the id and the network, or download it and give --data the folder."
        ) from error
    tables = {}
    for name, split in splits.items():
        names = [column for column, kind in split.features.items() if _is_value(kind)]
        title = f"{hub_id} ({name})"
        if not names and split.column_names:
            raise DataError(f"{title} has only columns of files ({', '.join(split.column_names)}), none of text.")
        classes = {column: split.features[column].names for column in names if _is_class(split.features[column])}
        rows = partial(_named, split.select_columns(names), classes)
        unread = tuple(column for column in split.column_names if column not in names)
        tables[name] = Table(title=title, columns=tuple(names), rows=rows, unread=unread)
    return tables, commit


def check_files(builder: Any) -> None:
    """Raise DataError if a data set's README names files outside of its repository.

    The library would read them with the token of the user. Its newer versions have the same check.
    """
    for files in (builder.config.data_files or {}).values():
        for file in map(str, files):
            if not posixpath.relpath(file, start="hf://").startswith(f"datasets/{builder.repo_id}@"):
                raise DataError(f"its README names {file}, which is outside of the repository")


def _is_value(kind: Any) -> bool:
    """Return whether the values of a column are in the data set itself; structs and lists hold other types."""
    if isinstance(kind, dict):
        return all(map(_is_value, kind.values()))
    if isinstance(kind, list):
        return all(map(_is_value, kind))
    name = type(kind).__name__
    return _is_value(kind.feature) if name in _LISTS else name in _VALUES


def _is_class(kind: Any) -> bool:
    return hasattr(kind, "names") and hasattr(kind, "int2str")


def _named(split: Any, classes: dict[str, list[str]]) -> Iterator[Row]:
    """Yield the rows with names in place of class indexes."""
    for row in split:
        yield row | {
            column: NO_LABEL if row[column] is None or row[column] < 0 else names[row[column]]
            for column, names in classes.items()
        }
