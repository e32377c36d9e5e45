"""`lorahub ranks`: quality against rank from one run, by truncation, and by training the same recipe at each rank.

In: a finished LoRA-like run on this machine and its data. Out: `RankCurves`. Truncation needs no training: every
layer's update is cut to its best copy of a lower rank (models/truncation.py) and the model judged again, with the bias
that validation chooses for it, as a run does. Retraining changes adapter.rank alone and leaves one cell a rank.

alpha stays what it was when a rank is trained, so that the scale alpha / rank falls with the rank as LoRA means it: its
authors "do not tune" alpha, because that division spares tuning the learning rate anew (arXiv:2106.09685, section 4.1).
It is also what a user gets who changes adapter.rank and nothing else. A truncation keeps the scale itself.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lorahub import atomic, records
from lorahub import config as configs
from lorahub.config import RANKED, Config
from lorahub.data.claimset import ClaimData
from lorahub.errors import AdapterError, ConfigError, DataError, need
from lorahub.experiments import train_process
from lorahub.experiments.ranks import curves
from lorahub.experiments.ranks.curves import SPLITS, About, RankCurves, Tried
from lorahub.experiments.run_summary import Cell
from lorahub.experiments.train_process import Wanted
from lorahub.hub import fetch, recorded, safety
from lorahub.hub.fetch import Located
from lorahub.records import RunRecord
from lorahub.stats import calibration, plateau
from lorahub.stats.predictions import Predictions
from lorahub.stats.verdicts import Calibration, Floats, Ids, decide

log = logging.getLogger(__name__)

# The share of validation answers that may be others than when the run was trained: another device rounds otherwise.
_MOVED = 0.01


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A run, opened: what was asked, with base and data as they are found now, and the label ids it gave by split."""

    located: Located
    record: RunRecord
    asked: Config
    data: ClaimData
    rank: int
    kept: Mapping[str, Ids]

    def scale(self, alpha: float, rank: int) -> float:
        """What multiplies an update B·A."""
        return alpha / rank**0.5 if self.asked.adapter.method == "rslora" else alpha / rank


def ranks(
    run: str | Path,
    *,
    retrain: bool = False,
    only: Sequence[int] = (),
    data: str | None = None,
    base: str | None = None,
    out: str | Path | None = None,
    keep_runs: bool = True,
    on_stage: Callable[[str], None] = lambda text: log.info("%s", text),
) -> tuple[Path, RankCurves]:
    """Judge a run at the ranks 1, 2, 4, … up to its own; return the folder for the report, and the curves.

    With `retrain` each of these ranks is trained too, or those of `only`, where there is no cell of it in `out` (by
    default runs/ranks-NAME). `data` and `base` stand in for the recorded ones. Raises ConfigError, AdapterError,
    DataError, BaseModelError or TrainingError.
    """
    if only and not retrain:
        raise ConfigError("--ranks chooses what to retrain: add --retrain, or leave it out.")
    opened = _open(run, data, base)
    folder = Path(out) if out is not None else Path("runs") / f"ranks-{opened.located.name}"
    train_process.check_folder(folder)
    wanted = _wanted(opened, only) if retrain else {}
    # Cells that do not fit are found before hours are spent on the others.
    cells = {rank: train_process.load(path, wanted[rank]) for rank in wanted if (path := _cell(folder, rank)).exists()}
    truncated = _truncated(opened, on_stage)
    for rank in [rank for rank in wanted if rank not in cells]:
        on_stage(f"training rank {rank}, {len(cells) + 1} of {len(wanted)}")
        cells[rank] = _train(opened, wanted[rank], _cell(folder, rank), keep_run=keep_runs)
    retrained = _retrained(opened, cells) if retrain else []
    rank_curves = curves.curves(
        _about(opened), opened.data.gold, len(opened.data.labels), truncated=truncated, retrained=retrained
    )
    return folder, rank_curves


def _open(run: str | Path, data: str | None, base: str | None) -> _Run:
    located = fetch.adapter(run)
    record = records.load(located.folder)
    asked = record.config
    name, method = located.name, asked.adapter.method
    if method not in RANKED:
        raise ConfigError(f"{name} was trained with {method}, which has no rank. Name a run of {', '.join(RANKED)}.")
    report = safety.local(located.folder)
    safety.refuse(report, located.folder)
    if report.config["r"] == 1:
        raise ConfigError(f"{name} has rank 1, and there is none below. Name a run of a higher rank.")
    kept = {split: _kept(located, split, len(record.labels)) for split in SPLITS}
    own_base = recorded.base(located, record, instead=base)
    read = recorded.data(located, record, instead=data)
    if read.source.sha256 != record.environment.data.sha256:
        raise DataError(f"{name} was trained and judged on other claims than {read.source.id} holds. Give --data.")
    how = Calibration.load(located.folder, len(record.labels))
    # The very claims and weights, also where a branch has moved on since.
    revision = asked.data.revision if data is not None else record.environment.data.revision
    asked = replace(
        asked,
        data=replace(asked.data, id=data or read.source.id, revision=revision),
        base=replace(asked.base, id=own_base.id, revision=own_base.revision),
    )
    return _Run(
        located=located,
        record=record,
        asked=asked,
        data=read,
        rank=report.config["r"],
        kept={split: decide(found.logits, how) for split, found in kept.items()},
    )


