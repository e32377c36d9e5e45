"""Find adapters on the Hub, under `runs/` and in the Hub's cache, and inspect one before its weights are downloaded.

In: the id of a base, or of an adapter. Out: `AdapterInfo` rows with figures from cards and records, or an `Inspection`
with the safety findings. From the Hub only its listing, two small JSON files and the header of the weights are read.
"""

import datetime
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorahub import records, runfiles
from lorahub.errors import ConfigError, HubError, LorahubError, one_line
from lorahub.hub import client, fetch, integrity, safety, scan
from lorahub.hub.scan import Verdict
from lorahub.records import RunRecord
from lorahub.reports import metadata, tables
from lorahub.stats.results import LOWER_IS_BETTER

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

log = logging.getLogger(__name__)

HEADER = ("adapter", "where", "base", "data", "labels", "accuracy", "macro F1", "size", "date")
_DAY = len("2026-01-01")
# Of what a card says; a list shows less.
_LONGEST_TEXT, _MOST_ITEMS, _MOST_SHOWN = 500, 100, 30
_METRIC_KEYS = {name: key for key, (_, name, _) in metadata.METRICS.items()}


@dataclass(frozen=True, kw_only=True)
class AdapterInfo:
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
        """Return whether it was trained on this base; any base fits None."""
        return not base or self.base.lower() == base_id(base).lower()


def hub(base: str | None = None, *, limit: int = 100, token: client.Token = None) -> list[AdapterInfo]:
    """List adapters on the Hub: all of a base, or without one those that lorahub published. Raises HubError."""
    tag = f"base_model:adapter:{base_id(base)}" if base else "lorahub"
    expand: list[Any] = ["cardData", "tags", "lastModified", "sha", "usedStorage"]
    api = client.api(token)

    def rows_with(fields: list[Any]) -> "list[ModelInfo]":
        listed = partial(api.list_models, filter=[tag], expand=fields, limit=limit)
        return client.call(lambda: list(islice(listed(), limit)), doing="list adapters")

    try:
        rows = rows_with(expand)
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        # One card that huggingface_hub cannot read ends its whole listing.
        log.warning("adapters are listed without what their cards say: one cannot be read (%s)", one_line(error))
        rows = rows_with([field for field in expand if field != "cardData"])
    adapters = []
    for row in rows:
        try:
            adapters.append(describe(row))
        except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
            log.warning("%s is left out: its card cannot be read (%s)", row.id, one_line(error))
    return adapters


def here(root: Path, base: str | None = None) -> list[AdapterInfo]:
    """List the finished runs under `root`, without those whose record is damaged."""
    runs = [describe_run(folder, record) for folder, record in records.find(root)]
    return [run for run in runs if run.fits(base)]


def cached(base: str | None = None) -> list[AdapterInfo]:
    """List the adapters with a record in the Hub's cache, the newest commit of each; works offline."""
    adapters: dict[str, AdapterInfo] = {}
    for repo, row in fetch.snapshots():
        try:
            info = describe_run(row.snapshot_path, records.load(row.snapshot_path))
        except (LorahubError, OSError):
            continue  # not one of lorahub's, or damaged
        commit = row.commit_hash
        adapters.setdefault(repo, replace(info, id=f"{repo}@{commit}", where="cache", revision=commit))
    return [info for info in adapters.values() if info.fits(base)]


def describe_run(folder: Path, record: RunRecord) -> AdapterInfo:
    """Return the description of a run on this machine from its record."""
    weights = folder / runfiles.PEFT.weights
    adapter = record.results.get("test", {}).get("adapter")
    return AdapterInfo(
        id=str(folder),
        where="here",
        base=record.environment.base_id,
        data=record.environment.data.id,
        labels=record.labels,
        date=record.created,
        size_bytes=weights.stat().st_size if weights.is_file() else None,
        metrics={key: adapter.metric(key) for key in metadata.METRICS} if adapter else {},
    )


def describe(info: "ModelInfo") -> AdapterInfo:
    """Return the description of a repository from the Hub's own; what its card holds may be of any type."""
    card = info.card_data.to_dict() if info.card_data else {}  # type: ignore[no-untyped-call]
    results = [row for row in (getattr(info.card_data, "eval_results", None) or []) if row.dataset_split == "test"]
    names = card.get("label_names")
    when = info.last_modified or info.created_at or datetime.datetime.fromtimestamp(0, datetime.UTC)
    licence = card.get("license")
    return AdapterInfo(
        id=info.id,
        where="hub",
        base=", ".join(_as_list(card.get("base_model"))),
        data=_text(results[0].dataset_name) if results else ", ".join(_as_list(card.get("datasets"))),
        labels=_as_list(names) if isinstance(names, list) else [],
        date=when.isoformat(timespec="seconds"),
        size_bytes=info.used_storage if isinstance(info.used_storage, int) else None,
        revision=info.sha,
        licence=None if licence is None else _text(licence),
        metrics={
            _METRIC_KEYS[row.metric_name]: float(row.metric_value)
            for row in results
            if isinstance(row.metric_name, str) and row.metric_name in _METRIC_KEYS and _is_share(row.metric_value)
        },
    )


