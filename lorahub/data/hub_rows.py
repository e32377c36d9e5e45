"""Data sets on the Hub, read through the datasets library into the same row streams as files."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lorahub.errors import DataError, need, one_line

_PROBE_SECONDS = 4.0


@dataclass(frozen=True, kw_only=True)
class HubRows:
    """Split name to (columns, rows on demand), and the commit that was read."""

    splits: dict[str, tuple[tuple[str, ...], Callable[[], Iterator[dict[str, Any]]]]]
    commit: str | None


def reachable(hub_id: str) -> bool:
    """Whether the Hub answers for this data set within a few seconds, or the set is in the local cache."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(hub_id, timeout=_PROBE_SECONDS)
    except (HfHubHTTPError, OSError, ValueError):
        return False
    except Exception as error:
        # httpx and httpx2 have error families of their own, and which one is installed is huggingface_hub's choice.
        if type(error).__module__.startswith("httpx"):
            return False
        raise
    return True


def load(hub_id: str, *, revision: str | None) -> HubRows:
    """Load every split of a Hub data set; raises DataError where it cannot be had."""
    datasets = need("datasets", extra="train")
    from huggingface_hub import HfApi

    try:
        found = datasets.load_dataset(hub_id, revision=revision)
        commit = HfApi().dataset_info(hub_id, revision=revision).sha
    except Exception as error:  # the library's errors have no common base: every one means "cannot be had"
        raise DataError(
            f"the data set {hub_id!r} cannot be loaded from the Hub ({one_line(error)}). "
            "Check the id and the network, or download it and give --data the folder."
        ) from error
    return HubRows(
        splits={
            name: (tuple(rows.column_names), lambda rows=rows: iter(rows))  # type: ignore[misc]
            for name, rows in found.items()
        },
        commit=commit,
    )
