"""`lorahub space`: publish adapters from the Hub as a Space, in one commit.

In: `Options`. `plan` only reads: it decides what the Space holds and what of it is missing. `send` makes the commit on
top of the one that the plan is based on, and then requests the hardware.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from lorahub import runfiles
from lorahub.errors import MissingPackageError, PublishError
from lorahub.hub import client, fetch
from lorahub.publish import deployment, repository, space_files
from lorahub.publish.repository import SPACE, Repository
from lorahub.publish.space_files import Pinned, Space
from lorahub.reports import sections

# The files of a new Space; a user added all others.
_NEW = frozenset({repository.ATTRIBUTES, runfiles.CARD})


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a Space. `adapters` and `base` are USER/NAME[@REVISION]; `hardware` None keeps what it has."""

    repo: str
    adapters: Sequence[str]
    base: str | None = None
    hardware: str | None = None
    private: bool = False
    message: str | None = None
    title: str | None = None
    emoji: str | None = None
    token: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The result of `plan`: all `files`, those to send (`changed`), and older wheels to delete (`deleted`)."""

    options: Options
    space: Space
    head: str | None
    files: dict[str, bytes]
    changed: list[str]
    deleted: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def bytes_to_send(self) -> int:
        """Total size of the changed files."""
        return sum(len(self.files[path]) for path in self.changed)


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """The result of `send`; `commit` is the previous one if there was nothing to send."""

    repo: str
    commit: str
    url: str
    sent: list[str]
    bytes_sent: int
    hardware: str | None


def plan(options: Options) -> Plan:
    """Decide what the Space holds; nothing is sent.

    Raises PublishError for what cannot be shown or must not be replaced, AdapterError for an adapter that is not safe
    to load, MissingPackageError if gradio is not installed, HubError if the Hub refuses.
    """
    token = options.token
    target = Repository(id=repository.full_id(options.repo, token=token), kind=SPACE, token=token)
    sdk_version = _installed_gradio()
    cost = [deployment.space_cost(options.hardware, token=token)] if options.hardware else []
    adapters = space_files.pin_adapters(options.adapters, token=token)
    base = space_files.pin_base(options.base, adapters, owner=target.id.split("/")[0], token=token)
    head, private, present, readme = _look(target, options)
    edited = sections.front_matter(readme)
    chosen = {"title": options.title or edited.get("title"), "emoji": options.emoji or edited.get("emoji")}
    look = {name: str(value) for name, value in chosen.items() if value}
    package = deployment.find_package()
    if package.wheel and private:
        raise PublishError(
            f"{target.id} is private, so its build cannot download this checkout's wheel from it. "
            "Make it public, or use a released lorahub."
        )
    # By address: a Space installs its requirements before its files exist, so a path would not work.
    address = f"{target.url}/resolve/main/{package.wheel.name}" if package.wheel else ""
    space = Space(
        repo=target.id,
        base=base,
        base_files=_base_files(base, token),
        adapters=adapters,
        hardware=options.hardware or deployment.FREE_SPACE,
        sdk_version=sdk_version,
        requirement=package.requirement("app", wheel_at=address),
        endpoint=target.api.endpoint,
        **look,
    )
    files = space_files.render(space)
    if readme:
        if any(edited.get(name) != value for name, value in look.items()):
            readme = sections.compose({**edited, **look}, sections.body(readme))
        files[runfiles.CARD] = space_files.keep_edits(files[runfiles.CARD], readme)
    if package.wheel:
        files[package.wheel.name] = package.wheel.content
    return Plan(
        options=options,
        space=space,
        head=head,
        files=files,
        changed=[path for path in files if not repository.is_same(files[path], present.get(path))],
        deleted=[path for path in present if Path(path).match(deployment.WHEELS) and path not in files],
        notes=[*cost, *_notes(base, adapters, options, private=private)],
    )


def send(push: Plan) -> Pushed:
    """Carry out a plan: create the Space if needed, make one commit, request the hardware.

    Raises HubError, with status 412 if the Space has changed since the plan was made.
    """
    from lorahub import __version__

    options = push.options
    target = Repository(id=push.space.repo, kind=SPACE, token=options.token)
    head = push.head or target.create_new(private=options.private, sdk=space_files.SDK, initial=_NEW)
    commit = head
    if push.changed or push.deleted:
        files = {path: push.files[path] for path in push.changed}
        message = options.message or f"Show {len(push.space.adapters)} adapters with lorahub {__version__}"
        done = client.call(
            lambda: target.commit(files, push.deleted, message=message, parent=head),
            doing=f"take a commit for {target}",
        )
        commit = str(done.oid)
    if options.hardware:
        _request_hardware(target, options.hardware)
    return Pushed(
        repo=target.id,
        commit=commit,
        url=target.url,
        sent=push.changed,
        bytes_sent=push.bytes_to_send,
        hardware=options.hardware,
    )


def _look(target: Repository, options: Options) -> tuple[str | None, bool, dict[str, str], str]:
    """Return the commit of the Space, whether it is or will be private, the hashes of its files, and its README.

    The README is empty if lorahub did not write it.

    Raises PublishError if it holds what lorahub did not write.
    """
    info = target.info_if_exists()
    if info is None:
        return None, options.private, {}, ""
    head = str(info.sha)
    present = target.hashes(head)
    card = target.card(head, present) or ""
    foreign = [] if space_files.TAG in sections.tags(card) else sorted(present.keys() - _NEW)
    sdk = sections.front_matter(card).get("sdk")
    if sdk not in (None, space_files.SDK):
        foreign.append(f"sdk: {sdk}")
    if foreign:
        raise PublishError(f"{target} holds what lorahub did not write ({foreign[0]}). Choose another name for yours.")
    return head, bool(info.private), present, card if space_files.TAG in sections.tags(card) else ""


def _base_files(base: Pinned, token: str | None) -> list[str]:
    """Return the files that loading the base needs."""
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    present = Repository(id=base.id, token=token).hashes(base.revision)
    return sorted(filter_repo_objects(present, allow_patterns=fetch.BASE_FILES))


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
        notes.append("the Space exists and is public; --private only applies to a new one: use its settings page")
    return notes


def _request_hardware(target: Repository, flavor: str) -> None:
    """Request the hardware unless the Space has it already: a request restarts the Space."""
    from huggingface_hub import SpaceHardware

    api = target.api
    runtime = client.call(lambda: api.get_space_runtime(target.id), doing=f"say what {target} runs on")
    if flavor not in (runtime.requested_hardware, runtime.hardware):
        client.call(
            lambda: api.request_space_hardware(target.id, SpaceHardware(flavor)),
            doing=f"give {target}, which is pushed, {flavor}",
        )


def _installed_gradio() -> str:
    try:
        return metadata.version("gradio")
    except metadata.PackageNotFoundError:
        raise MissingPackageError(
            "a Space runs the version of gradio that is installed here, and there is none. "
            "Run: pip install 'hf-lorahub[app]'"
        ) from None
