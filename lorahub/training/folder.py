"""The run folder: everything that a finished run leaves on disk, under its name only when all of it is written.

In: the trained model and the record. Out: a folder that is a plain PEFT adapter with its evidence beside it.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lorahub import atomic
from lorahub.config import BaseConfig
from lorahub.data.batches import encode
from lorahub.data.claimset import ClaimData, ClaimSet
from lorahub.errors import AdapterError, ConfigError
from lorahub.hub import safety
from lorahub.hub.safety import Layout
from lorahub.models import adapters
from lorahub.models import base as bases
from lorahub.models.base import Base
from lorahub.records import FILE_NAME as RECORD_FILE
from lorahub.records import SYSTEMS, RunRecord
from lorahub.reports import cards, plots
from lorahub.stats.baselines import LinearProbe
from lorahub.stats.predictions import Predictions, fingerprints
from lorahub.stats.verdicts import Calibration, Floats
from lorahub.training import checkpoints, trackers
from lorahub.training.checkpoints import Checkpoints

PROBE_FILE = "probe.json"
# Splits whose logits are kept.
JUDGED = ("validation", "test")
_PROBE_CLAIMS = 8


def check_free(folder: Path, *, force: bool, resume: bool = False) -> None:
    """Raise where a run must not be written to `folder`: a file is in the way, or files that are not to be replaced.

    ConfigError or AdapterError; `force` allows to replace a run, finished or not, and nothing else; `resume` to go on
    with one that is not.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"--out {folder}: {there} is a file; a run needs a folder. Choose another --out.")
    if Path.cwd().is_relative_to(folder.resolve()):
        raise ConfigError(f"--out {folder} is where you are; a run is a folder of its own. Choose another --out.")
    # The folder is written under another name and renamed, so it is the parent that must take it.
    parent = folder.absolute().parent if there == folder else there
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {folder}: you may not write to {parent}. Choose another --out.")
    finished = (folder / RECORD_FILE).exists()
    if finished and not force:
        raise AdapterError(f"{folder} holds a finished run. Choose another --out, or replace it with --force.")
    if finished or not folder.is_dir():
        return
    if {path.name for path in folder.iterdir()} - {checkpoints.FOLDER, *trackers.KINDS}:
        raise AdapterError(f"{folder} is not empty and no run; lorahub does not write over it. Choose another --out.")
    if Checkpoints(folder).newest() and not force and not resume:
        raise AdapterError(f"{folder} holds an unfinished run. Go on with --resume, or start anew with --force.")


def write(
    folder: Path,
    model: Any,
    base: Base,
    data: ClaimData,
    record: RunRecord,
    *,
    logits: dict[str, dict[str, Floats]],
    adjusted: Calibration,
    probe: LinearProbe,
    config: BaseConfig,
    layout: Layout = safety.PEFT,
    curves: Path | None = None,
) -> None:
    """Write `folder` whole, what was trained in `layout`; `curves` in it are what a tracker wrote, and stay.

    Raises AdapterError where a fresh load of it would answer differently.
    """
    with atomic.replacing_folder(folder) as part:
        if curves is not None and curves.is_dir():
            shutil.copytree(curves, part / curves.name, symlinks=True)
        adapters.save(model, part, base, data.labels, layout)
        adjusted.save(part)
        probe.save(part)
        _write_probe(part, model, data, base, config)
        _write_predictions(part, logits, data)
        plots.draw(record, part / "plots")
        (part / "README.md").write_text(cards.render(record), encoding="utf-8")
        record.save(part)


def _write_probe(folder: Path, model: Any, data: ClaimData, base: Base, config: BaseConfig) -> None:
    """Store a few claims with the logits that a fresh load of the folder gives.

    The load is the one that any peft user would make, so a head or layer that was not saved shows here.
    """
    some = data.splits["validation"].take(np.arange(min(_PROBE_CLAIMS, len(data.splits["validation"]))))
    fresh = bases.load(config, data.labels)
    loaded = adapters.load_with_peft(folder, fresh)
    again = probe_logits(loaded, fresh, some)
    here = probe_logits(model, base, some)
    worst = float(np.abs(again - here).max())
    if worst > 1e-3:
        raise AdapterError(f"the saved adapter gives other logits than the trained one (by {worst:.2g}): not written.")
    rows = [{"claim": text, "logits": values.tolist()} for text, values in zip(some.texts, again, strict=True)]
    if some.evidence is not None:
        for row, second in zip(rows, some.evidence, strict=True):
            row["evidence"] = second
    atomic.write_json(folder / PROBE_FILE, rows)


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
    for split in JUDGED:
        part = data.splits[split]
        known = fingerprints(part.joined())
        for system in SYSTEMS:
            Predictions(sha256=known, gold=part.gold, logits=logits[system][split]).save(folder, split, system)
