"""What a Space shows, pinned: each adapter and the one base, as repositories at commits.

In: `user/name[@revision]`. Out: `Pinned` ones. Every adapter is looked at as before it is loaded, and has to be
made for the base.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorahub.errors import PublishError
from lorahub.hub import client, fetch, safety

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """A repository at a commit. An adapter also says which base it was made for."""

    id: str
    revision: str
    private: bool = False
    base_id: str = ""
    base_revision: str | None = None

    def __str__(self) -> str:
        return f"{self.id}@{self.revision}"


def adapters(identifiers: Sequence[str], *, token: str | None) -> list[Pinned]:
    """Pin adapters; raises PublishError for what is not on the Hub, AdapterError for what is not safe to load."""
    found = []
    for identifier in identifiers:
        info = _show(identifier, "adapter", token)
        report = safety.remote(info.id, str(info.sha), token=token)
        safety.refuse(report, info.id)
        found.append(
            Pinned(
                id=info.id,
                revision=str(info.sha),
                private=bool(info.private),
                base_id=str(report.config.get("base_model_name_or_path")),
                base_revision=report.config.get("revision"),
            )
        )
    if len({one.id for one in found}) < len(found):
        raise PublishError("--adapters names one repository twice. Leave out one of them.")
    return found


def base(identifier: str | None, shown: Sequence[Pinned], *, owner: str, token: str | None) -> Pinned:
    """Pin the base of the adapters; without `identifier` it is the first one's, where that is ours or `owner`'s.

    Ours is MiniLM, at the commit that this package knows. A stranger's file chooses no commit either: the Hub serves
    the commits of anybody's pull request under the name of the repository. Raises PublishError where an adapter was
    made for another base, or nobody who is trusted names one.
    """
    first = shown[0]
    if identifier is None and first.base_id.lower() == fetch.MINILM.lower():
        identifier = fetch.MINILM
    if identifier is None and first.id.split("/")[0] != owner:
        raise PublishError(
            f"{first.id} says that its base is {first.base_id}; no base is taken on the word of somebody else's file. "
            f"If you trust it, give --base {first.base_id}."
        )
    own = f"{first.base_id}@{first.base_revision or ''}".rstrip("@")
    if identifier in ("minilm", fetch.MINILM):
        identifier = f"{fetch.MINILM}@{fetch.MINILM_REVISION}"
    info = _show(identifier or own, "base", token)
    for one in shown:
        if one.base_id.lower() != info.id.lower():
            raise PublishError(
                f"{one.id} was made for {one.base_id}, not for {info.id}, and a Space has one base. Leave it out."
            )
    return Pinned(id=info.id, revision=str(info.sha), private=bool(info.private))


def _show(identifier: str, what: str, token: str | None) -> "ModelInfo":
    name, _, revision = identifier.partition("@")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise PublishError(
            f"a Space shows what is on the Hub, and {identifier!r} is no Hub id: give the {what} as USER/NAME or "
            "USER/NAME@REVISION. `lorahub push RUN` publishes a run."
        )
    api = client.api(token)
    return client.call(lambda: api.model_info(name, revision=revision or None), doing=f"show the {what} {name}")
