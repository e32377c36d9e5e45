"""`lorahub verify`: an adapter loaded as a stranger would, and its claims measured again.

In: an adapter, here or on the Hub. Out: checks, each with what was claimed and what was found: the files' safety, the
probe's logits in plain peft and in the engine, the data's fingerprints, and the card's metrics on that data.
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorahub import config as configs
from lorahub import records
from lorahub.config import BaseConfig, Config
from lorahub.errors import AdapterError, DataError, UnsafeAdapterError, need
from lorahub.hub import fetch, safety
from lorahub.hub.fetch import Located
from lorahub.records import RunRecord
from lorahub.reports import cards, metadata, sections

if TYPE_CHECKING:
    import numpy as np

    from lorahub.data.claims import ClaimData, ClaimSet

PROBE_FILE = "probe.json"
# Other processors round differently: about 1e-5 on float32 logits, and now and then a claim on the border falls over.
LOGIT_TOLERANCE = 1e-3
METRIC_TOLERANCE = 0.005


@dataclass(frozen=True, kw_only=True)
class Check:
    """One claim. `ok` is None where it could not be measured, and `found` says why."""

    name: str
    claimed: str
    found: str
    ok: bool | None


@dataclass(frozen=True, kw_only=True)
class Options:
    """`data` stands in for the recorded data set, `base` for the recorded base."""

    data: str | None = None
    base: str | None = None
    tolerance: float = METRIC_TOLERANCE
    token: str | None = None


def verify(identifier: str, options: Options) -> Iterator[Check]:
    """Yield one check after the other; raises AdapterError where there is no adapter or no record of one."""
    need("torch", extra="train")
    safe = Check(name="file safety", claimed="loads without risk", found="no finding", ok=True)
    try:
        located = fetch.adapter(identifier, token=options.token)
        report = safety.local(located.folder)
        safety.refuse(report, identifier)
    except UnsafeAdapterError as error:
        yield dataclasses.replace(safe, found=str(error), ok=False)
        return
    notes = "; ".join(finding.text for finding in report.findings)
    yield dataclasses.replace(safe, found=notes or safe.found)
    record = records.load(located.folder)
    base = _base(located, record, options)
    yield from _probe(located.folder, base)
    yield from _figures(located, record, base, options)


def _base(located: Located, record: RunRecord, options: Options) -> BaseConfig:
    """The base as it was asked for in the run; one that a downloaded file names must be ours, or be given."""
    named = str(record.environment["base_id"])
    if options.base is None and located.repo is not None and named.lower() != fetch.MINILM.lower():
        raise AdapterError(f"{located.repo} says that its base is {named}. If you trust it, give --base {named}.")
    asked = configs.from_dict(record.asked).base
    revision = None if options.base else asked.revision
    return BaseConfig(**{**vars(asked), "id": options.base or named, "revision": revision, "device": "auto"})


def _probe(folder: Path, base: BaseConfig) -> Iterator[Check]:
    from lorahub.labels import LabelSet
    from lorahub.models import adapters
    from lorahub.models import base as bases
    from lorahub.serving.alone import answering
    from lorahub.training.folder import probe_logits

    some, claimed = _read_probe(folder)
    fresh = bases.load(base, LabelSet.load(folder))
    plain = probe_logits(adapters.load_with_peft(folder, fresh), fresh, some)
    yield _logits("probe logits in plain peft", claimed, plain)
    (answers,) = answering([folder], base.id, settings=base)
    served = answers.logits(some.texts, evidence=some.evidence)
    yield _logits("probe logits in lorahub's engine", claimed, next(iter(served.values())))


def _read_probe(folder: Path) -> tuple["ClaimSet", "np.ndarray"]:
    import numpy as np

    from lorahub.data.claims import ClaimSet

    try:
        rows = json.loads((folder / PROBE_FILE).read_text(encoding="utf-8"))
        logits = np.array([row["logits"] for row in rows], dtype=np.float32)
        evidence = [row["evidence"] for row in rows] if rows and "evidence" in rows[0] else None
        texts = [str(row["claim"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"{folder / PROBE_FILE} cannot be read ({error}). Restore it or train again.") from None
    return ClaimSet(texts=texts, gold=np.zeros(len(rows), np.int64), evidence=evidence), logits


def _logits(name: str, claimed: "np.ndarray", found: "np.ndarray") -> Check:
    same_shape = claimed.shape == found.shape
    worst = float(abs(claimed - found).max()) if same_shape and claimed.size else float("inf")
    return Check(
        name=name,
        claimed=f"{len(claimed)} claims, within {LOGIT_TOLERANCE:g}",
        found=f"off by {worst:.2g}" if same_shape else f"shape {found.shape}, not {claimed.shape}",
        ok=worst <= LOGIT_TOLERANCE,
    )


def _figures(located: Located, record: RunRecord, base: BaseConfig, options: Options) -> Iterator[Check]:
    from lorahub.serving import judge
    from lorahub.serving.alone import answering

    config = configs.from_dict(record.asked)
    claimed = _claimed(located.folder, record)
    try:
        data = _data(config, record, options.data)
    except DataError as error:
        # Nothing to measure on is no difference: said, and left to the person.
        yield Check(name="card's metrics", claimed=f"{len(claimed)} figures", found=f"not measured: {error}", ok=None)
        return
    yield from _fingerprints(record, data)
    (answers,) = answering([located.folder], base.id, settings=base)
    found = judge.score(answers, next(iter(answers.adapters)), data, "test", config.eval)
    for key, value in claimed.items():
        change = abs(found[key] - value)
        name = metadata.METRICS[key][1]
        yield Check(name=name, claimed=f"{value:.4f}", found=f"{found[key]:.4f}", ok=change <= options.tolerance)


def _data(config: Config, record: RunRecord, wanted: str | None) -> "ClaimData":
    """The recorded data at its recorded revision, or what stands in for it, read as the run read it."""
    from lorahub.data import claims

    recorded = record.environment["data"]
    if wanted is None and recorded["kind"] in ("file", "folder"):
        raise DataError(f"{recorded['id']} was a {recorded['kind']} on the machine that trained. Give it with --data.")
    revision = recorded["revision"] if wanted is None else None
    asked = dataclasses.replace(config.data, id=wanted or recorded["id"], revision=revision or config.data.revision)
    return claims.load(asked)


def _claimed(folder: Path, record: RunRecord) -> dict[str, float]:
    """The card's figures on test, by the record's keys; the record's own where there is no card."""
    card = folder / cards.FILE_NAME
    index = sections.front_matter(card.read_text(encoding="utf-8")).get("model-index") if card.is_file() else None
    names = {name: key for key, (_, name, _) in metadata.METRICS.items()}
    results: list[dict[str, Any]] = index[0]["results"] if index else []
    test = [row for row in results if row["dataset"].get("split") == "test"]
    found = {
        names[row["name"]]: float(row["value"]) for row in (test[0]["metrics"] if test else []) if row["name"] in names
    }
    own = record.results["test"]["adapter"]
    return found or {key: own[key] for key in metadata.METRICS if key in own}


def _fingerprints(record: RunRecord, data: "ClaimData") -> Iterator[Check]:
    recorded, split = record.environment["data"], "test"
    claimed, found = recorded["sha256"][split], data.source["sha256"][split]
    yield Check(
        name=f"{data.source['id']}, {split}",
        claimed=f"sha256 {claimed[:16]}",
        found=f"sha256 {found[:16]}",
        ok=claimed == found,
    )
    if recorded["revision"]:
        revision = data.source["revision"]
        yield Check(
            name="data revision", claimed=recorded["revision"], found=str(revision), ok=revision == recorded["revision"]
        )
