"""Finished adapters judged on a data set: their answers against the gold labels."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lorahub import config as configs
from lorahub.config import EvalConfig
from lorahub.data.claimset import ClaimData
from lorahub.data.sources import SPLITS
from lorahub.errors import ConfigError, DataError
from lorahub.hub import fetch, recorded
from lorahub.serving.single import Answers, Known, answering
from lorahub.stats import metrics, selective
from lorahub.stats.verdicts import Floats, Ids, calibrated, decide


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

    Which claims these are, where the data has no such split, `hub.recorded.to_judge` says. Raises DataError where the
    data's labels are not the adapter's.
    """
    if split not in SPLITS:
        raise ConfigError(f"--split is one of {', '.join(SPLITS)}; found {split!r}.")
    config = configs.load(None, [f"data.id={json.dumps(data)}", *settings])
    # Before the base, which takes longer.
    located = [fetch.adapter(adapter, token=token) for adapter in adapters]
    found, split = recorded.to_judge(config.data, split, located, token=token)
    results: dict[str, dict[str, Any]] = {}
    for answers in answering(located, base, settings=config.base, token=token):
        for name in answers.adapters:
            results[name] = score(answers, name, found, split, config.eval)
    return Judged(results=results, split=split, notes=found.warnings)


def score(answers: Answers, name: str, data: ClaimData, split: str, options: EvalConfig) -> dict[str, Any]:
    """The results block of one adapter; raises DataError where the data has labels unknown to it."""
    return block(*answer(answers, name, data, split), answers.adapters[name], options)


def block(gold: Ids, logits: Floats, adapter: Known, options: EvalConfig) -> dict[str, Any]:
    """The results block of gold ids (N,) and an adapter's logits (N, C)."""
    found = metrics.score(
        gold,
        decide(logits, adapter.calibration),
        calibrated(logits, adapter.calibration),
        adapter.labels,
        resamples=options.bootstrap,
        confidence=options.confidence,
    )
    abstention = selective.figures(logits, gold, adapter.calibration, confidence=options.confidence)
    return {**found, "selective": abstention}


def answer(answers: Answers, name: str, data: ClaimData, split: str) -> tuple[Ids, Floats]:
    """Gold ids (N,) and raw logits (N, C) of one adapter on a split, in the adapter's label order; see `score`."""
    adapter, part = answers.adapters[name], data.splits[split]
    present = [data.labels.names[index] for index in part.gold]
    if not set(present) <= set(adapter.labels.names):
        raise DataError(
            f"{data.source.id} has the labels {', '.join(sorted(set(present)))}; "
            f"{name} knows {', '.join(adapter.labels.names)}. Map them with --set data.label_map=MAPPING."
        )
    return adapter.labels.encode(present), answers.logits(part.texts, [name], evidence=part.evidence)[name]
