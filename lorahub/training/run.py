"""A run, from a config to a finished folder: data, baselines, training, evaluation, card.

In: a Config. Out: a `Run` with its folder and record. The folder appears whole, under its own name, when everything in
it is written; `record.json` is written last. Choices are made on validation; test is looked at once, at the end.
"""

import dataclasses
import datetime
import hashlib
import json
import logging
import platform
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from lorahub import atomic
from lorahub import config as configs
from lorahub.config import Config
from lorahub.data import claims
from lorahub.data.batches import EncodedClaims, encode
from lorahub.data.claims import ClaimData, ClaimSet
from lorahub.errors import AdapterError, ConfigError
from lorahub.models import adapters, methods
from lorahub.models import base as bases
from lorahub.models.base import Base
from lorahub.records import FILE_NAME as RECORD_FILE
from lorahub.records import SYSTEMS, RunRecord
from lorahub.reports import cards, plots
from lorahub.scoring import baselines, calibration, intervals, metrics
from lorahub.scoring.verdicts import Calibration, Floats, calibrated, decide
from lorahub.training import alarms, evaluation, loop

log = logging.getLogger(__name__)

PROBE_FILE = "probe.json"
_PROBE_CLAIMS = 8
_JUDGED = ("validation", "test")
_PACKAGES = ("accelerate", "datasets", "hf-lorahub", "huggingface-hub", "numpy", "peft", "scikit-learn", "tokenizers",
             "torch", "transformers")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run: where it is and what its record says."""

    folder: Path
    record: RunRecord


@dataclass(kw_only=True)
class Watcher:
    """What a caller may watch: `on_stage` gets a sentence for each stage, `on_step` every optimiser step."""

    on_stage: Callable[[str], None] = lambda text: log.info("%s", text)
    on_step: Callable[[loop.Step], None] | None = None


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
    given = {"data.id": data, "base.id": base, "adapter.method": method, "train.seed": seed}
    flags = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    config = configs.load(recipe, [*flags, *settings])
    folder = _choose_folder(config, out, force=force)
    return run(config, folder, watcher or Watcher())


def run(config: Config, folder: Path, watcher: Watcher) -> Run:
    """Carry out a resolved config and write `folder`; see `train`."""
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    watcher.on_stage("reading the claims")
    data = claims.load(config.data)
    for text in data.warnings:
        log.warning("%s", text)
    accelerator = _accelerator(config)
    set_seed(config.train.seed)
    watcher.on_stage("loading the base")
    base = bases.load(config.base, data.labels)
    methods.check(base, config.adapter)
    encoded = {
        name: EncodedClaims(part, base.tokenizer, max_length=base.max_length) for name, part in data.splits.items()
    }
    scoring = {"batch_size": config.eval.batch_size, "accelerator": accelerator}

    watcher.on_stage("scoring the baselines")
    features = {
        name: evaluation.features(base.model, part, base.tokenizer, **scoring) for name, part in encoded.items()
    }
    logits, options, probe = _baseline_logits(data, features, config)

    watcher.on_stage("training")
    model = methods.attach(base, config.adapter)
    trainable, total = methods.count_parameters(model)
    log.info("%s of %s parameters are trained (%.2f %%)", f"{trainable:,}", f"{total:,}", 100 * trainable / total)
    logits["untrained"] = _judge(model, base, encoded, scoring)
    _reset_peak()
    fit = loop.fit(
        model,
        base.tokenizer,
        encoded["train"],
        encoded["validation"],
        data.labels,
        config.train,
        accelerator=accelerator,
        scoring_batch_size=config.eval.batch_size,
        on_step=watcher.on_step if accelerator.is_main_process else None,
    )
    peak = _peak_bytes()

    watcher.on_stage("evaluating on test")
    logits["adapter"] = _judge(model, base, encoded, scoring)
    adjusted = _calibrate(logits["adapter"]["validation"], data, config)
    results = _results(logits, data, adjusted, config)
    never = alarms.never_predicted(
        decide(logits["adapter"]["validation"], adjusted), data.splits["validation"].gold, data.labels
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
            "peak_bytes": peak,
            "trainable_parameters": trainable,
            "total_parameters": total,
            "best_step": fit.best_step,
            "interrupted": fit.interrupted,
            "curve": fit.curve,
            "warnings": [*data.warnings, *fit.warnings, *([never] if never else [])],
        },
        environment={
            **_environment(config, base, data, accelerator),
            "baselines": options,
            "calibration": {"temperature": adjusted.temperature, "bias": list(adjusted.bias)},
        },
        results=results,
    )
    if accelerator.is_main_process:
        watcher.on_stage("writing the run folder")
        _write(folder, model, base, data, record, logits=logits, adjusted=adjusted, probe=probe, config=config)
    accelerator.wait_for_everyone()
    return Run(folder=folder, record=record)


def _choose_folder(config: Config, out: str | Path | None, *, force: bool) -> Path:
    if out is None:
        name = f"{Path(config.data.id).stem or 'run'}-{config.adapter.method}-{Path(config.base.id).name}"
        folder = Path("runs") / f"{name}-s{config.train.seed}"
    else:
        folder = Path(out)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"--out {folder}: {there} is a file; a run needs a folder. Choose another --out.")
    if (folder / RECORD_FILE).exists() and not force:
        raise AdapterError(f"{folder} holds a finished run. Choose another --out, or replace it with --force.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RECORD_FILE).exists():
        raise AdapterError(f"{folder} is not empty and no run; lorahub does not write over it. Choose another --out.")
    return folder


def _accelerator(config: Config) -> Accelerator:
    device, _ = bases.choose_device(config.base.device)
    precision = config.train.mixed_precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "no"
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("train.mixed_precision is fp16, which needs a GPU. Use --set train.mixed_precision=auto.")
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=precision,
        gradient_accumulation_steps=config.train.gradient_accumulation,
    )


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
    logits = {system: {split: found.logits[split] for split in _JUDGED} for system, found in chosen.items()}
    return logits, {system: found.options for system, found in chosen.items() if found.options}, probe


def _judge(model: Any, base: Base, encoded: dict[str, EncodedClaims], scoring: dict[str, Any]) -> dict[str, Floats]:
    return {name: evaluation.logits(model, encoded[name], base.tokenizer, **scoring) for name in _JUDGED}


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
    for split in _JUDGED:
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


def _environment(config: Config, base: Base, data: ClaimData, accelerator: Accelerator) -> dict[str, Any]:
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "packages": packages,
        "python": platform.python_version(),
        "device": _device_name(base.device),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "mixed_precision": accelerator.mixed_precision,
        "base_id": base.resolved.id,
        "base_revision": base.resolved.revision,
        "base_origin": base.resolved.origin,
        "reasons": base.reasons,
        "labels": list(data.labels.names),
        "data": data.source,
        "seed": config.train.seed,
        "git": _git_commit(),
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()})"


def _git_commit() -> str | None:
    """The commit of the checkout that this package is used from, with `+` where it has changes; None elsewhere."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--match="],
            cwd=here, capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _peak_bytes() -> int:
    """Peak memory: allocated on the GPU where there is one, else the process's peak resident size."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _write(
    folder: Path,
    model: Any,
    base: Base,
    data: ClaimData,
    record: RunRecord,
    *,
    logits: dict[str, dict[str, Floats]],
    adjusted: Calibration,
    probe: baselines.LinearProbe,
    config: Config,
) -> None:
    with atomic.replacing_folder(folder) as part:
        adapters.save(model, part, base)
        base.tokenizer.save_pretrained(part)
        data.labels.save(part)
        adjusted.save(part)
        probe.save(part)
        _write_probe(part, data, base, config)
        _write_predictions(part, logits, data)
        plots.draw(record, part / "plots")
        (part / "README.md").write_text(cards.render(record), encoding="utf-8")
        record.save(part)


def _write_probe(folder: Path, data: ClaimData, base: Base, config: Config) -> None:
    """Store a few claims with the logits that a fresh load of the folder gives.

    The load is the one that any peft user would make, so a head or layer that was not saved shows here.
    """
    some = data.splits["validation"].take(np.arange(min(_PROBE_CLAIMS, len(data.splits["validation"]))))
    fresh = bases.load(config.base, data.labels)
    loaded = adapters.load_with_peft(folder, fresh)
    again = probe_logits(loaded, fresh, some)
    here = probe_logits(base.model, base, some)
    worst = float(np.abs(again - here).max())
    if worst > 1e-3:
        raise AdapterError(f"the saved adapter gives other logits than the trained one (by {worst:.2g}): not written.")
    rows = [{"claim": text, "logits": values.tolist()} for text, values in zip(some.texts, again, strict=True)]
    if some.evidence is not None:
        for row, second in zip(rows, some.evidence, strict=True):
            row["evidence"] = second
    atomic.write_text(folder / PROBE_FILE, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def probe_logits(model: Any, base: Base, some: ClaimSet) -> Floats:
    """Logits (N, C) of a few claims, one at a time, so that no padding is involved."""
    found = []
    with torch.inference_mode():
        for row in range(len(some)):
            second = None if some.evidence is None else [some.evidence[row]]
            item = encode(base.tokenizer, [some.texts[row]], second, max_length=base.max_length)[0]
            batch = base.tokenizer.pad([item], return_tensors="pt").to(base.device)
            found.append(model(**batch).logits[0].float().cpu().numpy())
    return np.stack(found)


def _write_predictions(folder: Path, logits: dict[str, dict[str, Floats]], data: ClaimData) -> None:
    target = folder / "predictions"
    target.mkdir()
    for split in _JUDGED:
        part = data.splits[split]
        columns = {
            "row": pa.array(range(len(part)), pa.int32()),
            "sha256": pa.array([hashlib.sha256(text.encode()).hexdigest() for text in part.joined()]),
            "gold": pa.array(part.gold, pa.int32()),
        }
        for system in SYSTEMS:
            values = pa.array(list(logits[system][split]), pa.list_(pa.float32()))
            pq.write_table(pa.table({**columns, "logits": values}), target / f"{split}.{system}.parquet")
