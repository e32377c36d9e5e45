"""What a repository on the Hub holds now, as far as a push must know it.

In: a repository's id and a branch. Out: a `Remote`: the commit, each file's hash, the card and the record that are
published there. Only small text files are downloaded.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from lorahub import records, runfiles
from lorahub.errors import AdapterError, HubError, PublishError
from lorahub.hub import client
from lorahub.publish.export import CARD_FILE, PUBLISHED
from lorahub.records import RunRecord

if TYPE_CHECKING:
    from huggingface_hub import GitRefInfo, HfApi

MODEL = "model"


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A branch of a repository; `head` is None where there is no repository, `branch` None where there is no branch."""

    repo: str
    head: str | None = None
    branch: str | None = None
    private: bool | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    card: str | None = None
    record: RunRecord | None = None

    @property
    def foreign(self) -> list[str]:
        """Files that are named as a run's and that lorahub did not write, since there is no record with them."""
        return [] if self.record else sorted(PUBLISHED & self.hashes.keys())


def look(repo: str, branch: str, *, token: str | None) -> Remote:
    """Return what the branch holds; where it does not exist yet, what it would begin from. Raises HubError."""
    api = client.api(token)
    try:
        info = client.call(lambda: api.model_info(repo), doing=f"show {repo}")
    except HubError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return Remote(repo=repo)
        raise
    heads = {row.name: row.target_commit for row in _branches(api, repo)}
    head = heads.get(branch) or str(info.sha)
    hashes = file_hashes(api, repo, head)
    return Remote(
        repo=repo,
        head=head,
        branch=branch if branch in heads else None,
        private=bool(info.private),
        hashes=hashes,
        card=card(api, repo, head, hashes),
        record=_record(api, repo, head) if runfiles.RECORD in hashes else None,
    )


def as_name(text: str) -> str:
    """A text as the name of a repository, without what the Hub allows in none."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")


def full_id(wanted: str, *, token: str | None) -> str:
    """The whole id; a missing user is whoever is logged in. Raises PublishError for what the Hub allows no id of."""
    if (
        wanted.count("/") > 1
        or not re.fullmatch(r"(?:[\w.-]+/)?[\w.-]{1,96}", wanted)
        or "--" in wanted
        or ".." in wanted
    ):
        raise PublishError(f"{wanted!r} is no repository id. Give USER/NAME, of letters, digits, '-', '_' and '.'.")
    if "/" in wanted:
        return wanted
    who = client.call(lambda: client.api(token).whoami(), doing="tell who you are")
    return f"{who['name']}/{wanted}"


def file_hashes(api: "HfApi", repo: str, revision: str, *, kind: str = MODEL) -> dict[str, str]:
    """Path -> sha256 (large files) or git's blob hash (small ones), as the Hub gives them at a commit."""
    from huggingface_hub.hf_api import RepoFolder

    entries = client.call(
        lambda: list(api.list_repo_tree(repo, recursive=True, revision=revision, repo_type=kind)),
        doing=f"list the files of {repo}",
    )
    files = [entry for entry in entries if not isinstance(entry, RepoFolder)]
    return {entry.path: str(entry.lfs.sha256 if entry.lfs else entry.blob_id) for entry in files}


def local_hashes(content: bytes) -> tuple[str, str]:
    """The two hashes under which the Hub may know this content."""
    from huggingface_hub.utils.sha import git_hash

    return sha256(content).hexdigest(), git_hash(content)


def _branches(api: "HfApi", repo: str) -> list["GitRefInfo"]:
    refs = client.call(
        lambda: api.list_repo_refs(repo, include_pull_requests=True), doing=f"list the branches of {repo}"
    )
    return [*refs.branches, *(refs.pull_requests or [])]


def download(api: "HfApi", repo: str, name: str, revision: str | None, *, kind: str = MODEL) -> Path:
    """One file of a repository, in the cache."""
    fetch = partial(api.hf_hub_download, repo, name, revision=revision, repo_type=kind)
    return Path(client.call(fetch, doing=f"send {name} of {repo}"))


def card(api: "HfApi", repo: str, revision: str, hashes: Mapping[str, str], *, kind: str = MODEL) -> str | None:
    """The card at a commit with these files, None where there is none; raises PublishError where it is no text."""
    if CARD_FILE not in hashes:
        return None
    try:
        return download(api, repo, CARD_FILE, revision, kind=kind).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise PublishError(f"the card of {repo} is not UTF-8 text. Mend its README.md there and try again.") from None


def _record(api: "HfApi", repo: str, revision: str) -> RunRecord | None:
    try:
        return records.load(download(api, repo, runfiles.RECORD, revision).parent)
    except AdapterError:
        # Not a record that this lorahub can read: the push then treats the repository as somebody else's.
        return None
