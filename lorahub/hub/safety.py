"""Safety checks to run before an adapter is loaded or its weights are downloaded.

In: file names, `adapter_config.json`, `labels.json` and the header of the safetensors file, from a folder or (by range
request) from a Hub repository. Out: a `Report` with findings, one sentence each. hub/rules.py defines what a config may
contain and which tensors follow from it. A run on this machine may also be a full model or a head; a repository on the
Hub may not.
"""

import fnmatch
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lorahub import runfiles
from lorahub.errors import AdapterError, UnsafeAdapterError, one_line
from lorahub.hub import client, rules
from lorahub.labels import LONGEST_NAME
from lorahub.runfiles import FULL_MODEL, LABELS, PEFT, Layout

if TYPE_CHECKING:
    from huggingface_hub import SafetensorsFileMetadata

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_PROGRAMS = (".py", ".sh", ".so", ".dll", ".exe")
_KIB, _MIB = 1024, 1024**2
# The only files of an adapter that are ever downloaded, as patterns, and the maximum size of all files of a pattern
# together: several times that of the largest real ones, and nothing that fills a disk.
LIMITS = {
    PEFT.config: 64 * _KIB, PEFT.weights: 2048 * _MIB, LABELS: 64 * _KIB,
    runfiles.RECORD: 16 * _MIB, runfiles.PROBE: 4 * _MIB, runfiles.CALIBRATION: 1 * _MIB,
    runfiles.LINEAR_PROBE: 64 * _MIB, runfiles.CARD: 1 * _MIB, f"{runfiles.PLOTS}/*.png": 16 * _MIB,
    "tokenizer_config.json": 4 * _MIB, "tokenizer.json": 64 * _MIB, "special_tokens_map.json": 1 * _MIB,
    "added_tokens.json": 1 * _MIB, "vocab.txt": 16 * _MIB, "vocab.json": 16 * _MIB, "merges.txt": 16 * _MIB,
    "tokenizer.model": 16 * _MIB, "spiece.model": 16 * _MIB, "sentencepiece.bpe.model": 16 * _MIB,
}  # fmt: skip
# Bits of the exponent by dtype: all ones means infinity or NaN.
_EXPONENT = {"F32": (np.uint32, 0x7F800000), "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80)}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One sentence. A `refused` finding prevents loading; the others are notes."""

    text: str
    refused: bool = True


@dataclass(frozen=True, kw_only=True)
class Report:
    """The checked adapter: `files` maps names to sizes in bytes, `tensors` maps names to shapes."""

    files: Mapping[str, int]
    config: rules.Config
    labels: list[str]
    tensors: rules.Shapes
    findings: list[Finding] = field(default_factory=list)
    layout: Layout = PEFT

    @property
    def refused(self) -> list[str]:
        """The findings that prevent loading."""
        return [finding.text for finding in self.findings if finding.refused]


def remote(repo: str, revision: str, *, token: str | None = None) -> Report:
    """Check an adapter repository at a commit; only the header of its weights is fetched. Raises HubError."""
    api = client.api(token)
    entries = client.call(
        lambda: list(api.list_repo_tree(repo, recursive=True, revision=revision)), doing=f"list the files of {repo}"
    )
    files = {entry.path: int(entry.size) for entry in entries if hasattr(entry, "size")}

    def read(name: str) -> bytes:
        path = client.call(lambda: api.hf_hub_download(repo, name, revision=revision), doing=f"send {name} of {repo}")
        return Path(path).read_bytes()

    def header() -> "SafetensorsFileMetadata":
        return client.call(
            lambda: api.parse_safetensors_file_metadata(repo, PEFT.weights, revision=revision),
            doing=f"send the header of {repo}",
        )

    return _check(files, PEFT, read, header)


def local(folder: Path) -> Report:
    """Check an adapter folder, including the values of its tensors. Raises AdapterError if there is no folder."""
    from huggingface_hub import parse_local_safetensors_file_metadata

    if not folder.is_dir():
        raise AdapterError(f"there is no adapter folder {folder}. `lorahub runs` lists the runs that exist.")
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    layout = runfiles.layout(folder)
    weights = folder / layout.weights

    def header() -> "SafetensorsFileMetadata":
        return parse_local_safetensors_file_metadata(weights)

    report = _check(files, layout, lambda name: (folder / name).read_bytes(), header)
    if not report.refused:
        report.findings.extend(Finding(text=text) for text in _check_values(weights, header()))
    return report


def refuse(report: Report, name: str | Path) -> None:
    """Raise UnsafeAdapterError with the first finding that prevents loading `name`, a repository or a folder."""
    if report.refused:
        more = f" (and {len(report.refused) - 1} more: lorahub info {name})" if len(report.refused) > 1 else ""
        fix = "Restore it or train again" if isinstance(name, Path) else "Use another adapter"
        raise UnsafeAdapterError(f"{name} is not loaded: {report.refused[0]}{more}. {fix}.")


def _check(
    files: Mapping[str, int],
    layout: Layout,
    read: Callable[[str], bytes],
    header: Callable[[], "SafetensorsFileMetadata"],
) -> Report:
    from huggingface_hub.errors import SafetensorsParsingError

    rule = rules.LAYOUTS[layout]
    in_config: list[Finding] = []
    config, labels, tensors = {}, [], {}
    if layout.config in files and files[layout.config] <= LIMITS[PEFT.config]:
        config = _parse(read(layout.config), dict, layout.config, in_config)
        in_config += [Finding(text=text) for text in rule.config(config)]
        in_config += _check_base(config) if layout != FULL_MODEL else []
    findings = [*_check_files(files, layout), *in_config]
    if LABELS in files and files[LABELS] <= LIMITS[LABELS]:
        labels = _parse(read(LABELS), list, LABELS, findings)
        findings += list(_check_labels(labels))
    if layout.weights in files:
        try:
            infos = header().tensors
        except (SafetensorsParsingError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            text = f"{layout.weights} is damaged: its header cannot be read ({one_line(error)})"
            findings.append(Finding(text=text))
        else:
            tensors = {name: tuple(info.shape) for name, info in infos.items()}
            for name, info in infos.items():
                if info.dtype not in _EXPONENT:
                    findings.append(Finding(text=f"{name} has the type {info.dtype}, not a float of 16 or 32 bits"))
            if config and not any(finding.refused for finding in in_config):
                findings += [Finding(text=text) for text in rule.tensors(tensors, config, len(labels))]
    return Report(files=files, config=config, labels=labels, tensors=tensors, findings=findings, layout=layout)


def _parse(content: bytes, kind: type, name: str, findings: list[Finding]) -> Any:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        findings.append(Finding(text=f"{name} is not a JSON {'object' if kind is dict else 'list'}"))
        return kind()
    return value


def _check_files(files: Mapping[str, int], layout: Layout) -> Iterator[Finding]:
    if layout.config not in files:
        yield Finding(text=f"it has no {layout.config}: it is not an adapter, or its run did not finish")
    if layout.weights not in files:
        pickled = next(
            (f", only {name}, which is pickled and can run code" for name in files if name.endswith(_PICKLES)), ""
        )
        yield Finding(text=f"it has no {layout.weights}{pickled}")
    if LABELS not in files:
        yield Finding(text=f"it has no {LABELS}, the names of its labels")
    for name in files:
        if name.startswith(("/", "\\")) or ".." in Path(name).parts or "\\" in name:
            yield Finding(text=f"a file is named {name!r}, which leads out of its folder")
        if name.endswith(_PICKLES):
            yield Finding(text=f"{name} is pickled and can run code: never downloaded and not loaded", refused=False)
        if name.endswith(_PROGRAMS):
            yield Finding(text=f"{name} is a program: never downloaded", refused=False)
    # The config of another layout has the limit of PEFT's.
    for pattern, limit in {layout.config: LIMITS[PEFT.config], **LIMITS}.items():
        size = sum(bytes_ for name, bytes_ in files.items() if fnmatch.fnmatchcase(name, pattern))
        if size > limit:
            yield Finding(text=f"{pattern} has {size:,} bytes, more than the {limit:,} of any real one")
    if FULL_MODEL.config in files and layout != FULL_MODEL:
        yield Finding(text="config.json makes transformers load it as a full model", refused=False)


def _check_base(config: rules.Config) -> Iterator[Finding]:
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", base):
        yield Finding(text=f"its base {str(base)[:80]!r} is not a Hub id", refused=False)
    if not isinstance(revision, str) or not re.fullmatch(r"[0-9a-f]{40}", revision):
        yield Finding(text="it does not pin a revision of its base", refused=False)


def _check_labels(labels: list[Any]) -> Iterator[Finding]:
    if len(labels) < 2 or not all(isinstance(name, str) for name in labels) or len(set(labels)) != len(labels):
        yield Finding(text=f"{LABELS} is not a list of two or more distinct names: {str(labels)[:100]}")
    elif any(not name.isprintable() or len(name) > LONGEST_NAME for name in labels):
        yield Finding(text=f"{LABELS} has names with control characters, or with more than {LONGEST_NAME} characters")
    elif any("<" in name for name in labels):
        yield Finding(text=f"{LABELS} has names with markup, which is shown as text", refused=False)


def _check_values(path: Path, header: "SafetensorsFileMetadata") -> Iterator[str]:
    """Yield sentences on tensors with infinite or NaN values."""
    content = np.memmap(path, dtype=np.uint8, mode="r")
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    for name, info in header.tensors.items():
        kind, exponent = _EXPONENT[info.dtype]
        low, high = info.data_offsets
        if high - low != math.prod(info.shape) * np.dtype(kind).itemsize or start + high > len(content):
            yield f"{path.name} is damaged: the size of {name} does not fit its shape"
            continue
        # A copy, because a tensor may start at any byte.
        bits = np.frombuffer(content[start + low : start + high].tobytes(), dtype=kind)
        if ((bits & exponent) == exponent).any():
            yield f"{name} in {path.name} holds values that are not finite numbers"
