"""A cell: what a table over methods and seeds keeps of one finished run, as one JSON file.

In: a run folder and its record. Out: a `Cell` with figures, cost and answers. It holds no text and no gold label: those
come from the data again, whose sha256 the cell names.
"""

import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from lorahub import atomic
from lorahub import config as configs
from lorahub.errors import AdapterError, one_line
from lorahub.records import RunRecord
from lorahub.stats.metrics import METRICS
from lorahub.stats.predictions import Predictions
from lorahub.stats.results import SYSTEMS
from lorahub.stats.verdicts import Calibration, Ids, decide

SPLIT = "test"
_ENVIRONMENT = ("packages", "python", "device", "threads", "base_id", "base_revision", "data", "git")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run. `cost` is in bytes, seconds and parameters; `figures` holds the headline metrics by split and system,
    `answers` each system's label ids on test (N,), written as text, and `validation` the adapter's on validation; empty
    where an older lorahub wrote the cell.
    """

    method: str
    seed: int
    asked: dict[str, Any]
    environment: dict[str, Any]
    cost: dict[str, float]
    figures: dict[str, dict[str, dict[str, float]]]
    answers: dict[str, str]
    validation: str = ""

    @classmethod
    def of_run(cls, folder: Path, record: RunRecord, weights: Path) -> "Cell":
        """The cell of a finished run; `weights` is the file that holds what was trained."""
        progress, memory = record.progress, record.progress.memory
        if memory is None:
            raise AdapterError(
                f"{folder} was trained by an older lorahub, which did not measure memory. Train it again."
            )
        cpu = memory.cpu_peak_bytes - memory.cpu_before_bytes
        return cls(
            method=record.config.adapter.method,
            seed=record.config.train.seed,
            asked=configs.to_dict(record.config),
            environment=record.environment.model_dump(include=set(_ENVIRONMENT), exclude_unset=True),
            cost={
                "trainable_parameters": progress.trainable_parameters,
                "total_parameters": progress.total_parameters,
                "memory_bytes": cpu if memory.gpu_peak_bytes is None else memory.gpu_peak_bytes,
                "file_bytes": weights.stat().st_size,
                "seconds": progress.seconds,
                "cpu_seconds": progress.cpu_seconds or 0.0,
                "steps": progress.steps,
                "best_step": progress.best_step,
            },
            figures={
                split: {name: {metric: block.metric(metric) for metric in METRICS} for name, block in found.items()}
                for split, found in record.results.items()
            },
            answers={system: _answers(folder, record, system, SPLIT) for system in SYSTEMS},
            validation=_answers(folder, record, "adapter", "validation"),
        )

    def ids(self, system: str) -> Ids:
        """A system's answers on test (N,)."""
        return _ids(self.answers[system])

    def validation_ids(self) -> Ids:
        """The adapter's answers on validation (N,)."""
        return _ids(self.validation)

    def save(self, path: Path) -> None:
        """Write the cell, atomically."""
        atomic.write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Cell":
        """Read a cell; raises AdapterError where the file is none."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            needed = [item.name for item in fields(cls) if item.default is MISSING or item.name in values]
            return cls(**{name: values[name] for name in needed})
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise AdapterError(f"{path} is no finished cell ({one_line(error)}). Delete it to run it again.") from None


def _ids(text: str) -> Ids:
    return np.array(text.split(","), dtype=np.int64)


def _answers(folder: Path, record: RunRecord, system: str, split: str) -> str:
    labels = len(record.labels)
    found = Predictions.load(folder, split, system, labels=labels)
    if found is None:
        raise AdapterError(f"{folder} keeps no predictions of {system} on {split}. Train it again.")
    how = Calibration.load(folder, labels) if system == "adapter" else Calibration()
    return ",".join(map(str, decide(found.logits, how)))
