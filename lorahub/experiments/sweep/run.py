"""`lorahub sweep`: a search over config fields by Optuna, which continues where it was stopped.

In: a recipe and ranges. Out: a folder with the study, a report, the best config as a recipe, and its run. Trials use
train and validation only. At the end the best config is trained once more, as `lorahub train` does, and only that run
is evaluated on test.
"""

import dataclasses
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import yaml
from filelock import FileLock

from lorahub import atomic, records, runfiles
from lorahub import config as configs
from lorahub.config import Config
from lorahub.data import claims
from lorahub.data.claimset import ClaimData
from lorahub.errors import ConfigError, TrainingError
from lorahub.experiments.sweep import result as results
from lorahub.experiments.sweep import search_space
from lorahub.experiments.sweep import study as studies
from lorahub.experiments.sweep.result import SearchResult, TrialResult
from lorahub.experiments.sweep.storage import connect, failures, sqlite
from lorahub.experiments.sweep.study import PRUNERS, SAMPLERS, Search
from lorahub.experiments.sweep.trials import run_here, run_in_processes
from lorahub.hub import fetch
from lorahub.records import RunRecord
from lorahub.reports import tables
from lorahub.stats import calibration
from lorahub.stats.metrics import METRICS

if TYPE_CHECKING:
    from lorahub.training.progress import Callbacks

log = logging.getLogger(__name__)

# Files of the folder.
STUDY, RECIPE, RUN = "study.db", "best.yaml", "best"
_TRIALS = 30


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A completed search: its folder and its result."""

    folder: Path
    result: SearchResult


def sweep(
    recipe: str | Path | None = None,
    *,
    trials: int | None = None,
    timeout: float | None = None,
    sampler: str = "tpe",
    pruner: str = "median",
    ranges: Sequence[str] = (),
    seed: int = 0,
    processes: int = 1,
    storage: str | None = None,
    name: str | None = None,
    out: str | Path | None = None,
    data: str | None = None,
    base: str | None = None,
    method: str | None = None,
    settings: Sequence[str] = (),
    callbacks: "Callbacks | None" = None,
    on_trial: Callable[[TrialResult, int, int], None] = lambda trial, ended, wanted: None,
) -> Sweep:
    """Run or continue the search of that name, then train and test the best config.

    The search ends with `trials` complete trials: 30 by default, or all points of a grid. `ranges` are `--range` texts
    (`search_space.parse`). No trial starts after `timeout` seconds. `out` defaults to runs/NAME, `storage` to an SQLite
    file in it, and `name` to sweep-DATA-METHOD-BASE. `on_trial` is called with each ended trial, the number of ended
    trials, and `trials`. Raises ConfigError, DataError, BaseModelError, and TrainingError if no trial finished.
    """
    from lorahub.training.progress import Callbacks

    callbacks = callbacks or Callbacks()
    _check(trials, sampler, pruner, processes)
    values = configs.read(recipe, [*configs.flags(data=data, base=base, method=method, seed=None), *settings])
    config = configs.from_dict(values)
    resolved = fetch.base(config.base.id, revision=config.base.revision)
    search = Search(
        name=name or f"sweep-{Path(config.data.id).stem}-{config.adapter.method}-{Path(config.base.id).name}",
        recipe=values,
        space=search_space.parse(ranges, config, projections=_projections(resolved.folder)),
        trials=trials or _TRIALS,
        sampler=sampler,
        pruner=pruner,
        seed=seed,
    )
    search = _whole_grid(search, trials)
    folder = Path(out) if out is not None else Path("runs") / search.name
    _check_folder(folder)
    callbacks.on_stage("reading the claims")
    claim_data = claims.load(config.data)
    for text in claim_data.warnings:
        log.warning("%s", text)
    url = storage or sqlite(folder / STUDY)
    with failures(url):
        study = _open(search, url, folder, claim_data, resolved.id)
        _run_trials(search, study, url, claim_data, processes, timeout, callbacks, on_trial)
        ended = studies.results(study, search)
    best = results.best_of(ended)
    if best is None:
        raise TrainingError(_no_result(ended))
    atomic.write_text(folder / RECIPE, _as_recipe(search, best))
    record = _test(search.config_with(best.values), claim_data, resolved.id, folder / RUN, callbacks)
    return Sweep(folder=folder, result=_result(search, ended, best, study, claim_data, record))


def _check(trials: int | None, sampler: str, pruner: str, processes: int) -> None:
    for flag, value, known in (("--sampler", sampler, SAMPLERS), ("--pruner", pruner, PRUNERS)):
        if value not in known:
            raise ConfigError(f"{flag} is one of {', '.join(known)}; found {value!r}.")
    for flag, count in (("--trials", trials), ("--processes", processes)):
        if count is not None and count < 1:
            raise ConfigError(f"{flag} must be at least 1; found {count}.")


def _projections(base: Path) -> bool:
    """Return whether the names of the base's attention projections are known."""
    from lorahub.models import architectures

    file = base / "config.json"
    model_type = json.loads(file.read_text(encoding="utf-8")).get("model_type", "") if file.is_file() else ""
    return bool(architectures.of(model_type).projections)


