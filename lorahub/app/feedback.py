"""Corrections by visitors: claims with the labels they should have got, as data that `--data` reads.

In: a claim, the right label, and the adapter that was wrong. Out: one line in a JSONL file per adapter, because
adapters have different labels. Nothing is kept that a visitor did not send for this purpose.
"""

import datetime
import errno
import json
import os
import tempfile
import threading
from pathlib import Path

from huggingface_hub import CommitScheduler

from lorahub.app.protection import LOOPBACK
from lorahub.errors import ConfigError
from lorahub.hub import client

# A data set on the Hub, USER/NAME: where a Space keeps corrections, because its disk is lost on a restart.
DATASET = "LORAHUB_FEEDBACK_DATASET"
_MINUTES_BETWEEN_COMMITS = 5
# Corrections of one adapter: what strangers send must not fill the disk.
_MOST_BYTES = 100_000_000


class Feedback:
    """A folder of corrections, `ADAPTER.jsonl` each; a `scheduler` commits it to the Hub every few minutes."""

    def __init__(self, folder: Path, scheduler: CommitScheduler | None = None) -> None:
        self.folder, self._scheduler = folder, scheduler
        self._lock = scheduler.lock if scheduler else threading.Lock()
        # A Space starts with an empty disk: a file of an old name would replace the one it sent before.
        self._suffix = f"-{_now()}".replace(":", "") if scheduler else ""

    @property
    def where(self) -> str:
        """Where corrections go, for the visitor who is about to send one."""
        if self._scheduler:
            return f"the data set {self._scheduler.repo_id} on the Hub"
        return f"the folder {self.folder.name}/ of the machine that serves this page"

    def keep(self, *, claim: str, label: str, adapter: str, evidence: str = "") -> Path:
        """Append one correction and return its file; raises ConfigError where the folder cannot be written."""
        row = {"claim": claim, "evidence": evidence, "label": label, "adapter": adapter, "date": _now()}
        path = self.folder / f"{adapter}{self._suffix}.jsonl"
        try:
            with self._lock:
                self.folder.mkdir(parents=True, exist_ok=True)
                _append(path, json.dumps(row, ensure_ascii=False))
        except OSError as error:
            raise ConfigError(
                f"the correction is not kept: {path.name} cannot be written ({error.strerror}). "
                "The app has to be started with another --feedback."
            ) from error
        return path


def _append(path: Path, line: str) -> None:
    """Append a whole line or nothing; raises OSError. A full disk takes only a part of what is written to it."""
    with path.open("ab", buffering=0) as file:
        start = file.tell()
        if start >= _MOST_BYTES:
            raise OSError(errno.EFBIG, f"it has {_MOST_BYTES // 1_000_000} MB")
        content = f"{line}\n".encode()
        try:
            if file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(start)
            raise


def opened(folder: Path | None, *, host: str | None = None, default: Path | None = None) -> Feedback | None:
    """Return where the page keeps corrections: the data set in the environment, else `folder`; None for nowhere.

    Without either it is `default` where only this machine can reach the page (`host`), because then nobody else can
    write to its disk. Raises HubError where the data set cannot be opened.
    """
    repo = os.environ.get(DATASET)
    if repo:
        temporary = Path(tempfile.mkdtemp(prefix="lorahub-feedback-"))
        scheduler = client.call(
            lambda: CommitScheduler(
                repo_id=repo,
                repo_type="dataset",
                folder_path=temporary,
                every=_MINUTES_BETWEEN_COMMITS,
                private=True,
                hf_api=client.api(),
            ),
            doing=f"open the data set {repo} for corrections",
        )
        return Feedback(temporary, scheduler)
    if folder is None and host in LOOPBACK:
        folder = default
    return Feedback(folder) if folder else None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
