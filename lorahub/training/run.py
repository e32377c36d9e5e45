"""A run, from claims and a config to a finished folder: baselines, training, evaluation, card.

In: a Config, and the claims that it names or that a program holds. Out: a `Run` with its folder and record. The folder
appears whole, under its own name, when everything in it is written; `record.json` is written last. Choices are made on
validation; test is looked at once, at the end.
"""

import dataclasses
import datetime
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorahub import atomic
from lorahub import config as configs
from lorahub.config import AUTO, Config
from lorahub.data import claims
from lorahub.data.claimset import ClaimData
from lorahub.models import methods
from lorahub.models.base import Base
from lorahub.records import SYSTEMS, RunRecord
from lorahub.stats import baselines, calibration, metrics, paired, selective
from lorahub.stats.baselines import Baselines
from lorahub.stats.verdicts import Calibration, Floats, calibrated, decide
from lorahub.training import alarms, auto_rank, environment, session, trackers
from lorahub.training.checkpoints import Checkpoints, Every
from lorahub.training.folder import JUDGED, check_free, write
from lorahub.training.session import Prepared, Watcher
from lorahub.training.trackers import Tracker

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
    save_every: str | int | None = None,
    resume: bool = False,
    tracker: str = trackers.NONE,
    watcher: Watcher | None = None,
) -> Run:
    """Train an adapter and write its run folder.

    `recipe` is a YAML file or a shipped recipe's name; the keywords and `settings` (`section.field=value`) override it,
    in that order. `save_every` (steps, or a time such as "10m") writes checkpoints, and `resume` goes on from the
    newest; `out` must be the same then. `tracker` is trackio, tensorboard or wandb. Raises a LorahubError (ConfigError,
    DataError, BaseModelError, TrainingError, MissingPackageError, or AdapterError where `out` holds a run and neither
    `force` nor `resume` says what becomes of it).
    """
    flags = configs.flags(data=data, base=base, method=method, seed=seed)
    config = configs.load(recipe, [*flags, *settings])
    folder = Path(out) if out is not None else Path("runs") / default_name(config)
    every = None if save_every is None else Every.parse(save_every)
    checkpoints = Checkpoints(folder, every=every, resume=resume)
    check_free(folder, force=force, resume=resume)
    follower = None if tracker == trackers.NONE else Tracker(tracker, folder)
    watcher = watcher or Watcher()
    watcher.on_stage("reading the claims")
    return run(config, claims.load(config.data), folder, watcher, checkpoints, follower)


def run(
    config: Config,
    data: ClaimData,
    folder: Path,
    watcher: Watcher,
    checkpoints: Checkpoints | None = None,
    tracker: Tracker | None = None,
) -> Run:
    """Carry out a resolved config on `data`, whatever it came from, and write `folder`; see `train`."""
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    for text in data.warnings:
        log.warning("%s", text)
    watcher.on_stage("loading the base")
    prepared = session.prepare(config, data, tracker=tracker)
    base, accelerator = prepared.base, prepared.accelerator
    asked = configs.to_dict(_publishable(config, base, data))
    checkpoints = checkpoints or Checkpoints(folder)
    checkpoints.check({**asked, **environment.identity(base, data, accelerator)}, main=accelerator.is_main_process)
    watcher.on_stage("scoring the baselines")
    free = _baselines(prepared, data, config, checkpoints)
    watcher.on_stage("training")
    attached = session.attach(prepared)
    model = attached.model
    logits = {**free.logits, "untrained": {split: prepared.logits(model, split) for split in JUDGED}}
    with tracker.following(accelerator, asked) if tracker else nullcontext() as follow:
        fit, memory = session.fit(prepared, attached, watcher.and_also(follow), checkpoints)
    if config.adapter.rank == AUTO:
        watcher.on_stage("choosing the rank")
    plateau = session.settle(prepared, model)

    watcher.on_stage("evaluating on test")
    logits["adapter"] = {split: prepared.logits(model, split) for split in JUDGED}
    adjusted = calibration.of_run(logits["adapter"]["validation"], data.gold, config)
    results = _results(logits, data, adjusted, config)
    gold = data.splits["validation"].gold
    silent = (
        alarms.one_class(decide(logits["adapter"]["validation"], Calibration()), gold, data.labels),
        alarms.never_predicted(decide(logits["adapter"]["validation"], adjusted), gold, data.labels),
        alarms.never_abstains(adjusted, config.eval, claims=len(gold)),
    )
    record = RunRecord(
        name=folder.name,
        created=created,
        asked=asked,
        happened={
            "steps": fit.steps,
            "planned_steps": fit.planned_steps,
            "epochs": fit.seen / len(data.splits["train"]),
            "seconds": fit.seconds,
            "samples_per_second": fit.samples_per_second,
            "cpu_seconds": fit.cpu_seconds,
            "peak_bytes": memory.cpu_peak_bytes if memory.gpu_peak_bytes is None else memory.gpu_peak_bytes,
            "memory": dataclasses.asdict(memory),
            "trainable_parameters": attached.trainable,
            "total_parameters": attached.total,
            "rank": None if plateau is None else auto_rank.told(plateau, config),
            "best_step": fit.best_step,
            "interrupted": fit.interrupted,
            "resumed_at": fit.resumed_at,
            "curve": fit.curve,
            "warnings": [*data.warnings, *fit.warnings, *(text for text in silent if text)],
        },
        environment={
            **environment.describe(base, data, accelerator, seed=config.train.seed),
            "baselines": free.options,
            "calibration": {
                "temperature": adjusted.temperature,
                "bias": list(adjusted.bias),
                "threshold": adjusted.threshold,
            },
        },
        results=results,
    )
    if accelerator.is_main_process:
        watcher.on_stage("writing the run folder")
        write(
            folder, model, base, data, record, logits=logits, adjusted=adjusted, probe=free.probe, config=config.base,
            layout=methods.TABLE[config.adapter.method].layout, curves=None if tracker is None else tracker.folder,
        )  # fmt: skip
    accelerator.wait_for_everyone()
    return Run(folder=folder, record=record)


def default_name(config: Config) -> str:
    """The name of a run that was given none."""
    data, base = Path(config.data.id).stem or "run", Path(config.base.id).name
    return f"{data}-{config.adapter.method}-{base}-s{config.train.seed}"


def _baselines(prepared: Prepared, data: ClaimData, config: Config, checkpoints: Checkpoints) -> Baselines:
    """The baselines, as a training that was stopped has left them or computed now."""
    folder = checkpoints.folder / baselines.FOLDER
    found = Baselines.load(folder, len(data.labels)) if checkpoints.resume else None
    if found is None:
        texts = {split: part.joined() for split, part in data.splits.items()}
        features = {split: prepared.features(split) for split in data.splits}
        found = baselines.fit(texts, features, data.gold, len(data.labels), metric=config.train.metric)
        if checkpoints.every is not None and prepared.accelerator.is_main_process:
            with atomic.replacing_folder(folder) as part:
                found.save(part)
    return found


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
            system: {
                metric: difference.to_dict()
                for metric, difference in paired.differences(
                    gold, answers["adapter"], answer, len(data.labels), **options
                ).items()
            }
            for system, answer in answers.items()
            if system != "adapter"
        }
        blocks["adapter"]["selective"] = selective.figures(
            logits["adapter"][split], gold, adjusted, confidence=config.eval.confidence
        )
        results[split] = blocks
    return results


def _publishable(config: Config, base: Base, data: ClaimData) -> Config:
    """The config with ids in place of paths: a record never says where on a machine something lay."""
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, id=data.source.id),
        base=dataclasses.replace(config.base, id=base.resolved.id),
    )
