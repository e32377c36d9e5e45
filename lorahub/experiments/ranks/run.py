"""`lorahub ranks`: quality against rank of one run, by truncation and by training the same recipe at each rank.

In: a finished LoRA-like run on this machine and its data. Out: `RankCurves`. Truncation needs no training: the update
of every layer is replaced by its best approximation of a lower rank (models/truncation.py), and the model is evaluated
again, with the bias that validation selects for it, as in a run. Retraining changes only adapter.rank and leaves one
run summary per rank.

Retraining keeps alpha, so that the scale alpha / rank grows as the rank falls, as in LoRA: its authors "do not tune"
alpha, because the division by the rank makes tuning the learning rate again unnecessary (arXiv:2106.09685, section
4.1). A user who changes only adapter.rank gets the same. Truncation keeps the scale itself.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lorahub import atomic, records
from lorahub import config as configs
from lorahub.config import Config
from lorahub.data.claimset import ClaimData
from lorahub.errors import AdapterError, ConfigError, DataError, need
from lorahub.experiments import train_process
from lorahub.experiments.ranks import result
from lorahub.experiments.ranks.result import SPLITS, CurveInfo, RankCurves, RankResult
from lorahub.experiments.run_summary import RunSummary
from lorahub.experiments.train_process import ExpectedRun
from lorahub.hub import fetch, recorded, safety
from lorahub.hub.fetch import Located
from lorahub.method_names import RANKED
from lorahub.records import RunRecord
from lorahub.stats import calibration, plateau
from lorahub.stats.predictions import Predictions
from lorahub.stats.verdicts import Calibration, Ids, decide

log = logging.getLogger(__name__)

# The share of validation answers that may differ from those in training: devices round differently.
_MAX_CHANGED = 0.01


@dataclass(frozen=True, kw_only=True)
class _OpenRun:
    """A finished run: its folder, its config with the base and data of today, and the label ids it stored by split."""

    folder: Path
    about: CurveInfo
    config: Config
    data: ClaimData
    answers: Mapping[str, Ids]

    def scale(self, alpha: float, rank: int) -> float:
        """Return the factor of the update B·A."""
        return alpha / rank**0.5 if self.about.method == "rslora" else alpha / rank


def ranks(
    run: str | Path,
    *,
    retrain: bool = False,
    only: Sequence[int] = (),
    margin: float | None = None,
    data: str | None = None,
    base: str | None = None,
    out: str | Path | None = None,
    keep_runs: bool = True,
    on_stage: Callable[[str], None] = lambda text: log.info("%s", text),
) -> tuple[Path, RankCurves]:
    """Evaluate a run at the ranks 1, 2, 4, … up to its own; return the folder for the report, and the curves.

    `retrain` also trains each of these ranks, or those of `only`, that have no run summary in `out` (by default
    runs/ranks-NAME). A rank is on the plateau if its metric is shown to be at most `margin` below that of the run, by
    default the run's eval.margin. `data` and `base` replace the recorded ones. Raises ConfigError, AdapterError,
    DataError, BaseModelError or TrainingError.
    """
    if only and not retrain:
        raise ConfigError("--ranks chooses the ranks to retrain: add --retrain, or leave it out.")
    if margin is not None:
        configs.load(None, [f"eval.margin={margin}"])
    opened = _open(run, data, base)
    folder = Path(out or f"runs/ranks-{opened.about.run}")
    train_process.check_folder(folder)
    expected = _expected(opened, only) if retrain else {}
    paths = {rank: folder / f"rank-{rank}.json" for rank in expected}
    # Summaries of other recipes are refused before the first training starts.
    summaries = {rank: train_process.load(path, expected[rank]) for rank, path in paths.items() if path.exists()}
    truncated = _truncated(opened, on_stage)
    recipe = folder / "recipe.yaml"
    for rank in [rank for rank in expected if rank not in summaries]:
        on_stage(f"training rank {rank}, {len(summaries) + 1} of {len(expected)}")
        atomic.write_json(recipe, configs.to_dict(opened.config))  # JSON is YAML too
        arguments = [str(recipe), "--set", f"adapter.rank={rank}"]
        summaries[rank] = train_process.train(
            paths[rank], arguments, expected[rank], name=f"rank {rank}", keep_run=keep_runs
        )
    curves = result.build_curves(
        opened.about,
        opened.data.gold,
        len(opened.data.labels),
        truncated=truncated,
        retrained=_retrained(opened, summaries) if retrain else [],
        margin=margin or opened.config.eval.margin,
    )
    return folder, curves


def _open(run: str | Path, data: str | None, base: str | None) -> _OpenRun:
    located = fetch.adapter(run)
    record = records.load(located.folder)
    config = record.config
    name, method = located.name, config.adapter.method
    if method not in RANKED:
        raise ConfigError(f"{name} was trained with {method}, which has no rank. Name a run of {', '.join(RANKED)}.")
    report = safety.local(located.folder)
    safety.refuse(report, located.folder)
    if report.config["r"] == 1:
        raise ConfigError(f"{name} has rank 1, the lowest there is. Name a run of a higher rank.")
    calibrated = Calibration.load(located.folder, len(record.labels))
    answers = {split: decide(_predictions(located, split, record).logits, calibrated) for split in SPLITS}
    own_base = recorded.base(located, record, instead=base)
    read = recorded.data(located, record, instead=data)
    if read.source.sha256 != record.environment.data.sha256:
        raise DataError(f"{name} was trained on other claims than those of {read.source.id}. Give --data.")
    # The same claims and weights, even if a branch has moved on since.
    revision = config.data.revision if data is not None else record.environment.data.revision
    config = replace(
        config,
        data=replace(config.data, id=data or read.source.id, revision=revision),
        base=replace(config.base, id=own_base.id, revision=own_base.revision),
    )
    about = CurveInfo(
        run=name,
        data=read.source.id,
        base=record.environment.base_id,
        method=method,
        seed=config.train.seed,
        rank=report.config["r"],
        epochs=config.train.epochs,
        claims={split: len(part) for split, part in read.splits.items()},
        metric=config.train.metric,
        confidence=config.eval.confidence,
        resamples=config.eval.bootstrap,
    )
    return _OpenRun(folder=located.folder, about=about, config=config, data=read, answers=answers)


def _predictions(located: Located, split: str, record: RunRecord) -> Predictions:
    predictions = Predictions.load(located.folder, split, "adapter", labels=len(record.labels))
    if predictions is None:
        raise AdapterError(f"{located.name} has no predictions on {split}, so no rank can be selected. Train it again.")
    return predictions


def _truncated(run: _OpenRun, on_stage: Callable[[str], None]) -> list[RankResult]:
    """Evaluate the run truncated to each rank."""
    need("torch", extra="train")
    from lorahub.models import adapters, truncation
    from lorahub.training.session import TrainingSession

    on_stage("loading the base")
    # An evaluation does not need the device and precision of the training.
    config = replace(
        run.config,
        base=replace(run.config.base, device="auto"),
        train=replace(run.config.train, mixed_precision="auto"),
    )
    session = TrainingSession(config, run.data, splits=SPLITS)
    model = adapters.load_with_peft(run.folder, session.base)
    updates = truncation.updates(model)
    results = []
    for rank in reversed(plateau.ladder(run.about.rank)):
        on_stage(f"evaluating the run at rank {rank}")
        alpha = truncation.truncate(model, updates, rank)
        logits = {split: session.logits(split, model) for split in SPLITS}
        calibrated = calibration.of_run(logits["validation"], run.data.gold, run.config)
        answers = {split: decide(values, calibrated) for split, values in logits.items()}
        if rank == run.about.rank:
            _check_same(answers["validation"], run)
        results.append(
            RankResult(
                rank=rank,
                alpha=alpha,
                scale=run.scale(alpha, rank),
                kept=truncation.kept(updates, rank),
                answers=answers,
            )
        )
    return results


def _check_same(answers: Ids, run: _OpenRun) -> None:
    """Raise AdapterError if the run gives other answers than in training, for example on another base."""
    changed = float(np.mean(answers != run.answers["validation"]))
    if changed > _MAX_CHANGED:
        raise AdapterError(
            f"{run.about.run} labels {changed:.0%} of its validation claims differently than in training. "
            "Give the base that it was trained on with --base."
        )


def _expected(run: _OpenRun, only: Sequence[int]) -> dict[int, ExpectedRun]:
    """Return what the summary of each rank to retrain must come from; raises ConfigError if it cannot be trained."""
    name, adapter = run.about.run, run.config.adapter
    if run.about.rank != adapter.rank:
        raise ConfigError(
            f"{name} is saved with rank {run.about.rank} but was trained with adapter.rank={adapter.rank}, "
            f"adapter.init={adapter.init}, so its ranks cannot be retrained. Leave --retrain out."
        )
    for rank in only:
        if not 1 <= rank < run.about.rank:
            raise ConfigError(
                f"--ranks takes ranks from 1 to {run.about.rank - 1}, below that of {name}; found {rank}."
            )
    base_id = fetch.base(run.config.base.id, revision=run.config.base.revision).id
    return {
        rank: ExpectedRun(
            config=replace(run.config, adapter=replace(adapter, rank=rank)), data=run.data, base_id=base_id
        )
        for rank in sorted(set(only)) or plateau.ladder(run.about.rank)[:-1]
    }


def _retrained(run: _OpenRun, summaries: Mapping[int, RunSummary]) -> list[RankResult]:
    """Return the results of the trained ranks, with the run itself at its own rank."""
    alpha = run.config.adapter.alpha
    answers: dict[int, Mapping[str, Ids]] = {
        rank: {"validation": summary.validation_ids(), "test": summary.ids("adapter")}
        for rank, summary in summaries.items()
    }
    answers[run.about.rank] = run.answers
    return [
        RankResult(rank=rank, alpha=alpha, scale=run.scale(alpha, rank), kept=None, answers=by_split)
        for rank, by_split in answers.items()
    ]
