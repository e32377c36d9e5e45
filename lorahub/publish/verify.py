"""`lorahub verify`: an adapter loaded as a stranger would, and its claims measured again.

In: an adapter, here or on the Hub. Out: checks, each with what was claimed and what was found: the files' safety, the
base's commit, the probe's logits in plain peft and in the engine, the card's tables against the record, the data's
fingerprints, and the metrics of card and record on that data. What the record says of other systems, and what people
wrote into the card, is not measured.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorahub import records, runfiles
from lorahub.config import BaseConfig
from lorahub.errors import AdapterError, DataError, UnsafeAdapterError, need, one_line
from lorahub.hub import fetch, recorded, safety
from lorahub.hub.fetch import Located
from lorahub.records import RunRecord
from lorahub.reports import cards, metadata, sections
from lorahub.runfiles import ProbeRow

if TYPE_CHECKING:
    import numpy as np

    from lorahub.data.claimset import ClaimData, ClaimSet
    from lorahub.serving.predictor import Predictor

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
    from lorahub.serving.loading import open_predictors

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
    base = recorded.base(located, record, instead=options.base)
    # First, because it looks whether the adapter fits its base.
    (engine,) = open_predictors([located], base.id, settings=base, token=options.token)
    yield from _revision(record, engine)
    yield from _probe(located.folder, base, engine, options)
    yield from _card(located.folder, record)
    yield from _figures(located, record, engine, options)


def _revision(record: RunRecord, engine: "Predictor") -> Iterator[Check]:
    claimed, found = record.environment.base_revision, engine.base_revision
    if claimed or found:
        # Another commit of the base makes no claim false, but figures may differ for it.
        yield Check(
            name="base revision",
            claimed=claimed or "a folder without one",
            found=(found or "a folder without one") + ("" if claimed == found else ": figures may differ for it"),
            ok=True if claimed == found else None,
        )


def _probe(folder: Path, base: BaseConfig, engine: "Predictor", options: Options) -> Iterator[Check]:
    from lorahub.labels import LabelSet
    from lorahub.models import adapters
    from lorahub.models import base as bases
    from lorahub.training.folder import probe_logits

    some, claimed = _read_probe(folder)
    fresh = bases.load(base, LabelSet.load(folder), token=options.token)
    plain = probe_logits(adapters.load_with_peft(folder, fresh), fresh, some)
    yield _logits("probe logits in plain peft", claimed, plain)
    served = engine.logits(some.texts, evidence=some.evidence)
    yield _logits("probe logits in lorahub's engine", claimed, next(iter(served.values())))


def _read_probe(folder: Path) -> tuple["ClaimSet", "np.ndarray"]:
    import numpy as np

    from lorahub.data.claimset import ClaimSet

    path = folder / runfiles.PROBE
    rows = runfiles.read_json(path, list[ProbeRow])
    if len({len(row.logits) for row in rows}) != 1:
        raise AdapterError(f"{path} does not hold the same number of logits for each claim. {runfiles.RESTORE}")
    second = [row.evidence for row in rows if row.evidence is not None]
    claims = ClaimSet(texts=[row.claim for row in rows], gold=np.zeros(len(rows), np.int64), evidence=second or None)
    return claims, np.array([row.logits for row in rows], dtype=np.float32)


def _logits(name: str, claimed: "np.ndarray", found: "np.ndarray") -> Check:
    same_shape = claimed.shape == found.shape
    worst = float(abs(claimed - found).max()) if same_shape and claimed.size else float("inf")
    return Check(
        name=name,
        claimed=f"{len(claimed)} claims, within {LOGIT_TOLERANCE:g}",
        found=f"off by {worst:.2g}" if same_shape else f"shape {found.shape}, not {claimed.shape}",
        ok=worst <= LOGIT_TOLERANCE,
    )


def _card(folder: Path, record: RunRecord) -> Iterator[Check]:
    """The lines of the card that follow from the record: the verdict, the tables and the comparisons."""
    text = _card_text(folder)
    if text is None:
        return
    told = _generated(text)
    try:
        fresh = _generated(cards.render(record))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise AdapterError(
            f"{folder / runfiles.RECORD} is not what a card is written from ({type(error).__name__}: "
            f"{one_line(error)}). Restore it or train again."
        ) from None
    check = Check(name="card's results", claimed=f"{len(told)} lines", found="as in the record", ok=True)
    if not told:
        check = dataclasses.replace(check, found="not compared: no section of lorahub's is left in the card", ok=None)
    elif told != fresh:
        changed = next((line for line in told if line not in fresh), "a line is missing")
        check = dataclasses.replace(check, found=f"not in the record: {changed}", ok=False)
    yield check


def _card_text(folder: Path) -> str | None:
    path = folder / runfiles.CARD
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else None
    except UnicodeDecodeError as error:
        raise AdapterError(f"{path} is not UTF-8 text ({error}). Restore it or train again.") from None


def _generated(card: str) -> list[str]:
    lines = [line.rstrip() for name in ("summary", "results") for line in sections.lines(card, name)]
    return [line for line in lines if line.startswith(("**", "| ", "- "))]


def _figures(located: Located, record: RunRecord, engine: "Predictor", options: Options) -> Iterator[Check]:
    from lorahub.serving import evaluate

    config = record.config
    card, measured = _claimed(located.folder), record.adapter()
    own = {key: measured.metric(key) for key in metadata.METRICS}
    shown = [("", key, value) for key, value in card.items()]
    # A card rounds; one that says something else than its record leaves two claims to measure.
    shown += [(" in the record", key, value) for key, value in own.items() if card.get(key) != round(value, 6)]
    try:
        data = recorded.data(located, record, instead=options.data, token=options.token)
    except DataError as error:
        # Nothing to measure on is no difference: said, and left to the person.
        yield Check(name="card's metrics", claimed=f"{len(shown)} figures", found=f"not measured: {error}", ok=None)
        return
    yield from _fingerprints(record, data)
    found = evaluate.score(engine, next(iter(engine.adapters)), data, "test", config.eval)
    for where, key, value in shown:
        change = abs(found.metric(key) - value)
        name = f"{metadata.METRICS[key][1]}{where}"
        yield Check(name=name, claimed=f"{value:.4f}", found=f"{found.metric(key):.4f}", ok=change <= options.tolerance)


def _claimed(folder: Path) -> dict[str, float]:
    """The figures on test in the card's metadata, by the record's keys; none where there is no card."""
    names = {name: key for key, (_, name, _) in metadata.METRICS.items()}
    try:
        index = sections.front_matter(_card_text(folder) or "").get("model-index")
        results: list[dict[str, Any]] = index[0]["results"] if index else []
        test = [row for row in results if row["dataset"].get("split") == "test"]
        rows = test[0]["metrics"] if test else []
        return {names[row["name"]]: float(row["value"]) for row in rows if row.get("name") in names}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise AdapterError(
            f"{folder / runfiles.CARD}: the figures in its model-index cannot be read ({one_line(error)}). "
            "Restore it or train again."
        ) from None


def _fingerprints(record: RunRecord, data: "ClaimData") -> Iterator[Check]:
    stored, split = record.environment.data, "test"
    claimed, found = str(stored.sha256.get(split)), data.source.sha256[split]
    yield Check(
        name=f"{data.source.id}, {split}",
        claimed=f"sha256 {claimed[:16]}",
        found=f"sha256 {found[:16]}",
        ok=claimed == found,
    )
    if stored.revision:
        revision = data.source.revision
        yield Check(name="data revision", claimed=stored.revision, found=str(revision), ok=revision == stored.revision)
