"""The format of a run folder: file names, layouts, sizes, and reading with its guards.

In: paths of run folders, which may be downloaded from strangers or damaged. Out: bytes and typed values, or an error of
one line that names the file, what is wrong with it and the fix. `open_file` is the only way in which files of a run
folder or of a data set are opened: regular files up to a size, and no link that leads out of the folder.
"""

import os
import stat
from collections.abc import Container
from dataclasses import dataclass
from io import BufferedReader
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
# The pushes of this folder; stays on this machine.
PUBLISHED = "published.json"
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

_KIB, _MIB = 1024, 1024**2
_TOKENIZER_LIMITS = {
    "tokenizer_config.json": 4 * _MIB, "tokenizer.json": 64 * _MIB, "special_tokens_map.json": 1 * _MIB,
    "added_tokens.json": 1 * _MIB, "vocab.txt": 16 * _MIB, "vocab.json": 16 * _MIB, "merges.txt": 16 * _MIB,
    "tokenizer.model": 16 * _MIB, "spiece.model": 16 * _MIB, "sentencepiece.bpe.model": 16 * _MIB,
}  # fmt: skip
TOKENIZER_FILES = tuple(_TOKENIZER_LIMITS)
# The files of an adapter that are downloaded, as patterns, and the maximum size of all files of a pattern together:
# several times that of the largest real ones, and nothing that fills a disk.
LIMITS = {
    PEFT.config: 64 * _KIB, PEFT.weights: 2048 * _MIB, LABELS: 64 * _KIB,
    RECORD: 16 * _MIB, PROBE: 4 * _MIB, CALIBRATION: 1 * _MIB,
    LINEAR_PROBE: 64 * _MIB, CARD: 1 * _MIB, f"{PLOTS}/*.png": 16 * _MIB, **_TOKENIZER_LIMITS,
}  # fmt: skip
# Of every other file that is read whole.
LARGEST_FILE = 16 * _MIB
_LONGEST_DESCRIPTION = 400
# The Hub's cache holds a snapshot as links to files in `blobs`, beside the folder `snapshots`.
_SNAPSHOTS, _BLOBS = "snapshots", "blobs"
# Without O_NONBLOCK, opening a FIFO waits for a writer. Windows has none of these flags except O_BINARY.
_OPEN_FLAGS = os.O_RDONLY
for _flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
    _OPEN_FLAGS |= getattr(os, _flag, 0)
_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device", stat.S_IFLNK: "a symbolic link that leads nowhere",
}  # fmt: skip


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


class NotReadableError(OSError):
    """A path is not a regular file, leads out of its folder, or is too large; the message says which."""


def regular(path: Path, *, folder: Path | None = None) -> Path:
    """Return the regular file at `path`; a symbolic link is followed inside `folder` and the Hub's cache only.

    `folder` is the folder of the path by default. Raises NotReadableError, and OSError if the file does not exist.
    """
    found = Path(os.path.realpath(path))
    if not _is_inside(found, Path(os.path.realpath(folder or path.parent))):
        raise NotReadableError("it is a symbolic link that leads out of its folder")
    mode = found.lstat().st_mode
    if not stat.S_ISREG(mode):
        raise NotReadableError(f"it is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file")
    return found


def _is_inside(found: Path, folder: Path) -> bool:
    if found.is_relative_to(folder):
        return True
    # `found` is resolved, so `blobs` itself is not a link.
    snapshots = next((parent for parent in folder.parents if parent.name == _SNAPSHOTS), None)
    return snapshots is not None and found.is_relative_to(snapshots.parent / _BLOBS)


def open_file(path: Path, *, limit: int | None = None, folder: Path | None = None) -> BufferedReader:
    """Open a regular file of at most `limit` bytes for reading; see `regular` for links.

    Raises NotReadableError for anything else, and OSError if it does not exist or must not be read.
    """
    descriptor = os.open(regular(path, folder=folder), _OPEN_FLAGS)
    try:
        # Again on what is open: the path may have changed in the meantime.
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotReadableError("it is not a file")
        if limit is not None and status.st_size > limit:
            raise NotReadableError(f"it has {status.st_size:,} bytes, more than the {limit:,} of any real one")
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, *, folder: Path | None = None) -> bytes:
    """Return the content of a file, up to the size in `LIMITS`; raises the errors of `open_file`."""
    limit = LIMITS.get(path.name, LARGEST_FILE)
    with open_file(path, limit=limit, folder=folder) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise NotReadableError(f"it has more than the {limit:,} bytes of any real one")
    return content


def read_text(path: Path, *, fix: str = RESTORE, folder: Path | None = None) -> str:
    """Return the UTF-8 text of a file; raises AdapterError if it cannot be read."""
    try:
        return read_bytes(path, folder=folder).decode()
    except OSError as error:
        raise AdapterError(f"{path} cannot be read ({error.strerror or error}). {fix}") from None
    except UnicodeDecodeError as error:
        raise AdapterError(f"{path} is not UTF-8 text ({error}). {fix}") from None


def read_json(path: Path, kind: type[T], *, fix: str = RESTORE) -> T:
    """Read a JSON file as `kind`, a typed model or a type such as `list[str]`.

    Raises AdapterError if the file is missing, is not JSON or does not hold what `kind` describes.
    """
    try:
        content = read_bytes(path)
    except OSError as error:
        raise AdapterError(f"{path} cannot be read ({error.strerror or error}). {fix}") from None
    try:
        return TypeAdapter(kind).validate_json(content, strict=True)
    except ValidationError as error:
        raise AdapterError(f"{path} {describe(error)}. {fix}") from None


def describe(error: ValidationError) -> str:
    """Return what is wrong with a file as the second half of a sentence of bounded length."""
    text = _describe(error)
    return text if len(text) <= _LONGEST_DESCRIPTION else f"{text[:_LONGEST_DESCRIPTION]}..."


def _describe(error: ValidationError) -> str:
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
