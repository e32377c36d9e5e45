"""Checks before a push: never replace changes that this run does not know, and report figures that got worse.

In: a run folder's history of pushes, what its repository holds now, and what would be published. Out: a PublishError,
or notes to show before anything is sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lorahub import atomic, records, runfiles
from lorahub.errors import AdapterError, PublishError
from lorahub.publish.export import PUBLISHED, Export
from lorahub.publish.repository import Repository
from lorahub.records import RunRecord
from lorahub.reports import metadata, sections
from lorahub.runfiles import Part
from lorahub.stats.results import LOWER_IS_BETTER

HISTORY_FILE = "published.json"
# Differences that the rounded figures of a card do not show.
_ROUNDING = 5e-4


class PushHistory(Part):
    """The pushes of a run folder: `published.json`, which stays on this machine.

    `commits` and `pull_requests` map USER/NAME@BRANCH to the last commit and to the ref of the last pull request.
    `base_id` is USER/NAME@REVISION, `benchmark` is TASK=METRIC.
    """

    commits: dict[str, str] = {}
    pull_requests: dict[str, str] = {}
    base_id: str | None = None
    benchmark: str | None = None

    @classmethod
    def load(cls, folder: Path) -> "PushHistory":
        """Read the history of a folder; it is empty if the file is missing or damaged, and records are compared."""
        try:
            return runfiles.read_json(folder / HISTORY_FILE, cls)
        except AdapterError:
            return cls()

    def save(self, folder: Path) -> None:
        """Write the file, atomically."""
        atomic.write_json(folder / HISTORY_FILE, self.model_dump())


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A branch of a model repository: its commit, the hashes of its files, its card and its run record.

    `head` is None if the repository does not exist, `branch` is None if the branch does not exist.
    """

    repo: str
    head: str | None = None
    branch: str | None = None
    private: bool | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    card: str | None = None
    record: RunRecord | None = None

    @property
    def foreign(self) -> list[str]:
        """Files with the names of a run's files that lorahub did not write, because there is no record."""
        return [] if self.record else sorted(PUBLISHED & self.hashes.keys())


def look(repository: Repository, branch: str) -> Remote:
    """Return what a branch holds; for a new branch, what it would start from. Raises HubError."""
    info = repository.info_if_exists()
    if info is None:
        return Remote(repo=repository.id)
    branches = repository.branches()
    head = branches.get(branch) or str(info.sha)
    hashes = repository.hashes(head)
    return Remote(
        repo=repository.id,
        head=head,
        branch=branch if branch in branches else None,
        private=bool(info.private),
        hashes=hashes,
        card=repository.card(head, hashes),
        record=_record(repository, head) if runfiles.RECORD in hashes else None,
    )


def _record(repository: Repository, head: str) -> RunRecord | None:
    try:
        return records.load(repository.download(runfiles.RECORD, head).parent)
    except AdapterError:
        return None  # unreadable, so the repository counts as another user's


def check(repository: Repository, remote: Remote, export: Export, *, replaced: set[str], known: str | None) -> None:
    """Raise PublishError if the repository holds something newer than, or unrelated to, this run.

    `replaced` are the files that the push would replace or delete. The card is not among them: its text is kept.
    `known` is the commit of this folder's last push.
    """
    fix = "check it there, then replace it with --force or push elsewhere."
    if remote.head is None or remote.head == known:
        return
    if remote.foreign:
        raise PublishError(f"{remote.repo} holds files that lorahub did not write ({remote.foreign[0]}): {fix}")
    if known is not None:
        before = repository.hashes(known)
        paths = before.keys() | remote.hashes.keys()
        changed = sorted(path for path in paths & replaced if before.get(path) != remote.hashes.get(path))
        if changed:
            raise PublishError(f"{remote.repo} has changed since your last push ({', '.join(changed[:3])}): {fix}")
    if remote.record is not None and remote.record.created > export.record.created:
        raise PublishError(
            f"{remote.repo} holds the run {remote.record.name} of {remote.record.created}, newer than this one of "
            f"{export.record.created}: {fix}"
        )


def choose_card(local: str, remote: Remote, *, generated: str, known: str | None, force: bool) -> str:
    """Return the card whose text is kept: the one that was edited; of two, the local one if it builds on the other.

    Raises PublishError if the card was edited here and, since the last push, on the Hub too.
    """
    own = sections.own
    if remote.card is None or own(remote.card) in (own(local), own(generated)):
        return local
    if own(local) == own(generated):
        return remote.card
    if force or remote.head == known:
        return local
    raise PublishError(
        f"the card of {remote.repo} was edited on the Hub and here. Copy what you want to keep into README.md of the "
        "run and push with --force."
    )


def worse(record: RunRecord, published: RunRecord | None) -> list[str]:
    """Return a sentence for each test metric that is worse than the published one."""
    if published is None:
        return []
    new, old = (run.results.get("test", {}).get("adapter") for run in (record, published))
    if new is None or old is None:
        return []
    same_claims = record.environment.data.sha256.get("test") == published.environment.data.sha256.get("test")
    where = "" if same_claims else ", though on other test claims"
    lines = []
    for key, (_, name, _) in metadata.METRICS.items():
        value, before = new.metric(key), old.metric(key)
        loss = value - before if key in LOWER_IS_BETTER else before - value
        if loss > _ROUNDING:
            lines.append(f"{name} is {value:.3f}, worse than the published {before:.3f}{where}")
    return lines
