"""One training at a time for the tab *Train*: `lorahub train --events` in a process of its own.

In: what to train. Out: `TrainingState`, read as often as wanted; when the run is finished, its adapter is loaded. The
process can be stopped like any `lorahub train`, and the page answers claims meanwhile. Independent of gradio.
"""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from lorahub import config as configs
from lorahub import runfiles
from lorahub.app import Json
from lorahub.errors import ConfigError, LorahubError

log = logging.getLogger(__name__)

QUICK, RECIPE, LONG = "quick look", "the method's recipe", "twice as long"
PRESETS = (QUICK, RECIPE, LONG)
# The stage of `lorahub train` that has steps.
TRAINING = "training"
_MAX_POINTS = 400
_MAX_LINES = 50
_NAME = re.compile(r"[\w.+-]{1,100}")
_Points = tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """What to train. Without a name the run is named after its data and method."""

    data: str
    method: str
    preset: str = RECIPE
    name: str = ""
    seed: int = 0

    def flags(self) -> list[str]:
        """Return the flags of `lorahub train`; raises ConfigError where they are not a valid configuration."""
        settings = configs.flags(data=self.data, base=None, method=self.method, seed=self.seed)
        epochs = configs.load(None, settings).train.epochs
        if self.preset not in PRESETS:
            raise ConfigError(f"the preset is one of {', '.join(PRESETS)}; found {self.preset!r}.")
        changed = {QUICK: ["train.epochs=1"], RECIPE: [], LONG: [f"train.epochs={2 * epochs}"]}[self.preset]
        return [word for setting in (*settings, *changed) for word in ("--set", setting)]

    def folder(self, root: Path) -> Path:
        """Return the run folder under `root`; a default name gets a number where the folder exists."""
        name = self.name.strip()
        if name:
            if not _NAME.fullmatch(name) or not any(map(str.isalnum, name)):
                raise ConfigError(f"a run's name is up to 100 letters, digits and . _ + -; found {name[:110]!r}.")
            if (root / name).exists():
                raise ConfigError(f"{root / name} exists already. Give another name.")
            return root / name
        name = f"{Path(self.data).stem}-{self.method}-s{self.seed}"
        folder, number = root / name, 2
        while folder.exists():
            folder, number = root / f"{name}-{number}", number + 1
        return folder


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """The progress of a training. `losses` are (step, training loss), `validations` (step, macro F1 on validation).

    At the end, `error` says why there is no run; else `answers_as` is the adapter's name in the page's engine, or
    `note` says why the engine does not have it.
    """

    name: str
    stage: str = "starting"
    step: int = 0
    total: int = 0
    loss: float | None = None
    samples_per_second: float | None = None
    losses: _Points = ()
    validations: _Points = ()
    running: bool = True
    stopping: bool = False
    error: str | None = None
    answers_as: str | None = None
    note: str | None = None

    @property
    def stoppable(self) -> bool:
        """Whether Ctrl-C keeps a run: once all steps are done, it would lose the run that is being written."""
        return self.running and not self.stopping and (self.stage == TRAINING or not self.step)

    @property
    def progress(self) -> str:
        """The progress in words."""
        if self.stopping:
            return "stopping: it keeps its best so far"
        if self.stage != TRAINING or not self.step:
            return self.stage
        return f"step {self.step:,} of {self.total:,}"

    def after(self, event: Json) -> "TrainingState":
        """Return the state after an event of the stream."""
        if event["event"] == "stage":
            return replace(self, stage=event["text"])
        step, validation = event["step"], event["validation"]
        losses = (*self.losses, (step, event["loss"]))
        return replace(
            self,
            step=step,
            total=event["total"],
            loss=event["loss"],
            samples_per_second=event["samples_per_second"],
            losses=losses[1::2] if len(losses) > _MAX_POINTS else losses,
            validations=(*self.validations, (step, validation["f1_macro"])) if validation else self.validations,
        )


@dataclass(kw_only=True)
class Trainer:
    """Trains under the folder `root` on one base; `load` takes a finished run folder and returns its name."""

    root: Path
    base: str
    load: Callable[[Path], str]
    # The current or last training; None before the first.
    state: TrainingState | None = None
    _process: subprocess.Popen[str] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, request: TrainingRequest) -> TrainingState:
        """Start a training; raises ConfigError where one is running, or the request is not valid."""
        if not request.data.strip():
            raise ConfigError("Choose the data to train on.")
        flags = request.flags()
        with self._lock:
            if self.state is not None and self.state.running:
                raise ConfigError(f"{self.state.name} is being trained ({self.state.progress}). Stop it, or wait.")
            folder = request.folder(self.root)
            command = ["train", *flags, "--base", self.base, "--out", str(folder), "--events"]
            self.state = state = TrainingState(name=folder.name)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lorahub", *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                # Ctrl-C in this terminal ends the page, which then stops the training itself.
                start_new_session=True,
            )
            threading.Thread(target=self._follow, args=(self._process, folder, state), daemon=True).start()
            return state

    def stop(self) -> TrainingState:
        """Send Ctrl-C, once: the training keeps its best state so far and finishes the run.

        Raises ConfigError where no training is running.
        """
        with self._lock:
            if self._process is None or self.state is None or not self.state.running:
                raise ConfigError("No training is running.")
            if self.state.stoppable:
                self._process.send_signal(signal.SIGINT)
                self.state = replace(self.state, stopping=True)
            return self.state

    def close(self) -> None:
        """Stop a running training and wait for its end."""
        if self._process is not None and self._process.poll() is None:
            self.stop()
            self._process.wait()

    def _follow(self, process: subprocess.Popen[str], folder: Path, state: TrainingState) -> None:
        """Read the training's output until it ends, then load the run."""
        assert process.stderr is not None
        output: deque[str] = deque(maxlen=_MAX_LINES)
        for line in process.stderr:
            event = _event(line)
            if event is None:
                output.append(line.rstrip())
                continue
            with self._lock:
                self.state = (self.state or state).after(event)
        code = process.wait()
        ended = self._finished(replace(self.state or state, running=False, stage="over"), folder, code, output)
        with self._lock:
            self.state = ended

    def _finished(self, state: TrainingState, folder: Path, code: int, output: Iterable[str]) -> TrainingState:
        if runfiles.is_finished(folder):
            try:
                return replace(state, answers_as=self.load(folder))
            except LorahubError as error:
                return replace(state, note=str(error))
        if state.stopping:
            return replace(state, error="Stopped before there was anything to keep.")
        message = next((line.removeprefix("lorahub: ") for line in output if line.startswith("lorahub: ")), None)
        if message is None:
            log.error("the training of %s failed with exit code %d:\n%s", folder.name, code, "\n".join(output))
            message = f"The training failed with exit code {code}; the server's log has its last lines."
        return replace(state, error=_without_places(message))


def _without_places(message: str) -> str:
    """Return a message without the working directory and the home folder, which libraries put before what they seek."""
    return message.replace(f"{Path.cwd()}{os.sep}", "").replace(f"{Path.home()}{os.sep}", f"~{os.sep}")


def _event(line: str) -> Json | None:
    """Return the event of a line, or None where the line is other output."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and event.get("event") in ("stage", "step") else None
