"""What speaks against loading an adapter, found before anything is loaded or its weights are downloaded.

In: file names, `adapter_config.json`, `labels.json` and the header of the safetensors file, of a folder or (by range
request) of a Hub repository. Out: findings, each one sentence. The rule for tensors: a name or shape that does not
follow from the config is refused, because peft loads a tensor named like a base weight over the shared base.
"""

import fnmatch
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lorahub.config import LARGEST_ALPHA, LARGEST_RANK
from lorahub.errors import AdapterError, UnsafeAdapterError, one_line
from lorahub.hub import client

CONFIG_FILE, WEIGHTS_FILE, LABELS_FILE = "adapter_config.json", "adapter_model.safetensors", "labels.json"
# What peft puts before the name of a module of the base.
PREFIX = "base_model.model."
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
# The modules with weights that transformers' sequence classifiers have beside their backbone.
HEADS = frozenset(
    {"classifier", "score", "pre_classifier", "pooler", "head", "classification_head", "logits_proj",
     "sequence_summary"}
)  # fmt: skip
# Settings that change how weights are made or found, and that lorahub neither writes nor reads, must be unset. These
# may have a value:
_KNOWN = frozenset(
    {"base_model_name_or_path", "revision", "peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "use_rslora",
     "target_modules", "modules_to_save", "bias", "inference_mode", "peft_version", "init_lora_weights",
     "megatron_core", "qalora_group_size"}
)  # fmt: skip
# Bits of the exponent: all ones means infinity or not a number.
_EXPONENT = {"F32": (np.uint32, 0x7F800000), "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80)}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One sentence; `refused` findings keep an adapter from being loaded, the others are told."""

    text: str
    refused: bool = True


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was looked at. `tensors` maps a name to its shape; `files` a name to its bytes."""

    files: Mapping[str, int]
    config: Mapping[str, Any]
    labels: list[str]
    tensors: Mapping[str, tuple[int, ...]]
    findings: list[Finding] = field(default_factory=list)

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

    return _report(files, fetch, header)


def local(folder: Path) -> Report:
    """Look at an adapter folder; the values of its tensors are checked too. Raises AdapterError where there is none."""
    from huggingface_hub import parse_local_safetensors_file_metadata

    if not folder.is_dir():
        raise AdapterError(f"there is no adapter folder {folder}. `lorahub runs` lists the runs that exist.")
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    weights = folder / WEIGHTS_FILE
    report = _report(
        files, lambda name: (folder / name).read_bytes(), lambda: parse_local_safetensors_file_metadata(weights)
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


def _report(files: Mapping[str, int], fetch: Any, header: Any) -> Report:
    from huggingface_hub.errors import SafetensorsParsingError

    of_config: list[Finding] = []
    config, labels, tensors = {}, [], {}
    if CONFIG_FILE in files and files[CONFIG_FILE] <= LIMITS[CONFIG_FILE]:
        config = _object(fetch(CONFIG_FILE), dict, CONFIG_FILE, of_config)
        of_config += [*_settings(config), *_names(config), *_base(config)]
    findings = [*_files(files), *of_config]
    if LABELS_FILE in files and files[LABELS_FILE] <= LIMITS[LABELS_FILE]:
        labels = _object(fetch(LABELS_FILE), list, LABELS_FILE, findings)
        findings += list(_labels(labels))
    if WEIGHTS_FILE in files:
        try:
            found = header().tensors
        except (SafetensorsParsingError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            findings.append(Finding(text=f"{WEIGHTS_FILE} is damaged: it has no readable header ({one_line(error)})"))
        else:
            tensors = {name: tuple(info.shape) for name, info in found.items()}
            findings += list(_dtypes({name: info.dtype for name, info in found.items()}))
            if not any(finding.refused for finding in of_config):
                findings += list(_tensors(tensors, config, len(labels)))
    return Report(files=files, config=config, labels=labels, tensors=tensors, findings=findings)


def _object(content: bytes, kind: type, name: str, findings: list[Finding]) -> Any:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        findings.append(Finding(text=f"{name} is no JSON {'object' if kind is dict else 'list'}"))
        return kind()
    return value


def _files(files: Mapping[str, int]) -> Iterator[Finding]:
    if CONFIG_FILE not in files:
        yield Finding(text=f"it has no {CONFIG_FILE}: it is no adapter, or its run did not finish")
    if WEIGHTS_FILE not in files:
        pickled = next(
            (f", only {name}, which is pickled and can run code" for name in files if name.endswith(_PICKLES)), ""
        )
        yield Finding(text=f"it has no {WEIGHTS_FILE}{pickled}")
    if LABELS_FILE not in files:
        yield Finding(text=f"it has no {LABELS_FILE}, the names of its labels")
    for name in files:
        if name.startswith(("/", "\\")) or ".." in Path(name).parts or "\\" in name:
            yield Finding(text=f"a file is named {name!r}, which leads out of its folder")
        if name.endswith(_PICKLES):
            yield Finding(text=f"{name} is pickled and can run code: never downloaded and not loaded", refused=False)
        if name.endswith((".py", ".sh", ".so", ".dll", ".exe")):
            yield Finding(text=f"{name} is a program: never downloaded", refused=False)
    for pattern, limit in LIMITS.items():
        size = sum(bytes_ for name, bytes_ in files.items() if fnmatch.fnmatchcase(name, pattern))
        if size > limit:
            yield Finding(text=f"{pattern} has {size:,} bytes, more than the {limit:,} of any real one")
    if "config.json" in files:
        yield Finding(text="config.json makes transformers take it for a whole model", refused=False)


def _settings(config: Mapping[str, Any]) -> Iterator[Finding]:
    """An adapter_config.json that says LoRA for classification, plainly, and nothing else."""
    for key, wanted in (("peft_type", "LORA"), ("task_type", "SEQ_CLS"), ("bias", "none")):
        if config.get(key) != wanted:
            yield Finding(text=f"{CONFIG_FILE}: {key} is {config.get(key)!r}, and lorahub serves {wanted}")
    for key in sorted(set(config) - _KNOWN):
        if config[key]:
            yield Finding(text=f"{CONFIG_FILE}: {key} is {str(config[key])[:60]!r}, which lorahub does not serve")
    if config.get("init_lora_weights", True) not in (True, False, "gaussian"):
        yield Finding(
            text=f"{CONFIG_FILE}: init_lora_weights {config['init_lora_weights']!r} would change the base's weights"
        )
    if config.get("megatron_core") not in (None, "megatron.core"):
        yield Finding(text=f"{CONFIG_FILE}: megatron_core names the module {config['megatron_core']!r} to import")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or not 1 <= rank <= LARGEST_RANK:
        yield Finding(text=f"{CONFIG_FILE}: r is {rank!r}, not a rank between 1 and {LARGEST_RANK}")
    if not isinstance(alpha, int | float) or not abs(alpha) <= LARGEST_ALPHA:
        yield Finding(text=f"{CONFIG_FILE}: lora_alpha is {alpha!r}, not a number up to {LARGEST_ALPHA}")


def _names(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Lists of layer names, never patterns, and heads that replace nothing of the backbone."""
    for key in ("target_modules", "modules_to_save"):
        names = config.get(key)
        if not isinstance(names, list) or not names:
            yield Finding(
                text=f"{CONFIG_FILE}: {key} is {str(names)[:60]!r}, not a list of layer names, and a pattern could "
                "match anything"
            )
        elif not all(isinstance(name, str) and re.fullmatch(r"[\w.]{1,100}", name) for name in names):
            yield Finding(text=f"{CONFIG_FILE}: {key} holds what is no layer name")
        elif key == "modules_to_save" and not {name.split(".")[0] for name in names} <= HEADS:
            yield Finding(text=f"{CONFIG_FILE}: modules_to_save {names} replaces more than a classification head")


def _base(config: Mapping[str, Any]) -> Iterator[Finding]:
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", base):
        yield Finding(text=f"its base {str(base)[:80]!r} is no Hub id", refused=False)
    if not isinstance(revision, str) or not re.fullmatch(r"[0-9a-f]{40}", revision):
        yield Finding(text="it does not pin a revision of its base", refused=False)


def _labels(labels: list[Any]) -> Iterator[Finding]:
    if len(labels) < 2 or not all(isinstance(name, str) for name in labels) or len(set(labels)) != len(labels):
        yield Finding(text=f"{LABELS_FILE} is no list of two or more distinct names but {str(labels)[:100]}")
    elif any(not name.isprintable() or len(name) > 200 or "<" in name for name in labels):
        yield Finding(text=f"{LABELS_FILE} holds names with markup or control characters")


def _tensors(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], labels: int) -> Iterator[Finding]:
    """Names and shapes that follow from the config: A (r, in), B (out, r), and heads ending in one row per label."""
    targets, heads = (
        tuple(config[key]) if isinstance(config.get(key), list) else () for key in ("target_modules", "modules_to_save")
    )
    rank, widths, found = config.get("r"), set(), set()
    for name, shape in shapes.items():
        inner = name.removeprefix(PREFIX)
        layer, _, kind = inner.partition(".lora_")
        if inner == name:
            yield Finding(text=f"the tensor {name} in {WEIGHTS_FILE} is named unlike peft's")
        elif kind in ("A.weight", "B.weight"):
            if not any(f".{layer}".endswith(f".{target}") for target in targets):
                yield Finding(text=f"{layer} is adapted but not among target_modules")
            if len(shape) != 2 or shape[0 if kind[0] == "A" else 1] != rank:
                yield Finding(
                    text=f"{name} in {WEIGHTS_FILE} has the shape {shape}, which does not fit the config's rank {rank}"
                )
            if f"{PREFIX}{layer}.lora_{'B' if kind[0] == 'A' else 'A'}.weight" not in shapes:
                yield Finding(text=f"{layer} has only one half of its update in {WEIGHTS_FILE}")
        elif head := head_of(inner, heads):
            found.add(head)
            widths |= {shape[0]} if len(shape) == 2 else set()
        else:
            yield Finding(
                text=f"the tensor {inner} in {WEIGHTS_FILE} does not follow from the config and could overwrite the "
                "base for every adapter"
            )
    if not any(".lora_A." in name for name in shapes):
        yield Finding(text=f"{WEIGHTS_FILE} adapts no layer")
    for head in heads:
        if head not in found:
            yield Finding(text=f"{WEIGHTS_FILE} has no tensor of the head {head!r}: it would be random on every load")
    if labels and widths and labels not in widths:
        yield Finding(text=f"{LABELS_FILE} names {labels} labels and came with a head of {sorted(widths)} outputs")


def head_of(tensor: str, heads: Iterable[str]) -> str | None:
    """Which of `heads` a tensor of the base (named without peft's prefix) belongs to."""
    return next((head for head in heads if f".{head}." in f".{tensor}"), None)


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
            yield f"{WEIGHTS_FILE} is damaged: {name} does not have the bytes that its shape asks for"
            continue
        # A copy, because a tensor need not begin where its type's alignment wants it.
        bits = np.frombuffer(content[start + low : start + high].tobytes(), dtype=kind)
        if ((bits & exponent) == exponent).any():
            yield f"{name} in {WEIGHTS_FILE} holds values that are not finite numbers"
