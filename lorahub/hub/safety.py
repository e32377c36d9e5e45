"""Safety checks to run before an adapter is loaded or its weights are downloaded.

In: file names, `adapter_config.json`, `labels.json` and the header of the safetensors file, from a folder or (by range
request) from a Hub repository. Out: a `Report` with findings, one sentence each. hub/rules.py defines what a config may
contain and which tensors follow from it. A run on this machine may also be a full model or a head; a repository on the
Hub may not.
"""

import fnmatch
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lorahub import runfiles
from lorahub.errors import AdapterError, UnsafeAdapterError, one_line
from lorahub.hub import client, headers, rules
from lorahub.hub.headers import HeaderError, Tensor
from lorahub.labels import LONGEST_NAME, PLACEHOLDER
from lorahub.runfiles import FULL_MODEL, LABELS, PEFT, Layout

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_PROGRAMS = (".py", ".sh", ".so", ".dll", ".exe")
# The weights of a distributed training, which transformers loads from a folder that has any, before all others.
_SHARDS = "shard-*.safetensors"
# A run has some dozens of files, and checkpoints.
MOST_FILES = 10_000
# Deeper JSON would exceed the recursion limit of those who read it later.
_DEEPEST_JSON = 30
# Of one kind; a report is read by people.
_MOST_FINDINGS = 50
_LONGEST_FINDING = 400
# Endings of the weight (labels, in) that gives the logits, by the architectures' own names.
_LOGITS = (
    "classifier.weight",
    "score.weight",
    "out_proj.weight",
    "logits_proj.weight",
    "summary.weight",
    "dense.weight",
)
# Bits of the exponent by dtype: all ones means infinity or NaN.
_EXPONENT = {"F32": (np.uint32, 0x7F800000), "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80)}
# Bytes of a tensor that are checked at once.
_CHUNK_BYTES = 2**24


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


def remote(repo: str, revision: str, *, token: client.Token = None) -> Report:
    """Check an adapter repository at a commit; only the header of its weights is fetched. Raises HubError."""
    api = client.api(token)
    tree = partial(api.list_repo_tree, repo, recursive=True, revision=revision)
    entries = client.call(lambda: list(islice(tree(), MOST_FILES + 1)), doing=f"list the files of {repo}")
    files = {entry.path: int(entry.size) for entry in entries if hasattr(entry, "size")}

    def read(name: str) -> bytes:
        path = client.call(lambda: api.hf_hub_download(repo, name, revision=revision), doing=f"send {name} of {repo}")
        return runfiles.read_bytes(Path(path))

    def header() -> dict[str, Tensor]:
        fetch = partial(headers.fetch, api, repo, PEFT.weights, revision, files[PEFT.weights])
        return client.call(fetch, doing=f"send the header of {repo}")

    findings = [] if len(entries) <= MOST_FILES else [_too_many_files()]
    return _check(files, PEFT, read, header, findings)


def local(folder: Path) -> Report:
    """Check an adapter folder, including the values of its tensors. Raises AdapterError if there is no folder."""
    if not folder.is_dir():
        raise AdapterError(f"there is no adapter folder {folder}. `lorahub runs` lists the runs that exist.")
    files, findings = _list(folder)
    layout = runfiles.layout(folder)
    weights = folder / layout.weights

    def header() -> dict[str, Tensor]:
        with runfiles.open_file(weights) as file:
            return headers.read(file, os.fstat(file.fileno()).st_size)

    report = _check(files, layout, lambda name: runfiles.read_bytes(folder / name), header, findings)
    if not report.refused:
        report.findings.extend(_findings(_check_loads(weights)))
    if not report.refused:
        report.findings.extend(_findings(_check_values(weights, header())))
    return report


def refuse(report: Report, name: str | Path) -> None:
    """Raise UnsafeAdapterError with the first finding that prevents loading `name`, a repository or a folder."""
    if report.refused:
        more = f" (and {len(report.refused) - 1} more: lorahub scan {name})" if len(report.refused) > 1 else ""
        fix = "Restore it or train again" if isinstance(name, Path) else "Use another adapter"
        raise UnsafeAdapterError(f"{name} is not loaded: {report.refused[0]}{more}. {fix}.", reasons=report.refused)


def _findings(texts: Iterable[str], *, refused: bool = True) -> list[Finding]:
    """Return findings of one kind: not all of them, if there are many, and long ones shortened."""
    shown = list(islice(texts, _MOST_FINDINGS + 1))
    if len(shown) > _MOST_FINDINGS:
        shown[-1] = "and more of this kind, which are not listed"
    return [
        Finding(text=text if len(text) <= _LONGEST_FINDING else text[: _LONGEST_FINDING - 3] + "...", refused=refused)
        for text in shown
    ]


def _too_many_files() -> Finding:
    return Finding(text=f"it has more than {MOST_FILES:,} files, more than any run")


def _list(folder: Path) -> tuple[dict[str, int], list[Finding]]:
    """Return the regular files below a folder with their sizes, and findings on everything else that is there.

    Only files directly in the folder are ever loaded: what stands for one of them and is none is refused.
    """
    files: dict[str, int] = {}
    others: dict[str, str] = {}
    for place, _, names in os.walk(folder):
        for file in names:
            path = Path(place) / file
            name = path.relative_to(folder).as_posix()
            try:
                files[name] = runfiles.regular(path, folder=folder).lstat().st_size
            except OSError as error:
                others[name] = f"{name[:100]} cannot be read: {error.strerror or error}"
        if len(files) + len(others) > MOST_FILES:
            return files, [_too_many_files()]
    loaded = [text for name, text in others.items() if "/" not in name]
    nested = [text for name, text in others.items() if "/" in name]
    return files, [*_findings(loaded), *_findings(nested, refused=False)]


def _check(
    files: Mapping[str, int],
    layout: Layout,
    read: Callable[[str], bytes],
    header: Callable[[], Mapping[str, Tensor]],
    findings: list[Finding],
) -> Report:
    rule = rules.LAYOUTS[layout]
    in_config: list[Finding] = []
    config, labels = {}, []
    tensors: Mapping[str, Tensor] = {}
    if layout.config in files and files[layout.config] <= runfiles.LIMITS[PEFT.config]:
        config = _parse(partial(read, layout.config), dict, layout.config, in_config)
        in_config += _findings(rule.config(config))
        in_config += _check_base(config) if layout != FULL_MODEL else []
    findings = [*findings, *_check_files(files, layout), *in_config]
    if LABELS in files and files[LABELS] <= runfiles.LIMITS[LABELS]:
        labels = _parse(partial(read, LABELS), list, LABELS, findings)
        found = list(_check_labels(labels))
        findings += found
        # Invalid names are not shown as labels.
        labels = [] if any(finding.refused for finding in found) else labels
    if layout.weights in files:
        try:
            tensors = header()
        except (HeaderError, OSError) as error:
            text = f"{layout.weights} is damaged: its header cannot be read ({one_line(error)})"
            findings += _findings([text])
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if _may_lack_labels(files, layout) and shapes and not any(finding.refused for finding in in_config):
        labels = _own_labels(files, read, _outputs(shapes, config["modules_to_save"]))
        findings += _missing_labels(labels)
    findings += _findings(_check_types(tensors))
    if shapes and config and not any(finding.refused for finding in in_config):
        findings += _findings(rule.tensors(shapes, config, len(labels)))
    return Report(files=files, config=config, labels=labels, tensors=shapes, findings=findings, layout=layout)


def _check_types(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    for name, tensor in tensors.items():
        if tensor.dtype not in _EXPONENT:
            yield f"{name} has the type {tensor.dtype[:20]}, not a float of 16 or 32 bits"


def _parse(read: Callable[[], bytes], kind: type, name: str, findings: list[Finding]) -> Any:
    """Return the value in a JSON file; if it cannot be used, add a finding and return an empty one."""
    try:
        value = json.loads(read().decode(), parse_constant=_refuse_constant)
        _check_json(value)
    except OSError as error:
        findings += _findings([f"{name} cannot be read: {error.strerror or error}"])
        return kind()
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        findings.append(Finding(text=f"{name} is not a JSON {'object' if kind is dict else 'list'}"))
        return kind()
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _check_json(value: Any) -> None:
    """Raise ValueError for JSON that is nested too deeply, has lone surrogates, or numbers that are not finite."""
    level = [value]
    for _ in range(_DEEPEST_JSON):
        texts = [item for item in level if isinstance(item, str)]
        texts += [key for item in level if isinstance(item, dict) for key in item]
        "".join(texts).encode()
        if any(isinstance(item, float) and not math.isfinite(item) for item in level):
            raise ValueError("a number is too large")
        inside = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        level = [item for items in inside for item in items]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def _check_files(files: Mapping[str, int], layout: Layout) -> Iterator[Finding]:
    if layout.config not in files:
        yield Finding(text=f"it has no {layout.config}: it is not an adapter, or its run did not finish")
    shards = [name for name in files if layout == FULL_MODEL and fnmatch.fnmatchcase(name, _SHARDS)]
    yield from _findings(f"transformers would load {name} in place of {layout.weights}" for name in shards)
    pickled = [name for name in files if name.endswith(_PICKLES)]
    if layout.weights not in files:
        instead = f", only {pickled[0]}, which is pickled and can run code" if pickled else ""
        yield from _findings([f"it has no {layout.weights}{instead}"])
    if LABELS not in files and not _may_lack_labels(files, layout):
        yield Finding(text=f"it has no {LABELS}, the names of its labels")
    outside = (name for name in files if name.startswith("/") or ".." in Path(name).parts or "\\" in name)
    yield from _findings(f"a file is named {name!r}, which leads out of its folder" for name in outside)
    notes = (f"{name} is pickled and can run code: never downloaded and not loaded" for name in pickled)
    yield from _findings(notes, refused=False)
    programs = (f"{name} is a program: never downloaded" for name in files if name.endswith(_PROGRAMS))
    yield from _findings(programs, refused=False)
    # The config of another layout has the limit of PEFT's.
    for pattern, limit in {layout.config: runfiles.LIMITS[PEFT.config], **runfiles.LIMITS}.items():
        size = sum(bytes_ for name, bytes_ in files.items() if fnmatch.fnmatchcase(name, pattern))
        if size > limit:
            yield Finding(text=f"{pattern} has {size:,} bytes, more than the {limit:,} of any real one")
    if FULL_MODEL.config in files and layout != FULL_MODEL:
        yield Finding(text="config.json makes transformers load it as a full model", refused=False)


def _may_lack_labels(files: Mapping[str, int], layout: Layout) -> bool:
    """Return whether a folder was not written by lorahub, which always writes the names of the labels."""
    return LABELS not in files and layout is PEFT and runfiles.RECORD not in files


def _outputs(shapes: rules.Shapes, heads: Iterable[str]) -> int:
    """Return the number of labels of a head, from the weight that gives the logits; 0 if there is none."""
    heads = list(heads)
    weights = {name: shape for name, shape in shapes.items() if len(shape) == 2 and ".lora_" not in name}
    for ending in _LOGITS:
        for name, shape in weights.items():
            if f".{name}".endswith(f".{ending}") and rules.head_of(name, heads):
                return shape[0]
    return 0


def _own_labels(files: Mapping[str, int], read: Callable[[str], bytes], outputs: int) -> list[str]:
    """Return the names in `id2label` of a config.json beside the adapter, else LABEL_0 and so on."""
    config: dict[str, Any] = {}
    if FULL_MODEL.config in files and files[FULL_MODEL.config] <= runfiles.LIMITS[PEFT.config]:
        config = _parse(partial(read, FULL_MODEL.config), dict, FULL_MODEL.config, [])
    names = config.get("id2label")
    if isinstance(names, dict) and set(names) == set(map(str, range(outputs))):
        own = [names[str(index)] for index in range(outputs)]
        if not any(finding.refused for finding in _check_labels(own)):
            return own
    return [f"{PLACEHOLDER}{index}" for index in range(outputs)]


def _missing_labels(labels: list[str]) -> Iterator[Finding]:
    if len(labels) < 2:
        yield Finding(text=f"it has no {LABELS}, the names of its labels, and no head for two or more")
        return
    shown = ", ".join(labels[:3]) + (", ..." if len(labels) > 3 else "")
    yield Finding(
        text=f"it has no {LABELS}: its labels are called {shown}. To name them, write {LABELS}, a JSON list of names "
        "in the order of the head's outputs",
        refused=False,
    )


def _check_base(config: rules.Config) -> Iterator[Finding]:
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", base):
        refused = not isinstance(base, str | None)
        yield Finding(text=f"its base {str(base)[:80]!r} is not a Hub id", refused=refused)
    if not isinstance(revision, str | None):
        yield Finding(text=f"the revision of its base, {str(revision)[:80]!r}, is not text")
    elif revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        yield Finding(text="it does not pin a revision of its base", refused=False)


def _check_labels(labels: list[Any]) -> Iterator[Finding]:
    if len(labels) < 2 or not all(isinstance(name, str) for name in labels) or len(set(labels)) != len(labels):
        yield Finding(text=f"{LABELS} is not a list of two or more distinct names: {str(labels)[:100]}")
    elif any(not name.isprintable() or len(name) > LONGEST_NAME for name in labels):
        yield Finding(text=f"{LABELS} has names with control characters, or with more than {LONGEST_NAME} characters")
    elif any("<" in name for name in labels):
        yield Finding(text=f"{LABELS} has names with markup, which is shown as text", refused=False)


def _check_loads(path: Path) -> Iterator[str]:
    """Yield why the library that loads the weights would refuse the file; nothing if it is not installed."""
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError:
        return
    try:
        with safe_open(runfiles.regular(path), framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        yield f"{path.name} is damaged: safetensors cannot open it ({one_line(error)})"


def _check_values(path: Path, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield sentences on tensors with infinite or NaN values."""
    with runfiles.open_file(path) as file:
        content = np.memmap(file, dtype=np.uint8, mode="r")
    for name, tensor in tensors.items():
        kind, exponent = _EXPONENT[tensor.dtype]
        for start in range(tensor.start, tensor.end, _CHUNK_BYTES):
            # A tensor may start at any byte, which numpy allows.
            bits = content[start : min(start + _CHUNK_BYTES, tensor.end)].view(kind)
            if ((bits & exponent) == exponent).any():
                yield f"{name} in {path.name} holds values that are not finite numbers"
                break
