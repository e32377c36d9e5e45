"""Evaluate finished adapters on a data set: their predictions against the gold labels."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lorahub import config as configs
from lorahub.config import EvalConfig
from lorahub.data import columns
from lorahub.data.claimset import ClaimData
from lorahub.data.sources import SPLITS
from lorahub.errors import ConfigError, DataError
from lorahub.hub import fetch, recorded
from lorahub.serving.loading import open_predictors
from lorahub.serving.predictor import Prediction, Predictor, Request
from lorahub.stats import metrics, selective
from lorahub.stats.results import SystemResult
from lorahub.stats.verdicts import Ids, calibrated, decide


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The results block of a record by adapter name, the evaluated split, and notes about the data."""

    results: dict[str, SystemResult]
    split: str
    notes: list[str]


def evaluate(
    adapters: Sequence[str],
    *,
    data: str,
    split: str = "test",
    base: str | None = None,
    settings: Sequence[str] = (),
    token: str | None = None,
) -> Evaluation:
    """Evaluate adapters on one split of a data set, or on what `hub.recorded.evaluation_claims` chooses without it.

    Raises ConfigError for an unknown split and DataError if the data has labels unknown to an adapter.
    """
    if split not in SPLITS:
        raise ConfigError(f"--split is one of {', '.join(SPLITS)}; found {split!r}.")
    config = configs.load(None, [f"data.id={json.dumps(data)}", *settings])
    # Before the base, which takes longer.
    located = [fetch.adapter(adapter, token=token) for adapter in adapters]
    claims, split = recorded.evaluation_claims(config.data, split, located, token=token)
    results = {
        name: score(predictor, name, claims, split, config.eval)
        for predictor in open_predictors(located, base, settings=config.base, token=token)
        for name in predictor.names
    }
    return Evaluation(results=results, split=split, notes=claims.warnings)


def score(predictor: Predictor, name: str, data: ClaimData, split: str, options: EvalConfig) -> SystemResult:
    """Return the results block of one adapter; raises DataError if the data has labels unknown to it."""
    return block(*predict(predictor, name, data, split), options)


def block(gold: Ids, prediction: Prediction, options: EvalConfig) -> SystemResult:
    """Return the results block of gold ids (N,) and the prediction for the same claims."""
    logits, calibration = prediction.logits, prediction.calibration
    result = metrics.score(
        gold,
        decide(logits, calibration),
        calibrated(logits, calibration),
        prediction.labels,
        resamples=options.bootstrap,
        confidence=options.confidence,
    )
    result.selective = selective.figures(logits, gold, calibration, confidence=options.confidence)
    result.truncated = len(prediction.truncated) / len(gold)
    return result


def predict(predictor: Predictor, name: str, data: ClaimData, split: str) -> tuple[Ids, Prediction]:
    """Return gold ids (N,), in the adapter's label order, and the adapter's prediction for a split; see `score`."""
    labels, part = predictor.adapters[name].labels, data.splits[split]
    present = {index: data.labels.names[index] for index in np.unique(part.gold).tolist()}
    # As in a file that the app compares on, names that differ only in case are the same.
    own = {index: columns.guess(labels.names, (label,)) for index, label in present.items()}
    if None in own.values():
        raise DataError(
            f"{data.source.id} has the labels {', '.join(sorted(present.values()))}; "
            f"{name} knows {', '.join(labels.names)}. Map them with --set data.label_map=MAPPING."
        )
    return labels.encode([str(own[index]) for index in part.gold.tolist()]), predictor.predict(
        Request(part.texts, [name], evidence=part.evidence)
    )[name]
