"""Finished adapters judged on a data set: the engine's answers against the gold labels."""

import json
from collections.abc import Sequence
from typing import Any

from lorahub import config as configs
from lorahub.data import claims
from lorahub.data.sources import SPLITS
from lorahub.errors import ConfigError, DataError
from lorahub.scoring import metrics
from lorahub.scoring.verdicts import calibrated, decide
from lorahub.serving.engine import Engine


def judge(
    adapters: Sequence[str], *, data: str, split: str = "test", base: str | None = None, settings: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Return adapter name -> the results block that a record would hold for this split.

    Raises DataError where the data's labels are not the adapter's.
    """
    if split not in SPLITS:
        raise ConfigError(f"--split is one of {', '.join(SPLITS)}; found {split!r}.")
    config = configs.load(None, [f"data.id={json.dumps(data)}", *settings])
    found = claims.load(config.data)
    part = found.splits[split]
    engine = Engine(base, adapters, config=config.base)
    results = {}
    for name, adapter in engine.adapters.items():
        unknown = sorted(set(found.labels.names) - set(adapter.labels.names))
        if unknown:
            raise DataError(
                f"{data} has the labels {', '.join(found.labels.names)}; "
                f"{name} knows {', '.join(adapter.labels.names)}. Map them with --set data.label_map=MAPPING."
            )
        gold = adapter.labels.encode([found.labels.names[index] for index in part.gold])
        logits = engine.logits(part.texts, [name], evidence=part.evidence)[name]
        results[name] = metrics.score(
            gold,
            decide(logits, adapter.calibration),
            calibrated(logits, adapter.calibration),
            adapter.labels,
            resamples=config.eval.bootstrap,
            confidence=config.eval.confidence,
        )
    return results
