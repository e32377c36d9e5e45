"""Checks before a push: never replace what this run did not push, keep edits of the card, report worse figures.

In: a run folder's history of pushes, what its repository holds now, and what would be published. Out: a PublishError,
a merged card, or notes to show before anything is sent.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from lorahub import atomic, records, runfiles
from lorahub.errors import AdapterError, HubError, PublishError
from lorahub.publish.export import Export
from lorahub.publish.repository import Repository
from lorahub.records import RunRecord
from lorahub.reports import card_edits, cards, metadata, sections
from lorahub.runfiles import Part
from lorahub.stats.results import LOWER_IS_BETTER

HISTORY_FILE = runfiles.PUBLISHED
# What a new repository may hold before anything is pushed to it.
_DESCRIPTION = re.compile(r"\.gitattributes|\.gitignore|README\.md|LICEN[SC]E(\.\w+)?")
_SHOWN_LABELS = 10
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

    `head` is None if the repository does not exist, `branch` is None if the branch does not exist. `pushed` is the
    commit of this folder's last push, `pushed_card` the card there; None without one.
    """

    repo: str
    head: str | None = None
    branch: str | None = None
    private: bool | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    card: str | None = None
    record: RunRecord | None = None
    pushed: str | None = None
    pushed_hashes: Mapping[str, str] = field(default_factory=dict)
    pushed_card: str | None = None

    @property
    def foreign(self) -> list[str]:
        """Files of a repository without a run's record that are more than its description."""
        return [] if self.record else sorted(path for path in self.hashes if not _DESCRIPTION.fullmatch(path))


def look(repository: Repository, branch: str, *, pushed: str | None = None) -> Remote:
    """Return what a branch holds; for a new branch, what it would start from. Raises HubError.

    `pushed` is the commit of this folder's last push to the branch.
    """
    info = repository.info_if_exists()
    if info is None:
        return Remote(repo=repository.id)
    branches = repository.branches()
    head = branches.get(branch) or str(info.sha)
    hashes = repository.hashes(head)
    card = repository.card(head, hashes)
    pushed, pushed_hashes, pushed_card = _last_push(repository, pushed, head, hashes, card)
    return Remote(
        repo=repository.id,
        head=head,
        branch=branch if branch in branches else None,
        private=bool(info.private),
        hashes=hashes,
        card=card,
        record=_record(repository, head) if runfiles.RECORD in hashes else None,
        pushed=pushed,
        pushed_hashes=pushed_hashes,
        pushed_card=pushed_card,
    )


def _last_push(
    repository: Repository, pushed: str | None, head: str, hashes: Mapping[str, str], card: str | None
) -> tuple[str | None, Mapping[str, str], str | None]:
    """Return the commit of the last push with its files and card; nothing if the repository no longer has it."""
    if pushed in (None, head):
        return pushed, hashes if pushed else {}, card if pushed else None
    try:
        before = repository.hashes(pushed)
        return pushed, before, repository.card(pushed, before)
    except HubError as error:
        if error.status == HTTPStatus.NOT_FOUND:  # the repository was created again, or its history was squashed
            return None, {}, None
        raise


def _record(repository: Repository, head: str) -> RunRecord | None:
    try:
        return records.load(repository.download(runfiles.RECORD, head).parent)
    except AdapterError:
        return None  # unreadable, so the repository counts as another user's


def check(remote: Remote, export: Export, *, name: str, replaced: set[str]) -> None:
    """Raise PublishError if a push of the run `name` would replace something that is not an earlier push of it.

    That is: files that lorahub did not write, files changed on the Hub since this folder's last push, a classifier that
    another folder pushed, or one with other labels, data or method. `replaced` are the files that the push would
    replace or delete. The card is not among them: its text is kept.
    """
    fix = "check it there, then replace it with --force or push elsewhere."
    if remote.branch is None:
        return
    if remote.foreign and remote.head != remote.pushed:
        raise PublishError(f"{remote.repo} holds files that lorahub did not write ({remote.foreign[0]}): {fix}")
    paths = remote.pushed_hashes.keys() | remote.hashes.keys()
    changed = [path for path in paths & replaced if remote.pushed_hashes.get(path) != remote.hashes.get(path)]
    if remote.pushed and changed:
        raise PublishError(f"{remote.repo} has changed since your last push ({', '.join(sorted(changed)[:3])}): {fix}")
    if remote.record is None or not replaced:
        return
    others = _differences(export.record, remote.record)
    if remote.pushed is None or others:
        what = f"a classifier with other {' and '.join(others)}" if others else "a classifier of another folder"
        what += ", newer than this one" if remote.record.created > export.record.created else ""
        raise PublishError(
            f"{remote.repo} holds {what}: {_describe(remote.record)}. {name} is {_describe(export.record)}. "
            "Push it elsewhere, or replace the classifier there with --force."
        )


def _differences(run: RunRecord, published: RunRecord) -> list[str]:
    """Return which of labels, data and method differ."""
    data, other = run.environment.data, published.environment.data
    values = {
        "labels": run.labels == published.labels,
        "data": metadata.data_id(run) == metadata.data_id(published)
        and data.sha256.get("train") == other.sha256.get("train"),
        "method": run.config.adapter.method == published.config.adapter.method,
    }
    return [name for name, same in values.items() if not same]


def _describe(record: RunRecord) -> str:
    labels = ", ".join(record.labels[:_SHOWN_LABELS])
    more = len(record.labels) - _SHOWN_LABELS
    return (
        f"{record.config.adapter.method} on {record.environment.base_id} with the labels {labels}"
        f"{f' and {more} more' if more > 0 else ''}, trained on {record.environment.data.id} at {record.created}"
    )


def merge_cards(local: str, remote: Remote, *, generated: str, force: bool) -> card_edits.Merged:
    """Merge the edits of the card here and on the Hub since this folder's last push; see `card_edits.merge`.

    Without such a push the origin is the generated card with the metadata of the published run. Raises PublishError
    for edits that contradict each other; with `force` both texts are kept.
    """
    if remote.card is None:
        return card_edits.Merged(card=local, conflicts=(), moved=())
    origin = remote.pushed_card
    if origin is None:
        matter = sections.front_matter(generated if remote.record is None else cards.render(remote.record))
        outline = "\n".join(sections.outline(generated))
        origin = sections.compose(matter, f"{outline}\n")
    merged = card_edits.merge(origin, local, remote.card)
    if merged.conflicts and not force:
        raise PublishError(
            f"the card of {remote.repo} was edited on the Hub and here, in different ways: {merged.conflicts[0]}. Make "
            "README.md of the run the same there, or push with --force, which keeps both texts."
        )
    return merged


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
