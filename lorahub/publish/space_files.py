"""The content of a Space: adapters and their base, each pinned to a commit, and the three files made from them.

In: `user/name[@revision]` ids. Out: a `Space`, and README.md with the front matter that the Hub reads, app.py and
requirements.txt, from the templates under `templates/space/`. Fields of the front matter:
huggingface.co/docs/hub/spaces-config-reference.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from lorahub import runfiles
from lorahub.errors import PublishError
from lorahub.hub import client, fetch, safety
from lorahub.reports import sections

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

# Identifies Spaces that lorahub wrote.
TAG = "lorahub"
SDK = "gradio"
APP_FILE, REQUIREMENTS_FILE = "app.py", "requirements.txt"
# A version that ZeroGPU offers.
_PYTHON = "3.12"
_MAX_DESCRIPTION = 60
# Metadata that follows from the adapters and this lorahub; title, colors and other keys are their owner's to edit.
_WRITTEN = (
    "sdk",
    "sdk_version",
    "python_version",
    "app_file",
    "suggested_hardware",
    "models",
    "tags",
    "preload_from_hub",
)
_GENERATED = re.compile(r"Classify a claim with \d+ adapters? on one base model")
_TEMPLATES = Path(__file__).parent.parent / "templates" / "space"


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """A model repository at a commit; `base_id` and `base_revision` are the base that an adapter was made for."""

    id: str
    revision: str
    private: bool = False
    base_id: str = ""
    base_revision: str | None = None

    def __str__(self) -> str:
        return f"{self.id}@{self.revision}"


@dataclass(frozen=True, kw_only=True)
class Space:
    """What a Space shows and runs on. `base_files` are fetched when it is built; `requirement` installs lorahub."""

    repo: str
    base: Pinned
    base_files: Sequence[str]
    adapters: Sequence[Pinned]
    hardware: str
    sdk_version: str
    requirement: str
    endpoint: str = "https://huggingface.co"
    title: str = ""
    emoji: str = "⚖️"

    @property
    def heading(self) -> str:
        """The title, by default the repository's name."""
        if self.title:
            return self.title
        name = self.repo.split("/")[1].replace("-", " ").replace("_", " ").strip()
        return name[:1].upper() + name[1:]


def pin_adapters(identifiers: Sequence[str], *, token: str | None) -> list[Pinned]:
    """Pin adapters; raises PublishError for what is not on the Hub, AdapterError for what is not safe to load."""
    pinned = []
    for identifier in identifiers:
        info = _show(identifier, "adapter", token)
        report = safety.remote(info.id, str(info.sha), token=token)
        safety.refuse(report, info.id)
        pinned.append(
            Pinned(
                id=info.id,
                revision=str(info.sha),
                private=bool(info.private),
                base_id=str(report.config.get("base_model_name_or_path")),
                base_revision=report.config.get("revision"),
            )
        )
    if len({one.id for one in pinned}) < len(pinned):
        raise PublishError("--adapters names one repository twice. Leave out one of them.")
    return pinned


def pin_base(identifier: str | None, adapters: Sequence[Pinned], *, owner: str, token: str | None) -> Pinned:
    """Pin the base of the adapters; without `identifier` it is the first adapter's, if lorahub's or `owner`'s own.

    Lorahub's own is MiniLM, at the commit that this package knows. Of another base it is the commit that the adapters
    recorded, if it is in the history of the main branch: the Hub serves the commits of any pull request under the name
    of the repository, and files of other people must not choose one of them. Raises PublishError if an adapter was
    made for another base, or if only another user's file names the base.
    """
    first = adapters[0]
    if identifier is None and first.base_id.lower() == fetch.MINILM.lower():
        identifier = fetch.MINILM
    if identifier is None and first.id.split("/")[0] != owner:
        raise PublishError(
            f"{first.id} says that its base is {first.base_id}; a base named by another user's file is not trusted. "
            f"If you trust it, give --base {f'{first.base_id}@{first.base_revision or str()}'.rstrip('@')}."
        )
    own = f"{first.base_id}@{first.base_revision or ''}".rstrip("@")
    if identifier in ("minilm", fetch.MINILM):
        identifier = f"{fetch.MINILM}@{fetch.MINILM_REVISION}"
    wanted = identifier or own
    if "@" not in wanted and wanted.lower() == first.base_id.lower():
        wanted = _at_recorded(wanted, {one.base_revision for one in adapters}, token)
    info = _show(wanted, "base", token)
    for adapter in adapters:
        if adapter.base_id.lower() != info.id.lower():
            raise PublishError(
                f"{adapter.id} was made for {adapter.base_id}, not for {info.id}, and a Space has one base. "
                "Leave it out."
            )
    return Pinned(id=info.id, revision=str(info.sha), private=bool(info.private))


