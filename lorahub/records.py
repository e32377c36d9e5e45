"""The run record: configuration, progress, environment and results of one run, as one typed object and one JSON file.

`record.json` is written last and atomically, so a folder without it is unfinished. Records of older versions are read:
fields that they lack have defaults. A record never holds a path of the machine on which it was written.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, SkipValidation

from lorahub import atomic, runfiles
from lorahub import config as configs
from lorahub.config import Config
from lorahub.data.claimset import DataSource
from lorahub.errors import AdapterError, one_line
from lorahub.runfiles import Part
from lorahub.stats.paired import Interval
from lorahub.stats.results import BaselineChoice, SystemResult
from lorahub.stats.verdicts import Calibration

log = logging.getLogger(__name__)

SCHEMA = 1


class Memory(Part):
    """Memory of the training, in bytes."""

    cpu_before_bytes: int = Field(description="resident size of the process before the base is loaded")
    cpu_peak_bytes: int = Field(description="its peak during training; on systems other than Linux, its peak so far")
    gpu_peak_bytes: int | None = Field(description="peak of the memory allocated on the GPU; null without a GPU")


class RankChoice(Part):
    """The rank chosen by `adapter.rank=auto`."""

    trained: int = Field(description="trained rank")
    kept: int = Field(description="rank that is kept")
    low: int = Field(description="low end of the interval of ranks over resamples of validation")
    high: int = Field(description="high end of that interval")
    shares: dict[str, float] = Field(description="share of the resamples that choose each rank")
    difference: float = Field(
        description="`train.metric` on the selecting half at the kept rank minus at the trained rank"
    )
    interval: Interval = Field(description="interval of that difference")
    why: str = Field(description="reason in words")


class CurvePoint(Part):
    """One evaluation during training."""

    step: int = Field(description="optimizer step of this evaluation")
    loss: float = Field(
        description="training loss (nats per claim), mean over the last 20 forward passes, with class weights and "
        "label smoothing"
    )
    learning_rate: float = Field(description="learning rate after this step")
    accuracy: float = Field(description="accuracy on the selecting half of validation, with the bias")
    f1_weighted: float = Field(description="weighted F1 on the selecting half of validation, with the bias")
    f1_macro: float = Field(description="macro F1 on the selecting half of validation, with the bias")
    loss_validation: float = Field(description="plain cross-entropy on the same half (nats per claim)")


class Progress(Part):
    """How the training went."""

    steps: int = Field(description="optimizer steps taken")
    planned_steps: int = Field(description="optimizer steps planned by the configuration")
    epochs: float = Field(description="training claims seen, divided by the number of training claims")
    seconds: float = Field(
        description="duration of the training loop with its evaluations (s); loading, baselines and the final "
        "evaluation are not included"
    )
    samples_per_second: float = Field(description="training claims seen, divided by `seconds`")
    cpu_seconds: float | None = Field(
        default=None,
        description="processor time of the training loop (s), summed over all threads of this process; steadier than "
        "`seconds` on a busy machine",
    )
    peak_bytes: int = Field(
        description="peak memory during training: allocated on the GPU if there is one, else the largest resident size "
        "of the process"
    )
    memory: Memory | None = Field(default=None, description="memory in detail")
    trainable_parameters: int = Field(ge=0, description="parameters of adapter and head")
    total_parameters: int = Field(ge=1, description="parameters of base, adapter and head")
    rank: RankChoice | None = Field(default=None, description="choice of `adapter.rank=auto`; else null")
    best_step: int = Field(description="step whose weights are kept: the best by `train.metric` on the selecting half")
    interrupted: bool = Field(default=False, description="stopped with Ctrl-C; the best weights until then are kept")
    resumed_at: list[int] = Field(
        default=[],
        description="steps of the checkpoints from which training resumed; steps that were lost are not included in "
        "`seconds`, and memory is that of the last process",
    )
    curve: list[CurvePoint] = Field(default=[], description="evaluations during training")
    warnings: list[str] = Field(
        default=[],
        description="warnings for the reader: splits that were made, claims that occur in two splits, a model that "
        "always gives the same answer",
    )


class Environment(Part):
    """Where the run took place, and with what."""

    packages: dict[str, str] = Field(default={}, description="installed version")
    python: str = Field(default="", description="version of Python")
    device: str = Field(default="", description="name of the GPU, or `cpu` with the machine type")
    processes: int = Field(default=1, description="processes that trained together")
    threads: int | None = Field(default=None, description="CPU threads of torch per process")
    mixed_precision: str = Field(default="no", description="`no`, `bf16` or `fp16`")
    base_id: str = Field(description="Hub id of the base, or the name of its folder")
    base_revision: str | None = Field(default=None, description="commit of the base on the Hub; null for a folder")
    base_origin: str = Field(default="", description="`embedded package`, `folder` or `hub`")
    reasons: dict[str, str] = Field(
        default={},
        description="choice made for device, dtype, 4-bit weights, padding, length or optimizer, and its reason",
    )
    labels: list[str] = Field(description="label names in id order")
    data: DataSource
    seed: int = Field(default=0, description="training seed")
    git: str | None = Field(
        default=None,
        description="commit of the lorahub checkout, with `+` if it has changes; null for an installed package",
    )
    baselines: dict[str, BaselineChoice] = Field(default={}, description="options chosen for each baseline")
    calibration: Calibration = Field(default=Calibration(), description="calibration of the adapter")


def _config(value: Any) -> Config:
    """Resolve a record's `asked`: fields that it lacks get defaults, fields of a newer version are left out."""
    if isinstance(value, Config):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("it must hold sections, each with its fields")
    known, unknown = configs.known_fields(value)
    if unknown:
        log.warning("settings of a newer lorahub are ignored: %s", ", ".join(unknown))
    return configs.from_dict(known)


