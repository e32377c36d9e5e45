"""Trackers: curves to watch while a run trains, through accelerate's.

In: the name of a tracker, and every step. Out: files of TensorBoard or wandb in the run folder, or rows in trackio's
database on this machine. Nothing leaves it: what would make trackio send a run away is refused, and wandb is offline
unless WANDB_MODE says otherwise.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from lorahub.errors import ConfigError, need
from lorahub.training.loop import Step
from lorahub.training.memory import now

PROJECT = "lorahub"
NONE = "none"
# Each by its name, which is also its package, its extra, and the folder of its files in a run folder.
KINDS = ("trackio", "tensorboard", "wandb")
# With any of these set, trackio sends what it is told to a Space, a server or a repository.
_SENDS = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID")
_OFFLINE = "offline"


class Tracker:
    """What follows one run, from its first step to its last."""

    def __init__(self, kind: str, run_folder: Path) -> None:
        """Check everything that can be checked; raises ConfigError or MissingPackageError."""
        if kind not in KINDS:
            raise ConfigError(f"--tracker is one of {', '.join((*KINDS, NONE))}; found {kind!r}.")
        need(kind, extra=kind)
        if kind == "trackio":
            _stays_here()
        if kind == "wandb":
            _is_logged_in_or_offline()
        self.kind, self.run_folder = kind, run_folder

    @property
    def folder(self) -> Path:
        """Where its files are, if it writes any into the run folder."""
        return self.run_folder / self.kind

    @contextmanager
    def following(
        self, accelerator: Accelerator, config: Mapping[str, Mapping[str, Any]]
    ) -> Iterator[Callable[[Step], None]]:
        """Hand out what is to be told of every step; the tracker is closed however the block ends.

        `accelerator` was made with `log_with` of this kind; `config` holds names and values by section.
        """
        opened = False

        def on_step(step: Step) -> None:
            nonlocal opened
            if not opened:
                self._open(accelerator, config, first=step.step)
                opened = True
            accelerator.log(_figures(step), step=step.step)

        try:
            yield on_step
        finally:
            if opened:
                self._close(accelerator)

    def _open(self, accelerator: Accelerator, config: Mapping[str, Mapping[str, Any]], *, first: int) -> None:
        """Begin at the step that is told first: 1, or the one after a checkpoint."""
        resumed = first > 1
        if not resumed:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.run_folder.mkdir(parents=True, exist_ok=True)
        name = self.run_folder.name
        options: dict[str, dict[str, Any]] = {
            # No `space_id`, ever: with one, trackio makes a public Space.
            "trackio": {"name": name, "resume": "allow" if resumed else "never", "embed": False,
                        "auto_log_cpu": False, "auto_log_gpu": False},
            # What was told after the checkpoint, and is told again, counts no more.
            "tensorboard": {"purge_step": first if resumed else None},
            "wandb": {"name": name, "dir": str(self.run_folder), "mode": os.environ.get("WANDB_MODE", _OFFLINE)},
        }  # fmt: skip
        flat = {
            f"{section}.{field}": _plain(value) for section, block in config.items() for field, value in block.items()
        }
        # TensorBoard names a folder after the project.
        project = self.kind if self.kind == "tensorboard" else PROJECT
        with redirect_stdout(sys.stderr):  # trackio prints, and stdout may be for JSON alone
            accelerator.init_trackers(project, config=flat, init_kwargs={self.kind: options[self.kind]})

    def _close(self, accelerator: Accelerator) -> None:
        # Not `end_training`: it ends the group of processes too, which have yet to evaluate on test.
        with redirect_stdout(sys.stderr):
            for tracker in accelerator.trackers:
                # After accelerate's `finish` the run is still trackio's current one, which prints again at exit.
                finish = need("trackio", extra="trackio").finish if self.kind == "trackio" else tracker.finish
                finish()
        accelerator.trackers.clear()


def _figures(step: Step) -> dict[str, float]:
    """What a tracker is told of a step, by the names of docs/training.md."""
    memory = now()
    return {
        "train/loss": step.loss,
        "train/learning_rate": step.learning_rate,
        "train/samples_per_second": step.samples_per_second,
        **{f"memory/{name}": size for name, size in memory.items()},
        **{f"validation/{name}": value for name, value in (step.validation or {}).items()},
    }


def _plain(value: Any) -> Any:
    """A config value as trackers take them."""
    return value if isinstance(value, bool | int | float | str) else str(value)


def _stays_here() -> None:
    for variable in _SENDS:
        if os.environ.get(variable):
            raise ConfigError(
                f"{variable} is set, with which trackio would send this run to {os.environ[variable]}. lorahub tracks "
                "on this machine only: unset it, and share a finished project with `trackio sync`."
            )


def _is_logged_in_or_offline() -> None:
    mode = os.environ.get("WANDB_MODE", _OFFLINE)
    if mode in ("online", "shared", "run") and not need("wandb", extra="wandb").login(prompt=False, verify=False):
        raise ConfigError(
            f"WANDB_MODE is {mode}, and you are not logged in to wandb. Run `wandb login`, or unset WANDB_MODE."
        )