def row(info: AdapterInfo) -> tuple[str, ...]:
    """Return the cells of a table row under `HEADER`."""
    return (
        info.id,
        info.where,
        info.base,
        info.data,
        ", ".join(info.labels) or "?",
        *(f"{info.metrics[key]:.3f}" if key in info.metrics else "-" for key in ("accuracy", "f1_macro")),
        tables.size(info.size_bytes) if info.size_bytes else "-",
        info.date[:_DAY],
    )


def sort(adapters: Iterable[AdapterInfo], by: str | None) -> list[AdapterInfo]:
    """Sort best first by a metric, with missing values last; without a metric newest first. Raises ConfigError."""
    if by is None:
        return sorted(adapters, key=lambda info: info.date, reverse=True)
    if by not in metadata.METRICS:
        raise ConfigError(f"--sort is one of {', '.join(metadata.METRICS)}; found {by!r}.")
    sign = 1 if by in LOWER_IS_BETTER else -1
    return sorted(adapters, key=lambda info: sign * info.metrics[by] if by in info.metrics else float("inf"))


def base_id(base: str) -> str:
    """Return the Hub id of a base; `minilm` is a short name."""
    return fetch.MINILM if base == "minilm" else base


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _text(value: Any) -> str:
    """Return a value of a card as text of bounded length."""
    return (value if isinstance(value, str) else repr(value))[:_LONGEST_TEXT]


def _as_list(value: Any) -> list[str]:
    """Return the entries of a list in a card, or its only entry, as texts."""
    items = [] if value is None else value if isinstance(value, list | tuple) else [value]
    return [_text(item) for item in items[:_MOST_ITEMS]]


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The safety report and the description of an adapter; `info` is None for a folder without a record.

    `altered` are the differences between the files and the record of the run.
    """

    id: str
    report: safety.Report
    info: AdapterInfo | None
    altered: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Whether the adapter is safe to load."""
        return scan.judge(self.id, self.report, altered=self.altered)

    @property
    def parameters(self) -> int:
        """Number of values in the adapter's tensors, including heads."""
        return sum(math.prod(shape) for shape in self.report.tensors.values())

    @property
    def labels(self) -> list[str]:
        """The label names, from labels.json or else from the card."""
        return self.report.labels or (self.info.labels if self.info else [])

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        config = self.report.config
        return {
            **(asdict(self.info) if self.info else {}),
            # The one by which it was asked for: the other may be a path of this machine.
            "id": self.id,
            "labels": self.labels,
            "base": config.get("base_model_name_or_path"),
            "base_revision": config.get("revision"),
            "rank": config.get("r"),
            "parameters": self.parameters,
            "files": dict(self.report.files),
            "safety": asdict(self.verdict),
        }

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield (name, value) pairs to print."""
        config, info = self.report.config, self.info
        yield "adapter", self.id
        if info and info.revision:
            yield "revision", info.revision
        pinned = f" at {config['revision']}" if config.get("revision") else ""
        yield "base", f"{config.get('base_model_name_or_path')}{pinned}"
        more = "" if len(self.labels) <= _MOST_SHOWN else f" and {len(self.labels) - _MOST_SHOWN:,} more"
        yield "labels", ", ".join(self.labels[:_MOST_SHOWN]) + more
        if info:
            yield "data", info.data
            for key, (_, name, _) in metadata.METRICS.items():
                if key in info.metrics:
                    yield f"{name} on test", f"{info.metrics[key]:.3f}"
            yield "license", info.licence or "not named"
            yield "date", info.date[:10]
        yield "size", f"{self.report.files.get(runfiles.PEFT.weights, 0):,} bytes, {self.parameters:,} values"


def inspect(identifier: str, *, token: client.Token = None) -> Inspection:
    """Inspect one adapter; raises AdapterError if it does not exist, HubError if the Hub refuses."""
    remote = fetch.remote_id(identifier)
    if remote is None:
        return _inspect_folder(str(identifier), runfiles.locate(identifier))
    return inspect_remote(*remote, token=token)


def inspect_remote(repo: str, revision: str | None = None, *, token: client.Token = None) -> Inspection:
    """Inspect an adapter on the Hub, even if a local folder has its name; raises HubError if the Hub refuses.

    If the Hub is not available, the commit in the cache is inspected, but not for False as token.
    """
    commit = revision
    try:
        model = client.call(lambda: client.api(token).model_info(repo, revision=revision), doing=f"show {repo}")
        commit = str(model.sha)
        report = safety.remote(repo, commit, token=token)
    except HubError as error:
        if token is False:
            raise
        folder = fetch.cached(repo, commit, error)
        return _inspect_folder(repo, folder)
    return Inspection(id=repo, report=report, info=describe(model))


def _inspect_folder(name: str, folder: Path) -> Inspection:
    record = records.load(folder) if runfiles.is_finished(folder) else None
    report = safety.local(folder)
    return Inspection(
        id=name,
        report=report,
        info=describe_run(folder, record) if record else None,
        altered=integrity.altered(folder, record) if record and not report.refused else (),
    )
