"""Private data sets on the Hub that hold what a Job needs from this machine.

In: an `Upload`. Out: a commit that holds its files and no others, so that a Job pinned to it is independent of other
uploads. `check` only reads. Only repositories with lorahub's tag in their card are written to.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lorahub import runfiles
from lorahub.errors import PublishError
from lorahub.hub import client
from lorahub.publish.repository import ATTRIBUTES, DATASET, Repository
from lorahub.reports import sections

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

# Narrower than the tag of Spaces and adapters, which users put on data sets of their own.
TAG = "lorahub-job"
_CARD = f"""---
tags:
- {TAG}
---

What the Jobs of `lorahub job` need. Each upload replaces all of it: keep nothing of your own here.
"""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """Files for a private data set: path there -> content or local file."""

    repo: str
    files: dict[str, bytes | Path]


def check(upload: Upload, *, token: str | None) -> None:
    """Raise PublishError if the repository is public or was not written by lorahub; it need not exist."""
    repository = Repository(id=upload.repo, kind=DATASET, token=token)
    if repository.info_if_exists() is not None:
        _look(repository)


def send(upload: Upload, *, token: str | None) -> str:
    """Upload the files in one commit that deletes all others, and return that commit.

    Raises PublishError like `check`, and HubError if the Hub refuses.
    """
    repository = Repository(id=upload.repo, kind=DATASET, token=token)
    repository.create(private=True)
    files: dict[str, bytes | Path] = {runfiles.CARD: _CARD.encode(), **upload.files}

    def commit() -> "CommitInfo":
        # Read again for each attempt: if the answer to one was lost, the next has nothing left to delete.
        head, present = _look(repository)
        deleted = [path for path in present if path not in (*files, ATTRIBUTES)]
        return repository.commit(files, deleted, message="Files for a lorahub Job", parent=head)

    return str(client.call(commit, doing=f"take a commit for {repository}").oid)


def _look(repository: Repository) -> tuple[str, list[str]]:
    """Return the commit and the files of a repository that may be written to; else raise PublishError."""
    info = repository.info()
    if not info.private:
        raise PublishError(
            f"{repository} exists and is public; nothing is uploaded. Make it private on its settings page."
        )
    head = str(info.sha)
    present = repository.hashes(head)
    others = sorted(set(present) - {ATTRIBUTES})
    if others and TAG not in sections.tags(repository.card(head, present) or ""):
        raise PublishError(
            f"the data set {repository} holds files that lorahub did not write ({others[0]}); nothing is uploaded. "
            "Rename that data set on its settings page, and try again."
        )
    return head, sorted(present)
