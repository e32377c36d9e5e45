"""`lorahub push`: a run folder becomes one commit on the Hub, or nothing does.

In: a run folder and `Options`. `plan` only reads: it decides what would change and refuses what should not be replaced.
`send` makes the commit from that plan, on top of the commit that the plan has seen. What is on the Hub already is not
sent again, and a folder without a change makes no commit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from lorahub import atomic
from lorahub.errors import HubError
from lorahub.hub import client, safety
from lorahub.publish import benchmark, export, guard, remote
from lorahub.publish.export import CARD_FILE, Export
from lorahub.publish.published import Published
from lorahub.publish.remote import Remote
from lorahub.reports import cards, metadata, sections

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

MAIN = "main"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the person asked for; `repo` is `user/name`, a name of their own, or None for the run's own name."""

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
    token: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a push would do: `changed` files are sent, `deleted` ones removed, the others are there already."""

    folder: Path
    options: Options
    remote: Remote
    export: Export
    card: str
    changed: list[str]
    deleted: list[str]
    worse: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def bytes_to_send(self) -> int:
        """Bytes of the files that are not on the Hub yet."""
        return sum(self.export.size(path) for path in self.changed)


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """Where it is now. `commit` is unchanged from before where there was nothing to send."""

    repo: str
    commit: str
    url: str
    pull_request: str | None
    sent: list[str]
    bytes_sent: int


def plan(folder: Path, options: Options) -> Plan:
    """Decide what a push of `folder` would do; nothing is sent.

    Raises AdapterError where the run is unfinished or would not load, PublishError where it must not be published as it
    is or would replace what this run does not know, HubError where the Hub refuses.
    """
    memory = Published.load(folder)
    found = export.collect(folder, base_id=options.base_id or memory.base_id, token=options.token)
    safety.refuse(safety.local(folder), folder)
    wanted = options.benchmark or memory.benchmark
    if wanted:
        found.files[benchmark.FILE_NAME] = benchmark.entry(found.record, wanted, token=options.token)
    repo = remote.full_id(options.repo or remote.as_name(found.record.name), token=options.token)
    there = remote.look(repo, options.revision, token=options.token)
    known = memory.commits.get(f"{repo}@{options.revision}")
    if not options.force and not options.create_pr:
        replaced = {path for paths in _changes(found, there.hashes) for path in paths}
        guard.check(there, found, replaced=replaced, known=known, token=options.token)
    card = _card(folder, found, there, options, known=known)
    found.files[CARD_FILE] = card.encode()
    export.scan(found, folder)
    changed, deleted = _changes(found, there.hashes)
    notes = _notes(card, there, options)
    proposed = memory.pull_requests.get(f"{repo}@{options.revision}") if options.create_pr else None
    if proposed and _holds(found, repo, proposed, options.token):
        changed, deleted = [], []
        notes.append(f"the pull request {proposed.rpartition('/')[2]} that you opened proposes all of this already")
    return Plan(
        folder=folder,
        options=options,
        remote=there,
        export=found,
        card=card,
        changed=changed,
        deleted=deleted,
        worse=guard.worse(found.record, there.record),
        notes=notes,
    )


def send(made: Plan) -> Pushed:
    """Carry out a plan: repository and branch where they are missing, one commit, the collection.

    Raises HubError; its status is 412 where somebody else changed the repository since the plan was made. Nothing but
    the one commit changes files, so a failure leaves the Hub as it was, and a second push goes on from there. Raises
    PublishError where the answer to a pull request was lost: whether it was opened cannot be told.
    """
    options, there = made.options, made.remote
    api, repo = client.api(options.token), there.repo
    head = _prepare(made)
    pull_request, commit = None, head
    if made.changed or made.deleted:
        if options.create_pr:
            proposed = _propose(made, head)
            commit, pull_request = str(proposed.oid), proposed.pr_url
        else:
            commit = _publish(made, head)
    if not options.create_pr:
        _remember(made, commit)
    if options.collection:
        slug = options.collection
        done = f"it is published, at {commit}"
        client.call(
            lambda: api.add_collection_item(slug, repo, "model", exists_ok=True), doing=f"add {repo} to {slug} ({done})"
        )
    return Pushed(
        repo=repo,
        commit=commit,
        url=f"{api.endpoint}/{repo}",
        pull_request=pull_request,
        sent=[*made.changed],
        bytes_sent=made.bytes_to_send,
    )


def _card(folder: Path, found: Export, there: Remote, options: Options, *, known: str | None) -> str:
    """The card to publish: sections from the record, the rest as people wrote it, here or on the Hub."""
    path = folder / CARD_FILE
    mine = path.read_text(encoding="utf-8") if path.is_file() else ""
    plain = cards.render(found.record)
    chosen = guard.choose_card(mine or plain, there, plain=plain, known=known, force=options.force)
    matter = sections.join(sections.front_matter(mine), sections.front_matter(there.card or ""))
    matter = {key: value for key, value in matter.items() if key not in metadata.WRITTEN}
    fresh = cards.render(
        found.record,
        repo=there.repo,
        licence=options.licence or matter.get("license"),
        language=options.language or matter.get("language"),
    )
    return sections.merge(sections.compose(matter, sections.body(chosen)), fresh)


def _notes(card: str, there: Remote, options: Options) -> list[str]:
    matter, notes = sections.front_matter(card), []
    if "license" not in matter:
        notes.append("the card names no licence, so nobody may use the adapter: name one with --license ID")
    if "language" not in matter:
        notes.append("the card names no language: name one with --language CODE")
    if options.private and there.private is False:
        notes.append(f"{there.repo} exists and is public; --private changes only a new one: use its settings page")
    return notes


def _prepare(made: Plan) -> str:
    """Make what is missing and return the commit to build on."""
    options, there, api = made.options, made.remote, client.api(made.options.token)
    head = there.head
    if head is None:
        private = options.private or None
        client.call(lambda: api.create_repo(there.repo, private=private, exist_ok=True), doing=f"create {there.repo}")
        head = str(client.call(lambda: api.model_info(there.repo), doing=f"show {there.repo}").sha)
        if remote.file_hashes(api, there.repo, head).keys() - {".gitattributes"}:
            raise HubError(
                f"{there.repo} was made by somebody else meanwhile (412). Look at what it holds and push again.",
                status=HTTPStatus.PRECONDITION_FAILED,
            )
    if there.branch is None and options.revision != MAIN:
        client.call(
            lambda: api.create_branch(there.repo, branch=options.revision, revision=head, exist_ok=True),
            doing=f"create the branch {options.revision} of {there.repo}",
        )
    return head


def _publish(made: Plan, head: str) -> str:
    """Make the commit and return it, also where only the answer to it was lost."""
    repo = made.remote.repo
    try:
        return str(client.call(lambda: _commit(made, head), doing=f"take a commit for {repo}").oid)
    except HubError as error:
        if error.status == HTTPStatus.PRECONDITION_FAILED and _holds(
            made.export, repo, made.options.revision, made.options.token
        ):
            # Somebody put exactly this there since the plan was made: we did, and a try later found it done.
            return remote.look(repo, made.options.revision, token=made.options.token).head or head
        if made.remote.head is not None:
            raise
        left = f"{error} {repo} was made and is empty; the next push fills it."
        raise HubError(left, status=error.status) from error


def _propose(made: Plan, head: str) -> "CommitInfo":
    """Open a pull request, in one try, since a second one would open a second pull request; remember its ref."""
    repo = made.remote.repo
    done = client.once(
        lambda: _commit(made, head),
        doing=f"open a pull request on {repo}",
        lost=f"the pull request on {repo} was opened",
        done="been opened",
        look="at the repository's community page",
    )
    memory = Published.load(made.folder)
    memory.pull_requests[f"{repo}@{made.options.revision}"] = str(done.pr_revision)
    memory.save(made.folder)
    return done


def _changes(found: Export, hashes: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The files to send and those to remove, for a place that holds files of these hashes."""
    changed = [path for path in found.files if hashes.get(path) not in remote.local_hashes(found.read(path))]
    ours = export.PUBLISHED | {benchmark.FILE_NAME}
    return changed, sorted(ours & hashes.keys() - found.files.keys())


