"""What a Job needs and only this machine has: files in a private data-set repository that lorahub keeps for that.

In: an `Upload`. Out: a commit that holds its files and no others, so that a Job pinned to it sees no earlier upload's.
`check` only reads. A repository is known to be lorahub's by the tag in its card; no other one is written to.
"""

from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from lorahub.errors import HubError, PublishError
from lorahub.hub import client
from lorahub.publish import remote
from lorahub.publish.export import CARD_FILE
from lorahub.reports import sections

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

KIND = "dataset"
# Narrower than the tag of Spaces and adapters, which people put on data sets of their own too.
TAG = "lorahub-job"
_CARD = f"""---
tags:
- {TAG}
---

What the Jobs of `lorahub job` need. Each upload replaces all of it: keep nothing of your own here.
"""
# The Hub's own file, in every repository.
_ATTRIBUTES = ".gitattributes"


@dataclass(frozen=True, kw_only=True)
class Upload:
    """Files that go to a private data-set repository before the Job starts: path there -> content or file."""

    repo: str
    files: dict[str, bytes | Path]


def check(upload: Upload, *, token: str | None) -> None:
    """Raise PublishError where the repository is public or somebody's own; one that does not exist yet is fine."""
    try:
        _look(upload.repo, token)
    except HubError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise


def send(upload: Upload, *, token: str | None) -> str:
    """Upload the files in one commit that deletes all others, and return that commit.

    Raises PublishError as `check` does, HubError where the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api, repo = client.api(token), upload.repo
    client.call(lambda: api.create_repo(repo, repo_type=KIND, private=True, exist_ok=True), doing=f"create {repo}")
    files: dict[str, bytes | Path] = {CARD_FILE: _CARD.encode(), **upload.files}

    def commit() -> "CommitInfo":
        # Looked at anew for each try: where the answer to one was lost, the next has nothing left to delete.
        head, there = _look(repo, token)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path, content) for path, content in files.items()
        ]
        operations += [CommitOperationDelete(path) for path in there if path not in (*files, _ATTRIBUTES)]
        message = "What a Job of lorahub needs"
        return api.create_commit(repo, operations, repo_type=KIND, commit_message=message, parent_commit=head)

    return str(client.call(commit, doing=f"take a commit for {repo}").oid)


def _look(repo: str, token: str | None) -> tuple[str, list[str]]:
    """The repository's commit and files."""
    api = client.api(token)
    info = client.call(lambda: api.dataset_info(repo), doing=f"show {repo}")
    if not info.private:
        raise PublishError(f"{repo} exists and is public; nothing is uploaded. Make it private on its settings page.")
    head = str(info.sha)
    there = remote.file_hashes(api, repo, head, kind=KIND)
    strange = sorted(set(there) - {_ATTRIBUTES})
    if strange and TAG not in sections.tags(remote.card(api, repo, head, there, kind=KIND) or ""):
        raise PublishError(
            f"the data set {repo} holds files that lorahub did not write ({strange[0]}); nothing is uploaded. "
            "Rename that data set on its settings page, and try again."
        )
    return head, sorted(there)
