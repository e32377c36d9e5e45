"""A run, from a config and claims to a finished run folder: baselines, training, evaluation, record.

In: a Config and the claims that it names or that a program holds. Out: a `Run`, its folder and record. The folder gets
its name when everything in it is written, `record.json` last. All choices are made on validation; test is evaluated
once, at the end.
"""

import datetime
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.metrics import confusion_matrix

from lorahub import atomic, records
from lorahub import config as configs
from lorahub.config import AUTO, Config
from lorahub.data import claims
from lorahub.data.claimset import ClaimData
from lorahub.records import RunRecord
from lorahub.reports import tables
from lorahub.stats import baselines, bootstrap, calibration, metrics, paired, selective
from lorahub.stats.baselines import Baselines
from lorahub.stats.results import SYSTEMS, SystemResult
from lorahub.stats.verdicts import Calibration, Floats, Ids, calibrated, decide
from lorahub.training import alarms, auto_rank, environment, folder, loop, memory, trackers
from lorahub.training.checkpoints import Checkpoints, Every
from lorahub.training.progress import Callbacks, TrainingProgress
from lorahub.training.session import Encodings, TrainingSession
from lorahub.training.trackers import Tracker

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run: its folder and its record."""

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
    callbacks: Callbacks | None = None,
) -> Run:
    """Train an adapter and write its run folder.

    `recipe` is a YAML file or the name of a shipped recipe; the keywords and `settings` (`section.field=value`)
    override it, in that order. `save_every` (steps, or a time such as "10m") writes checkpoints, and `resume` continues
    from the newest one in `out`. `tracker` is trackio, tensorboard or wandb. Raises a LorahubError: ConfigError,
    DataError, BaseModelError, TrainingError, MissingPackageError, or AdapterError if `out` holds a run and neither
    `force` nor `resume` is given.
    """
    config = configs.load(recipe, [*configs.flags(data=data, base=base, method=method, seed=seed), *settings])
    out = Path(out) if out is not None else Path("runs") / default_name(config)
    every = None if save_every is None else Every.parse(save_every)
    folder.check_free(out, force=force, resume=resume)
    opened = None if tracker == trackers.NONE else Tracker(tracker, out)
    callbacks = callbacks or Callbacks()
    callbacks.on_stage("reading the claims")
    read = claims.load(config.data)
    return run(config, read, out, callbacks, Checkpoints(out, every=every, resume=resume), opened)


def run(
    config: Config,
    data: ClaimData,
    out: Path,
    callbacks: Callbacks | None = None,
    checkpoints: Checkpoints | None = None,
    tracker: Tracker | None = None,
) -> Run:
    """Run a resolved config on claims from any source and write the run folder `out`; raises what `train` raises."""
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    callbacks = callbacks or Callbacks()
    for warning in data.warnings:
        log.warning("%s", warning)

    callbacks.on_stage("loading the base")
    session = TrainingSession(config, data, splits=list(data.splits), tracker=tracker)
    long = alarms.truncated(session.encoded["train"], session.base, configured=config.base.max_length)
    for warning in long:
        log.warning("%s", warning)
    published = configs.published(config, data_id=data.source.id, base_id=session.base.resolved.id)
    checkpoints = checkpoints or Checkpoints(out)
    checkpoints.check(_identity(session, published), main=session.accelerator.is_main_process)

    callbacks.on_stage("scoring the baselines")
    fitted = _baselines(session, checkpoints)

    random = _random_split(data, fitted, config)

    callbacks.on_stage("training")
    session.attach()
    evaluated = [split for split in data.splits if split != "train"]
    untrained = {split: session.logits(split) for split in evaluated}
    memory.reset_peaks()
    following = (
        tracker.following(session.accelerator, configs.to_dict(published))
        if tracker
        else nullcontext(lambda step: None)
    )
    with checkpoints, following as log_step:
        progress = loop.fit(session, (log_step, callbacks.on_step), checkpoints)
    memory_used = records.Memory(
        cpu_before_bytes=session.resident_before,
        cpu_peak_bytes=memory.peak_resident(),
        gpu_peak_bytes=memory.peak_gpu(),
    )
    if config.adapter.rank == AUTO:
        callbacks.on_stage("choosing the rank")
    rank = auto_rank.truncate_to_selected_rank(session)

    callbacks.on_stage(f"evaluating on {evaluated[-1]}")
    adapter = {split: session.logits(split) for split in evaluated}
    logits = {**fitted.logits, "untrained": untrained, "adapter": adapter}
    fit = calibration.of_run(adapter["validation"], data.gold, config)
    calibrations = {name: calibration.temperature_of(values, data.gold) for name, values in logits.items()}
    calibrations["adapter"] = fit
    silent = alarms.after_training(adapter["validation"], data.splits["validation"].gold, fit, config.eval, data.labels)
    record = RunRecord(
        name=out.name,
        created=created,
        config=published,
        progress=records.Progress(
            steps=progress.steps,
            planned_steps=progress.planned_steps,
            epochs=progress.seen / len(data.splits["train"]),
            seconds=progress.seconds,
            samples_per_second=progress.samples_per_second,
            cpu_seconds=progress.cpu_seconds,
            peak_bytes=memory_used.gpu_peak_bytes or memory_used.cpu_peak_bytes,
            memory=memory_used,
            trainable_parameters=session.trainable,
            total_parameters=session.total,
            rank=rank,
            best_step=progress.best.step if progress.best else progress.steps,
            interrupted=progress.interrupted,
            resumed_at=progress.resumed_at,
            curve=progress.curve,
            warnings=[*data.warnings, *random, *long, *progress.warnings, *silent],
        ),
        environment=environment.describe(session, baselines=fitted.options, calibration=fit),
        results={split: _results(split, logits, session, calibrations) for split in evaluated},
    )
    if session.accelerator.is_main_process:
        callbacks.on_stage("writing the run folder")
        curves = None if tracker is None else tracker.folder
        folder.write(out, session, record, logits=logits, calibration=fit, probe=fitted.probe, curves=curves)
    session.accelerator.wait_for_everyone()
    return Run(folder=out, record=record)


def validate(
    config: Config, data: ClaimData, callbacks: Callbacks | None = None, *, encodings: Encodings | None = None
) -> tuple[TrainingSession, TrainingProgress]:
    """Train a config exactly as `run` does, without baselines, test and run folder; raises what `run` raises.

    The session answers with its best weights: `session.logits("validation")`. Calls with the same `encodings` tokenize
    claims once.
    """
    session = TrainingSession(config, data, splits=("train", "validation"), encodings=encodings)
    session.attach()
    progress = loop.fit(session, [(callbacks or Callbacks()).on_step])
    auto_rank.truncate_to_selected_rank(session)
    return session, progress


def default_name(config: Config) -> str:
    """Return the name of a run for which none was given."""
    data, base = Path(config.data.id).stem or "run", Path(config.base.id).name
    return f"{data}-{config.adapter.method}-{base}-s{config.train.seed}"


def _baselines(session: TrainingSession, checkpoints: Checkpoints) -> Baselines:
    """Fit the baselines, or load those of the training that is resumed."""
    path, data = checkpoints.folder / baselines.FOLDER, session.data
    stored = Baselines.load(path, len(data.labels)) if checkpoints.resume else None
    if stored is not None:
        return stored
    texts = {split: part.joined() for split, part in data.splits.items()}
    features = {split: session.features(split) for split in data.splits}
    metric = session.config.train.metric
    fitted = baselines.fit(texts, features, data.gold, len(data.labels), metric=metric)
    if checkpoints.every is not None and session.accelerator.is_main_process:
        with atomic.replacing_folder(path) as part:
            fitted.save(part)
    return fitted


def _random_split(data: ClaimData, fitted: Baselines, config: Config) -> list[str]:
    """Return by how much TF-IDF is better on a random split, if the test split was made by source or date."""
    if data.random is None:
        return []
    texts = {split: part.joined() for split, part in data.random.items()}
    gold = {split: part.gold for split, part in data.random.items()}
    other = baselines.tfidf(texts, gold, len(data.labels), metric=config.train.metric).logits["test"]
    confusions = [
        confusion_matrix(answers, logits.argmax(axis=1), labels=np.arange(len(data.labels)))
        for answers, logits in ((data.gold["test"], fitted.logits["tfidf"]["test"]), (gold["test"], other))
    ]
    here = metrics.quick(data.gold["test"], fitted.logits["tfidf"]["test"].argmax(axis=1))["f1_macro"]
    there = metrics.quick(gold["test"], other.argmax(axis=1))["f1_macro"]
    drawn = bootstrap.unpaired_draws(*confusions, resamples=config.eval.bootstrap)["f1_macro"]
    interval = bootstrap.percentiles(drawn[1:], config.eval.confidence)
    how = " and ".join(f"data.{name}" for name in ("group", "date") if getattr(config.data, name))
    return [
        f"test split by {how}: TF-IDF has macro F1 {here:.3f} on it and {there:.3f} on a random split, "
        f"{tables.signed(here - there, interval)}."
    ]


def _results(
    split: str, logits: dict[str, dict[str, Floats]], session: TrainingSession, calibrations: dict[str, Calibration]
) -> dict[str, SystemResult]:
    """Return the metrics of every system on a split, and the adapter's differences to the others."""
    config, data, encoded = session.config, session.data, session.encoded[split]
    gold, confidence, resamples = data.splits[split].gold, config.eval.confidence, config.eval.bootstrap
    answers: dict[str, Ids] = {}
    results: dict[str, SystemResult] = {}
    for system in SYSTEMS:
        used = calibrations[system] if system == "adapter" else Calibration()
        answers[system] = decide(logits[system][split], used)
        probabilities = calibrated(logits[system][split], used)
        results[system] = metrics.score(
            gold, answers[system], probabilities, data.labels, resamples=resamples, confidence=confidence
        )
        raw = calibrated(logits[system][split], used.model_copy(update={"temperature": 1.0}))
        scaled = calibrated(logits[system][split], calibrations[system])
        results[system].ece_raw = metrics.expected_calibration_error(gold, answers[system], raw)
        results[system].ece_calibrated = metrics.expected_calibration_error(gold, answers[system], scaled)
    results["adapter"].paired = {
        system: paired.differences(
            gold, answers["adapter"], answer, len(data.labels), resamples=resamples, confidence=confidence
        )
        for system, answer in answers.items()
        if system != "adapter"
    }
    results["adapter"].selective = selective.figures(
        logits["adapter"][split], gold, calibrations["adapter"], confidence=confidence
    )
    results["adapter"].truncated = len(encoded.truncated) / len(encoded)
    return results


def _identity(session: TrainingSession, published: Config) -> configs.Sections:
    """Return what a training and its checkpoints must have in common: config, claims, base and processes."""
    return {
        **configs.to_dict(published),
        "claims": {split: sha256[:12] for split, sha256 in session.data.source.sha256.items()},
        "environment": {
            "base_revision": session.base.resolved.revision,
            "processes": session.accelerator.num_processes,
        },
    }
