"""`lorahub sweep`: a search over config fields, by optuna, that goes on where it was stopped.

In: a recipe and ranges. Out: a folder with the study, a report, the best config as a recipe, and the run of it.
Trials see train and validation only; the best config is trained once more at the end, as `lorahub train` does, and that
run alone looks at test.
"""

import dataclasses
import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import yaml
from filelock import FileLock

from lorahub import atomic, records, runfiles
from lorahub import config as configs
from lorahub.config import Config
from lorahub.data import claims
from lorahub.data.claimset import ClaimData
from lorahub.errors import ConfigError, TrainingError
from lorahub.experiments.sweep import result as scoring
from lorahub.experiments.sweep import search_space
from lorahub.experiments.sweep import study as studies
from lorahub.experiments.sweep.result import SearchReport, Tried
from lorahub.experiments.sweep.storage import connect, failures, sqlite
from lorahub.experiments.sweep.study import PRUNERS, SAMPLERS, Search
from lorahub.experiments.sweep.trials import is_done, tried
from lorahub.experiments.sweep.workers import LOOK_EVERY, Order, processes, work
from lorahub.hub import fetch
from lorahub.records import RunRecord
from lorahub.reports import tables
from lorahub.stats.metrics import METRICS

if TYPE_CHECKING:
    from lorahub.training.progress import Callbacks

log = logging.getLogger(__name__)

# What the folder holds beside the report.
STUDY, RECIPE, RUN = "study.db", "best.yaml", "best"
_TRIALS = 30


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A finished search: its folder and its report."""

    folder: Path
    report: SearchReport


def sweep(
    recipe: str | Path | None = None,
    *,
    trials: int | None = None,
    timeout: float | None = None,
    sampler: str = "tpe",
    pruner: str = "median",
    ranges: Sequence[str] = (),
    seed: int = 0,
    workers: int = 1,
    storage: str | None = None,
    name: str | None = None,
    out: str | Path | None = None,
    data: str | None = None,
    base: str | None = None,
    method: str | None = None,
    settings: Sequence[str] = (),
    callbacks: "Callbacks | None" = None,
    on_trial: Callable[[Tried, int, int], None] = lambda trial, ended, wanted: None,
) -> Sweep:
    """Search, or go on with the search of that name, then train and test the best config.

    By default 30 trials, or all points of a grid. `ranges` are `--range` texts (`search_space.parse`); `timeout` is in
    seconds, after which no trial begins. `out` is runs/NAME and `storage` an SQLite file in it; `name` is
    sweep-DATA-METHOD-BASE. `on_trial` gets each trial as it ends, how many have ended, and of how many. Raises
    ConfigError, DataError, BaseModelError, and TrainingError where no trial could be trained.
    """
    from lorahub.training.progress import Callbacks

    callbacks = callbacks or Callbacks()
    _check(trials, sampler, pruner, workers)
    asked = configs.read(recipe, [*configs.flags(data=data, base=base, method=method, seed=None), *settings])
    config = configs.from_dict(asked)
    resolved = fetch.base(config.base.id, revision=config.base.revision)
    search = Search(
        name=name or _default_name(config),
        asked=asked,
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
    read = claims.load(config.data)
    for text in read.warnings:
        log.warning("%s", text)
    url = storage or sqlite(folder / STUDY)
    with failures(url):
        study = _open(search, url, folder, read, resolved.id)
        _run_trials(search, study, url, read, workers, timeout, callbacks, on_trial)
        ended = tried(study)
    best = scoring.best_of(ended)
    if best is None:
        raise TrainingError(_nothing(ended))
    atomic.write_text(folder / RECIPE, _as_recipe(search, best))
    record = _test(search.config_with(best.values), read, resolved.id, folder / RUN, callbacks)
    return Sweep(folder=folder, report=_report(search, ended, best, study, read, record))


def _check(trials: int | None, sampler: str, pruner: str, workers: int) -> None:
    for flag, value, known in (("--sampler", sampler, SAMPLERS), ("--pruner", pruner, PRUNERS)):
        if value not in known:
            raise ConfigError(f"{flag} is one of {', '.join(known)}; found {value!r}.")
    for flag, count in (("--trials", trials), ("--workers", workers)):
        if count is not None and count < 1:
            raise ConfigError(f"{flag} must be at least 1; found {count}.")


def _default_name(config: Config) -> str:
    return f"sweep-{Path(config.data.id).stem}-{config.adapter.method}-{Path(config.base.id).name}"


def _projections(base: Path) -> bool:
    """Whether the base's attention projections are known by name."""
    from lorahub.models import architectures

    file = base / "config.json"
    described = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return bool(architectures.of(described.get("model_type", "")).projections)


def _whole_grid(search: Search, trials: int | None) -> Search:
    """A grid is searched whole: its size is the number of trials."""
    if not search.points:
        return search
    if trials is not None and trials < len(search.points):
        raise ConfigError(
            f"--sampler grid: the ranges make {len(search.points):,} combinations, more than --trials {trials}. "
            "List fewer values, leave --trials out, or use --sampler random."
        )
    return dataclasses.replace(search, trials=len(search.points))


