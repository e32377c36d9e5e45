"""Finding adapters: on the Hub, under `runs/` and in the Hub's cache, with what cards and records say of them.

In: a base's id, or nothing. Out: `Found` rows. Nothing is downloaded but what the Hub's listing holds.
"""

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorahub import records
from lorahub.errors import ConfigError, LorahubError
from lorahub.hub import client, fetch, rules
from lorahub.records import RunRecord
from lorahub.reports import metadata, tables
from lorahub.stats.results import LOWER_IS_BETTER

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

HEADER = ("adapter", "where", "base", "data", "labels", "accuracy", "macro F1", "size", "date")
_DAY = len("2026-01-01")
_NAMES = {name: key for key, (_, name, _) in metadata.METRICS.items()}


@dataclass(frozen=True, kw_only=True)
class Found:
    """One adapter. `metrics` are those on its own test split; `where` is hub, here or cache."""

    id: str
    where: str
    base: str
    data: str
    labels: list[str]
    date: str
    size_bytes: int | None = None
    revision: str | None = None
    licence: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    def fits(self, base: str | None) -> bool:
        """Whether it was trained on this base; any will do without one."""
        return not base or self.base.lower() == base_id(base).lower()


def hub(base: str | None = None, *, limit: int = 100, token: str | None = None) -> list[Found]:
    """Adapters on the Hub: of a base whoever made them, or without one all that lorahub published. Raises HubError."""
    wanted = f"base_model:adapter:{base_id(base)}" if base else "lorahub"
    api = client.api(token)
    rows = client.call(
        lambda: list(
            islice(
                api.list_models(
                    filter=[wanted],
                    expand=["cardData", "tags", "lastModified", "sha", "usedStorage"],
                    limit=limit,
                ),
                limit,
            )
        ),
        doing="list adapters",
    )
    return [describe(row) for row in rows]


def here(root: Path, base: str | None = None) -> list[Found]:
    """Finished runs under `root`; those with a damaged record are left out."""
    found = [describe_run(folder, record) for folder, record in records.find(root)]
    return [item for item in found if item.fits(base)]


def cached(base: str | None = None) -> list[Found]:
    """Adapters with a record in the Hub's cache, as `pull` leaves them, the newest commit of each; asks nobody."""
    found: dict[str, Found] = {}
    for repo, row in fetch.snapshots():
        try:
            item = describe_run(row.snapshot_path, records.load(row.snapshot_path))
        except (LorahubError, OSError):
            continue  # no adapter of lorahub's, or damaged
        commit = row.commit_hash
        found.setdefault(repo, replace(item, id=f"{repo}@{commit}", where="cache", revision=commit))
    return [item for item in found.values() if item.fits(base)]


def describe_run(folder: Path, record: RunRecord) -> Found:
    """What a run's record says."""
    environment, weights = record.environment, folder / rules.WEIGHTS_FILE
    adapter = record.results.get("test", {}).get("adapter")
    return Found(
        id=str(folder),
        where="here",
        base=environment.base_id,
        data=environment.data.id,
        labels=record.labels,
        date=record.created,
        size_bytes=weights.stat().st_size if weights.is_file() else None,
        metrics={key: adapter.metric(key) for key in metadata.METRICS} if adapter else {},
    )


def describe(info: "ModelInfo") -> Found:
    """What the Hub's own description of a repository says."""
    card: dict[str, Any] = info.card_data.to_dict() if info.card_data else {}  # type: ignore[no-untyped-call]
    results = [row for row in (getattr(info.card_data, "eval_results", None) or []) if row.dataset_split == "test"]
    names, datasets = card.get("label_names"), card.get("datasets")
    when = info.last_modified or info.created_at or datetime.datetime.fromtimestamp(0, datetime.UTC)
    return Found(
        id=info.id,
        where="hub",
        base=", ".join(_listed(card.get("base_model"))),
        data=results[0].dataset_name if results else ", ".join(_listed(datasets)),
        labels=[str(name) for name in names] if isinstance(names, list) else [],
        date=when.isoformat(timespec="seconds"),
        size_bytes=info.used_storage,
        revision=info.sha,
        licence=card.get("license"),
        metrics={
            _NAMES[row.metric_name]: float(row.metric_value)
            for row in results
            if row.metric_name in _NAMES and isinstance(row.metric_value, int | float)
        },
    )


def row(item: Found) -> tuple[str, ...]:
    """What a person reads of an adapter, under `HEADER`."""
    return (
        item.id,
        item.where,
        item.base,
        item.data,
        ", ".join(item.labels) or "?",
        *(f"{item.metrics[key]:.3f}" if key in item.metrics else "-" for key in ("accuracy", "f1_macro")),
        tables.size(item.size_bytes) if item.size_bytes else "-",
        item.date[:_DAY],
    )


def sort(found: Iterable[Found], by: str | None) -> list[Found]:
    """Best first by a metric, those without it last; without one, newest first. Raises ConfigError."""
    if by is None:
        return sorted(found, key=lambda item: item.date, reverse=True)
    if by not in metadata.METRICS:
        raise ConfigError(f"--sort is one of {', '.join(metadata.METRICS)}; found {by!r}.")
    sign = 1 if by in LOWER_IS_BETTER else -1
    return sorted(found, key=lambda item: sign * item.metrics[by] if by in item.metrics else float("inf"))


def base_id(base: str) -> str:
    """The Hub id of a base; `minilm` is one's short name."""
    return fetch.MINILM if base == "minilm" else base


def _listed(value: str | Sequence[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else [str(item) for item in value or []]
