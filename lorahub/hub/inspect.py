"""One adapter in full: what it is, its figures, and the safety findings, before its weights are downloaded.

In: a folder, a run's name, or a Hub id. Out: an `Inspection`. From the Hub come the description of the repository, two
small JSON files and the header of the weights.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from lorahub import records, runfiles
from lorahub.hub import client, fetch, rules, safety, search
from lorahub.hub.search import Found
from lorahub.reports import metadata


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """`found` is None for a folder without a record."""

    id: str
    report: safety.Report
    found: Found | None

    def to_dict(self) -> dict[str, Any]:
        """The plain form, ready for JSON."""
        return {
            "id": self.id,
            **(asdict(self.found) if self.found else {}),
            "labels": self.report.labels or (self.found.labels if self.found else []),
            "base": self.report.config.get("base_model_name_or_path"),
            "base_revision": self.report.config.get("revision"),
            "rank": self.report.config.get("r"),
            "parameters": self.parameters,
            "files": dict(self.report.files),
            "findings": [asdict(finding) for finding in self.report.findings],
            "safe": not self.report.refused,
        }

    @property
    def parameters(self) -> int:
        """Values in the adapter's tensors, heads included."""
        return sum(math.prod(shape) for shape in self.report.tensors.values())

    def lines(self) -> Iterator[tuple[str, str]]:
        """What a person reads, as (name, value)."""
        values, found = self.to_dict(), self.found
        yield "adapter", self.id
        if found and found.revision:
            yield "revision", found.revision
        pinned = f" at {values['base_revision']}" if values["base_revision"] else ""
        yield "base", f"{values['base']}{pinned}"
        yield "labels", ", ".join(map(str, values["labels"]))
        if found:
            yield "data", found.data
            for key, (_, name, _) in metadata.METRICS.items():
                if key in found.metrics:
                    yield f"{name} on test", f"{found.metrics[key]:.3f}"
            yield "licence", found.licence or "not named"
            yield "date", found.date[:10]
        yield "size", f"{self.report.files.get(rules.WEIGHTS_FILE, 0):,} bytes, {self.parameters:,} values"


def adapter(identifier: str, *, token: str | None = None) -> Inspection:
    """Look at one adapter; raises AdapterError where there is none, HubError where the Hub refuses."""
    wanted = fetch.remote_id(identifier)
    if wanted is None:
        folder = runfiles.locate(identifier)
        finished = runfiles.is_finished(folder)
        found = search.describe_run(folder, records.load(folder)) if finished else None
        return Inspection(id=str(identifier), report=safety.local(folder), found=found)
    repo, revision = wanted
    info = client.call(lambda: client.api(token).model_info(repo, revision=revision), doing=f"show {repo}")
    report = safety.remote(repo, str(info.sha), token=token)
    return Inspection(id=repo, report=report, found=search.describe(info))