def _check_folder(folder: Path) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"--out {folder}: {there} is a file; a study needs a folder. Choose another --out.")
    if runfiles.is_finished(folder):
        raise ConfigError(f"--out {folder} is a run; a study has a folder of its own. Choose another --out.")


def _open(search: Search, url: str, folder: Path, data: ClaimData, base_id: str) -> optuna.Study:
    """The study, once the recipe itself is known to train: what is wrong with it would fail every trial."""
    if not (folder / STUDY).exists():
        from lorahub.training.session import TrainingSession

        TrainingSession(search.config, data, splits=()).attach()
    if url == sqlite(folder / STUDY):
        folder.mkdir(parents=True, exist_ok=True)
    return studies.make_or_open(search, connect(url), data, base_id)


def _run_trials(
    search: Search,
    study: optuna.Study,
    url: str,
    data: ClaimData,
    count: int,
    timeout: float | None,
    callbacks: "Callbacks",
    on_trial: Callable[[Tried, int, int], None],
) -> None:
    seen = {item.trial for item in tried(study)}
    if seen:
        callbacks.on_stage(f"{len(seen)} of {search.trials} trials have ended")

    def look() -> None:
        for item in tried(study):
            if item.trial not in seen:
                seen.add(item.trial)
                on_trial(item, len(seen), search.trials)

    until = None if timeout is None else time.time() + timeout
    if count == 1:
        work(search, study, data, until=until, callbacks=callbacks, on_look=look)
        return
    if is_done(study, search):
        return
    with processes(Order(search=search, url=url, until=until), count) as started:
        callbacks.on_stage(f"{count} workers")
        while any(process.poll() is None for process in started):
            time.sleep(LOOK_EVERY)
            look()
    look()
    if not is_done(study, search) and (until is None or time.time() < until):
        raise TrainingError("the workers ended before the search did: what stopped them stands above.")


def _nothing(ended: Sequence[Tried]) -> str:
    reason = next((item.error for item in ended if item.error), None)
    if reason is None:
        return "no trial was finished in time. Give a longer --timeout, and the same command again."
    return f"none of {len(ended)} trials was finished. Why the first failed: {reason}"


def _as_recipe(search: Search, best: Tried) -> str:
    """The best config as a recipe: what was asked, with the trial's values."""
    found = f"{search.config.train.metric} {best.quality:.4f} on validation"
    head = f"# The best of {search.trials} trials of `lorahub sweep`: trial {best.trial}, {found}.\n"
    return head + str(yaml.safe_dump(search_space.asked_with(search.asked, best.values), sort_keys=False))


def _test(config: Config, data: ClaimData, base_id: str, folder: Path, callbacks: "Callbacks") -> RunRecord:
    """The run of the best config, trained now unless it is there."""
    from lorahub.training import run
    from lorahub.training.folder import check_free

    # Another process with the same --out comes to the same end.
    with FileLock(folder.parent / f".{RUN}.lock"):
        if runfiles.is_finished(folder):
            record = records.load(folder)
            if _is_of(record, config, data, base_id):
                return record
        check_free(folder, force=True)
        record = run.run(config, data, folder, callbacks).record
    if record.progress.interrupted:
        shutil.rmtree(folder)
        raise KeyboardInterrupt
    return record


def _is_of(record: RunRecord, config: Config, data: ClaimData, base_id: str) -> bool:
    same_claims = record.environment.data.sha256 == data.source.sha256
    return same_claims and record.config == configs.published(config, data_id=data.source.id, base_id=base_id)


def _report(
    search: Search, ended: list[Tried], best: Tried, study: optuna.Study, data: ClaimData, record: RunRecord
) -> SearchReport:
    config, gold, labels = search.config, data.splits["validation"].gold, len(data.labels)
    metric = config.train.metric
    options: dict[str, Any] = {"resamples": config.eval.bootstrap, "confidence": config.eval.confidence}
    leads = scoring.incumbents(ended, gold, labels, metric, **options)
    own_values = search_space.own_values(search.space, config)
    own = next((item for item in ended if item.values == own_values and item.answers is not None), None)
    test = record.results["test"]
    return SearchReport(
        name=search.name,
        data=data.source.id,
        base=record.environment.base_id,
        method=config.adapter.method,
        metric=metric,
        n=len(gold),
        labels=list(data.labels.names),
        sampler=search.sampler,
        pruner=search.pruner,
        seed=search.seed,
        asked=search.trials,
        **options,
        space=[search_space.to_dict(item) for item in search.space],
        states={
            state: sum(item.state == state for item in ended)
            for state in (scoring.FINISHED, scoring.PRUNED, scoring.FAILED)
        },
        seconds=sum(item.seconds or 0.0 for item in ended),
        best=best,
        interval=scoring.interval(best, gold, labels, metric, **options),
        own=None if own is None else scoring.below(best, own, gold, labels, metric, **options),
        incumbents=leads,
        plateau=scoring.plateau(leads),
        importance=studies.importance(study),
        curves={item.field: scoring.curve(ended, item.field, log=getattr(item, "log", False)) for item in search.space},
        trials=ended,
        best_baseline=tables.best_baseline(record),
        test={system: {name: result.metric(name) for name in METRICS} for system, result in test.items()},
        test_against={system: found[metric].to_dict() for system, found in test["adapter"].paired.items()},
    )
