"""Data sets on the Hub, read with the datasets library as the same streams of rows as files."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from lorahub.data.tables import Row, Table
from lorahub.errors import DataError, need, one_line

# The value of a row without a label in a column of class labels, for which the datasets library writes -1.
NO_LABEL = "no label (-1)"
_PROBE_SECONDS = 4.0


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
        builder.download_and_prepare()
        splits = builder.as_dataset()
    except Exception as error:  # the errors of the library share no base class
        raise DataError(
            f"the data set {hub_id!r} cannot be loaded from the Hub ({one_line(error)}). "
            "Check the id and the network, or download it and give --data the folder."
        ) from error
    tables = {}
    for name, split in splits.items():
        classes = {column: kind.names for column, kind in split.features.items() if _is_class(kind)}
        rows = partial(_named, split, classes)
        tables[name] = Table(title=f"{hub_id} ({name})", columns=tuple(split.column_names), rows=rows)
    return tables, commit


def _is_class(kind: Any) -> bool:
    return hasattr(kind, "names") and hasattr(kind, "int2str")


def _named(split: Any, classes: dict[str, list[str]]) -> Iterator[Row]:
    """Yield the rows with names in place of class indexes."""
    for row in split:
        yield row | {
            column: NO_LABEL if row[column] is None or row[column] < 0 else names[row[column]]
            for column, names in classes.items()
        }