def _at_recorded(base: str, revisions: set[str | None], token: str | None) -> str:
    """Return the base at the commit that all adapters recorded, if that is a commit of its main branch."""
    revision = next(iter(revisions))
    if len(revisions) > 1 or revision is None:
        return base
    history = client.call(lambda: client.api(token).list_repo_commits(base), doing=f"list the commits of {base}")
    return f"{base}@{revision}" if revision in {commit.commit_id for commit in history} else base


def _show(identifier: str, role: str, token: str | None) -> "ModelInfo":
    parts = fetch.hub_id(identifier)
    if parts is None:
        raise PublishError(
            f"a Space shows what is on the Hub, and {identifier!r} is not a Hub id: give the {role} as USER/NAME or "
            "USER/NAME@REVISION. `lorahub push RUN` publishes a run."
        )
    name, revision = parts
    api = client.api(token)
    return client.call(lambda: api.model_info(name, revision=revision), doing=f"show the {role} {name}")


def render(space: Space) -> dict[str, bytes]:
    """Return path -> content of the three files."""
    values = {
        "front_matter": _front_matter(space),
        "title": space.heading,
        "requirement": space.requirement,
        "endpoint": space.endpoint,
        "base": str(space.base),
        "base_id": space.base.id,
        "base_revision": space.base.revision,
    }
    links = "\n".join(
        f"- [`{one.id}`]({space.endpoint}/{one.id}/tree/{one.revision}) at `{one.revision}`" for one in space.adapters
    )
    names = "\n".join(f'    "{one}",' for one in space.adapters)
    return {
        runfiles.CARD: _fill(runfiles.CARD, adapters=links, **values),
        APP_FILE: _fill(APP_FILE, adapters=names, **values),
        REQUIREMENTS_FILE: _fill(REQUIREMENTS_FILE, **values),
    }


def keep_edits(written: bytes, present: str) -> bytes:
    """Return the README of a Space with what its owner edited in the `present` one.

    That is the text outside of the marked section, and metadata except for what follows from the adapters. A README of
    a version without marks is replaced, but for its metadata.
    """
    card = written.decode()
    new, old = sections.front_matter(card), sections.front_matter(present)
    kept = {key: value for key, value in old.items() if key not in _WRITTEN or key not in new}
    if _GENERATED.fullmatch(str(kept.get("short_description", ""))):
        del kept["short_description"]
    body = sections.body(present)
    text = body if sections.by_name(present) else sections.body(card)
    merged = sections.merge(sections.compose(kept, text), sections.compose({**new, **kept}, sections.body(card)))
    # The same metadata may be written in several ways.
    same = sections.front_matter(merged) == old and sections.body(merged) == body
    return (present if same else merged).encode()


def _fill(name: str, **values: str) -> bytes:
    template = (_TEMPLATES / f"{name}.tmpl").read_text(encoding="utf-8")
    return Template(template).substitute(values).encode()


def _front_matter(space: Space) -> str:
    from huggingface_hub import SpaceCardData

    count = len(space.adapters)
    description = f"Classify a claim with {count} adapter{'s' if count > 1 else ''} on one base model"
    data = SpaceCardData(
        title=space.heading,
        emoji=space.emoji,
        colorFrom="green",
        colorTo="gray",
        sdk=SDK,
        sdk_version=space.sdk_version,
        python_version=_PYTHON,
        app_file=APP_FILE,
        suggested_hardware=space.hardware,
        short_description=description[:_MAX_DESCRIPTION],
        license="apache-2.0",
        models=list(dict.fromkeys([space.base.id, *(one.id for one in space.adapters)])),
        tags=[TAG, "text-classification", "lora"],
        preload_from_hub=[f"{space.base.id} {','.join(space.base_files)} {space.base.revision}"],
    )
    return str(data.to_yaml(line_break="\n")).rstrip()
