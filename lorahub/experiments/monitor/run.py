"""`lorahub evaluate --since`: evaluate a finished run on new claims and compare it with its history.

One comparison decides: that with the run's own test result, by the metric that chose its checkpoint. Comparisons with
earlier evaluations are a second question, corrected for their number.
"""

import datetime
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from lorahub import config as configs
from lorahub import records
from lorahub.data.sources import SPLITS
from lorahub.errors import ConfigError, need
from lorahub.experiments.monitor import history
from lorahub.experiments.monitor.history import EvaluatedData, MonitoringResult, Row
from lorahub.hub import fetch, recorded
from lorahub.stats import paired
from lorahub.stats.verdicts import decide


def evaluate_since(
    run: str | Path,
    *,
    data: str,
    split: str = "test",
    base: str | None = None,
    settings: Sequence[str] = (),
    token: str | None = None,
) -> tuple[Path, MonitoringResult]:
    """Evaluate a run's adapter on `data`, store the row in the run folder, and compare it with earlier evaluations.

    The data is read with the run's data config and `settings` (`section.field=value`) as overrides;
    `hub.recorded.evaluation_claims` chooses the claims. Return the run folder and the result. Raises ConfigError,
    AdapterError, BaseModelError or DataError.
    """
    if split not in SPLITS:
        raise ConfigError(f"--split is one of {', '.join(SPLITS)}; found {split!r}.")
    located = fetch.adapter(run, token=token)
    if located.repo is not None:
        raise ConfigError(
            f"--since stores a history in the run folder, but {located.repo} is on the Hub. Copy it first: lorahub "
            f"pull {located.repo} --out FOLDER."
        )
    folder = located.folder
    record, earlier = records.load(folder), history.load(folder)
    own = replace(
        record.config, data=recorded.data_config(record, data), base=recorded.base(located, record, instead=base)
    )
    plain, overrides = configs.to_dict(own), configs.read(None, settings)
    config = configs.from_dict(plain | {name: plain.get(name, {}) | fields for name, fields in overrides.items()})
    claims, split = recorded.evaluation_claims(config.data, split, [located], token=token)

    need("torch", extra="train")
    from lorahub.serving import evaluate
    from lorahub.serving.loading import open_predictors

    (predictor,) = open_predictors([located], config.base.id, settings=config.base, token=token)
    gold, prediction = evaluate.predict(predictor, located.name, claims, split)
    row = Row(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        data=EvaluatedData.of(claims.source, split),
        figures=evaluate.block(gold, prediction, config.eval).shortened(),
        base_revision=predictor.base_revision,
        answers=history.joined(decide(prediction.logits, prediction.calibration)),
    )

    test, metric, confidence = history.of_record(folder, record), config.train.metric, config.eval.confidence
    resamples = paired.enough_resamples(config.eval.bootstrap, max(1, len(earlier)), confidence)
    changes = partial(history.changes, resamples=resamples, confidence=confidence)
    (since_test,) = changes(row, gold, [test])
    row = row.model_copy(update={"verdict": since_test.verdict(metric)})
    row.save(folder)
    return folder, MonitoringResult(
        run=located.name,
        metric=metric,
        confidence=confidence,
        resamples=resamples,
        rows=[test, *earlier, row],
        since_test=since_test,
        since=changes(row, gold, earlier),
        notes=[*claims.warnings, *_label_notes(test, row, record.labels)],
    )


def _label_notes(test: Row, row: Row, labels: list[str]) -> list[str]:
    """Note labels that only one of the two sets of claims has: they change a mean over labels."""
    before, now = (item.confusion.sum(axis=1) for item in (test, row))
    missing = ", ".join(name for name, old, new in zip(labels, before, now, strict=True) if old and not new)
    added = ", ".join(name for name, old, new in zip(labels, before, now, strict=True) if new and not old)
    notes = [f"No claim has the label {missing} now; test had some."] if missing else []
    return notes + ([f"Test had no claim with the label {added}."] if added else [])
