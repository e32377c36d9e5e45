"""Experiment trackers: live curves of a run, through accelerate.

In: the name of a tracker, and every optimizer step. Out: files of TensorBoard or wandb in the run folder, or rows in
trackio's database on this machine. Nothing leaves the machine: settings that make trackio upload a run are refused, and
wandb is offline unless WANDB_MODE says otherwise.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from accelerate import Accelerator

from lorahub.config import Sections
from lorahub.errors import ConfigError, need
from lorahub.training import memory
from lorahub.training.progress import Step

PROJECT = "lorahub"
NONE = "none"
# A tracker's name is also that of its package, its extra, and its folder in a run folder.
KINDS = ("trackio", "tensorboard", "wandb")
# If any of these is set, trackio uploads runs to a Space, a server or a repository.
_UPLOADS = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID")


class Tracker:
    """A tracker of one run."""

    def __init__(self, kind: str, run_folder: Path) -> None:
        """Check package and environment; raises ConfigError or MissingPackageError."""
        if kind not in KINDS:
            raise ConfigError(f"--tracker is one of {', '.join((*KINDS, NONE))}; found {kind!r}.")
        package, self.kind, self.run_folder = need(kind, extra=kind), kind, run_folder
        uploads = next((name for name in _UPLOADS if os.environ.get(name)), None)
        if kind == "trackio" and uploads:
            raise ConfigError(
                f"{uploads} is set, so trackio would send this run to {os.environ[uploads]}. lorahub tracks on this "
                "machine only: unset it, and share a finished project with `trackio sync`."
            )
        self._wandb_mode = os.environ.get("WANDB_MODE", "offline")
        online = kind == "wandb" and self._wandb_mode in ("online", "shared", "run")
        if online and not package.login(prompt=False, verify=False):
            raise ConfigError(
                f"WANDB_MODE is {self._wandb_mode}, and you are not logged in to wandb. Run `wandb login`, or unset "
                "WANDB_MODE."
            )

    @property
    def folder(self) -> Path:
        """The folder of the tracker's files, if it writes any into the run folder."""
        return self.run_folder / self.kind

    @contextmanager
    def following(self, accelerator: Accelerator, config: Sections) -> Iterator[Callable[[Step], None]]:
        """Yield the callback that logs a step; the tracker is closed when the block ends.

        `accelerator` was made with `log_with` of this kind; `config` holds values by section and name.
        """
        opened = False

        def log_step(step: Step) -> None:
            nonlocal opened
            if not opened:
                self._open(accelerator, config, first=step.step)
                opened = True
            accelerator.log(_values(step), step=step.step)

        try:
            yield log_step
        finally:
            if opened:
                self._close(accelerator)

    def _open(self, accelerator: Accelerator, config: Sections, *, first: int) -> None:
        """Open the tracker at its first step, which is not 1 if training resumed."""
        resumed = first > 1
        if not resumed:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.run_folder.mkdir(parents=True, exist_ok=True)
        name = self.run_folder.name
        options: dict[str, dict[str, str | int | bool | None]] = {
            # Never a `space_id`: with one, trackio creates a public Space.
            "trackio": {"name": name, "resume": "allow" if resumed else "never", "embed": False,
                        "auto_log_cpu": False, "auto_log_gpu": False},
            # Steps after the checkpoint are logged again, and their first values dropped.
            "tensorboard": {"purge_step": first if resumed else None},
            "wandb": {"name": name, "dir": str(self.run_folder), "mode": self._wandb_mode},
        }  # fmt: skip
        flat = {
            f"{section}.{field}": value if isinstance(value, bool | int | float | str) else str(value)
            for section, block in config.items()
            for field, value in block.items()
        }
        # TensorBoard names a folder after the project.
        project = self.kind if self.kind == "tensorboard" else PROJECT
        with redirect_stdout(sys.stderr):  # trackio prints, and stdout may be reserved for JSON
            accelerator.init_trackers(project, config=flat, init_kwargs={self.kind: options[self.kind]})

    def _close(self, accelerator: Accelerator) -> None:
        # Not `end_training`, which also ends the process group, and the evaluation on test still needs it.
        with redirect_stdout(sys.stderr):
            for tracker in accelerator.trackers:
                # After accelerate's `finish` trackio still has a current run, and prints again at exit.
                finish = need("trackio", extra="trackio").finish if self.kind == "trackio" else tracker.finish
                finish()
        accelerator.trackers.clear()


def _values(step: Step) -> dict[str, float]:
    """Return what is logged of a step, by the names of docs/training.md."""
    gpu_bytes = memory.gpu_allocated()
    return {
        "train/loss": step.loss,
        "train/learning_rate": step.learning_rate,
        "train/samples_per_second": step.samples_per_second,
        "memory/cpu_bytes": memory.resident(),
        **({} if gpu_bytes is None else {"memory/gpu_bytes": gpu_bytes}),
        **{f"validation/{name}": value for name, value in (step.validation or {}).items()},
    }