def _whole_grid(search: Search, trials: int | None) -> Search:
    """Return the search with the size of its grid as the number of trials."""
    if search.sampler != "grid":
        return search
    points = math.prod(map(len, search_space.grid(search.space).values()))
    if trials is not None and trials < points:
        raise ConfigError(
            f"--sampler grid: the ranges make {points:,} combinations, more than --trials {trials}. List fewer values, "
            "remove --trials, or use --sampler random."
        )
    return dataclasses.replace(search, trials=points)


def _check_folder(folder: Path) -> None:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ConfigError(f"--out {folder}: {existing} is a file, and a study needs a folder. Choose another --out.")
    if runfiles.is_finished(folder):
        raise ConfigError(f"--out {folder} is a run, and a study needs its own folder. Choose another --out.")


def _open(search: Search, url: str, folder: Path, data: ClaimData, base_id: str) -> optuna.Study:
    """Return the study; raises what is wrong with the recipe itself, because it would fail every trial."""
    if not (folder / STUDY).exists():
        from lorahub.training.session import TrainingSession

        TrainingSession(search.config, data, splits=()).attach()
    if url == sqlite(folder / STUDY):
        folder.mkdir(parents=True, exist_ok=True)
    return studies.create(search, connect(url), data, base_id)


def _run_trials(
    search: Search,
    study: optuna.Study,
    url: str,
    data: ClaimData,
    processes: int,
    timeout: float | None,
    callbacks: "Callbacks",
    on_trial: Callable[[TrialResult, int, int], None],
) -> None:
    seen = {item.trial for item in studies.results(study, search)}
    if seen:
        callbacks.on_stage(f"{len(seen)} trials have ended")

    def report_new() -> None:
        for item in studies.results(study, search):
            if item.trial not in seen:
                seen.add(item.trial)
                on_trial(item, len(seen), search.trials)

    until = None if timeout is None else time.time() + timeout
    if processes == 1 or search.is_done(study):
        run_here(search, study, data, until=until, callbacks=callbacks, on_trial_end=report_new)
    else:
        callbacks.on_stage(f"{processes} processes")
        run_in_processes(search, url, processes, until=until, on_poll=report_new)


def _no_result(ended: Sequence[TrialResult]) -> str:
    reason = next((item.error for item in ended if item.error), None)
    if reason is None:
        return "no trial finished in time. Run the same command again, or with a longer --timeout."
    return f"none of {len(ended)} trials finished. The first failed: {reason}"


def _as_recipe(search: Search, best: TrialResult) -> str:
    """Return the best config as a recipe: the settings of the search with the trial's values."""
    quality = f"{search.config.train.metric} {best.quality:.4f} on validation"
    head = f"# The best of {search.trials} trials of `lorahub sweep`: trial {best.trial}, {quality}.\n"
    return head + str(yaml.safe_dump(search_space.recipe_with(search.recipe, best.values), sort_keys=False))


def _test(config: Config, data: ClaimData, base_id: str, folder: Path, callbacks: "Callbacks") -> RunRecord:
    """Return the record of the best config's run, and train it unless it exists."""
    from lorahub.training import run
    from lorahub.training.folder import check_free

    # Another process may have the same --out.
    with FileLock(folder.parent / f".{RUN}.lock"):
        if runfiles.is_finished(folder):
            record = records.load(folder)
            same_claims = record.environment.data.sha256 == data.source.sha256
            if same_claims and record.config == configs.published(config, data_id=data.source.id, base_id=base_id):
                return record
        check_free(folder, force=True)
        record = run.run(config, data, folder, callbacks).record
    if record.progress.interrupted:
        shutil.rmtree(folder)
        raise KeyboardInterrupt
    return record


def _result(
    search: Search, ended: list[TrialResult], best: TrialResult, study: optuna.Study, data: ClaimData, record: RunRecord
) -> SearchResult:
    config, test = search.config, record.results["test"]
    gold = data.splits["validation"].gold
    gold = gold[calibration.halves(gold).select]
    metric, labels = config.train.metric, data.labels.names
    options = {"resamples": config.eval.bootstrap, "confidence": config.eval.confidence}
    own_values = search_space.own_values(search.space, config)
    own = next((item for item in ended if item.values == own_values and item.state == results.FINISHED), None)
    incumbents = results.incumbents(ended)
    compared = [*incumbents, *([own] if own else [])]
    return SearchResult(
        name=search.name,
        data=data.source.id,
        base=record.environment.base_id,
        method=config.adapter.method,
        metric=metric,
        n=len(gold),
        labels=list(labels),
        sampler=search.sampler,
        pruner=search.pruner,
        seed=search.seed,
        requested=search.trials,
        confidence=config.eval.confidence,
        resamples=config.eval.bootstrap,
        space=search.space,
        best=best,
        interval=results.interval(best, gold, len(labels), metric, **options),
        own=own,
        incumbents=incumbents,
        gains={item.trial: results.gain(best, item, gold, len(labels), metric, **options) for item in compared},
        importance=studies.importance(study),
        trials=ended,
        best_baseline=tables.best_baseline(record),
        test={system: {name: figures.metric(name) for name in METRICS} for system, figures in test.items()},
        test_against={system: differences[metric] for system, differences in test["adapter"].paired.items()},
    )
