"""What a push must not do unasked: replace what this run does not know, or pass over a worse figure in silence.

In: a `Remote` and what would be published. Out: a PublishError, or sentences to say before anything is sent.
"""

from lorahub.errors import PublishError
from lorahub.hub import client
from lorahub.publish import remote
from lorahub.publish.export import Export
from lorahub.publish.remote import Remote
from lorahub.records import RunRecord
from lorahub.reports import metadata, sections
from lorahub.stats.results import LOWER_IS_BETTER


def check(there: Remote, found: Export, *, replaced: set[str], known: str | None, token: str | None) -> None:
    """Raise PublishError where the repository holds something newer than, or unrelated to, this run.

    `replaced` are the files that a push would replace or remove, but for the card: an edited card is no reason, since
    its words are kept. `known` is the commit that this folder last put there.
    """
    force = "look at it there, then replace it with --force or push elsewhere."
    if there.head is None or there.head == known:
        return
    if there.foreign:
        raise PublishError(f"{there.repo} holds files that lorahub did not write ({there.foreign[0]}): {force}")
    if known is not None:
        before = remote.file_hashes(client.api(token), there.repo, known)
        changed = sorted(
            path
            for path in before.keys() | there.hashes.keys()
            if before.get(path) != there.hashes.get(path) and path in replaced
        )
        if changed:
            raise PublishError(f"{there.repo} has changed since your last push ({', '.join(changed[:3])}): {force}")
    if there.record is not None and there.record.created > found.record.created:
        raise PublishError(
            f"{there.repo} holds the run {there.record.name} of {there.record.created}, newer than this one of "
            f"{found.record.created}: {force}"
        )


def choose_card(mine: str, there: Remote, *, plain: str, known: str | None, force: bool) -> str:
    """Whose words to keep: those of whoever wrote some; of two who did, mine where I have seen the other's.

    Raises PublishError where the card was edited here and, since the last push, on the Hub too.
    """
    theirs = there.card
    if theirs is None or sections.own(theirs) in (sections.own(mine), sections.own(plain)):
        return mine
    if sections.own(mine) == sections.own(plain):
        return theirs
    if force or there.head == known:
        return mine
    raise PublishError(
        f"the card of {there.repo} was edited on the Hub and here. Copy what you want to keep into README.md of the "
        "run and push with --force."
    )


def worse(record: RunRecord, published: RunRecord | None) -> list[str]:
    """A sentence for each test metric that is worse than the published one."""
    if published is None:
        return []
    mine, theirs = (found.results.get("test", {}).get("adapter") for found in (record, published))
    if mine is None or theirs is None:
        return []
    ours, published_sha256 = (found.environment.data.sha256.get("test") for found in (record, published))
    lines = []
    for key, (_, name, _) in metadata.METRICS.items():
        value, before = mine.metric(key), theirs.metric(key)
        change = value - before
        if (change if key in LOWER_IS_BETTER else -change) > 5e-4:
            where = "" if ours == published_sha256 else ", though on other test claims"
            lines.append(f"{name} is {value:.3f}, worse than the published {before:.3f}{where}")
    return lines
