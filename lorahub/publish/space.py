"""`lorahub space`: adapters on the Hub become a Space that shows them, in one commit.

In: `Options`. `plan` only reads: what the Space would hold, and which of it is not there yet. `send` makes the commit
on top of the one that the plan has seen, and then asks for the hardware.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from lorahub.errors import HubError, MissingPackageError, PublishError
from lorahub.hub import client, fetch
from lorahub.publish import hardware, package, pins, remote, space_files
from lorahub.publish.pins import Pinned
from lorahub.publish.space_files import Space
from lorahub.reports import sections

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

KIND = "space"
# What a Space holds when it is made; whatever else is there, somebody has put there.
_NEW = frozenset({".gitattributes", space_files.CARD_FILE})


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the person asked for. `adapters` and `base` are `user/name[@revision]`; no `hardware` leaves it as it is."""

    repo: str
    adapters: Sequence[str]
    base: str | None = None
    hardware: str | None = None
    private: bool = False
    message: str | None = None
    token: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What would be sent: `files` is all of the Space, `changed` what is not there yet, `deleted` older wheels."""

    options: Options
    space: Space
    head: str | None
    files: dict[str, bytes]
    changed: list[str]
    deleted: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def bytes_to_send(self) -> int:
        """Bytes of the files that are not on the Hub yet."""
        return sum(len(self.files[path]) for path in self.changed)


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """Where the Space is now; `commit` is the old one where there was nothing to send."""

    repo: str
    commit: str
    url: str
    sent: list[str]
    bytes_sent: int
    hardware: str | None


def plan(options: Options) -> Plan:
    """Decide what the Space would hold; nothing is sent.

    Raises PublishError for what cannot be shown or must not be replaced, AdapterError for an adapter that is not safe
    to load, MissingPackageError where gradio is not installed, HubError where the Hub refuses.
    """
    token = options.token
    repo = remote.full_id(options.repo, token=token)
    sdk_version = _installed_gradio()
    cost = hardware.of_space(options.hardware, token=token) if options.hardware else None
    adapters = pins.adapters(options.adapters, token=token)
    base = pins.base(options.base, adapters, owner=repo.split("/")[0], token=token)
    head, private, there = _look(repo, options)
    mine = package.find()
    if mine.wheel and private:
        raise PublishError(
            f"{repo} is private, and nothing that builds it may fetch this checkout's wheel from it. "
            "Make it public, or use a released lorahub."
        )
    endpoint = client.api(token).endpoint
    # By address: a Space's requirements are installed before its files are there, so a path would lead nowhere.
    address = f"{endpoint}/spaces/{repo}/resolve/main/{mine.wheel.name}" if mine.wheel else ""
    space = Space(
        repo=repo,
        base=base,
        base_files=_base_files(base, token),
        adapters=adapters,
        hardware=options.hardware or hardware.FREE_SPACE,
        sdk_version=sdk_version,
        requirement=mine.requirement("app", wheel_at=address),
        endpoint=endpoint,
    )
    files = space_files.render(space)
    if mine.wheel:
        files[mine.wheel.name] = mine.wheel.content
    return Plan(
        options=options,
        space=space,
        head=head,
        files=files,
        changed=[path for path in files if there.get(path) not in remote.local_hashes(files[path])],
        deleted=[path for path in there if Path(path).match(package.WHEELS) and path not in files],
        notes=[*([cost] if cost else []), *_notes(base, adapters, options, private=private)],
    )


def send(made: Plan) -> Pushed:
    """Carry out a plan: the Space where it is missing, one commit, and the hardware.

    Raises HubError; its status is 412 where the Space changed since the plan was made.
    """
    options, repo, api = made.options, made.space.repo, client.api(made.options.token)
    commit = made.head
    if commit is None:
        private = options.private or None
        client.call(
            lambda: api.create_repo(repo, repo_type=KIND, space_sdk=space_files.SDK, private=private, exist_ok=True),
            doing=f"create the Space {repo}",
        )
        commit = str(client.call(lambda: api.space_info(repo), doing=f"show the Space {repo}").sha)
        if not _NEW.issuperset(remote.file_hashes(api, repo, commit, kind=KIND)):
            # Somebody else made it since the plan, and building on it would undo what they sent.
            raise HubError(
                f"cannot take a commit for the Space {repo}: the repository changed meanwhile (412). Look at what came "
                "in and try again.",
                status=HTTPStatus.PRECONDITION_FAILED,
            )
    if made.changed or made.deleted:
        head = commit
        done = client.call(lambda: _commit(made, head), doing=f"take a commit for the Space {repo}")
        commit = str(done.oid)
    if options.hardware:
        _request(repo, options.hardware, options.token)
    return Pushed(
        repo=repo,
        commit=commit,
        url=f"{api.endpoint}/spaces/{repo}",
        sent=made.changed,
        bytes_sent=made.bytes_to_send,
        hardware=options.hardware,
    )


def _look(repo: str, options: Options) -> tuple[str | None, bool, dict[str, str]]:
    """The Space's commit, whether it is or would be private, and the hashes of its files.

    Raises PublishError where it holds what lorahub did not write.
    """
    api = client.api(options.token)
    try:
        info = client.call(lambda: api.space_info(repo), doing=f"show the Space {repo}")
    except HubError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return None, options.private, {}
        raise
    head = str(info.sha)
    there = remote.file_hashes(api, repo, head, kind=KIND)
    card = remote.card(api, repo, head, there, kind=KIND) or ""
    strange = [] if space_files.TAG in sections.tags(card) else sorted(there.keys() - _NEW)
    sdk = sections.front_matter(card).get("sdk")
    if sdk not in (None, space_files.SDK):
        strange.append(f"sdk: {sdk}")
    if strange:
        raise PublishError(
            f"the Space {repo} holds what lorahub did not write ({strange[0]}). Choose another name for yours."
        )
    return head, bool(info.private), there


def _base_files(base: Pinned, token: str | None) -> list[str]:
    """The files that loading the base asks for."""
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    there = remote.file_hashes(client.api(token), base.id, base.revision)
    return sorted(filter_repo_objects(there, allow_patterns=fetch.BASE_FILES))


def _notes(base: Pinned, adapters: Sequence[Pinned], options: Options, *, private: bool) -> list[str]:
    notes = [
        f"{one.id} is private: give the Space a token that may read it, as its secret HF_TOKEN"
        for one in (base, *adapters)
        if one.private
    ]
    notes += [
        f"{one.id} was trained on {base.id} at {one.base_revision}, not at {base.revision}: its answers may differ"
        for one in adapters
        if one.base_revision not in (None, base.revision)
    ]
    if options.private and not private:
        notes.append("the Space exists and is public; --private changes only a new one: use its settings page")
    return notes


def _commit(made: Plan, head: str) -> "CommitInfo":
    """One try, with new operations; where the answer to it was lost, the next finds nothing left to change."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    from lorahub import __version__

    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(path, made.files[path]) for path in made.changed
    ]
    operations += [CommitOperationDelete(path) for path in made.deleted]
    return client.api(made.options.token).create_commit(
        made.space.repo,
        operations,
        repo_type=KIND,
        commit_message=made.options.message or f"Show {len(made.space.adapters)} adapters with lorahub {__version__}",
        parent_commit=head,
    )


def _request(repo: str, flavor: str, token: str | None) -> None:
    """Ask for the hardware, unless the Space has it: asking restarts it."""
    from huggingface_hub import SpaceHardware

    api = client.api(token)
    runtime = client.call(lambda: api.get_space_runtime(repo), doing=f"say what the Space {repo} runs on")
    if flavor not in (runtime.requested_hardware, runtime.hardware):
        client.call(
            lambda: api.request_space_hardware(repo, SpaceHardware(flavor)),
            doing=f"give the Space {repo}, which is pushed, {flavor}",
        )


def _installed_gradio() -> str:
    try:
        return metadata.version("gradio")
    except metadata.PackageNotFoundError:
        raise MissingPackageError(
            "a Space runs the gradio that is tried here, and none is installed. Run: pip install 'hf-lorahub[app]'"
        ) from None
