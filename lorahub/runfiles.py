"""The format of a run folder: file names, layouts, and JSON reading with its guards.

In: paths of run folders, which may be downloaded from strangers or damaged. Out: typed values, or an AdapterError of
one line that names the file, what is wrong with it and the fix.
"""

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from lorahub.errors import AdapterError

RECORD = "record.json"
LABELS = "labels.json"
CALIBRATION = "calibration.json"
PROBE = "probe.json"
LINEAR_PROBE = "linear_probe.safetensors"
CARD = "README.md"
PREDICTIONS, PLOTS, CHECKPOINTS, HISTORY = "predictions", "plots", "checkpoints", "history"
RESTORE = "Restore it or train again."

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The two files of a run folder that hold what was trained."""

    config: str
    weights: str


PEFT = Layout(config="adapter_config.json", weights="adapter_model.safetensors")
HEAD = Layout(config="head_config.json", weights="head.safetensors")
FULL_MODEL = Layout(config="config.json", weights="model.safetensors")


def layout(folder: Path) -> Layout:
    """Return the layout of a run folder: PEFT, unless there is only a head or only a full model."""
    return next((kind for kind in (PEFT, HEAD, FULL_MODEL) if (folder / kind.config).exists()), PEFT)


class Part(BaseModel):
    """Base of the typed JSON files and their parts: unknown fields are kept."""

    model_config = ConfigDict(
        extra="allow",
        allow_inf_nan=False,
        defer_build=True,
        populate_by_name=True,
    )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; a field that was never set, as in an older file, is left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class ProbeRow(Part):
    """One claim of `probe.json` with the logits (C,) that a correct load reproduces."""

    claim: str
    logits: list[float]
    evidence: str | None = None


def read_json(path: Path, kind: type[T], *, fix: str = RESTORE) -> T:
    """Read a JSON file as `kind`, a typed model or a type such as `list[str]`.

    Raises AdapterError if the file is missing, is not JSON or does not hold what `kind` describes.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AdapterError(f"{path} cannot be read ({error.strerror or error}). {fix}") from None
    try:
        return TypeAdapter(kind).validate_json(content, strict=True)
    except ValidationError as error:
        raise AdapterError(f"{path} {describe(error)}. {fix}") from None


def describe(error: ValidationError) -> str:
    """Return what is wrong with a file as the second half of a sentence."""
    problems = error.errors(include_url=False)
    missing = [".".join(map(str, item["loc"])) for item in problems if item["type"] == "missing"]
    if missing:
        return f"lacks {', '.join(missing)}"
    first = problems[0]
    message = first["msg"]
    if first["type"] == "json_invalid":
        return f"is not valid JSON ({message.removeprefix('Invalid JSON: ')})"
    message = message.removeprefix("Value error, ").replace("Input should be", "must be")
    name = ".".join(map(str, first["loc"]))
    return f"is damaged: {name} {message}" if name else f"is damaged: it {message}"


def locate(identifier: str | Path) -> Path:
    """Return the folder of a run on this machine: a path, or the name of a run under `runs/`; raises AdapterError."""
    folder = Path(identifier)
    if folder.is_dir():
        return folder
    under_runs = Path("runs") / folder
    if len(folder.parts) == 1 and under_runs.is_dir():
        return under_runs
    raise AdapterError(f"there is no adapter folder {str(identifier)!r}. `lorahub runs` lists the runs that exist.")


def free_name(name: str, taken: Container[str]) -> str:
    """Return the name of a run, numbered if it is taken."""
    free, number = name, 2
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    return free


def is_finished(folder: Path) -> bool:
    """Return whether a folder holds a finished run."""
    return (folder / RECORD).is_file()
