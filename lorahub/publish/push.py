"""`lorahub push`: publish a run folder on the Hub in one commit.

In: a run folder and `Options`. `plan` only reads: it decides what would change, and raises if something must not be
published or replaced. `send` makes the commit on top of the commit that the plan is based on. Files that the Hub has
already are not sent again, and without a change there is no commit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from lorahub import atomic, records, runfiles
from lorahub.errors import HubError, PublishError
from lorahub.hub import client, fetch, integrity, safety
from lorahub.publish import benchmark, export, guard, repository
from lorahub.publish.export import Export
from lorahub.publish.guard import PushHistory, Remote
from lorahub.publish.repository import MAIN, Repository
from lorahub.records import RunRecord
from lorahub.reports import cards, metadata, sections

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

# Licenses, by their ids on the Hub, that let an adapter of the base have the same license.
_PERMISSIVE = ("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "unlicense", "cc-by-4.0")
# Stands for the user in a dry run without a login.
_NOBODY = "YOUR-NAME"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a push. `repo` is USER/NAME, a name of your own, or None for the name of the run.

    With `dry_run` a plan is made without login or network too.
    """

    repo: str | None = None
    private: bool = False
    create_pr: bool = False
    revision: str = MAIN
    message: str | None = None
    collection: str | None = None
    base_id: str | None = None
    licence: str | None = None
    language: str | None = None
    benchmark: str | None = None
    force: bool = False
    dry_run: bool = False
    token: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The result of `plan`: the files to send (`changed`) and to delete, warnings (`worse`) and `notes`.

    `assumed_licence` says that nobody named a license, so that the card has that of the base or none.
    """

    folder: Path
    options: Options
    remote: Remote
    export: Export
    card: str
    changed: list[str]
    deleted: list[str]
    worse: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    assumed_licence: bool = False

    @property
    def bytes_to_send(self) -> int:
        """Total size of the changed files."""
        return sum(self.export.size(path) for path in self.changed)

    @property
    def repository(self) -> Repository:
        """The repository to push to."""
        return Repository(id=self.remote.repo, token=self.options.token)

    @property
    def branch(self) -> str:
        """USER/NAME@BRANCH, as in the history of pushes."""
        return f"{self.remote.repo}@{self.options.revision}"


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """The result of `send`; `commit` is the previous one if there was nothing to send."""

    repo: str
    commit: str
    url: str
    pull_request: str | None
    sent: list[str]
    bytes_sent: int


def plan(folder: Path, options: Options) -> Plan:
    """Decide what a push of `folder` would change; nothing is sent.

    Raises AdapterError if the run is unfinished or would not load, PublishError if it must not be published as it is or
    would replace changes that it does not know, HubError if the Hub refuses.
    """
    history = PushHistory.load(folder)
    files = export.collect(
        folder, base_id=options.base_id or history.base_id, token=options.token, offline=options.dry_run
    )
    safety.refuse(safety.local(folder), folder)
    _require_unchanged(folder)
    notes = []
    task = options.benchmark or history.benchmark
    try:
        if task:
            files.files[benchmark.FILE_NAME] = benchmark.entry(files.record, task, token=options.token)
        name = repository.full_id(options.repo or repository.as_name(files.record.name), token=options.token)
        target = Repository(id=name, token=options.token)
        remote = guard.look(target, options.revision, pushed=history.commits.get(f"{name}@{options.revision}"))
    except HubError as error:
        if not options.dry_run or not (error.unavailable or error.status == HTTPStatus.UNAUTHORIZED):
            raise
        name = options.repo or repository.as_name(files.record.name)
        name = name if "/" in name else f"{_NOBODY}/{name}"
        target, remote = Repository(id=name), Remote(repo=name)
        notes.append(f"what {name} holds now is not known: {error}")
    if not options.force and not options.create_pr:
        changed, deleted = _changes(files, remote.hashes)
        guard.check(remote, files, name=str(folder), replaced={*changed, *deleted})
    card, moved, assumed = _card(folder, files, remote, options)
    files.files[runfiles.CARD] = card.encode()
    export.scan(files, folder)
    changed, deleted = _changes(files, remote.hashes)
    notes += [*_notes(card, files.record, remote, options, assumed=assumed), *moved]
    proposed = history.pull_requests.get(f"{name}@{options.revision}") if options.create_pr else None
    if proposed and _is_published(files, target, proposed):
        changed, deleted = [], []
        notes.append(f"the pull request {proposed.rpartition('/')[2]} that you opened has the same content already")
    return Plan(
        folder=folder,
        options=options,
        remote=remote,
        export=files,
        card=card,
        changed=changed,
        deleted=deleted,
        worse=guard.worse(files.record, remote.record),
        notes=notes,
        assumed_licence=assumed,
    )


def _require_unchanged(folder: Path) -> None:
    """Raise PublishError if a file is not as the run wrote it: the record would describe another adapter."""
    changes = integrity.altered(folder, records.load(folder))
    if changes:
        more = f" (and {len(changes) - 1} more: lorahub scan {folder})" if len(changes) > 1 else ""
        raise PublishError(
            f"{folder} is not published, because it changed after the run: {changes[0]}{more}. Restore it or train "
            "again; --force does not apply."
        )


def send(push: Plan) -> Pushed:
    """Carry out a plan: create repository and branch if needed, make one commit, add it to the collection.

    A failure leaves the Hub as it was, and a second push continues from there. Raises HubError, with status 412 if the
    repository has changed since the plan was made, and PublishError if the answer to a pull request was lost.
    """
    options, target = push.options, push.repository
    head = _prepare(push)
    pull_request, commit = None, head
    if push.changed or push.deleted:
        if options.create_pr:
            proposed = _propose(push, head)
            commit, pull_request = str(proposed.oid), proposed.pr_url
        else:
            commit = _publish(push, head)
    if not options.create_pr:
        _remember(push, commit)
    if options.collection:
        slug = options.collection
        client.call(
            lambda: target.api.add_collection_item(slug, target.id, "model", exists_ok=True),
            doing=f"add {target} to {slug} (it is published, at {commit})",
        )
    return Pushed(
        repo=target.id,
        commit=commit,
        url=target.url,
        pull_request=pull_request,
        sent=[*push.changed],
        bytes_sent=push.bytes_to_send,
    )


def _card(folder: Path, files: Export, remote: Remote, options: Options) -> tuple[str, list[str], bool]:
    """Return the card to publish, notes, and whether nobody named its license.

    Its generated sections are those of the record, its other text is as it was edited here and on the Hub.
    """
    path = folder / runfiles.CARD
    probe = cards.probe(folder)
    generated = cards.render(files.record, probe=probe)
    merged = guard.merge_cards(
        runfiles.read_text(path) if path.exists() else generated, remote, generated=generated, force=options.force
    )
    matter = sections.front_matter(merged.card)
    licence = options.licence or matter.get("license")
    fresh = cards.render(
        files.record,
        probe=probe,
        repo=remote.repo,
        licence=licence or _base_licence(files.record, options),
        language=options.language or matter.get("language"),
    )
    own = sections.compose(
        {key: matter[key] for key in matter if key not in metadata.WRITTEN}, sections.body(merged.card)
    )
    notes = [f"text that was added inside the section {name} of the card now stands behind it" for name in merged.moved]
    notes += [f"the card has both texts where it was edited on the Hub and here: {place}" for place in merged.conflicts]
    return sections.merge(own, fresh), notes, licence is None


def _base_licence(record: RunRecord, options: Options) -> str | None:
    """Return the license of the base if it is permissive; None if it is not, or if it is not known."""
    environment = record.environment
    if environment.base_id == fetch.MINILM:
        return fetch.MINILM_LICENCE
    base = Repository(id=environment.base_id, token=options.token)
    try:
        info = client.call(
            lambda: base.api.model_info(base.id, revision=environment.base_revision), doing=f"show the base {base}"
        )
    except HubError:
        return None  # it may be private, or gone
    named = info.card_data.get("license") if info.card_data else None
    return named if named in _PERMISSIVE else None


def _notes(card: str, record: RunRecord, remote: Remote, options: Options, *, assumed: bool) -> list[str]:
    matter, notes = sections.front_matter(card), []
    if assumed and "license" in matter:
        notes.append(
            f"the license is {matter['license']}, that of the base {record.environment.base_id}; name another one with "
            "--license ID"
        )
    if "license" not in matter:
        notes.append("the card names no license, so nobody may use the adapter: name one with --license ID")
    if "language" not in matter:
        notes.append("the card names no language: name one with --language CODE")
    if options.private and remote.private is False:
        notes.append(f"{remote.repo} exists and is public; --private only applies to a new one: use its settings page")
    return notes


def _prepare(push: Plan) -> str:
    """Create the repository and the branch if needed, and return the parent of the new commit."""
    target, branch = push.repository, push.options.revision
    head = push.remote.head or target.create_new(private=push.options.private)
    if push.remote.branch is None and branch != MAIN:
        client.call(
            lambda: target.api.create_branch(target.id, branch=branch, revision=head, exist_ok=True),
            doing=f"create the branch {branch} of {target}",
        )
    return head


def _commit(push: Plan, head: str) -> "CommitInfo":
    from lorahub import __version__

    return push.repository.commit(
        {path: push.export.files[path] for path in push.changed},
        push.deleted,
        message=push.options.message or f"Publish {push.export.record.name} with lorahub {__version__}",
        parent=head,
        branch=push.options.revision,
        create_pr=push.options.create_pr,
    )


def _publish(push: Plan, head: str) -> str:
    """Make the commit and return its id, even if only the Hub's answer was lost."""
    target, branch = push.repository, push.options.revision
    try:
        return str(client.call(lambda: _commit(push, head), doing=f"take a commit for {target}").oid)
    except HubError as error:
        if error.status == HTTPStatus.PRECONDITION_FAILED and _is_published(push.export, target, branch):
            # An earlier attempt made the commit.
            return target.branches().get(branch, head)
        if push.remote.head is not None:
            raise
        left = f"{error} {target} was created and is empty; the next push fills it."
        raise HubError(left, status=error.status) from error


