"""`lorahub verify`: load an adapter the way a new user would, and measure its claimed figures again.

In: an adapter, here or on the Hub. Out: checks, each with the claimed and the measured value: safety of the files,
their hashes, commit of the base, probe logits in plain peft and in the engine, the checks of serving/load_checks.py,
the card's tables against the record, fingerprints of the data, and the metrics of card and record on that data. The
record's figures of other systems, and text that users wrote into the card, are not checked.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lorahub import records, runfiles
from lorahub.config import BaseConfig
from lorahub.data.claimset import ClaimData, ClaimSet
from lorahub.errors import AdapterError, DataError, UnsafeAdapterError, need, one_line
from lorahub.hub import fetch, integrity, recorded, safety, scan
from lorahub.hub.fetch import Located
from lorahub.records import RunRecord
from lorahub.reports import cards, metadata, sections
from lorahub.runfiles import ProbeRow

if TYPE_CHECKING:
    import numpy as np

    from lorahub.serving.predictor import Predictor

# Processors round differently: about 1e-5 on float32 logits, and sometimes a borderline claim changes its label.
LOGIT_TOLERANCE = 1e-3
METRIC_TOLERANCE = 0.005


@dataclass(frozen=True, kw_only=True)
class Check:
    """One claimed value. `ok` is None if it could not be measured; then `found` gives the reason."""

    name: str
    claimed: str
    found: str
    ok: bool | None


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a verification. `data` and `base` replace the recorded ones."""

    data: str | None = None
    base: str | None = None
    tolerance: float = METRIC_TOLERANCE
    token: str | None = None


def verify(identifier: str, options: Options) -> Iterator[Check]:
    """Yield one check after the other; raises AdapterError if there is no adapter or no record of one."""
    need("torch", extra="train")
    from lorahub.serving import load_checks
    from lorahub.serving.loading import open_predictors

    try:
        located = fetch.adapter(identifier, token=options.token)
        verdict = scan.judge(identifier, safety.local(located.folder))
    except UnsafeAdapterError as error:
        verdict = scan.refused(identifier, error)
    found = "; ".join(verdict.reasons + verdict.notes)
    yield Check(name="file safety", claimed="loads without risk", found=found or "no finding", ok=verdict.safe)
    if not verdict.safe:
        return
    record = records.load(located.folder)
    yield from _files(located.folder, record)
    base = recorded.base(located, record, instead=options.base)
    # First, because it checks whether the adapter fits its base.
    (engine,) = open_predictors([located], base.id, settings=base, token=options.token)
    yield from _revision(record, engine)
    claims, logits = _read_probe(located.folder)
    yield from _probe(located.folder, base, engine, claims, logits, options)
    for loaded in load_checks.check(engine, engine.names[0], claims):
        yield Check(name=loaded.name, claimed=loaded.expected, found=loaded.found, ok=loaded.ok)
    yield from _card(located.folder, record)
    yield from _figures(located, record, engine, options)


def _files(folder: Path, record: RunRecord) -> Iterator[Check]:
    for comparison in integrity.compare(folder, record):
        found = {True: "unchanged", False: "; ".join(comparison.changes), None: "not compared"}
        yield Check(
            name=f"{comparison.group} as recorded",
            claimed=comparison.recorded,
            found=found[comparison.unchanged],
            ok=comparison.unchanged,
        )


def _revision(record: RunRecord, engine: "Predictor") -> Iterator[Check]:
    claimed, found = record.environment.base_revision, engine.base_revision
    if claimed or found:
        # Another commit of the base contradicts no claim, but it may explain other figures.
        yield Check(
            name="base revision",
            claimed=claimed or "a folder without one",
            found=(found or "a folder without one") + ("" if claimed == found else ": figures may differ for it"),
            ok=True if claimed == found else None,
        )


def _probe(
    folder: Path, base: BaseConfig, engine: "Predictor", claims: ClaimSet, claimed: "np.ndarray", options: Options
) -> Iterator[Check]:
    from lorahub.labels import LabelSet
    from lorahub.models import adapters
    from lorahub.models import base as bases
    from lorahub.training.folder import probe_logits

    fresh = bases.load(base, LabelSet.load(folder), token=options.token)
    yield _logits(
        "probe logits in plain peft", claimed, probe_logits(adapters.load_with_peft(folder, fresh), fresh, claims)
    )
    served = engine.logits(claims.texts, evidence=claims.evidence)
    yield _logits("probe logits in lorahub's engine", claimed, next(iter(served.values())))


