"""Trainings that a table is made of: each in a process of its own, each leaving a cell, none done twice.

In: the path of a cell, and what `lorahub train` is to be told. Out: the cell. The process is fresh, so that its memory
is its own; its run folder stands beside the cell under the same name.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorahub import config as configs
from lorahub import records, runfiles
from lorahub.config import Config
from lorahub.data.claimset import ClaimData
from lorahub.errors import ConfigError, TrainingError
from lorahub.experiments.run_summary import Cell
from lorahub.hub import safety


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a cell must come from: a resolved config, the claims that it names, and the base's published id."""

    config: Config
    data: ClaimData
    base_id: str


def check_folder(folder: Path) -> None:
    """Raise ConfigError where a file stands in the place of the folder of cells."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder} is a file; the cells need a folder. Choose another --out.")


def load(path: Path, wanted: Wanted) -> Cell:
    """Read a cell; raises AdapterError where it is none, ConfigError where it comes from another recipe or data."""
    cell = Cell.load(path)
    _check_fits(cell, path, wanted)
    return cell


def train(path: Path, arguments: Sequence[str], wanted: Wanted, *, name: str, keep_run: bool) -> Cell:
    """Train with `lorahub train ARGUMENTS`, unless the run folder is there, and write the cell.

    `name` is what an error calls the training. Without `keep_run` the run folder is deleted once the cell is written.
    Raises TrainingError where the training fails, KeyboardInterrupt where it was stopped by hand.
    """
    folder = path.with_suffix("")
    if not runfiles.is_finished(folder):
        _run(folder, arguments, name)
    cell = Cell.of_run(folder, records.load(folder), folder / safety.layout(folder).weights)
    cell.save(path)
    if not keep_run:
        shutil.rmtree(folder)
    _check_fits(cell, path, wanted)
    return cell


def _run(folder: Path, arguments: Sequence[str], name: str) -> None:
    """Train in a fresh process, whose progress bar and errors go to our stderr."""
    command = [sys.executable, "-m", "lorahub", "train", *arguments, "--out", str(folder)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise TrainingError(
            f"{name} was not trained: its own message stands above. Mend it, or leave it out; what is finished is kept."
        )
    if records.load(folder).progress.interrupted:
        shutil.rmtree(folder)
        raise KeyboardInterrupt


def _check_fits(cell: Cell, path: Path, wanted: Wanted) -> None:
    source = wanted.data.source
    then, now = configs.to_dict(configs.from_dict(cell.asked)), configs.to_dict(wanted.config)
    now["data"]["id"], now["base"]["id"] = source.id, wanted.base_id
    found = configs.first_difference(then, now)
    if found:
        name, was, value = found
        raise ConfigError(
            f"{path} was run with {name}={was}, which is {value} now. Choose another --out, or delete the cell."
        )
    if cell.environment["data"]["sha256"] != source.sha256:
        raise ConfigError(f"{path} was run on other claims of {source.id}. Choose another --out, or delete it.")