def _propose(push: Plan, head: str) -> "CommitInfo":
    """Open a pull request and remember its ref. One attempt only: a retry would open a second pull request."""
    proposed = client.once(
        lambda: _commit(push, head),
        doing=f"open a pull request on {push.repository}",
        lost=f"the pull request on {push.repository} was opened",
        done="been opened",
        look="at the repository's community page",
    )
    history = PushHistory.load(push.folder)
    history.pull_requests[push.branch] = str(proposed.pr_revision)
    history.save(push.folder)
    return proposed


def _changes(files: Export, hashes: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the files to send and those to delete, where the Hub has files with these hashes."""
    changed = [path for path in files.files if not repository.is_same(files.read(path), hashes.get(path))]
    ours = export.PUBLISHED | {benchmark.FILE_NAME}
    return changed, sorted(ours & hashes.keys() - files.files.keys())


def _is_published(files: Export, target: Repository, revision: str) -> bool:
    """Return whether a revision holds exactly these files of lorahub."""
    try:
        return _changes(files, target.hashes(revision)) == ([], [])
    except HubError:
        return False


def _remember(push: Plan, commit: str) -> None:
    """Save the push in the folder's history, and the published card in the folder."""
    history = PushHistory.load(push.folder)
    history.commits[push.branch] = commit
    if push.options.base_id:
        base = push.export.record.environment
        history.base_id = f"{base.base_id}@{base.base_revision}"
    history.benchmark = push.options.benchmark or history.benchmark
    history.save(push.folder)
    atomic.write_text(push.folder / runfiles.CARD, push.card)
