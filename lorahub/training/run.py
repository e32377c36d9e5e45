"""A run, from claims and a config to a finished folder: baselines, training, evaluation, card.

In: a Config, and the claims that it names or that a program holds. Out: a `Run` with its folder and record. The folder
appears whole, under its own name, when everything in it is written; `record.json` is written last. Choices are made on
validation; test is looked at once, at the end.
"""

import dataclasses
import datetime
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lorahub import config as configs
from lorahub.config import Config
from lorahub.data import claims
from lorahub.data.claims import ClaimData
from lorahub.models import methods
from lorahub.models.base import Base
from lorahub.records import SYSTEMS, RunRecord
from lorahub.scoring import baselines, calibration, intervals, metrics
from lorahub.scoring.verdicts import Calibration, Floats, calibrated, decide
from lorahub.training import alarms, environment, setup
from lorahub.training.folder import JUDGED, check_free, write
from lorahub.training.setup import Watcher

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run: where it is and what its record says."""

    folder: Path
    record: RunRecord


def train(
    recipe: str | Path | None = None,
    *,
    data: str | None = None,
    base: str | None = None,
    method: str | None = None,
    out: str | Path | None = None,
    seed: int | None = None,
    settings: Sequence[str] = (),
    force: bool = False,
    watcher: Watcher | None = None,
) -> Run:
    """Train an adapter and write its run folder.

    `recipe` is a YAML file or a shipped recipe's name; the keywords and `settings` (`section.field=value`) override it,
    in that order. Raises a LorahubError (ConfigError, DataError, BaseModelError, TrainingError, or AdapterError where
    `out` holds a finished run and `force` is not given).
    """
    flags = configs.flags(data=data, base=base, method=method, seed=seed)
    config = configs.load(recipe, [*flags, *settings])
    folder = Path(out) if out is not None else Path("runs") / default_name(config)
    check_free(folder, force=force)
    watcher = watcher or Watcher()
    watcher.on_stage("reading the claims")
    return run(config, claims.load(config.data), folder, watcher)


def run(config: Config, data: ClaimData, folder: Path, watcher: Watcher) -> Run:
    """Carry out a resolved config on `data`, whatever it came from, and write `folder`; see `train`."""
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    for text in data.warnings:
        log.warning("%s", text)
    watcher.on_stage("loading the base")
    prepared = setup.prepare(config, data)
    base, accelerator = prepared.base, prepared.accelerator
    watcher.on_stage("scoring the baselines")
    features = {split: prepared.features(split) for split in data.splits}
    logits, options, probe = _baseline_logits(data, features, config)
    watcher.on_stage("training")
    attached = setup.attach(prepared)
    model = attached.model
    logits["untrained"] = {split: prepared.logits(model, split) for split in JUDGED}
    fit, memory = setup.fit(prepared, attached, watcher)

    watcher.on_stage("evaluating on test")
    logits["adapter"] = {split: prepared.logits(model, split) for split in JUDGED}
    adjusted = _calibrate(logits["adapter"]["validation"], data, config)
    results = _results(logits, data, adjusted, config)
    gold = data.splits["validation"].gold
    silent = (
        alarms.one_class(decide(logits["adapter"]["validation"], Calibration()), gold, data.labels),
        alarms.never_predicted(decide(logits["adapter"]["validation"], adjusted), gold, data.labels),
    )
    record = RunRecord(
        name=folder.name,
        created=created,
        asked=configs.to_dict(_publishable(config, base, data)),
        happened={
            "steps": fit.steps,
            "planned_steps": fit.planned_steps,
            "epochs": fit.epochs,
            "seconds": fit.seconds,
            "samples_per_second": fit.samples_per_second,
            "cpu_seconds": fit.cpu_seconds,
            "peak_bytes": memory.cpu_peak_bytes if memory.gpu_peak_bytes is None else memory.gpu_peak_bytes,
            "memory": dataclasses.asdict(memory),
            "trainable_parameters": attached.trainable,
            "total_parameters": attached.total,
            "best_step": fit.best_step,
            "interrupted": fit.interrupted,
            "curve": fit.curve,
            "warnings": [*data.warnings, *fit.warnings, *(text for text in silent if text)],
        },
        environment={
            **environment.describe(base, data, accelerator, seed=config.train.seed),
            "baselines": options,
            "calibration": {"temperature": adjusted.temperature, "bias": list(adjusted.bias)},
        },
        results=results,
    )
    if accelerator.is_main_process:
        watcher.on_stage("writing the run folder")
        write(
            folder, model, base, data, record, logits=logits, adjusted=adjusted, probe=probe, config=config.base,
            layout=methods.TABLE[config.adapter.method].layout,
        )  # fmt: skip
    accelerator.wait_for_everyone()
    return Run(folder=folder, record=record)


def default_name(config: Config) -> str:
    """The name of a run that was given none."""
    data, base = Path(config.data.id).stem or "run", Path(config.base.id).name
    return f"{data}-{config.adapter.method}-{base}-s{config.train.seed}"


def _baseline_logits(
    data: ClaimData, features: dict[str, Floats], config: Config
) -> tuple[dict[str, dict[str, Floats]], dict[str, Any], baselines.LinearProbe]:
    """Logits by system and split, what validation chose for each, and the probe to keep."""
    gold = {name: part.gold for name, part in data.splits.items()}
    labels, metric = len(data.labels), config.train.metric
    probe, linear = baselines.linear_probe(features, gold, labels, metric=metric)
    texts = {name: part.joined() for name, part in data.splits.items()}
    chosen = {
        "majority": baselines.majority(gold["train"], labels, {name: len(part) for name, part in gold.items()}),
        "tfidf": baselines.tfidf(texts, gold, labels, metric=metric),
        "linear_probe": linear,
    }
    logits = {system: {split: found.logits[split] for split in JUDGED} for system, found in chosen.items()}
    return logits, {system: found.options for system, found in chosen.items() if found.options}, probe


def _calibrate(logits: Floats, data: ClaimData, config: Config) -> Calibration:
    counts = np.bincount(data.splits["train"].gold, minlength=len(data.labels))
    return calibration.fit(
        logits,
        data.splits["validation"].gold,
        counts / counts.sum(),
        metric=config.train.metric,
        adjust=config.eval.adjust,
    )


def _results(
    logits: dict[str, dict[str, Floats]], data: ClaimData, adjusted: Calibration, config: Config
) -> dict[str, dict[str, Any]]:
    options: dict[str, Any] = {"resamples": config.eval.bootstrap, "confidence": config.eval.confidence}
    results: dict[str, dict[str, Any]] = {}
    for split in JUDGED:
        gold, answers, blocks = data.splits[split].gold, {}, {}
        for system in SYSTEMS:
            how = adjusted if system == "adapter" else Calibration()
            answers[system] = decide(logits[system][split], how)
            shown = calibrated(logits[system][split], how)
            blocks[system] = metrics.score(gold, answers[system], shown, data.labels, **options)
        blocks["adapter"]["paired"] = {
            system: intervals.paired_difference(gold, answers["adapter"], answer, len(data.labels), **options)
            for system, answer in answers.items()
            if system != "adapter"
        }
        results[split] = blocks
    return results


def _publishable(config: Config, base: Base, data: ClaimData) -> Config:
    """The config with ids in place of paths: a record never says where on a machine something lay."""
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, id=data.source["id"]),
        base=dataclasses.replace(config.base, id=base.resolved.id),
    )
