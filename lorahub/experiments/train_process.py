"""The trainings of an experiment, each in a process of its own.

In: the path of a run summary, and arguments of `lorahub train`. Out: the summary. The process trains once, so that its
memory is the training's; it is forked from a server that has imported the libraries. Its run folder has the name of the
summary, without `.json`. A summary that exists is read instead of trained again.
"""

import multiprocessing
import os
import runpy
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorahub import config as configs
from lorahub import records, runfiles
from lorahub.config import Config
from lorahub.data.claimset import ClaimData
from lorahub.errors import ConfigError, TrainingError
from lorahub.experiments.run_summary import RunSummary


@dataclass(frozen=True, kw_only=True)
class ExpectedRun:
    """What a run summary must come from: a resolved config, the claims, and the published id of the base."""

    config: Config
    data: ClaimData
    base_id: str


def check_folder(folder: Path) -> None:
    """Raise ConfigError if the folder of the experiment is a file."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder} is a file; runs and report need a folder. Choose another --out.")


def load(path: Path, expected: ExpectedRun) -> RunSummary:
    """Read a summary; raises AdapterError if it is damaged, ConfigError if it has another recipe or other data."""
    summary = RunSummary.load(path)
    _check_expected(summary, path, expected)
    return summary


def train(path: Path, arguments: Sequence[str], expected: ExpectedRun, *, name: str, keep_run: bool) -> RunSummary:
    """Train with `lorahub train ARGUMENTS`, unless the run folder is finished, and write the summary.

    `name` is the training's name in errors. Without `keep_run` the run folder is deleted after the summary is written.
    Raises TrainingError if the training fails, KeyboardInterrupt if it was interrupted.
    """
    folder = path.with_suffix("")
    if not runfiles.is_finished(folder):
        _run(folder, arguments, name)
    summary = RunSummary.from_run(folder, records.load(folder))
    summary.save(path)
    if not keep_run:
        shutil.rmtree(folder)
    _check_expected(summary, path, expected)
    return summary


def _run(folder: Path, arguments: Sequence[str], name: str) -> None:
    """Train in a process of its own, whose progress bar and errors go to this process's stderr."""
    has_server = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver") if has_server else multiprocessing.get_context("spawn")
    context.set_forkserver_preload(["lorahub.training.run"])
    process = context.Process(target=_command, args=(["train", *arguments, "--out", str(folder)], dict(os.environ)))
    process.start()
    process.join()
    if process.exitcode:
        raise TrainingError(
            f"{name} was not trained; see the message above. Fix the cause, or leave it out: finished runs are kept."
        )
    if records.load(folder).progress.interrupted:
        shutil.rmtree(folder)
        raise KeyboardInterrupt


def _command(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run a command of lorahub as `python -m lorahub` does, without its output on stdout."""
    os.environ.update(environment)
    sys.argv = ["lorahub", *arguments]
    with open(os.devnull, "w", encoding="utf-8") as sys.stdout:
        runpy.run_module("lorahub", run_name="__main__")


def _check_expected(summary: RunSummary, path: Path, expected: ExpectedRun) -> None:
    source = expected.data.source
    then, now = configs.to_dict(summary.config), configs.to_dict(expected.config)
    now["data"]["id"], now["base"]["id"] = source.id, expected.base_id
    difference = configs.first_difference(then, now)
    if difference:
        name, was, value = difference
        raise ConfigError(
            f"{path} was run with {name}={was}, which is {value} now. Choose another --out, or delete it."
        )
    if summary.environment.data.sha256 != source.sha256:
        raise ConfigError(f"{path} was run on other claims of {source.id}. Choose another --out, or delete the file.")
