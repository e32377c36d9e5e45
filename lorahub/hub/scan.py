"""The verdict on an adapter: is it safe to load, and for which reasons is it not.

In: the findings of hub/safety.py on a folder or a repository, and of hub/integrity.py on a folder. Out: a `Verdict`,
which `lorahub scan`, `info`, `pull`, `verify` and the app show. A repository is judged without its weights, of which
only the header is fetched; their values and the hashes in the record are checked in a folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorahub import records, runfiles
from lorahub.errors import AdapterError, HubError, UnsafeAdapterError
from lorahub.hub import client, fetch, integrity, safety
from lorahub.hub.safety import Report


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether an adapter is safe to load.

    `reasons` prevent loading, `notes` do not. `altered` are the differences between the files and the record of the
    run; they do not prevent loading. Texts of files stand in all three: escape them before they are shown.
    """

    name: str
    safe: bool
    reasons: tuple[str, ...] = ()
    altered: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def judge(name: str, report: Report, *, altered: Sequence[str] = (), notes: Sequence[str] = ()) -> Verdict:
    """Return the verdict that follows from a report; `notes` are further ones."""
    others = (finding.text for finding in report.findings if not finding.refused)
    return Verdict(
        name=name,
        safe=not report.refused,
        reasons=tuple(report.refused),
        altered=tuple(altered),
        notes=(*others, *notes),
    )


def refused(name: str, error: UnsafeAdapterError) -> Verdict:
    """Return the verdict on an adapter that was not loaded or downloaded."""
    return Verdict(name=name, safe=False, reasons=error.reasons)


def scan(identifier: str, *, token: client.Token = None) -> Verdict:
    """Judge a folder, a run by its name, or a repository on the Hub at its current or a given commit.

    If the Hub is not available, the commit in the cache is judged. Raises AdapterError if there is no such folder,
    HubError if the Hub refuses.
    """
    remote = fetch.remote_id(identifier)
    if remote is None:
        return scan_folder(str(identifier), runfiles.locate(identifier))
    repo, revision = remote
    commit = revision
    try:
        commit = fetch.pin(repo, revision, token=token)
        return judge(f"{repo}@{commit}", safety.remote(repo, commit, token=token))
    except HubError as error:
        folder = fetch.cached(repo, commit, error)
    return scan_folder(f"{repo}@{folder.name}", folder)


def scan_folder(name: str, folder: Path) -> Verdict:
    """Judge an adapter folder, also one with a damaged record; raises AdapterError if there is no folder."""
    report = safety.local(folder)
    if report.refused or not runfiles.is_finished(folder):
        return judge(name, report)
    try:
        record = records.load(folder)
    except AdapterError as error:
        return judge(name, report, notes=[f"its files are not compared with its record: {error}"])
    return judge(name, report, altered=integrity.altered(folder, record))
