"""Finished adapters judged on a data set: their answers against the gold labels."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lorahub import config as configs
from lorahub import records
from lorahub.config import DataConfig, EvalConfig
from lorahub.data import claims, sources
from lorahub.data.claims import ClaimData
from lorahub.data.sources import SPLITS
from lorahub.errors import ConfigError, DataError
from lorahub.hub import fetch
from lorahub.hub.fetch import Located
from lorahub.labels import LabelSet
from lorahub.records import RunRecord
from lorahub.scoring import coverage, metrics
from lorahub.scoring.verdicts import Floats, Ids, calibrated, decide
from lorahub.serving.alone import Answers, answering


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Adapter name -> the results block that a record would hold, the split that was judged, and what to know of it."""

    results: dict[str, dict[str, Any]]
    split: str
    notes: list[str]


def judge(
    adapters: Sequence[str],
    *,
    data: str,
    split: str = "test",
    base: str | None = None,
    settings: Sequence[str] = (),
    token: str | None = None,
) -> Judged:
    """Judge adapters on one split of a data set.

    Data without that split is judged whole (as the split `all`), unless an adapter was trained on it: then on the
    split that its run made. Raises DataError where the data's labels are not the adapter's.
    """
    if split not in SPLITS:
        raise ConfigError(f"--split is one of {', '.join(SPLITS)}; found {split!r}.")
    config = configs.load(None, [f"data.id={json.dumps(data)}", *settings])
    # Before the base, which takes longer.
    located = [fetch.adapter(adapter, token=token) for adapter in adapters]
    found = _claims(config.data, split, located, token)
    split = split if split in found.splits else "all"
    results: dict[str, dict[str, Any]] = {}
    for answers in answering(located, base, settings=config.base, token=token):
        for name in answers.adapters:
            shown, number = name, 2
            while shown in results:
                shown, number = f"{name}-{number}", number + 1
            results[shown] = score(answers, name, found, split, config.eval)
    return Judged(results=results, split=split, notes=found.warnings)


def score(answers: Answers, name: str, data: ClaimData, split: str, options: EvalConfig) -> dict[str, Any]:
    """The results block of one adapter; raises DataError where the data has labels unknown to it."""
    adapter = answers.adapters[name]
    gold, logits = answer(answers, name, data, split)
    block = metrics.score(
        gold,
        decide(logits, adapter.calibration),
        calibrated(logits, adapter.calibration),
        adapter.labels,
        resamples=options.bootstrap,
        confidence=options.confidence,
    )
    selective = coverage.figures(logits, gold, adapter.calibration, confidence=options.confidence)
    return {**block, "selective": selective}


def answer(answers: Answers, name: str, data: ClaimData, split: str) -> tuple[Ids, Floats]:
    """Gold ids (N,) and raw logits (N, C) of one adapter on a split, in the adapter's label order; see `score`."""
    adapter, part = answers.adapters[name], data.splits[split]
    present = [data.labels.names[index] for index in part.gold]
    if not set(present) <= set(adapter.labels.names):
        raise DataError(
            f"{data.source['id']} has the labels {', '.join(sorted(set(present)))}; "
            f"{name} knows {', '.join(adapter.labels.names)}. Map them with --set data.label_map=MAPPING."
        )
    return adapter.labels.encode(present), answers.logits(part.texts, [name], evidence=part.evidence)[name]


def _claims(config: DataConfig, split: str, located: Sequence[Located], token: str | None) -> ClaimData:
    """The claims to judge on, with a warning where they are not a split that the data brings along."""
    source = sources.find(config.id, revision=config.revision, split=split, token=token)
    labels = [name for item in located for name in LabelSet.load(item.folder).names]
    if split in source.splits:
        return claims.load_split(source, config, split, labels)
    runs = [(item.name, records.load(item.folder)) for item in located if (item.folder / records.FILE_NAME).exists()]
    known = [(name, data) for name, run in runs if (data := _as_trained(config, run, token)) is not None]
    if len({data.source["sha256"][split] for _, data in known}) > 1:
        names = ", ".join(name for name, _ in known)
        raise ConfigError(
            f"{names} split {source.id} each in another way, so that what one has not seen another has learnt. "
            "Evaluate them one by one."
        )
    if known:
        name, data = known[0]
        count = f"{len(data.splits[split]):,} {split} claims"
        return replace(data, warnings=[f"{name} was trained on {source.id}: judged on the {count} of its run."])
    found = claims.load_split(source, config, split, labels)
    warnings = [
        *found.warnings,
        f"{source.id} has no splits: all of its {len(found.splits['all']):,} claims are judged.",
    ]
    for name, run in runs:
        if run.environment.get("data", {}).get("id") == source.id:
            warnings.append(
                f"{name} was trained on data of that name which read otherwise: claims that it has learnt may be among "
                "them, and its figures too good."
            )
    return replace(found, warnings=warnings)


def _as_trained(config: DataConfig, run: RunRecord, token: str | None) -> ClaimData | None:
    """The data read and split as a run did; None where that does not give the claims that it was trained on."""
    try:
        asked = replace(configs.from_dict(run.asked).data, id=config.id, revision=config.revision)
        data = claims.load(asked, token=token, compare=False)
    except (ConfigError, DataError):
        return None
    return data if data.source["sha256"] == run.environment.get("data", {}).get("sha256") else None
