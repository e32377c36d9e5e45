"""The run folder: everything that a finished run leaves on disk.

In: a trained session and its record. Out: a folder that is a plain PEFT adapter with its evidence. It gets its name
when all files are written.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lorahub import atomic, runfiles
from lorahub.data.batches import encode
from lorahub.data.claimset import ClaimSet
from lorahub.errors import AdapterError, ConfigError
from lorahub.hub import integrity
from lorahub.models import adapters, methods
from lorahub.models import base as bases
from lorahub.models.base import Base
from lorahub.records import RunRecord
from lorahub.reports import cards, metadata, plots, sections
from lorahub.runfiles import ProbeRow
from lorahub.stats.baselines import LinearProbe
from lorahub.stats.predictions import Predictions, fingerprints
from lorahub.stats.verdicts import Calibration, Floats
from lorahub.training import trackers
from lorahub.training.checkpoints import Checkpoints
from lorahub.training.session import TrainingSession

_PROBE_CLAIMS = 8
_PROBE_TOLERANCE = 1e-3


def check_free(folder: Path, *, force: bool, resume: bool = False) -> None:
    """Raise ConfigError or AdapterError if a run cannot or must not be written to `folder`.

    `force` allows replacing a run, finished or not, and nothing else; `resume` allows continuing an unfinished one.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ConfigError(f"--out {folder}: {existing} is a file, and a run needs a folder. Choose another --out.")
    if Path.cwd().is_relative_to(folder.resolve()):
        raise ConfigError(f"--out {folder} is or contains the current directory. Choose a folder for this run alone.")
    # The folder is written under another name and renamed, which needs write access to its parent.
    parent = folder.absolute().parent if existing == folder else existing
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {folder}: no permission to write to {parent}. Choose another --out.")
    finished = runfiles.is_finished(folder)
    if finished and not force:
        raise AdapterError(f"{folder} holds a finished run. Choose another --out, or replace it with --force.")
    if finished or not folder.is_dir():
        return
    if {path.name for path in folder.iterdir()} - {runfiles.CHECKPOINTS, *trackers.KINDS}:
        raise AdapterError(
            f"{folder} is not empty and is not a lorahub run; refusing to overwrite it. Choose another --out."
        )
    if Checkpoints(folder).newest() and not force and not resume:
        raise AdapterError(f"{folder} holds an unfinished run. Continue it with --resume, or start over with --force.")


def write(
    folder: Path,
    session: TrainingSession,
    record: RunRecord,
    *,
    logits: dict[str, dict[str, Floats]],
    calibration: Calibration,
    probe: LinearProbe,
    curves: Path | None = None,
) -> None:
    """Write `folder` atomically: all files or none.

    `logits` maps a system and a split to (N, C); `curves` is a tracker's folder, which is kept; `record.files` is set.
    Raises AdapterError if the saved adapter gives other logits than the trained one.
    """
    labels, layout = session.data.labels, methods.TABLE[session.config.adapter.method].layout
    with atomic.replacing_folder(folder) as part:
        if curves is not None and curves.is_dir():
            shutil.copytree(curves, part / curves.name, symlinks=True)
        adapters.save(session.model, part, session.base, labels, layout)
        calibration.save(part)
        probe.save(part)
        _write_probe(part, session)
        for split in record.results:
            claims = session.data.splits[split]
            sha256 = fingerprints(claims.joined())
            for system, by_split in logits.items():
                Predictions(sha256=sha256, gold=claims.gold, logits=by_split[split]).save(part, split, system)
        plots.draw(record, part / runfiles.PLOTS)
        (part / runfiles.CARD).write_text(_card(record, part, folder), encoding="utf-8")
        if (folder / runfiles.PUBLISHED).is_file():
            shutil.copyfile(folder / runfiles.PUBLISHED, part / runfiles.PUBLISHED)
        record.files = integrity.hash_files(part)
        record.save(part)


def _card(record: RunRecord, part: Path, replaced: Path) -> str:
    """Return the card, with the text that its author wrote into the card of the run that is replaced."""
    path, card = replaced / runfiles.CARD, cards.render(record, probe=cards.probe(part))
    if not path.is_file():
        return card
    try:
        old = runfiles.read_text(path)
    except AdapterError:
        return card
    # The tags name the method of the replaced run.
    left_out = ("tags", "widget", *metadata.WRITTEN)
    values = {key: value for key, value in sections.front_matter(old).items() if key not in left_out}
    return sections.merge(sections.compose(values, sections.body(old)), card)


def _write_probe(folder: Path, session: TrainingSession) -> None:
    """Store a few claims with the logits that the saved adapter gives on a fresh base.

    It is loaded as any user of peft would load it, so a head or layer that was not saved is noticed here.
    """
    validation = session.data.splits["validation"]
    claims = validation.take(np.arange(min(_PROBE_CLAIMS, len(validation))))
    fresh = bases.load(session.config.base, session.data.labels)
    saved = probe_logits(adapters.load_with_peft(folder, fresh), fresh, claims)
    difference = float(np.abs(saved - probe_logits(session.model, session.base, claims)).max())
    if difference > _PROBE_TOLERANCE:
        raise AdapterError(
            f"the saved adapter gives other logits than the trained one (difference {difference:.2g}), so it is not "
            "kept. Report this as a bug."
        )
    rows = [ProbeRow(claim=text, logits=values.tolist()) for text, values in zip(claims.texts, saved, strict=True)]
    if claims.evidence is not None:
        for row, evidence in zip(rows, claims.evidence, strict=True):
            row.evidence = evidence
    atomic.write_json(folder / runfiles.PROBE, [row.to_dict() for row in rows])


@torch.inference_mode()
def probe_logits(model: Any, base: Base, claims: ClaimSet) -> Floats:
    """Return the logits (N, C) of a few claims, computed one at a time so that no padding is involved."""
    logits = []
    for text, evidence in zip(claims.texts, claims.evidence or claims.texts, strict=True):
        second = [evidence] if claims.evidence else None
        encoded = encode(base.tokenizer, [text], second, max_length=base.max_length)
        batch = base.tokenizer.pad(encoded.items, return_tensors="pt").to(base.device)
        logits.append(model(**batch).logits[0].float().cpu().numpy())
    return np.stack(logits)
