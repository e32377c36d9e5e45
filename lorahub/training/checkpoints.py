"""Checkpoints: an interrupted training resumes as if it had not been interrupted, bit for bit on a CPU.

In: the state of a training, and how often to write it. Out: the newest complete checkpoint, `checkpoints/step-N/` in
the run folder; the finished run replaces the folder. A checkpoint is written under another name and renamed, so the
process may be killed at any time. It holds accelerate's state, with the trained weights in place of the whole model's.
"""

import logging
import pickle
import shutil
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError

from lorahub import atomic, durations, runfiles
from lorahub import config as configs
from lorahub.errors import AdapterError, ConfigError, one_line
from lorahub.training.progress import TrainingState

log = logging.getLogger(__name__)

_IDENTITY = "training.json"
_DAMAGE = (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError)


@dataclass(frozen=True, kw_only=True)
class Every:
    """How often to write a checkpoint: every `steps` optimizer steps or, where that is 0, every `seconds`."""

    steps: int = 0
    seconds: float = 0

    @classmethod
    def parse(cls, text: str | int) -> "Every":
        """Read `200` or `10m`; raises ConfigError."""
        steps = str(text).strip()
        if steps.isdecimal():
            every = cls(steps=int(steps))
        else:
            every = cls(
                seconds=durations.seconds(steps, option="--save-every takes a number of steps, such as 200, or")
            )
        if not every.steps and not every.seconds:
            raise ConfigError(f"--save-every must be above 0; found {steps!r}.")
        return every


class Checkpoints:
    """The checkpoints of one training, in its run folder.

    As a context manager it turns Ctrl-C into a last checkpoint after the current step; a second Ctrl-C stops at once.
    Without `every` it writes nothing and leaves Ctrl-C alone.
    """

    def __init__(self, run_folder: Path, *, every: Every | None = None, resume: bool = False) -> None:
        self.folder, self.every, self.resume = run_folder / runfiles.CHECKPOINTS, every, resume
        self._stopping = False

    def newest(self) -> Path | None:
        """Return the newest complete checkpoint."""
        return max(self.folder.glob("step-*"), key=lambda path: int(path.name.split("-")[1]), default=None)

    def check(self, identity: configs.Sections, *, main: bool) -> None:
        """Store which training this is; raises ConfigError if the checkpoints belong to another one.

        Unless training resumes, the main process deletes old checkpoints.
        """
        path = self.folder / _IDENTITY
        if self.resume and path.exists():
            fix = "Delete it, or start over with --force instead of --resume."
            stored = runfiles.read_json(path, configs.Sections, fix=fix)
            difference = configs.first_difference(stored, identity)
            if difference:
                name, then, now = difference
                raise ConfigError(
                    f"{self.folder} belongs to another training: {name} was {then!r} and is {now!r} now. Resume with "
                    "the same command, choose another --out, or start over with --force instead of --resume."
                )
        if self.resume and self.newest() is None:
            log.warning("--resume: %s holds no checkpoint; training starts from the beginning", self.folder)
        if main and not self.resume:
            shutil.rmtree(self.folder, ignore_errors=True)
        if main and self.every is not None:
            atomic.write_json(path, identity)

    def attach(self, accelerator: Accelerator, state: TrainingState) -> None:
        """Follow a training that accelerate has prepared, and load the newest checkpoint if training resumes."""
        self._accelerator, self._state, self._saved = accelerator, state, time.perf_counter()

        def save(models: list[Any], weights: list[Any], folder: str) -> None:
            weights.clear()  # or accelerate writes the frozen base too
            if accelerator.is_main_process:
                state.save(Path(folder))

        def load(models: list[Any], folder: str) -> None:
            models.clear()
            state.load(Path(folder))

        accelerator.register_save_state_pre_hook(save)
        accelerator.register_load_state_pre_hook(load)
        path = self.newest() if self.resume else None
        if path is not None:
            try:
                accelerator.load_state(str(path))
            except _DAMAGE as error:
                raise AdapterError(
                    f"{path} is damaged ({one_line(error)}). Delete it, or start over with --force instead of --resume."
                ) from error
            state.progress.resumed_at.append(state.progress.steps)
            log.info("resuming after step %d, from %s", state.progress.steps, path)

    def after_step(self, *, last: bool) -> None:
        """Write a checkpoint if one is due; raises KeyboardInterrupt after that if Ctrl-C was pressed."""
        if self.every is None:
            return
        steps = self._state.progress.steps
        if self.every.steps:
            due = steps % self.every.steps == 0
        else:
            due = time.perf_counter() - self._saved >= self.every.seconds
        if last or self._stopping or due:
            self._write(self.folder / f"step-{steps}")
        if self._stopping:
            raise KeyboardInterrupt(f"Step {steps} is saved in {self.folder}. Continue with --resume.")

    def _write(self, path: Path) -> None:
        part = self.folder / f".{path.name}.partial"
        main = self._accelerator.is_main_process
        if main:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        self._accelerator.wait_for_everyone()
        self._accelerator.save_state(str(part))
        self._accelerator.wait_for_everyone()
        if main:
            part.rename(path)
            for other in (*self.folder.glob("step-*"), *self.folder.glob(".step-*")):
                if other != path:
                    shutil.rmtree(other)
        self._saved = time.perf_counter()

    def __enter__(self) -> "Checkpoints":
        # Only the main thread of a process may handle signals.
        self._handles_signals = self.every is not None and threading.current_thread() is threading.main_thread()
        if self._handles_signals:
            self._handler = signal.signal(signal.SIGINT, self._stop_after_this_step)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._handles_signals:
            signal.signal(signal.SIGINT, self._handler)

    def _stop_after_this_step(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        signal.signal(signal.SIGINT, self._handler)
