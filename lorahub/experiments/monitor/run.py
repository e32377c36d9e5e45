"""`lorahub evaluate --since`: a finished run judged again on new claims, against its own test result and its history.

In: a run of this machine, and data. Out: a `Monitored`, whose row is kept in the run's folder. One comparison decides:
that with the run's own test result, by the metric that chose its checkpoint. Those with earlier rows are a second
question, corrected for their number.
"""

import datetime
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from lorahub import config as configs
from lorahub import records
from lorahub.config import BaseConfig, DataConfig
from lorahub.data.sources import SPLITS
from lorahub.errors import ConfigError, need
from lorahub.experiments.monitor import history
from lorahub.experiments.monitor.history import Monitored, Row
from lorahub.hub import fetch, recorded
from lorahub.records import RunRecord
from lorahub.stats import paired
from lorahub.stats.verdicts import decide


def since(
    run: str | Path, *, data: str, split: str = "test", base: str | None = None, settings: Sequence[str] = (),
    token: str | None = None,
) -> tuple[Path, Monitored]:  # fmt: skip
    """Judge a run's adapter on `data` now, keep the row in its folder, and compare it with what came before.

    The data is read as the run read its own, with `settings` (`section.field=value`) over that; which claims are judged
    says `hub.recorded.to_judge`. Raises ConfigError, AdapterError, BaseModelError or DataError.
    """
    if split not in SPLITS:
        raise ConfigError(f"--split is one of {', '.join(SPLITS)}; found {split!r}.")
    located = fetch.adapter(run, token=token)
    if located.repo is not None:
        raise ConfigError(
            f"--since keeps a history in the run's folder, and {located.repo} is on the Hub. Copy it first: lorahub "
            f"pull {located.repo} --out FOLDER."
        )
    folder = located.folder
    record = records.load(folder)
    earlier = history.load(folder)
    own = recorded.reading(record, data), recorded.base(located, record, instead=base)
    asked = configs.load(None, [*_as_asked(record, *own), *settings])
    claims, judged = recorded.to_judge(asked.data, split, [located], token=token)
    need("torch", extra="train")
    from lorahub.serving import evaluate
    from lorahub.serving.loading import open_predictors

    (predictor,) = open_predictors([located], asked.base.id, settings=asked.base, token=token)
    gold, prediction = evaluate.predict(predictor, located.name, claims, judged)
    source = claims.source
    row = Row(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        data={
            "id": source.id,
            "kind": source.kind,
            "revision": source.revision,
            "split": judged,
            "sha256": source.sha256[judged],
        },
        figures=evaluate.block(gold, prediction, asked.eval).shortened().to_dict(),
        base_revision=predictor.base_revision,
        answers=history.written(decide(prediction.logits, prediction.calibration)),
    )
    test, metric, confidence = history.of_record(folder, record), asked.train.metric, asked.eval.confidence
    resamples = paired.enough_resamples(asked.eval.bootstrap, max(1, len(earlier)), confidence)
    changes = partial(history.changes, resamples=resamples, confidence=confidence)
    (since_test,) = changes(row, gold, [test])
    row = replace(row, verdict=since_test.verdict(metric))
    row.save(folder)
    return folder, Monitored(
        run=located.name,
        metric=metric,
        confidence=confidence,
        resamples=resamples,
        rows=[test, *earlier, row],
        since_test=since_test,
        since=changes(row, gold, earlier),
        notes=[*claims.warnings, *_other_claims(test, row, record.labels)],
    )


def _as_asked(record: RunRecord, data: DataConfig, base: BaseConfig) -> list[str]:
    """A run's own way of reading and judging, as overrides, with `data` and `base` in the place of its own."""
    own = record.config
    sections = {"data": data, "base": base, "eval": own.eval, "train": own.train}
    return [
        f"{section}.{name}={json.dumps(value)}"
        for section, block in sections.items()
        for name, value in configs.to_dict(block).items()
    ]


def _other_claims(test: Row, row: Row, labels: list[str]) -> list[str]:
    """What makes a mean over labels another one: labels that only one of the two sets of claims has."""
    before, now = ([sum(line) for line in item.figures["confusion"]] for item in (test, row))
    gone = [name for name, old, new in zip(labels, before, now, strict=True) if old and not new]
    come = [name for name, old, new in zip(labels, before, now, strict=True) if new and not old]
    notes = [f"no claim has the label {', '.join(gone)} now, which test had"] if gone else []
    return notes + ([f"test had no claim with the label {', '.join(come)}"] if come else [])
