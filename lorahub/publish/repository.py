"""A repository on the Hub: its commit and files now, and new commits to it.

Only small text files are downloaded. Every method raises HubError if the Hub refuses or cannot be reached.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from lorahub import runfiles
from lorahub.errors import HubError, PublishError
from lorahub.hub import client

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, DatasetInfo, HfApi, KernelInfo, ModelInfo, SpaceInfo

    RepoInfo = ModelInfo | DatasetInfo | SpaceInfo | KernelInfo

MAIN = "main"
MODEL, DATASET, SPACE = "model", "dataset", "space"
# The Hub creates this file in every repository.
ATTRIBUTES = ".gitattributes"


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A model, data set or Space on the Hub, read and written with `token` or else with the login."""

    id: str
    kind: str = MODEL
    token: str | None = None

    def __str__(self) -> str:
        return f"the Space {self.id}" if self.kind == SPACE else self.id

    @property
    def api(self) -> "HfApi":
        """The client of huggingface_hub."""
        return client.api(self.token)

    @property
    def url(self) -> str:
        """The address of the repository's page."""
        return f"{self.api.endpoint}/{'spaces/' if self.kind == SPACE else ''}{self.id}"

    def info(self) -> "RepoInfo":
        """Return the Hub's description of the repository."""
        return client.call(lambda: self.api.repo_info(self.id, repo_type=self.kind), doing=f"show {self}")

    def info_if_exists(self) -> "RepoInfo | None":
        """Return the description; None if the repository does not exist (or is private and of another user)."""
        try:
            return self.info()
        except HubError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def hashes(self, revision: str) -> dict[str, str]:
        """Return path -> sha256 (large files) or git blob hash (small files) at a revision."""
        from huggingface_hub.hf_api import RepoFolder

        entries = client.call(
            lambda: list(self.api.list_repo_tree(self.id, recursive=True, revision=revision, repo_type=self.kind)),
            doing=f"list the files of {self.id}",
        )
        files = [entry for entry in entries if not isinstance(entry, RepoFolder)]
        return {entry.path: str(entry.lfs.sha256 if entry.lfs else entry.blob_id) for entry in files}

    def branches(self) -> dict[str, str]:
        """Return branch or pull request -> commit."""
        list_refs = partial(self.api.list_repo_refs, self.id, include_pull_requests=True)
        refs = client.call(list_refs, doing=f"list the branches of {self.id}")
        return {ref.name: ref.target_commit for ref in (*refs.branches, *(refs.pull_requests or []))}

    def download(self, name: str, revision: str | None) -> Path:
        """Return the path of a file in the cache after downloading it."""
        fetch = partial(self.api.hf_hub_download, self.id, name, revision=revision, repo_type=self.kind)
        return Path(client.call(fetch, doing=f"send {name} of {self.id}"))

    def card(self, revision: str, hashes: Mapping[str, str]) -> str | None:
        """Return the card at a revision with these files; None without one. Raises PublishError if it is not text."""
        if runfiles.CARD not in hashes:
            return None
        try:
            return self.download(runfiles.CARD, revision).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise PublishError(
                f"the card of {self.id} is not UTF-8 text. Fix its README.md on the Hub and try again."
            ) from None

    def create(self, *, private: bool, sdk: str | None = None) -> None:
        """Create the repository if it does not exist."""
        make = partial(self.api.create_repo, repo_type=self.kind, private=private or None, space_sdk=sdk, exist_ok=True)
        client.call(partial(make, self.id), doing=f"create {self}")

    def create_new(self, *, private: bool, sdk: str | None = None, initial: Collection[str] = (ATTRIBUTES,)) -> str:
        """Create the repository and return its first commit.

        Raises HubError (412) if it holds other files than `initial`: another user created it in the meantime.
        """
        self.create(private=private, sdk=sdk)
        head = str(self.info().sha)
        if self.hashes(head).keys() - set(initial):
            raise HubError(
                f"{self} was created by another user in the meantime (412). Check what it holds and try again.",
                status=HTTPStatus.PRECONDITION_FAILED,
            )
        return head

    def commit(
        self,
        files: Mapping[str, bytes | Path],
        deleted: Collection[str],
        *,
        message: str,
        parent: str,
        branch: str = MAIN,
        create_pr: bool = False,
    ) -> "CommitInfo":
        """Make one commit on top of `parent`, in a single attempt: wrap it with `client.call` or `client.once`.

        Each attempt needs new operations; large files that the Hub has already are not uploaded again.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        return self.api.create_commit(
            self.id,
            [
                *(CommitOperationAdd(path, content) for path, content in files.items()),
                *(CommitOperationDelete(path) for path in deleted),
            ],
            repo_type=self.kind,
            commit_message=message,
            revision=branch,
            parent_commit=parent,
            create_pr=create_pr,
        )


def is_same(content: bytes, remote_hash: str | None) -> bool:
    """Return whether a file on the Hub with this hash has this content."""
    from huggingface_hub.utils.sha import git_hash

    return remote_hash in (sha256(content).hexdigest(), git_hash(content))


def as_name(text: str) -> str:
    """Return a text as a repository name, without characters that the Hub does not allow."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")


def full_id(name: str, *, token: str | None) -> str:
    """Return USER/NAME; a missing user is the one who is logged in. Raises PublishError for an invalid id."""
    if not re.fullmatch(r"(?:[\w.-]+/)?[\w.-]{1,96}", name) or "--" in name or ".." in name:
        raise PublishError(
            f"{name!r} is not a valid repository id. Give USER/NAME, of letters, digits, '-', '_' and '.'."
        )
    return name if "/" in name else f"{current_user(token)}/{name}"


def current_user(token: str | None) -> str:
    """Return the name of the user who is logged in or owns `token`."""
    return str(client.call(client.api(token).whoami, doing="tell who you are")["name"])
