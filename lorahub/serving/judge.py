"""Finished adapters judged on a data set: their answers against the gold labels."""

import json
from collections.abc import Sequence
from typing import Any

from lorahub import config as configs
from lorahub.config import EvalConfig
from lorahub.data import claims
from lorahub.data.claims import ClaimData
from lorahub.data.sources import SPLITS
from lorahub.errors import ConfigError, DataError
from lorahub.scoring import metrics
from lorahub.scoring.verdicts import calibrated, decide
from lorahub.serving.alone import Answers, answering


def judge(
    adapters: Sequence[str],
    *,
    data: str,
    split: str = "test",
    base: str | None = None,
    settings: Sequence[str] = (),
    token: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Return adapter name -> the results block that a record would hold for this split.

    Raises DataError where the data's labels are not the adapter's.
    """
    if split not in SPLITS:
        raise ConfigError(f"--split is one of {', '.join(SPLITS)}; found {split!r}.")
    config = configs.load(None, [f"data.id={json.dumps(data)}", *settings])
    found = claims.load(config.data, token=token)
    results: dict[str, dict[str, Any]] = {}
    for answers in answering(adapters, base, settings=config.base, token=token):
        for name in answers.adapters:
            shown, number = name, 2
            while shown in results:
                shown, number = f"{name}-{number}", number + 1
            results[shown] = score(answers, name, found, split, config.eval)
    return results


def score(answers: Answers, name: str, data: ClaimData, split: str, options: EvalConfig) -> dict[str, Any]:
    """The results block of one adapter; raises DataError where the data has labels unknown to it."""
    adapter, part = answers.adapters[name], data.splits[split]
    unknown = sorted(set(data.labels.names) - set(adapter.labels.names))
    if unknown:
        raise DataError(
            f"{data.source['id']} has the labels {', '.join(data.labels.names)}; "
            f"{name} knows {', '.join(adapter.labels.names)}. Map them with --set data.label_map=MAPPING."
        )
    gold = adapter.labels.encode([data.labels.names[index] for index in part.gold])
    logits = answers.logits(part.texts, [name], evidence=part.evidence)[name]
    return metrics.score(
        gold,
        decide(logits, adapter.calibration),
        calibrated(logits, adapter.calibration),
        adapter.labels,
        resamples=options.bootstrap,
        confidence=options.confidence,
    )
