"""The repositories of the Hub that visitors may name: public ones, and those that the owner of the page allows.

In: the id of a repository. Out: the token to fetch it with, or a refusal. Visitors never use the owner's token, and
never read from the owner's cache what they could not download themselves.
"""

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from lorahub.data import tables
from lorahub.data.named import named_set
from lorahub.errors import AdapterError, ConfigError, DataError, HubError
from lorahub.hub import client, fetch

# Allowed repositories in the environment, separated by spaces: a Space has no command line.
ALLOW_PRIVATE = "LORAHUB_ALLOW_PRIVATE"
# Seconds for which the Hub's answer counts, so that a search of many visitors asks once.
_SECONDS_KNOWN = 300
_TIMEOUT = 5.0
# Statuses with which the Hub hides a private repository, or refuses a gated one.
_HIDDEN = frozenset({401, 403, 404})
_MOST_KNOWN = 10_000
Kind = Literal["model", "dataset"]


class VisitorAccess:
    """Decides which repositories visitors may name; `allowed` are private ones that the owner shows to everybody."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self.allowed = tuple(dict.fromkeys(allowed))
        for name in self.allowed:
            if fetch.hub_id(name) is None or "@" in name:
                raise ConfigError(f"--allow-private names repositories as USER/NAME; found {name!r}.")
        self._folded = {name.casefold() for name in self.allowed}
        self._known: dict[tuple[Kind, str], tuple[float, bool]] = {}
        self._lock = threading.Lock()

    def token(self, repo: str) -> client.Token:
        """Return the token for a repository: the owner's login where it is allowed, else none at all."""
        return None if repo.casefold() in self._folded else False

    def sees(self, repo: str, kind: Kind = "model") -> bool:
        """Return whether visitors may see a repository; raises HubError where the Hub cannot be asked."""
        if self.token(repo) is None:
            return True
        with self._lock:
            asked, public = self._known.get((kind, repo), (-float(_SECONDS_KNOWN), False))
        if time.monotonic() - asked < _SECONDS_KNOWN:
            return public
        public = _is_public(repo, kind)
        with self._lock:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[kind, repo] = (time.monotonic(), public)
        return public

    def check(self, repo: str) -> None:
        """Raise AdapterError where visitors may not see an adapter, HubError where the Hub cannot be asked."""
        if not self.sees(repo):
            raise AdapterError(
                f"there is no public adapter {repo} on the Hub. Of private ones, visitors use only those that the "
                "owner of the page names with --allow-private."
            )

    def check_data(self, identifier: str) -> None:
        """Raise DataError where training data on the Hub is not public, HubError where the Hub cannot be asked."""
        repo = identifier.strip().partition("@")[0]
        # What `data.sources` looks for on the Hub.
        path = Path(identifier)
        if named_set(repo) or path.exists() or path.suffix.lower() in tables.SUFFIXES or repo.count("/") != 1:
            return
        if not self.sees(repo, "dataset"):
            raise DataError(
                f"there is no public data set {repo} on the Hub, nor a file or folder of this name. Of private "
                "ones, visitors use only those that the owner of the page names with --allow-private."
            )


def _is_public(repo: str, kind: Kind) -> bool:
    """Return whether anybody can download a repository; raises HubError where the Hub does not say."""
    api = client.api(False)
    show = api.model_info if kind == "model" else api.dataset_info
    try:
        info = client.call(lambda: show(repo, timeout=_TIMEOUT), doing=f"show {repo}", tries=1)
    except HubError as error:
        if error.status in _HIDDEN:
            return False
        raise
    # Of a gated repository everybody sees the description, but only some may download the files.
    return not info.private and not info.gated
