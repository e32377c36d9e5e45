"""Checkpoints: a training that was stopped goes on as if it had not been, bit for bit on a CPU.

In: a training's state, and how often to write it. Out: the newest complete checkpoint, `checkpoints/step-N/` in the
unfinished run folder, which the finished one replaces. It is written under another name and renamed, so that a process
may be killed at any moment. It holds accelerate's state, with the trained weights in place of the whole model's.
"""

import itertools
import json
import logging
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator, skip_first_batches
from safetensors import SafetensorError
from torch.utils.data import DataLoader

from lorahub import atomic, durations, records
from lorahub.errors import AdapterError, ConfigError, one_line
from lorahub.training.progress import State

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
_IDENTITY = "training.json"
_DAMAGE = (OSError, ValueError, KeyError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError)


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

    As a context it turns Ctrl-C into a last checkpoint after the step that is being taken; a second Ctrl-C stops at
    once. Without `every` nothing is written, and Ctrl-C is as elsewhere.
    """

    def __init__(self, run_folder: Path, *, every: Every | None = None, resume: bool = False) -> None:
        self.folder, self.every, self.resume = run_folder / FOLDER, every, resume
        self._stopping = False

    def newest(self) -> Path | None:
        """The newest complete checkpoint."""
        return max(self.folder.glob("step-*"), key=lambda path: int(path.name.split("-")[1]), default=None)

    def check(self, identity: dict[str, dict[str, Any]], *, main: bool) -> None:
        """Say which training this is; raises ConfigError where the checkpoints are of another.

        `identity` holds names and JSON values by section. Where nothing is to be resumed, the main process deletes old
        checkpoints.
        """
        path = self.folder / _IDENTITY
        if self.resume and path.exists():
            found = records.differing(json.loads(path.read_text(encoding="utf-8")), identity)
            if found:
                name, then, now = found
                raise ConfigError(
                    f"{self.folder} is of another training: {name} was {then!r} and is {now!r} now. Resume with the "
                    "same command, choose another --out, or start anew with --force in place of --resume."
                )
        if self.resume and self.newest() is None:
            log.warning("--resume: %s holds no checkpoint; training starts from the beginning", self.folder)
        if main and not self.resume:
            shutil.rmtree(self.folder, ignore_errors=True)
        if main and self.every is not None:
            atomic.write_json(path, identity)

    def begin(self, accelerator: Accelerator, state: State) -> None:
        """Watch over a training that accelerate has prepared, and take over the newest checkpoint into `state`."""
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
                    f"{path} is damaged ({one_line(error)}). Delete it, or start anew: --force in place of --resume."
                ) from error
            state.fit.resumed_at.append(state.fit.steps)
            log.info("going on after step %d, from %s", state.fit.steps, path)

    def after_step(self, *, last: bool) -> None:
        """Write a checkpoint where it is time; raises KeyboardInterrupt after that if Ctrl-C was pressed."""
        if self.every is None:
            return
        if last or self._stopping or self._due(self.every):
            self._write()
        if self._stopping:
            raise KeyboardInterrupt(f"Step {self._state.fit.steps} is in {self.folder}: go on with --resume.")

    def _due(self, every: Every) -> bool:
        if every.steps:
            return self._state.fit.steps % every.steps == 0
        return time.perf_counter() - self._saved >= every.seconds

    def _write(self) -> None:
        path = self.folder / f"step-{self._state.fit.steps}"
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
        # Python hands signals to the main thread alone.
        if self.every is not None and threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._stop_after_this_step)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.every is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._handler)

    def _stop_after_this_step(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        signal.signal(signal.SIGINT, self._handler)


def rest(loader: DataLoader[Any], seen: int) -> Iterable[dict[str, torch.Tensor]]:
    """The batches of an epoch after the first `seen`."""
    if not seen:
        return loader
    batches = iter(skip_first_batches(loader, seen))
    # Opening a loader draws a random number, which the training that was stopped had drawn at the epoch's beginning.
    with torch.random.fork_rng(devices=()):
        first = next(batches)
    return itertools.chain((first,), batches)