def _kept(located: Located, split: str, labels: int) -> Predictions:
    found = Predictions.load(located.folder, split, "adapter", labels=labels)
    if found is None:
        raise AdapterError(f"{located.name} keeps no predictions on {split}, so nothing can be chosen. Train it again.")
    return found


def _truncated(run: _Run, on_stage: Callable[[str], None]) -> list[Tried]:
    """The run at each rank, judged now."""
    need("torch", extra="train")
    from lorahub.models import adapters, truncation
    from lorahub.training.session import TrainingSession

    on_stage("loading the base")
    # Device and precision of the training need not be at hand for judging.
    asked = replace(
        run.asked,
        base=replace(run.asked.base, device="auto"),
        train=replace(run.asked.train, mixed_precision="auto"),
    )
    session = TrainingSession(asked, run.data, splits=SPLITS)
    model = adapters.load_with_peft(run.located.folder, session.base)
    updates = truncation.updates(model)
    found = []
    for rank in reversed(plateau.ladder(run.rank)):
        on_stage(f"judging the run at rank {rank}")
        alpha = truncation.truncate(model, updates, rank)
        logits = {split: session.logits(split, model) for split in SPLITS}
        tried = Tried(
            rank=rank,
            alpha=alpha,
            scale=run.scale(alpha, rank),
            kept=truncation.kept(updates, rank),
            answers=_decided(logits, run),
        )
        if rank == run.rank:
            _check_same(tried, run)
        found.append(tried)
    return found


def _decided(logits: Mapping[str, Floats], run: _Run) -> dict[str, Ids]:
    how = calibration.of_run(logits["validation"], run.data.gold, run.asked)
    return {split: decide(values, how) for split, values in logits.items()}


def _check_same(tried: Tried, run: _Run) -> None:
    """Raise AdapterError where the run as it is answers otherwise than when it was trained: on another base, say."""
    moved = float(np.mean(tried.answers["validation"] != run.kept["validation"]))
    if moved > _MOVED:
        raise AdapterError(
            f"{run.located.name} answers {moved:.0%} of its validation claims otherwise than when it was trained. "
            "Give the base that it was trained on with --base."
        )


def _wanted(run: _Run, only: Sequence[int]) -> dict[int, Wanted]:
    """What the cell of each rank to retrain must come from; raises ConfigError where that cannot be trained."""
    name, below = run.located.name, plateau.ladder(run.rank)[:-1]
    if run.rank != run.asked.adapter.rank:
        raise ConfigError(
            f"{name} is saved with rank {run.rank} and was not trained at it (adapter.rank={run.asked.adapter.rank}, "
            f"adapter.init={run.asked.adapter.init}), so retraining would not meet it. Leave --retrain out."
        )
    for rank in only:
        if not 1 <= rank < run.rank:
            raise ConfigError(f"--ranks takes ranks from 1 to {run.rank - 1}, below that of {name}; found {rank}.")
    base_id = fetch.base(run.asked.base.id, revision=run.asked.base.revision).id
    return {
        rank: Wanted(
            config=replace(run.asked, adapter=replace(run.asked.adapter, rank=rank)), data=run.data, base_id=base_id
        )
        for rank in sorted(set(only)) or below
    }


def _cell(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.json"


def _train(run: _Run, wanted: Wanted, path: Path, *, keep_run: bool) -> Cell:
    """Train the run's own recipe, which stands beside the cells, at another rank."""
    recipe = path.with_name("recipe.yaml")
    atomic.write_json(recipe, configs.to_dict(run.asked))  # JSON is YAML too
    rank = wanted.config.adapter.rank
    return train_process.train(
        path, [str(recipe), "--set", f"adapter.rank={rank}"], wanted, name=f"rank {rank}", keep_run=keep_run
    )


def _retrained(run: _Run, cells: Mapping[int, Cell]) -> list[Tried]:
    """The ranks that were trained, the run's own last."""
    answers = {rank: {"validation": cell.validation_ids(), "test": cell.ids("adapter")} for rank, cell in cells.items()}
    alpha = run.asked.adapter.alpha
    return [
        Tried(rank=rank, alpha=alpha, scale=run.scale(alpha, rank), kept=None, answers=given)
        for rank, given in sorted({**answers, run.rank: run.kept}.items())
    ]


def _about(run: _Run) -> About:
    config = run.asked
    return About(
        run=run.located.name,
        data=run.data.source.id,
        base=run.record.environment.base_id,
        method=config.adapter.method,
        seed=config.train.seed,
        rank=run.rank,
        epochs=config.train.epochs,
        claims={split: len(part) for split, part in run.data.splits.items()},
        metric=config.train.metric,
        confidence=config.eval.confidence,
        resamples=config.eval.bootstrap,
    )
