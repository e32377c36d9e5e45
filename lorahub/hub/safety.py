"""What speaks against loading an adapter, found before anything is loaded or its weights are downloaded.

In: file names, `adapter_config.json`, `labels.json` and the header of the safetensors file, of a folder or (by range
request) of a Hub repository. Out: findings, each one sentence. What a config may say and which tensors follow from it
stands in hub/rules.py. A run on this machine may also be a whole model or a head alone; on the Hub it may not.
"""

import fnmatch
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lorahub.errors import AdapterError, UnsafeAdapterError, one_line
from lorahub.hub import client, rules
from lorahub.hub.rules import CONFIG_FILE, WEIGHTS_FILE
from lorahub.labels import LONGEST_NAME

LABELS_FILE = "labels.json"
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_KIB, _MIB = 1024, 1024**2
# What is ever downloaded of an adapter, as patterns, and the most bytes that all files of a pattern may have together:
# several times what the largest real ones have, and nothing that fills a disk.
LIMITS = {
    CONFIG_FILE: 64 * _KIB, WEIGHTS_FILE: 2048 * _MIB, LABELS_FILE: 64 * _KIB,
    "record.json": 16 * _MIB, "probe.json": 4 * _MIB, "calibration.json": 1 * _MIB,
    "linear_probe.safetensors": 64 * _MIB, "README.md": 1 * _MIB, "plots/*.png": 16 * _MIB,
    "tokenizer_config.json": 4 * _MIB, "tokenizer.json": 64 * _MIB, "special_tokens_map.json": 1 * _MIB,
    "added_tokens.json": 1 * _MIB, "vocab.txt": 16 * _MIB, "vocab.json": 16 * _MIB, "merges.txt": 16 * _MIB,
    "tokenizer.model": 16 * _MIB, "spiece.model": 16 * _MIB, "sentencepiece.bpe.model": 16 * _MIB,
}  # fmt: skip
# Bits of the exponent: all ones means infinity or not a number.
_EXPONENT = {"F32": (np.uint32, 0x7F800000), "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80)}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One sentence; `refused` findings keep an adapter from being loaded, the others are told."""

    text: str
    refused: bool = True


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The two files that hold what was trained, and the rules for them; see hub/rules.py."""

    config: str
    weights: str
    check: Callable[[Mapping[str, Any]], Iterator[str]]
    tensors: Callable[[rules.Shapes, Mapping[str, Any], int], Iterator[str]]
    names_base: bool = True


PEFT = Layout(config=CONFIG_FILE, weights=WEIGHTS_FILE, check=rules.config, tensors=rules.tensors)
HEAD = Layout(config=rules.HEAD_CONFIG, weights=rules.HEAD_FILE, check=rules.head_config, tensors=rules.head)
WHOLE = Layout(
    config=rules.MODEL_CONFIG, weights=rules.MODEL_FILE, check=rules.model_config, tensors=rules.model, names_base=False
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was looked at. `tensors` maps a name to its shape; `files` a name to its bytes."""

    files: Mapping[str, int]
    config: Mapping[str, Any]
    labels: list[str]
    tensors: Mapping[str, tuple[int, ...]]
    findings: list[Finding] = field(default_factory=list)
    layout: Layout = PEFT

    @property
    def refused(self) -> list[str]:
        """The sentences that forbid loading."""
        return [finding.text for finding in self.findings if finding.refused]


def remote(repo: str, revision: str, *, token: str | None = None) -> Report:
    """Look at an adapter repository at a commit; of the weights only the header is fetched. Raises HubError."""
    api = client.api(token)
    entries = client.call(
        lambda: list(api.list_repo_tree(repo, recursive=True, revision=revision)), doing=f"list the files of {repo}"
    )
    files = {entry.path: int(entry.size) for entry in entries if hasattr(entry, "size")}

    def fetch(name: str) -> bytes:
        path = client.call(lambda: api.hf_hub_download(repo, name, revision=revision), doing=f"send {name} of {repo}")
        return Path(path).read_bytes()

    def header() -> Any:
        return client.call(
            lambda: api.parse_safetensors_file_metadata(repo, WEIGHTS_FILE, revision=revision),
            doing=f"send the header of {repo}",
        )

    return _report(files, PEFT, fetch, header)


def layout(folder: Path) -> Layout:
    """What a run on this machine holds: plain PEFT, unless there is only a head or only a whole model."""
    return next((kind for kind in (PEFT, HEAD, WHOLE) if (folder / kind.config).exists()), PEFT)


def local(folder: Path) -> Report:
    """Look at an adapter folder; the values of its tensors are checked too. Raises AdapterError where there is none."""
    from huggingface_hub import parse_local_safetensors_file_metadata

    if not folder.is_dir():
        raise AdapterError(f"there is no adapter folder {folder}. `lorahub runs` lists the runs that exist.")
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    kind = layout(folder)
    weights = folder / kind.weights
    report = _report(
        files, kind, lambda name: (folder / name).read_bytes(), lambda: parse_local_safetensors_file_metadata(weights)
    )
    if not report.refused:
        header = parse_local_safetensors_file_metadata(weights)
        report.findings.extend(Finding(text=text) for text in _values(weights, header.tensors))
    return report


def refuse(report: Report, name: str | Path) -> None:
    """Raise UnsafeAdapterError with the first finding that forbids loading `name`, a repository or a folder."""
    if report.refused:
        more = f" (and {len(report.refused) - 1} more: lorahub info {name})" if len(report.refused) > 1 else ""
        fix = "Restore it or train again" if isinstance(name, Path) else "Use an adapter that is sound"
        raise UnsafeAdapterError(f"{name} is not loaded: {report.refused[0]}{more}. {fix}.")


def _report(files: Mapping[str, int], kind: Layout, fetch: Any, header: Any) -> Report:
    from huggingface_hub.errors import SafetensorsParsingError

    of_config: list[Finding] = []
    config, labels, tensors = {}, [], {}
    if kind.config in files and files[kind.config] <= LIMITS[CONFIG_FILE]:
        config = _object(fetch(kind.config), dict, kind.config, of_config)
        of_config += [Finding(text=text) for text in kind.check(config)]
        of_config += _base(config) if kind.names_base else []
    findings = [*_files(files, kind), *of_config]
    if LABELS_FILE in files and files[LABELS_FILE] <= LIMITS[LABELS_FILE]:
        labels = _object(fetch(LABELS_FILE), list, LABELS_FILE, findings)
        findings += list(_labels(labels))
    if kind.weights in files:
        try:
            found = header().tensors
        except (SafetensorsParsingError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            findings.append(Finding(text=f"{kind.weights} is damaged: it has no readable header ({one_line(error)})"))
        else:
            tensors = {name: tuple(info.shape) for name, info in found.items()}
            findings += list(_dtypes({name: info.dtype for name, info in found.items()}))
            if config and not any(finding.refused for finding in of_config):
                findings += [Finding(text=text) for text in kind.tensors(tensors, config, len(labels))]
    return Report(files=files, config=config, labels=labels, tensors=tensors, findings=findings, layout=kind)


def _object(content: bytes, kind: type, name: str, findings: list[Finding]) -> Any:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        findings.append(Finding(text=f"{name} is no JSON {'object' if kind is dict else 'list'}"))
        return kind()
    return value


def _files(files: Mapping[str, int], kind: Layout) -> Iterator[Finding]:
    if kind.config not in files:
        yield Finding(text=f"it has no {kind.config}: it is no adapter, or its run did not finish")
    if kind.weights not in files:
        pickled = next(
            (f", only {name}, which is pickled and can run code" for name in files if name.endswith(_PICKLES)), ""
        )
        yield Finding(text=f"it has no {kind.weights}{pickled}")
    if LABELS_FILE not in files:
        yield Finding(text=f"it has no {LABELS_FILE}, the names of its labels")
    for name in files:
        if name.startswith(("/", "\\")) or ".." in Path(name).parts or "\\" in name:
            yield Finding(text=f"a file is named {name!r}, which leads out of its folder")
        if name.endswith(_PICKLES):
            yield Finding(text=f"{name} is pickled and can run code: never downloaded and not loaded", refused=False)
        if name.endswith((".py", ".sh", ".so", ".dll", ".exe")):
            yield Finding(text=f"{name} is a program: never downloaded", refused=False)
    # The config of another layout is as small as PEFT's.
    for pattern, limit in {kind.config: LIMITS[CONFIG_FILE], **LIMITS}.items():
        size = sum(bytes_ for name, bytes_ in files.items() if fnmatch.fnmatchcase(name, pattern))
        if size > limit:
            yield Finding(text=f"{pattern} has {size:,} bytes, more than the {limit:,} of any real one")
    if rules.MODEL_CONFIG in files and kind is not WHOLE:
        yield Finding(text="config.json makes transformers take it for a whole model", refused=False)


def _base(config: Mapping[str, Any]) -> Iterator[Finding]:
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", base):
        yield Finding(text=f"its base {str(base)[:80]!r} is no Hub id", refused=False)
    if not isinstance(revision, str) or not re.fullmatch(r"[0-9a-f]{40}", revision):
        yield Finding(text="it does not pin a revision of its base", refused=False)


def _labels(labels: list[Any]) -> Iterator[Finding]:
    if len(labels) < 2 or not all(isinstance(name, str) for name in labels) or len(set(labels)) != len(labels):
        yield Finding(text=f"{LABELS_FILE} is no list of two or more distinct names but {str(labels)[:100]}")
    elif any(not name.isprintable() or len(name) > LONGEST_NAME for name in labels):
        yield Finding(
            text=f"{LABELS_FILE} holds names with control characters, or of more than {LONGEST_NAME} characters"
        )
    elif any("<" in name for name in labels):
        yield Finding(text=f"{LABELS_FILE} holds names with markup, which is shown as text", refused=False)


def _dtypes(dtypes: Mapping[str, str]) -> Iterator[Finding]:
    for name, dtype in dtypes.items():
        if dtype not in _EXPONENT:
            yield Finding(text=f"{name} is of type {dtype}, not a float of 16 or 32 bits")


def _values(path: Path, tensors: Mapping[str, Any]) -> Iterator[str]:
    """Sentences on tensors with infinite values or such as are not numbers."""
    content = np.memmap(path, dtype=np.uint8, mode="r")
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    for name, info in tensors.items():
        kind, exponent = _EXPONENT[info.dtype]
        low, high = info.data_offsets
        if high - low != math.prod(info.shape) * np.dtype(kind).itemsize or start + high > len(content):
            yield f"{path.name} is damaged: {name} does not have the bytes that its shape asks for"
            continue
        # A copy, because a tensor need not begin where its type's alignment wants it.
        bits = np.frombuffer(content[start + low : start + high].tobytes(), dtype=kind)
        if ((bits & exponent) == exponent).any():
            yield f"{name} in {path.name} holds values that are not finite numbers"
