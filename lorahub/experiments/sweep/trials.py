"""Run the trials of a study: in this process, or in several that it starts.

Any number of processes and machines may work on one study, and each may be killed at any time. Claims are read and
tokenized once per process.
"""

import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from types import FrameType
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError

from lorahub.data import claims
from lorahub.data.claimset import ClaimData
from lorahub.errors import ConfigError, LorahubError, TrainingError, one_line
from lorahub.experiments.sweep import storage
from lorahub.experiments.sweep import study as studies
from lorahub.experiments.sweep.search_space import Value
from lorahub.experiments.sweep.study import Search
from lorahub.stats import calibration

if TYPE_CHECKING:
    from lorahub.training.progress import Callbacks, Step

# Seconds between two checks for ended trials while other processes work.
_POLL = 1.0


@dataclass(kw_only=True)
class Objective:
    """Train and validate the config of a trial; the value is the metric on validation.

    Raises KeyboardInterrupt between two training steps once `is_stopped` returns True. After a call, `number` is that
    of the trial, and `lost` says that another process missed the heartbeats of this one and failed the trial.
    """

    search: Search
    data: ClaimData
    callbacks: "Callbacks"
    is_stopped: Callable[[], bool]
    number: int = -1
    lost: bool = False

    def __post_init__(self) -> None:
        self._encodings: dict[Any, Any] = {}

    def __call__(self, trial: optuna.Trial) -> float:
        """Run a trial; Optuna stores its value, or how it ended."""
        self.number = trial.number
        try:
            return self._run(trial)
        finally:
            self.lost = trial.study.get_trials(deepcopy=False)[trial.number].state.is_finished()

    def _values(self, trial: optuna.Trial) -> dict[str, Value]:
        """Return the sampled values of a trial; raises RepeatedError if they were trained before."""
        values = self.search.suggest(trial)
        if self.search.sampler != "grid" and studies.repeats(trial):
            raise RepeatedError
        return values

    def _run(self, trial: optuna.Trial) -> float:
        import torch

        from lorahub.training.progress import Callbacks
        from lorahub.training.run import validate

        # An exception may still hold the model of the previous trial.
        gc.collect()
        self.callbacks.on_stage(f"trial {trial.number + 1}")
        metric, began, evaluations = self.search.config.train.metric, time.perf_counter(), 0
        cost: dict[str, float] = {}

        def on_step(step: "Step") -> None:
            nonlocal evaluations
            if self.is_stopped():
                raise KeyboardInterrupt
            cost.update(seconds=time.perf_counter() - began, steps=step.step)
            self.callbacks.on_step(step)
            if step.validation is not None:
                evaluations += 1
                trial.report(step.validation[metric], evaluations)
                if trial.should_prune():
                    studies.set_cost(trial, cost)
                    raise optuna.TrialPruned

        try:
            config = self.search.config_with(self._values(trial))
            session, progress = validate(config, self.data, Callbacks(on_step=on_step), encodings=self._encodings)
        # Errors of the base or the Hub are raised: they would fail every trial.
        except (ConfigError, TrainingError, torch.OutOfMemoryError) as error:
            studies.set_error(trial, one_line(error))
            raise TrialError from error
        if progress.interrupted:
            raise KeyboardInterrupt
        selection = calibration.select(session.logits("validation"), session.gold, config)
        studies.set_cost(
            trial, cost | {"seconds": time.perf_counter() - began, "trainable_parameters": session.trainable}
        )
        studies.set_answers(trial, selection.answers)
        return selection.metrics[metric]


class TrialError(Exception):
    """A trial cannot be trained; the others may."""


class RepeatedError(TrialError):
    """The configuration of a trial was trained before."""


def run(
    study: optuna.Study,
    objective: Objective,
    *,
    until: float | None = None,
    process: int = 0,
    on_trial_end: Callable[[], None] = lambda: None,
) -> None:
    """Run trials until the search is done; start none after `until` (seconds since the epoch).

    Raises the errors that would stop every trial (BaseModelError, HubError), and KeyboardInterrupt where a trial was
    interrupted; that trial is queued again.
    """
    search = objective.search
    with _errors_only("lorahub.training"):
        while not search.is_done(study) and (until is None or time.time() < until):
            if objective.is_stopped():
                raise KeyboardInterrupt
            search.set_sampler(study, process)
            try:
                study.optimize(objective, n_trials=1, catch=(TrialError,))
            except (UpdateFinishedTrialError, ValueError):
                # Optuna raises these for a trial that is already finished.
                if not objective.lost:
                    raise
            except KeyboardInterrupt:
                studies.requeue(study, objective.number)
                raise
            on_trial_end()


def run_here(
    search: Search,
    study: optuna.Study,
    data: ClaimData,
    *,
    until: float | None,
    callbacks: "Callbacks",
    on_trial_end: Callable[[], None],
) -> None:
    """Run trials in this process; Ctrl-C interrupts the trial after its current step."""
    with _ctrl_c() as is_stopped:
        objective = Objective(search=search, data=data, callbacks=callbacks, is_stopped=is_stopped)
        run(study, objective, until=until, on_trial_end=on_trial_end)
    gc.collect()


def run_in_processes(search: Search, url: str, count: int, *, until: float | None, on_poll: Callable[[], None]) -> None:
    """Run trials in `count` processes, which share the cores of the machine and take its GPUs in turn.

    They stop when this process ends, however it ends. Raises TrainingError where one of them failed.
    """
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    processes: list[SpawnProcess] = []
    try:
        for number in range(count):
            environment = _environment(number, count)
            process = context.Process(target=_serve, args=(search, url, until, number, environment, stop))
            process.start()
            processes.append(process)
        while any(process.is_alive() for process in processes):
            time.sleep(_POLL)
            on_poll()
    finally:
        stop.set()
        for process in processes:
            process.join()
        on_poll()
    if any(process.exitcode for process in processes):
        raise TrainingError("a process of the search failed; its error is printed above.")


def _serve(
    search: Search, url: str, until: float | None, number: int, environment: Mapping[str, str], stop: Event
) -> None:
    """Run trials as one of several processes."""
    from lorahub.training.progress import Callbacks

    # Before torch is imported.
    os.environ.update(environment)
    # Ctrl-C reaches all processes of a terminal. The parent sets `stop`.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.WARNING)
    parent = multiprocessing.parent_process()
    assert parent is not None
    try:
        with storage.failures(url):
            study = studies.load(search, storage.connect(url))
            objective = Objective(
                search=search,
                data=claims.load(search.config.data, compare=False),
                callbacks=Callbacks(),
                is_stopped=lambda: stop.is_set() or not parent.is_alive(),
            )
            with suppress(KeyboardInterrupt):
                run(study, objective, until=until, process=number)
    except LorahubError as error:
        sys.exit(f"lorahub: {error}")


def _environment(number: int, count: int) -> dict[str, str]:
    """Return a process's share of cores and GPUs as environment variables."""
    import torch

    threads = str(max(1, (os.cpu_count() or 1) // count))
    shares = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    return {**shares, "CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if len(gpus) > 1 else shares


@contextmanager
def _errors_only(name: str) -> Iterator[None]:
    """Hide the warnings of a logger: poor trials are normal in a search."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _ctrl_c() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Ctrl-C was pressed; a second Ctrl-C raises KeyboardInterrupt at once.

    Python drops an exception that a signal handler raises inside a callback of the garbage collector, and SQLAlchemy
    has such callbacks.
    """
    pressed = threading.Event()

    def press(number: int, frame: FrameType | None) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
        yield pressed.is_set
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