def _read_probe(folder: Path) -> tuple[ClaimSet, "np.ndarray"]:
    import numpy as np

    from lorahub.serving import load_checks

    path = folder / runfiles.PROBE
    rows = runfiles.read_json(path, list[ProbeRow])
    if len({len(row.logits) for row in rows}) != 1:
        raise AdapterError(f"{path} does not hold the same number of logits for each claim. {runfiles.RESTORE}")
    return load_checks.claims_of(rows), np.array([row.logits for row in rows], dtype=np.float32)


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
    """Compare the lines of the card that follow from the record: the verdict, the tables and the comparisons."""
    text = _card_text(folder)
    if text is None:
        return
    lines = _generated(text)
    expected = _generated(cards.render(record))
    check = Check(name="card's results", claimed=f"{len(lines)} lines", found="as in the record", ok=True)
    if not lines:
        check = replace(check, found="not compared: the card has no generated section", ok=None)
    elif lines != expected:
        changed = next((line for line in lines if line not in expected), "a line is missing")
        check = replace(check, found=f"not in the record: {changed}", ok=False)
    yield check


def _card_text(folder: Path) -> str | None:
    path = folder / runfiles.CARD
    return runfiles.read_text(path) if path.exists() else None


def _generated(card: str) -> list[str]:
    lines = [line.rstrip() for name in ("summary", "results") for line in sections.lines(card, name)]
    return [line for line in lines if line.startswith(("**", "| ", "- "))]


def _figures(located: Located, record: RunRecord, engine: "Predictor", options: Options) -> Iterator[Check]:
    from lorahub.serving import evaluate

    in_card, recorded_result = _card_figures(located.folder), record.adapter()
    claimed = [("", key, value) for key, value in in_card.items()]
    # A card rounds. If it differs from its record beyond that, there are two values to check.
    for key in metadata.METRICS:
        value = recorded_result.metric(key)
        if in_card.get(key) != round(value, 6):
            claimed.append((" in the record", key, value))
    try:
        data = recorded.data(located, record, instead=options.data, token=options.token)
    except DataError as error:
        # Data that cannot be opened is not a difference: the user decides.
        yield Check(name="card's metrics", claimed=f"{len(claimed)} figures", found=f"not measured: {error}", ok=None)
        return
    yield from _fingerprints(record, data)
    measured = evaluate.score(engine, next(iter(engine.adapters)), data, "test", record.config.eval)
    for where, key, value in claimed:
        found = measured.metric(key)
        name = f"{metadata.METRICS[key][1]}{where}"
        ok = abs(found - value) <= options.tolerance
        yield Check(name=name, claimed=f"{value:.4f}", found=f"{found:.4f}", ok=ok)


def _card_figures(folder: Path) -> dict[str, float]:
    """Return the test figures in the card's metadata, by the record's keys; empty if there is no card."""
    names = {name: key for key, (_, name, _) in metadata.METRICS.items()}
    try:
        index = sections.front_matter(_card_text(folder) or "").get("model-index")
        results = index[0]["results"] if index else []
        test = [row for row in results if row["dataset"].get("split") == "test"]
        rows = test[0]["metrics"] if test else []
        return {names[row["name"]]: float(row["value"]) for row in rows if row.get("name") in names}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise AdapterError(
            f"{folder / runfiles.CARD}: the figures in its model-index cannot be read ({one_line(error)}). "
            f"{runfiles.RESTORE}"
        ) from None


def _fingerprints(record: RunRecord, data: ClaimData) -> Iterator[Check]:
    stored, source = record.environment.data, data.source
    claimed, found = str(stored.sha256.get("test")), source.sha256["test"]
    yield Check(
        name=f"{source.id}, test",
        claimed=f"sha256 {claimed[:16]}",
        found=f"sha256 {found[:16]}",
        ok=claimed == found,
    )
    if stored.revision:
        ok = source.revision == stored.revision
        yield Check(name="data revision", claimed=stored.revision, found=str(source.revision), ok=ok)
