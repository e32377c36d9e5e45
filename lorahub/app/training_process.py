"""One training at a time, in a process of its own: `lorahub train --events`, read while it runs.

In: what to train. Out: a `State`, at any time, for any number of readers. The page stays quick meanwhile, and what the
training needs of memory ends with it. Knows nothing of gradio.
"""

import json
import logging
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lorahub import config as configs
from lorahub import records
from lorahub.errors import ConfigError, LorahubError

log = logging.getLogger(__name__)

QUICK, RECIPE, LONG = "quick look", "the method's recipe", "twice as long"
PRESETS = (QUICK, RECIPE, LONG)
# The stage of `lorahub train` in which there are steps.
TRAINING = "training"
_MOST_POINTS = 400
_NAME = re.compile(r"[\w.+-]*\w[\w.+-]*")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What to train, as the page asks it. Without a name the run is called after its data and method."""

    data: str
    method: str
    preset: str = RECIPE
    name: str = ""
    seed: int = 0

    def settings(self) -> list[str]:
        """The flags of `lorahub train`; raises ConfigError where they make no recipe."""
        flags = configs.flags(data=self.data, base=None, method=self.method, seed=self.seed)
        epochs = configs.load(None, flags).train.epochs
        if self.preset not in PRESETS:
            raise ConfigError(f"the preset is one of {', '.join(PRESETS)}; found {self.preset!r}.")
        changed = {QUICK: ["train.epochs=1"], RECIPE: [], LONG: [f"train.epochs={2 * epochs}"]}[self.preset]
        return [word for setting in (*flags, *changed) for word in ("--set", setting)]


@dataclass(frozen=True, kw_only=True)
class State:
    """How far a training is. `losses` are (step, training loss), `validations` (step, macro F1 on validation).

    When it is over, `error` says why there is no run, or `answers_as` under which name the page's engine has it, or
    `note` why it has not.
    """

    name: str
    stage: str = "starting"
    step: int = 0
    total: int = 0
    loss: float | None = None
    samples_per_second: float | None = None
    losses: tuple[tuple[int, float], ...] = ()
    validations: tuple[tuple[int, float], ...] = ()
    running: bool = True
    stopping: bool = False
    error: str | None = None
    answers_as: str | None = None
    note: str | None = None

    @property
    def stoppable(self) -> bool:
        """Whether Ctrl-C would do: once all steps are done, it would only lose the run that is being written."""
        return self.running and not self.stopping and (self.stage == TRAINING or not self.step)


@dataclass(kw_only=True)
class Trainer:
    """What trains under the folder `root` on one base; `load` takes a finished run folder and returns its name."""

    root: Path
    base: str
    load: Callable[[Path], str]
    _process: subprocess.Popen[str] | None = None
    _state: State | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def state(self) -> State | None:
        """The training that runs, or ran last; None before the first."""
        return self._state

    def start(self, asked: Asked) -> State:
        """Begin a training; raises ConfigError where one is running, or what is asked makes no recipe or name."""
        if not asked.data.strip():
            raise ConfigError("Choose the data to train on.")
        settings = asked.settings()
        with self._lock:
            if self._state is not None and self._state.running:
                raise ConfigError(f"{self._state.name} is being trained ({told(self._state)}). Stop it, or wait.")
            folder = self.root / self._free(asked)
            command = ["train", *settings, "--base", self.base, "--out", str(folder), "--events"]
            self._state = State(name=folder.name)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lorahub", *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                # Ctrl-C in this terminal is for the page, which then stops the training as a person would, once.
                start_new_session=True,
            )
            threading.Thread(target=self._follow, args=(self._process, folder), daemon=True).start()
            return self._state

    def stop(self) -> State:
        """Press Ctrl-C, once: the training keeps its best so far and finishes the run.

        One that does so already is left alone. Raises ConfigError where none runs.
        """
        with self._lock:
            if self._process is None or self._state is None or not self._state.running:
                raise ConfigError("No training is running.")
            if self._state.stoppable:
                self._process.send_signal(signal.SIGINT)
                self._state = replace(self._state, stopping=True)
            return self._state

    def close(self, tell: Callable[[str], None]) -> None:
        """Stop what runs and wait for it."""
        if self._process is not None and self._process.poll() is None:
            tell("lorahub: the training stops; it keeps its best so far.")
            self.stop()
            self._process.wait()

    def _free(self, asked: Asked) -> str:
        """The name of the run folder; a name that was not given is numbered where it is taken."""
        if asked.name.strip():
            name = asked.name.strip()
            if not _NAME.fullmatch(name):
                raise ConfigError(f"a run's name is letters, digits and . _ + -; found {name!r}.")
            if (self.root / name).exists():
                raise ConfigError(f"{self.root / name} is there already. Give another name.")
            return name
        first = f"{Path(asked.data).stem}-{asked.method}-s{asked.seed}"
        name, number = first, 2
        while (self.root / name).exists():
            name, number = f"{first}-{number}", number + 1
        return name

    def _follow(self, process: subprocess.Popen[str], folder: Path) -> None:
        """Read what the training says until it ends, then load what it made."""
        assert process.stderr is not None
        said: list[str] = []
        for line in process.stderr:
            event = _event(line)
            if event is None:
                said = [*said[-50:], line.rstrip()]
            else:
                with self._lock:
                    self._state = after(self._state or State(name=folder.name), event)
        code = process.wait()
        with self._lock:
            ended = replace(self._state or State(name=folder.name), running=False, stage="over")
        ended = self._ended(ended, folder, code, said)
        with self._lock:
            self._state = ended

    def _ended(self, state: State, folder: Path, code: int, said: Sequence[str]) -> State:
        if (folder / records.FILE_NAME).exists():
            try:
                return replace(state, answers_as=self.load(folder))
            except LorahubError as error:
                return replace(state, note=str(error))
        if state.stopping:
            return replace(state, error="Stopped before there was anything to keep.")
        message = next((line.removeprefix("lorahub: ") for line in said if line.startswith("lorahub: ")), None)
        if message is None:
            log.error("the training of %s failed with exit code %d:\n%s", folder.name, code, "\n".join(said))
            message = f"The training failed with exit code {code}; the server's log has its last words."
        return replace(state, error=message)


def after(state: State, event: dict[str, Any]) -> State:
    """The state once an event of the stream was read."""
    if event["event"] == "stage":
        return replace(state, stage=event["text"])
    found = event["validation"]
    return replace(
        state,
        step=event["step"],
        total=event["total"],
        loss=event["loss"],
        samples_per_second=event["samples_per_second"],
        losses=_thinned((*state.losses, (event["step"], event["loss"]))),
        validations=(*state.validations, (event["step"], found["f1_macro"])) if found else state.validations,
    )


def _thinned(points: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
    """Every second point, once there are more than a curve can show."""
    return points[1::2] if len(points) > _MOST_POINTS else points


def told(state: State) -> str:
    """How far it is, in words."""
    if state.stopping:
        return "stopping: it keeps its best so far"
    if state.stage != TRAINING or not state.step:
        return state.stage
    return f"step {state.step:,} of {state.total:,}"


def _event(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.get("event") in ("stage", "step") else None
