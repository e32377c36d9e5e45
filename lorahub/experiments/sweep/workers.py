"""Who runs the trials: this process, or several of `lorahub sweep-worker` that it starts.

In: a search and its study. Out: nothing but ended trials in the study. A worker takes one trial after the other until
none is left; it needs no other worker, and may be killed at any time. Claims are read and tokenized once a process.
"""

import gc
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

import optuna

from lorahub.data import claims
from lorahub.data.claimset import ClaimData
from lorahub.errors import ConfigError, TrainingError, one_line
from lorahub.experiments.sweep import search_space, storage, trials
from lorahub.experiments.sweep import study as studies
from lorahub.experiments.sweep.study import Search
from lorahub.experiments.sweep.trials import Pulse
from lorahub.stats.metrics import quick

if TYPE_CHECKING:
    from lorahub.training.progress import Callbacks, Step

# Seconds between two looks at what others do.
LOOK_EVERY = 1.0


def work(
    search: Search,
    study: optuna.Study,
    data: ClaimData,
    *,
    until: float | None,
    callbacks: "Callbacks",
    on_look: Callable[[], None] = lambda: None,
) -> None:
    """Run trials until every place has one that ended, or begin none after `until` (seconds since the epoch).

    Where others run the last ones this waits for them, as one of them may die. `on_look` is called after every trial
    and while waiting. Raises what stops every trial (ConfigError, BaseModelError, HubError), and KeyboardInterrupt
    where a trial was stopped: its place is free again.
    """
    pulse, encodings = Pulse(), dict[Any, Any]()
    with _quiet(), _CtrlC() as ctrl_c:
        while until is None or time.time() < until:
            trial = trials.claim(study, search, pulse)
            if trial is not None:
                callbacks.on_stage(f"trial {trials.place_of(trial)} of {search.trials}")
                with trials.alive(trial):
                    _run(trial, search, study, data, callbacks, encodings, ctrl_c)
                # An exception holds its model until it is collected.
                gc.collect()
            elif trials.is_done(study, search):
                return
            else:
                time.sleep(LOOK_EVERY)
            on_look()
            ctrl_c.check()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that a training gives: poor trials are what a search is made of."""
    logger = logging.getLogger("lorahub.training")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


class _CtrlC:
    """Ctrl-C as a wish that is looked up between steps; a second one stops at once.

    The usual one raises an exception wherever it comes, and Python drops those that come while garbage is collected and
    call back, which SQLAlchemy's does.
    """

    def __init__(self) -> None:
        self._pressed = False

    def check(self) -> None:
        """Raise KeyboardInterrupt where Ctrl-C was pressed."""
        if self._pressed:
            raise KeyboardInterrupt

    def __enter__(self) -> "_CtrlC":
        # Python hands signals to the main thread alone.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *exception: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._before)

    def _press(self, number: int, frame: FrameType | None) -> None:
        if self._pressed:
            raise KeyboardInterrupt
        self._pressed = True


def _run(
    trial: optuna.Trial,
    search: Search,
    study: optuna.Study,
    data: ClaimData,
    callbacks: "Callbacks",
    encodings: dict[Any, Any],
    ctrl_c: _CtrlC,
) -> None:
    """Train and validate what a trial says, and keep how it ended."""
    import torch

    from lorahub.training.progress import Callbacks
    from lorahub.training.run import validate

    began, metric = time.perf_counter(), search.config.train.metric
    cost: dict[str, float] = {}
    evaluations = 0

    def on_step(step: "Step") -> None:
        nonlocal evaluations
        ctrl_c.check()
        cost.update(seconds=time.perf_counter() - began, steps=step.step)
        callbacks.on_step(step)
        if step.validation is not None:
            evaluations += 1
            trial.report(step.validation[metric], evaluations)
            if trial.should_prune():
                raise optuna.TrialPruned

    try:
        config = search.config_with(search.suggest(trial))
        session, progress = validate(config, data, Callbacks(on_step=on_step), encodings=encodings)
        if progress.interrupted:
            raise KeyboardInterrupt
        answers = session.logits("validation").argmax(axis=1)
        cost.update(seconds=time.perf_counter() - began, trainable_parameters=session.trainable)
        trials.finish(study, trial, quick(data.splits["validation"].gold, answers)[metric], answers, cost)
    except optuna.TrialPruned:
        trials.prune(study, trial, cost)
    # Others, of the base or the Hub, would stop every trial.
    except (ConfigError, TrainingError, torch.OutOfMemoryError) as error:
        trials.fail(study, trial, one_line(error))
    except BaseException:
        trials.lose(study, trial)
        raise


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a worker process is told."""

    search: Search
    url: str
    until: float | None

    def to_json(self) -> str:
        """One line of JSON."""
        search = {**asdict(self.search), "space": [search_space.to_dict(item) for item in self.search.space]}
        return json.dumps({"search": search, "url": self.url, "until": self.until})

    @classmethod
    def from_json(cls, text: str) -> "Order":
        """Read what `to_json` wrote."""
        plain = json.loads(text)
        space = tuple(search_space.from_dict(item) for item in plain["search"]["space"])
        return cls(**{**plain, "search": Search(**{**plain["search"], "space": space})})


def serve(orders: TextIO) -> None:
    """Be a worker process: read an order and carry it out, until it is done or `orders` ends."""
    from lorahub.training.progress import Callbacks

    # What a shell starts in the background ignores Ctrl-C, and so would those that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    order = Order.from_json(orders.readline())
    threading.Thread(target=_stop_with, args=(orders,), daemon=True).start()
    data = claims.load(order.search.config.data, compare=False)
    with storage.failures(order.url):
        study = studies.load(order.search, storage.connect(order.url))
        work(order.search, study, data, until=order.until, callbacks=Callbacks())


def _stop_with(orders: TextIO) -> None:
    """Interrupt this process when its orders end: whoever gave them is gone."""
    orders.read()
    signal.raise_signal(signal.SIGINT)


@contextmanager
def processes(order: Order, count: int) -> Iterator[list["subprocess.Popen[str]"]]:
    """Start worker processes; on leaving they are told to stop, and what they run is free again.

    They share the cores, and where there are several GPUs each takes the next one. A worker stops when its standard
    input ends, which it also does when this process is killed.
    """
    started: list[subprocess.Popen[str]] = []
    try:
        for number in range(count):
            command = [sys.executable, "-m", "lorahub", "sweep-worker"]
            environment = {**os.environ, **_share(number, count)}
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment, text=True
            )
            started.append(process)
            _standard_input(process).write(order.to_json() + "\n")
            _standard_input(process).flush()
        yield started
    finally:
        for process in started:
            _standard_input(process).close()
        for process in started:
            process.wait()


def _standard_input(process: "subprocess.Popen[str]") -> Any:
    return process.stdin


def _share(number: int, count: int) -> dict[str, str]:
    """A worker's part of the machine, as environment variables."""
    import torch

    share = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count))}
    share |= {name: os.environ[name] for name in share if name in os.environ}
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = given.split(",") if given else [str(place) for place in range(torch.cuda.device_count())]
    return {**share, "CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if len(gpus) > 1 else share
