"""The trials of a study: each place run once, whoever works on it and whoever is killed meanwhile.

A study has N places. A place is held by its earliest trial that is not lost; a trial is lost when its process ended
while it ran. Whoever looks for work marks the lost, enqueues a trial for the first place that nobody holds, and takes
it from the storage, which hands it out once. Of two that were enqueued for one place the later is never run.
"""

import base64
import itertools
import os
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import optuna
import psutil
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from lorahub.errors import ConfigError
from lorahub.experiments.sweep.result import FAILED, FINISHED, PRUNED, Tried
from lorahub.experiments.sweep.study import Search
from lorahub.stats.verdicts import Ids

# What a trial carries beside its values.
_PLACE, _WORKER, _BEAT, _ERROR, _ANSWERS, _COST = "place", "worker", "beat", "error", "answers", "cost"
# Seconds between signs of life, and without one until a worker on another machine counts as dead.
_BEAT_EVERY, _DEAD_AFTER = 15, 120
# A trial whose process ends so often takes the machine's memory, most likely, and would do so again.
_LOST_AT_MOST = 3
_STATES = {TrialState.COMPLETE: FINISHED, TrialState.PRUNED: PRUNED, TrialState.FAIL: FAILED}


class Pulse:
    """Tells which running trials have lost their worker: here by its process, elsewhere by a beat that stands still."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, float]] = {}

    def is_dead(self, trial: FrozenTrial) -> bool:
        """Whether nobody runs this running trial any more."""
        worker = trial.user_attrs.get(_WORKER)
        if worker is not None and worker["machine"] == _machine():
            return not _runs(worker["pid"], worker["since"])
        # Clocks of two machines differ, so only this one's counts, from when it first saw the beat.
        now, beat = time.monotonic(), trial.user_attrs.get(_BEAT, 0)
        before, since = self._seen.get(trial.number, (beat, now))
        self._seen[trial.number] = (beat, since if beat == before else now)
        return bool(beat == before and now - since > _DEAD_AFTER)


def claim(study: optuna.Study, search: Search, pulse: Pulse) -> optuna.Trial | None:
    """Take the first place that nobody works on, and its trial; None where there is none.

    Raises ConfigError where the study has more places than the search asks for.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if pulse.is_dead(trial):
            # Two may find it at once.
            with suppress(UpdateFinishedTrialError):
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    while True:
        held = holders(study)
        if max(held, default=0) > search.trials:
            raise ConfigError(
                f"--trials {search.trials}: this study was begun with {max(held)}. Give as many, or more."
            )
        for place, trial in sorted(held.items()):
            if trial.state == TrialState.WAITING and _begin(study, trial):
                study.sampler = search.sampler_of(place)
                taken = optuna.Trial(study, trial._trial_id)
                taken.set_user_attr(_WORKER, {"machine": _machine(), **_process(os.getpid())})
                return taken
        missing = [place for place in range(1, search.trials + 1) if place not in held]
        if not missing:
            return None
        study.enqueue_trial(search.given(missing[0]), user_attrs={_PLACE: missing[0]})


def _begin(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Whether a waiting trial is ours now: what `Study.ask` does, but for this trial and no other."""
    try:
        return bool(study._storage.set_trial_state_values(trial._trial_id, state=TrialState.RUNNING))
    except UpdateFinishedTrialError:
        return False


def place_of(trial: optuna.Trial) -> int:
    """Which of the N places a claimed trial has."""
    place: int = trial.user_attrs[_PLACE]
    return place


def holders(study: optuna.Study) -> dict[int, FrozenTrial]:
    """The trial that counts for each place that has one."""
    found: dict[int, FrozenTrial] = {}
    losses: Counter[int] = Counter()
    for trial in study.get_trials(deepcopy=False):
        place = trial.user_attrs.get(_PLACE)
        if place is None or place in found:
            continue
        losses[place] += _is_lost(trial)
        if not _is_lost(trial) or losses[place] == _LOST_AT_MOST:
            found[place] = trial
    return found


def is_done(study: optuna.Study, search: Search) -> bool:
    """Whether every place has a trial that has ended."""
    return sum(trial.state.is_finished() for trial in holders(study).values()) >= search.trials


def tried(study: optuna.Study) -> list[Tried]:
    """The trials that have ended, one a place, in the order of the places."""
    return [_tried(place, trial) for place, trial in sorted(holders(study).items()) if trial.state.is_finished()]


@contextmanager
def alive(trial: optuna.Trial) -> Iterator[None]:
    """Give signs of life while the block runs."""
    over = threading.Event()

    def beat() -> None:
        for count in itertools.count(1):
            if over.wait(_BEAT_EVERY):
                return
            # One that is missed does no harm, and what is wrong with the storage shows elsewhere too.
            with suppress(OptunaError):
                trial.set_user_attr(_BEAT, count)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def finish(study: optuna.Study, trial: optuna.Trial, value: float, answers: Ids, cost: dict[str, float]) -> None:
    """Keep a finished trial: its value, its answers on validation (N,), and what it cost."""
    _end(study, trial, TrialState.COMPLETE, value, {_ANSWERS: _pack(answers), _COST: cost})


def prune(study: optuna.Study, trial: optuna.Trial, cost: dict[str, float]) -> None:
    """Keep a trial that was stopped early; its value is that of its last evaluation."""
    _end(study, trial, TrialState.PRUNED, None, {_COST: cost})


def fail(study: optuna.Study, trial: optuna.Trial, error: str) -> None:
    """Keep a trial that cannot be trained, with the reason: it is not run again."""
    _end(study, trial, TrialState.FAIL, None, {_ERROR: error})


def lose(study: optuna.Study, trial: optuna.Trial) -> None:
    """Give a trial back that did not end: its place is free again."""
    _end(study, trial, TrialState.FAIL, None, {})


def _end(
    study: optuna.Study, trial: optuna.Trial, state: TrialState, value: float | None, kept: dict[str, Any]
) -> None:
    # Finished already: this process was taken for dead, and another has the place.
    with suppress(UpdateFinishedTrialError):
        for name, item in kept.items():
            trial.set_user_attr(name, item)
        study.tell(trial, value, state, skip_if_finished=True)


def _is_lost(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and _ERROR not in trial.user_attrs


def _tried(place: int, trial: FrozenTrial) -> Tried:
    cost = trial.user_attrs.get(_COST, {})
    state = _STATES[trial.state]
    lost = f"its process ended {_LOST_AT_MOST} times while it ran" if state == FAILED else None
    return Tried(
        trial=place,
        state=state,
        value=trial.value,
        values=trial.params,
        seconds=cost.get("seconds"),
        steps=cost.get("steps"),
        trainable_parameters=cost.get("trainable_parameters"),
        error=trial.user_attrs.get(_ERROR, lost),
        answers=_unpack(trial.user_attrs[_ANSWERS]) if state == FINISHED else None,
    )


def _pack(answers: Ids) -> str:
    return base64.b64encode(zlib.compress(answers.astype("<u2").tobytes())).decode()


def _unpack(text: str) -> Ids:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<u2").astype(np.int64)


def _machine() -> str:
    """A name of this machine, or container, since it was started."""
    return f"{socket.gethostname()}, up since {psutil.boot_time():.0f}"


def _process(pid: int) -> dict[str, float]:
    return {"pid": pid, "since": psutil.Process(pid).create_time()}


def _runs(pid: int, since: float) -> bool:
    """Whether the process is there; another of its number has begun at another time."""
    try:
        process = psutil.Process(pid)
        return bool(process.create_time() == since and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
