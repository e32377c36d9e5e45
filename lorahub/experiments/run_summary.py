"""The summary of a finished run that an experiment keeps, as one JSON file.

In: a run folder and its record. Out: a `RunSummary` with figures, cost and answers. It holds neither texts nor gold
labels: those are read from the data again, whose sha256 the summary contains.
"""

from pathlib import Path

import numpy as np
from pydantic import Field

from lorahub import atomic, runfiles
from lorahub.data.claimset import DataSource
from lorahub.errors import AdapterError
from lorahub.records import RecordedConfig, RunRecord
from lorahub.runfiles import Part
from lorahub.stats.metrics import METRICS
from lorahub.stats.predictions import Predictions
from lorahub.stats.results import SYSTEMS
from lorahub.stats.verdicts import Calibration, Ids, decide


class RunEnvironment(Part):
    """The part of a run's environment that decides whether figures are comparable."""

    packages: dict[str, str]
    python: str
    device: str
    threads: int | None
    base_id: str
    base_revision: str | None
    data: DataSource
    git: str | None


class RunCost(Part):
    """What a training took, in parameters, bytes, seconds and steps."""

    trainable_parameters: int
    total_parameters: int
    memory_bytes: int
    file_bytes: int
    seconds: float
    cpu_seconds: float
    steps: int
    best_step: int


class RunSummary(Part):
    """One run. `figures` holds the headline metrics by split and system, `answers` the label ids (N,) of each system on
    test, as comma-separated text, and `validation` those of the adapter on validation; empty in older summaries.
    """

    method: str
    seed: int
    config: RecordedConfig = Field(validation_alias="asked", serialization_alias="asked")
    environment: RunEnvironment
    cost: RunCost
    figures: dict[str, dict[str, dict[str, float]]]
    answers: dict[str, str]
    validation: str = ""

    @classmethod
    def from_run(cls, folder: Path, record: RunRecord) -> "RunSummary":
        """Summarize a finished run; raises AdapterError if its predictions or its memory are missing."""
        progress, memory = record.progress, record.progress.memory
        if memory is None:
            raise AdapterError(
                f"{folder} was trained by an older lorahub, which did not measure memory. Train it again."
            )
        added = memory.cpu_peak_bytes - memory.cpu_before_bytes
        environment = record.environment.model_dump(include=set(RunEnvironment.model_fields))
        return cls(
            method=record.config.adapter.method,
            seed=record.config.train.seed,
            config=record.config,
            environment=RunEnvironment.model_validate(environment),
            cost=RunCost(
                trainable_parameters=progress.trainable_parameters,
                total_parameters=progress.total_parameters,
                memory_bytes=added if memory.gpu_peak_bytes is None else memory.gpu_peak_bytes,
                file_bytes=(folder / runfiles.layout(folder).weights).stat().st_size,
                seconds=progress.seconds,
                cpu_seconds=progress.cpu_seconds or 0.0,
                steps=progress.steps,
                best_step=progress.best_step,
            ),
            figures={
                split: {
                    system: {metric: result.metric(metric) for metric in METRICS}
                    for system, result in by_system.items()
                }
                for split, by_system in record.results.items()
            },
            answers={system: _answers(folder, record, system, "test") for system in SYSTEMS},
            validation=_answers(folder, record, "adapter", "validation"),
        )

    def ids(self, system: str) -> Ids:
        """Return a system's answers on test (N,)."""
        return _ids(self.answers[system])

    def validation_ids(self) -> Ids:
        """Return the adapter's answers on validation (N,)."""
        return _ids(self.validation)

    def save(self, path: Path) -> None:
        """Write the summary, atomically."""
        atomic.write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: Path) -> "RunSummary":
        """Read a summary; raises AdapterError if the file is damaged."""
        return runfiles.read_json(path, cls, fix="Delete it to train it again.")


def _ids(text: str) -> Ids:
    return np.array(text.split(","), dtype=np.int64)


def _answers(folder: Path, record: RunRecord, system: str, split: str) -> str:
    labels = len(record.labels)
    predictions = Predictions.load(folder, split, system, labels=labels)
    if predictions is None:
        raise AdapterError(f"{folder} has no predictions of {system} on {split}. Train it again.")
    calibration = Calibration.load(folder, labels) if system == "adapter" else Calibration()
    return ",".join(map(str, decide(predictions.logits, calibration)))