def _holds(found: Export, repo: str, revision: str, token: str | None) -> bool:
    """Whether a revision holds all of this and nothing of lorahub's beside it."""
    try:
        hashes = remote.file_hashes(client.api(token), repo, revision)
    except HubError:
        return False
    return _changes(found, hashes) == ([], [])


def _commit(made: Plan, head: str) -> "CommitInfo":
    """One try, with new operations: the client asks the Hub again what it has and sends nothing twice."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    from lorahub import __version__

    content = made.export.files
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(path, content[path]) for path in made.changed
    ]
    operations += [CommitOperationDelete(path) for path in made.deleted]
    return client.api(made.options.token).create_commit(
        made.remote.repo,
        operations,
        commit_message=made.options.message or f"Publish {made.export.record.name} with lorahub {__version__}",
        revision=made.options.revision,
        parent_commit=head,
        create_pr=made.options.create_pr,
    )


def _remember(made: Plan, commit: str) -> None:
    """Note what was published, and keep the card in the folder the same as the published one."""
    memory = Published.load(made.folder)
    memory.commits[f"{made.remote.repo}@{made.options.revision}"] = commit
    if made.options.base_id:
        memory.base_id = f"{made.export.base.id}@{made.export.base.revision}"
    memory.benchmark = made.options.benchmark or memory.benchmark
    memory.save(made.folder)
    atomic.write_text(made.folder / CARD_FILE, made.card)
