"""What a record names, opened again: the base that a run stood on and the claims that it was judged on.

In: an adapter that was located and its record. Out: a BaseConfig and ClaimData. A downloaded record is somebody else's
word: it chooses no base and opens no file of this machine.
"""

import dataclasses

from lorahub import config as configs
from lorahub.config import BaseConfig
from lorahub.data import claims, named
from lorahub.data.claims import ClaimData
from lorahub.errors import AdapterError, DataError
from lorahub.hub import fetch
from lorahub.hub.fetch import Located
from lorahub.records import RunRecord

# Kinds of data that a record names and nobody else can open.
_ONLY_THERE = {"file": "a file", "folder": "a folder", claims.MEMORY: "in the memory"}


def base(located: Located, record: RunRecord, *, instead: str | None = None) -> BaseConfig:
    """The base `instead`, ours, or for a run that is here the recorded one, with the run's own settings.

    A downloaded file names neither base nor commit: the Hub serves the commits of anybody's pull request under the name
    of the repository. Raises AdapterError where it would have to.
    """
    own = record.environment["base_id"]
    chosen, revision = instead, None
    if chosen is None and located.repo is None:
        chosen, revision = own, record.environment.get("base_revision")
    elif chosen is None and own.lower() == fetch.MINILM.lower():
        chosen = fetch.MINILM
    elif chosen is None:
        raise AdapterError(f"{located.repo} says that its base is {own}. If you trust it, give --base {own}.")
    asked = configs.from_dict(record.asked).base
    return dataclasses.replace(asked, id=chosen, revision=revision, device="auto")


def data(located: Located, record: RunRecord, *, instead: str | None = None, token: str | None = None) -> ClaimData:
    """The recorded data at its recorded revision, or `instead` of it, read as the run read it; raises DataError."""
    found = record.environment["data"]
    if instead is None and found["kind"] in _ONLY_THERE:
        raise DataError(f"{found['id']} was {_ONLY_THERE[found['kind']]} of the machine that trained. Give --data.")
    if instead is None and located.repo and not (named.named_set(found["id"]) or fetch.remote_id(found["id"])):
        raise DataError(f"{found['id']!r} is neither a named data set nor a Hub id. Give the data with --data.")
    asked = configs.from_dict(record.asked).data
    revision = (found.get("revision") if instead is None else None) or asked.revision
    return claims.load(dataclasses.replace(asked, id=instead or found["id"], revision=revision), token=token)
