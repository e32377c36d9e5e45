"""What a record names, opened again: the base that a run stood on and the claims that it was or is to be judged on.

In: adapters that were located and their records. Out: a BaseConfig and ClaimData. A downloaded record is somebody
else's word: it chooses no base and opens no file of this machine.
"""

import dataclasses
from collections.abc import Sequence

from lorahub import records, runfiles
from lorahub.config import BaseConfig, DataConfig
from lorahub.data import claims, named, sources
from lorahub.data.claimset import ClaimData
from lorahub.errors import AdapterError, ConfigError, DataError
from lorahub.hub import fetch
from lorahub.hub.fetch import Located
from lorahub.labels import LabelSet
from lorahub.records import RunRecord

# Kinds of data that a record names and nobody else can open.
_ONLY_THERE = {"file": "a file", "folder": "a folder", claims.MEMORY: "in the memory"}


def base(located: Located, record: RunRecord, *, instead: str | None = None) -> BaseConfig:
    """The base `instead`, ours, or for a run that is here the recorded one, with the run's own settings.

    A downloaded file names neither base nor commit: the Hub serves the commits of anybody's pull request under the name
    of the repository. Raises AdapterError where it would have to.
    """
    own = record.environment.base_id
    chosen, revision = instead, None
    if chosen is None and located.repo is None:
        chosen, revision = own, record.environment.base_revision
    elif chosen is None and own.lower() == fetch.MINILM.lower():
        chosen = fetch.MINILM
    elif chosen is None:
        raise AdapterError(f"{located.repo} says that its base is {own}. If you trust it, give --base {own}.")
    return dataclasses.replace(record.config.base, id=chosen, revision=revision, device="auto")


def data(located: Located, record: RunRecord, *, instead: str | None = None, token: str | None = None) -> ClaimData:
    """The recorded data at its recorded revision, or `instead` of it, read as the run read it; raises DataError."""
    source, config = record.environment.data, record.config.data
    if instead is None and source.kind in _ONLY_THERE:
        raise DataError(f"{source.id} was {_ONLY_THERE[source.kind]} of the machine that trained. Give --data.")
    if instead is None and located.repo and not (named.named_set(source.id) or fetch.remote_id(source.id)):
        raise DataError(f"{source.id!r} is neither a named data set nor a Hub id. Give the data with --data.")
    revision = (source.revision if instead is None else None) or config.revision
    return claims.load(dataclasses.replace(config, id=instead or source.id, revision=revision), token=token)


def reading(record: RunRecord, data: str) -> DataConfig:
    """How to read `data` as a run read its own: the same columns and labels, and the revision only of the same data."""
    own = record.config.data
    return dataclasses.replace(own, id=data, revision=own.revision if data == own.id else None)


def to_judge(
    config: DataConfig, split: str, adapters: Sequence[Located], *, token: str | None = None
) -> tuple[ClaimData, str]:
    """The claims to judge adapters on, and the name of the split that holds them: `split`, or `all`.

    Data without that split is judged whole, unless an adapter was trained on it: then on the split that its run made.
    The warnings say which. Raises DataError, or ConfigError where two runs split the data in different ways.
    """
    source = sources.find(config.id, revision=config.revision, split=split, token=token)
    labels = [name for item in adapters for name in LabelSet.load(item.folder).names]
    if split in source.splits:
        return claims.load_split(source, config, split, labels), split
    runs = [(item.name, records.load(item.folder)) for item in adapters if runfiles.is_finished(item.folder)]
    known = [(name, data) for name, run in runs if (data := _as_trained(config, run, token)) is not None]
    if len({data.source.sha256[split] for _, data in known}) > 1:
        names = ", ".join(name for name, _ in known)
        raise ConfigError(
            f"{names} split {source.id} each in another way, so that what one has not seen another has learnt. "
            "Judge them one by one, or on other claims."
        )
    if known:
        name, data = known[0]
        count = f"{len(data.splits[split]):,} {split} claims"
        note = f"{name} was trained on {source.id}: judged on the {count} of its run."
        return dataclasses.replace(data, warnings=[note]), split
    found = claims.load_split(source, config, split, labels)
    whole = next(iter(found.splits))
    warnings = [
        *found.warnings,
        f"{source.id} has no splits: all of its {len(found.splits[whole]):,} claims are judged.",
    ]
    for name, run in runs:
        if run.environment.data.id == source.id:
            warnings.append(
                f"{name} was trained on data of that name which read otherwise: claims that it has learnt may be among "
                "them, and its figures too good."
            )
    return dataclasses.replace(found, warnings=warnings), whole


def _as_trained(config: DataConfig, run: RunRecord, token: str | None) -> ClaimData | None:
    """The data read and split as a run did; None where that does not give the claims that it was trained on."""
    try:
        read_as = dataclasses.replace(run.config.data, id=config.id, revision=config.revision)
        data = claims.load(read_as, token=token, compare=False)
    except (ConfigError, DataError):
        return None
    return data if data.source.sha256 == run.environment.data.sha256 else None