RecordedConfig = Annotated[SkipValidation[Config], BeforeValidator(_config), PlainSerializer(configs.to_dict)]


class RecordedFile(Part):
    """A file of the run folder as the run wrote it."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="sha256 of the content, in hexadecimal")
    size: int = Field(ge=0, description="size in bytes")


class RunRecord(Part):
    """One run; docs/record.md describes every field."""

    schema_version: int = Field(
        default=SCHEMA,
        validation_alias="schema",
        serialization_alias="schema",
        description=f"version of this layout; now {SCHEMA}",
    )
    name: str = Field(description="name of the run folder")
    created: str = Field(description="start of the run, ISO 8601, UTC, to the second")
    config: RecordedConfig = Field(
        validation_alias="asked", serialization_alias="asked", description="resolved configuration"
    )
    progress: Progress = Field(validation_alias="happened", serialization_alias="happened")
    environment: Environment
    results: dict[str, dict[str, SystemResult]]
    files: dict[str, RecordedFile] = Field(
        default={}, description="files by name; empty in records of versions that did not record them"
    )

    def save(self, folder: Path) -> None:
        """Write `record.json` into `folder`, atomically."""
        atomic.write_json(folder / runfiles.RECORD, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, schema first."""
        return {"schema": self.schema_version, **super().to_dict()}

    @property
    def labels(self) -> list[str]:
        """The label names in id order, as in the confusion matrices."""
        return self.environment.labels

    @property
    def scored_split(self) -> str:
        """The split of the figures that are shown: test, or validation for a run that held out no test claims."""
        rows = self.environment.data.rows
        return "validation" if rows and "test" not in rows else "test"

    def adapter(self, split: str | None = None) -> SystemResult:
        """Return the adapter's own figures on a split, by default `scored_split`.

        Raises AdapterError if the record has none.
        """
        split = split or self.scored_split
        try:
            return self.results[split]["adapter"]
        except KeyError:
            raise AdapterError(f"{self.name}: record.json has no results of the adapter on {split}.") from None


class _Schema(Part):
    schema_version: int = Field(validation_alias="schema", ge=1)


def load(folder: Path) -> RunRecord:
    """Read the record of a finished run.

    Raises AdapterError if the folder is not a finished run, the file is damaged, or a newer lorahub wrote it.
    """
    path = folder / runfiles.RECORD
    if not folder.is_dir():
        raise AdapterError(f"there is no run folder {folder}. `lorahub runs` lists those that exist.")
    if not path.exists():
        raise AdapterError(f"{folder} has no {path.name}: the run did not finish. Train it again.")
    schema = runfiles.read_json(path, _Schema).schema_version
    if schema > SCHEMA:
        raise AdapterError(f"{path} has schema {schema}, this lorahub reads up to {SCHEMA}. Upgrade hf-lorahub.")
    return runfiles.read_json(path, RunRecord)


@contextmanager
def shown(record: RunRecord) -> Iterator[None]:
    """Raise AdapterError for what fails because a record, which may be a downloaded one, lacks what is shown of it."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise AdapterError(
            f"{record.name}: record.json does not hold what is shown of it ({type(error).__name__}: "
            f"{one_line(error)}). {runfiles.RESTORE}"
        ) from None


def find(root: Path) -> list[tuple[Path, RunRecord]]:
    """Return the finished runs directly under `root`, newest first.

    Folders without a record are skipped; a damaged record is left out and logged.
    """
    runs = []
    for path in root.glob(f"*/{runfiles.RECORD}"):
        try:
            runs.append((path.parent, load(path.parent)))
        except (AdapterError, OSError) as error:
            log.warning("%s is left out: %s", path.parent, error)
    return sorted(runs, key=lambda run: run[1].created, reverse=True)
