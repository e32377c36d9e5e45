"""Open the base and the data that a record names, and choose the claims to evaluate adapters on.

In: located adapters and their records. Out: a BaseConfig and ClaimData. A downloaded record is not trusted: it cannot
choose a base or open a file of this machine.
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

# Kinds of data that only the machine of the training can open.
_ONLY_THERE = {"file": "a file", "folder": "a folder", claims.MEMORY: "in the memory"}


def base(located: Located, record: RunRecord, *, instead: str | None = None) -> BaseConfig:
    """Return the config of the base: `instead`, or MiniLM, or the recorded base of a local run.

    A downloaded record chooses neither base nor commit, because the Hub serves the commits of every pull request under
    the name of the repository. Raises AdapterError if only such a record names the base.
    """
    own = record.environment.base_id
    chosen, revision = instead, None
    if chosen is None and located.repo is None:
        chosen, revision = own, record.environment.base_revision
    elif chosen is None and own.lower() == fetch.MINILM.lower():
        chosen = fetch.MINILM
    elif chosen is None:
        at = f"{own}@{record.environment.base_revision}".removesuffix("@None")
        raise AdapterError(f"{located.repo} says that its base is {own}. If you trust it, give --base {at}.")
    return dataclasses.replace(record.config.base, id=chosen, revision=revision, device="auto")


def data(located: Located, record: RunRecord, *, instead: str | None = None, token: str | None = None) -> ClaimData:
    """Load the recorded data at its recorded revision, or `instead`, with the run's data config; raises DataError."""
    source, config = record.environment.data, record.config.data
    if instead is None and source.kind in _ONLY_THERE:
        raise DataError(f"{source.id} was {_ONLY_THERE[source.kind]} of the machine that trained. Give --data.")
    if instead is None and located.repo and not (named.named_set(source.id) or fetch.remote_id(source.id)):
        raise DataError(f"{source.id!r} is neither a named data set nor a Hub id. Give the data with --data.")
    revision = (source.revision if instead is None else None) or config.revision
    sheet = config.sheet if instead is None else None
    return claims.load(
        dataclasses.replace(config, id=instead or source.id, revision=revision, sheet=sheet), token=token
    )


def data_config(record: RunRecord, data: str) -> DataConfig:
    """Return the data config of a run for other data; revision and sheet are kept only for the same data."""
    own = record.config.data
    same = data == own.id
    return dataclasses.replace(own, id=data, revision=own.revision if same else None, sheet=own.sheet if same else None)


def evaluation_claims(
    config: DataConfig, split: str, adapters: Sequence[Located], *, token: str | None = None
) -> tuple[ClaimData, str]:
    """Load the claims to evaluate adapters on; return them and the name of their split: `split`, or `all`.

    Of data without that split all claims are used or, if an adapter was trained on it, the split that its run made.
    The warnings say which. Raises DataError, or ConfigError if two runs split the data in different ways.
    """
    source = sources.find(config.id, revision=config.revision, split=split, sheet=config.sheet, token=token)
    labels = [name for item in adapters for name in LabelSet.load(item.folder).names]
    if split in source.splits:
        return claims.load_split(source, config, split, labels), split
    runs = [(item.name, records.load(item.folder)) for item in adapters if runfiles.is_finished(item.folder)]
    known = [(name, data) for name, run in runs if (data := _as_trained(config, run, token)) is not None]
    if len({data.source.sha256[split] for _, data in known}) > 1:
        names = ", ".join(name for name, _ in known)
        raise ConfigError(
            f"{names} split {source.id} in different ways: test claims of one are training claims of another. "
            "Evaluate them one by one, or on other claims."
        )
    if known:
        name, data = known[0]
        count = f"{len(data.splits[split]):,} {split} claims"
        note = f"{name} was trained on {source.id}: evaluated on the {count} of its run."
        assumed = [f"{line}." for table in source.splits.values() for line in table.notes]
        return dataclasses.replace(data, warnings=[*assumed, note]), split
    loaded = claims.load_split(source, config, split, labels)
    whole = next(iter(loaded.splits))
    warnings = [
        *loaded.warnings,
        f"{source.id} has no splits: all of its {len(loaded.splits[whole]):,} claims are evaluated.",
    ]
    for name, run in runs:
        if run.environment.data.id == source.id:
            warnings.append(
                f"{name} was trained on other data of that name: its training claims may be among them, and its "
                "figures too good."
            )
    return dataclasses.replace(loaded, warnings=warnings), whole


def _as_trained(config: DataConfig, run: RunRecord, token: str | None) -> ClaimData | None:
    """Return the data read and split as in a run; None if these are not the claims that it was trained on."""
    try:
        read_as = dataclasses.replace(run.config.data, id=config.id, revision=config.revision)
        data = claims.load(read_as, token=token, compare=False)
    except (ConfigError, DataError):
        return None
    return data if data.source.sha256 == run.environment.data.sha256 else None
