# ruff: noqa: C901, E501
"""Hostile folders: changes to a good run folder, by kind, and seeded mutations of it; and what lorahub makes of them.

`CASES` are written by hand and by loops over names and values; `mutations` are random but the same for a seed. `judge`
does with a folder what the commands do: it checks, describes, loads and classifies. It returns how that ended, and
raises if it ended in anything but an answer of finite numbers or a refusal in one line.
"""

import json
import math
import os
import random
import re
import signal
import socket
import struct
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lorahub import printable, records, runfiles
from lorahub.errors import LorahubError
from lorahub.hub import fetch, safety, search
from lorahub.models import adapters
from lorahub.publish import verify
from lorahub.reports import cards, run_table, sections
from lorahub.runfiles import PEFT
from lorahub.serving.loading import open_predictors
from lorahub.stats.predictions import Predictions

SECONDS, BYTES = 20, 10**9
TEXTS = ["the vaccine causes cancer", "doctors never say"]
CONFIG, WEIGHTS = PEFT.config, PEFT.weights
# The files that a folder of the corpus has.
FILES = (
    CONFIG, WEIGHTS, "labels.json", "calibration.json", "record.json", "probe.json", "README.md",
    "linear_probe.safetensors", "tokenizer_config.json", "tokenizer.json", "predictions/test.adapter.parquet",
)  # fmt: skip
ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\n\u202eexe.\u2066"


@dataclass(frozen=True)
class Raw:
    """JSON text that stands in a file as it is, though no value is written so."""

    text: str


VALUES = {
    "null": None, "true": True, "false": False, "minus one": -1, "zero": 0, "a fraction": 0.5, "huge": 1e308,
    "tiny": 1e-300, "overflow": Raw("1e999"), "nan": Raw("NaN"), "infinity": Raw("-Infinity"),
    "many digits": Raw("9" * 5000), "400 digits": Raw("9" * 400), "empty text": "", "long text": "x" * 60_000,
    "escapes": ESCAPES, "a lone surrogate": Raw('"\\ud800"'), "a null byte": "\0", "a path": "../../../etc/passwd",
    "an absolute path": "/etc/passwd", "markup": "<script>alert(1)</script>", "a formula": "=cmd|' /C calc'!A0",
    "an empty list": [], "an empty object": {}, "a list": [1, "a", None], "an object": {"a": [{}]},
    "a long list": list(range(9_000)), "deep lists": Raw("[" * 900 + "]" * 900),
    "very deep lists": Raw("[" * 30_000 + "]" * 30_000), "deep objects": Raw('{"a":' * 900 + "1" + "}" * 900),
}  # fmt: skip


# Changes of a folder.


def _write_json(path, value, raw=None):
    text = json.dumps(value)
    if raw is not None:
        text = text.replace('"@raw@"', raw.text)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")


def put(name, keys, value):
    """Set a value in a JSON file."""

    def change(folder):
        content = json.loads((folder / name).read_text())
        at = content
        for key in keys[:-1]:
            at = at[key]
        raw = value if isinstance(value, Raw) else None
        if keys:
            at[keys[-1]] = "@raw@" if raw else value
        else:
            content = "@raw@" if raw else value
        _write_json(folder / name, content, raw)

    return change


def content(name, data):
    def change(folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    return change


def special(name, make):
    def change(folder):
        (folder / name).unlink(missing_ok=True)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        make(folder / name)

    return change


def _socket(path):
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


SPECIAL = {
    "a FIFO": os.mkfifo, "a folder": Path.mkdir, "a socket": _socket,
    "endless": lambda path: path.symlink_to("/dev/zero"), "a secret": lambda path: path.symlink_to("/etc/passwd"),
    "a process": lambda path: path.symlink_to("/proc/self/environ"), "itself": lambda path: path.symlink_to(path.name),
    "nothing": lambda path: path.symlink_to("no-such-file"), "absent": lambda path: None,
    "a terabyte": lambda path: (path.touch(), os.truncate(path, 2**40)), "empty": Path.touch,
    "unreadable": lambda path: (path.touch(), path.chmod(0)),
}  # fmt: skip


def tensors(change):
    """Change the weights as a dict of name -> (dtype, shape, bytes); what is written may contradict itself."""

    def apply(folder):
        entries = _entries((folder / WEIGHTS).read_bytes())
        change(entries)
        (folder / WEIGHTS).write_bytes(_weights(entries))

    return apply


def _entries(data):
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    header.pop("__metadata__", None)
    return {name: (item["dtype"], item["shape"], body[slice(*item["data_offsets"])]) for name, item in header.items()}


def _weights(entries, head=None):
    header, body = {}, b""
    for name, (dtype, shape, data) in entries.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode() if head is None else head(header)
    return len(text).to_bytes(8, "little") + text + body


def header(change):
    """Change the header's JSON, or its bytes where `change` returns some."""

    def apply(folder):
        entries = _entries((folder / WEIGHTS).read_bytes())

        def head(values):
            changed = change(values)
            return changed if isinstance(changed, bytes) else json.dumps(values).encode()

        (folder / WEIGHTS).write_bytes(_weights(entries, head))

    return apply


def first(values):
    return next(name for name in values if "lora_A" in name)


def field(key, value):
    """Set a field of the first tensor in the header."""

    def change(values):
        raw = value if isinstance(value, Raw) else None
        values[first(values)][key] = "@raw@" if raw else value
        return json.dumps(values).replace('"@raw@"', raw.text).encode() if raw else None

    return header(change)


def renamed(new):
    def change(entries):
        old = first(entries)
        entries[new(old)] = entries.pop(old)

    return tensors(change)


def filled(part, value):
    import numpy as np

    def change(entries):
        for name, (dtype, shape, data) in entries.items():
            if part in name:
                entries[name] = (dtype, shape, np.full(len(data) // 4, value, np.float32).tobytes())

    return tensors(change)


def cast(part, dtype, size):
    def change(entries):
        for name, (_, shape, data) in list(entries.items()):
            if part in name:
                entries[name] = (dtype, shape, b"\1" * (len(data) // 4 * size))

    return tensors(change)


def many_tensors(count):
    def change(entries):
        entries.update({f"base_model.model.l{number}.lora_A.weight": ("F32", [0], b"") for number in range(count)})

    return tensors(change)


def front_matter(text):
    return lambda folder: (folder / "README.md").write_bytes(
        b"---\n" + text.encode(errors="surrogatepass") + b"\n---\n# x\n"
    )


def _corpus():
    """Yield (kind, name, change)."""
    keys = (
        "r", "lora_alpha", "peft_type", "task_type", "target_modules", "modules_to_save", "base_model_name_or_path",
        "revision", "bias", "use_dora", "use_rslora", "init_lora_weights", "lora_dropout", "auto_mapping", "brand_new",
        "layers_to_transform", "rank_pattern",
    )  # fmt: skip
    for key in keys:
        for name in ("null", "minus one", "nan", "overflow", "400 digits", "a list", "an object",
                     "escapes", "a lone surrogate", "deep lists"):  # fmt: skip
            yield "config", f"{key} is {name}", put(CONFIG, [key], VALUES[name])
    for file in ("labels.json", "calibration.json", "probe.json", "record.json", CONFIG, "tokenizer_config.json"):
        for name, value in VALUES.items():
            yield f"{file} as a whole", name, put(file, [], value)
    for key, name in ((key, name) for key in ("temperature", "bias", "threshold") for name in VALUES):
        yield "calibration", f"{key} is {name}", put("calibration.json", [key], VALUES[name])
    for value in (1e-60, 1e-40, 1e-6, 1e60, 1e300):
        yield "calibration", f"temperature {value}", put("calibration.json", ["temperature"], value)
        yield "calibration", f"bias {value}", put("calibration.json", ["bias"], [value, -value])
    for name, value in VALUES.items():
        yield "labels", f"one is {name}", put("labels.json", [0], value)
    yield "labels", "two alike", put("labels.json", [], ["a", "a"])
    yield "labels", "ten thousand", put("labels.json", [], [str(number) for number in range(10_000)])
    paths = (
        ("name",), ("created",), ("schema",), ("asked",), ("asked", "adapter"), ("asked", "data", "id"), ("happened",),
        ("happened", "curve"), ("happened", "seconds"), ("environment", "base_id"), ("environment", "labels"),
        ("environment", "data", "id"), ("environment", "data", "sha256"), ("environment", "calibration"), ("results",),
        ("results", "test"), ("results", "test", "adapter"), ("results", "test", "adapter", "accuracy"),
        ("results", "test", "adapter", "paired"), ("results", "test", "adapter", "confusion"), ("a stranger's",),
    )  # fmt: skip
    for path in paths:
        for name in ("null", "overflow", "huge", "400 digits", "an empty object", "a list", "escapes", "deep lists"):
            yield "record", f"{'.'.join(path)} is {name}", put("record.json", list(path), VALUES[name])
    for key, name in ((key, name) for key in ("claim", "logits", "evidence") for name in VALUES):
        yield "probe", f"{key} is {name}", put("probe.json", [0, key], VALUES[name])
    for file, kind in ((file, kind) for file in FILES for kind in SPECIAL):
        yield "special file", f"{file} is {kind}", special(file, SPECIAL[kind])
    for name, value in (
        ("dtype", ["F32"]), ("dtype", "I32"), ("dtype", "F8_E4M3"), ("dtype", "\x1b[2J"), ("dtype", None),
        ("shape", ["a", 10**12]), ("shape", [[0], 10**12]), ("shape", [-1, 4]), ("shape", [2**63, 2**63]),
        ("shape", [0, 32]), ("shape", []), ("shape", [4, 32.0]), ("shape", [1] * 1000), ("shape", Raw("9" * 5000)),
        ("data_offsets", [0, 0]), ("data_offsets", [10**12, 10**13]), ("data_offsets", [-8, 8]), ("data_offsets", {}),
        ("data_offsets", [0, Raw("1").text]), ("data_offsets", [1, 513]), ("extra", {"a": 1}), ("shape", VALUES["deep lists"]),
    ):  # fmt: skip
        yield "header", f"{name} is {str(value)[:30]}", field(name, value)
    for name, data in (
        ("empty", b""), ("seven bytes", b"\1" * 7), ("a length alone", (2**63).to_bytes(8, "little")),
        ("a long header", (2**30).to_bytes(8, "little") + b"{" * 1000), ("zeros", bytes(4096)),
        ("a pickle", b"\x80\x04cos\nsystem\n(S'id'\ntR."), ("a zip", b"PK\3\4" + bytes(100)),
    ):  # fmt: skip
        yield "weights as a whole", name, content(WEIGHTS, data)
    for name, data in (
        ("a list", b"[]"), ("no JSON", b"{{{{"), ("deep", b"[" * 100_000), ("utf-16", "{}".encode("utf-16")),
        ("twice", b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":1}'), ("metadata", b'{"__metadata__":[1]}'),
    ):  # fmt: skip
        yield "header", name, header(lambda values, data=data: data)
    for name, new in {
        "base weight": lambda old: "base_model.model.bert.embeddings.word_embeddings.weight", "no prefix": lambda old: "x",
        "escapes": lambda old: f"{ESCAPES}{old}", "long": lambda old: "base_model.model." + "a." * 5000 + "lora_A.weight",
        "dots": lambda old: "." * 200, "empty": lambda old: "", "head": lambda old: "base_model.model.classifier.x",
        "a surrogate": lambda old: f"{old}\ud800", "nested": lambda old: old.replace("lora_A", "lora_A.lora_A"),
        "unicode": lambda old: old.replace("query", "qu\u0435ry"), "path": lambda old: "../../" + old,
    }.items():  # fmt: skip
        yield "tensor names", name, renamed(new)
    for part in ("lora_A", "lora_B", "classifier.weight", "classifier.bias", ""):
        for value in (math.nan, math.inf, 3e38, -3e38, 1e30, 1e-45, 0.0):
            yield "tensor values", f"{part or 'all'} {value}", filled(part, value)
    for part, (dtype, size) in ((part, kind) for part in ("lora_A", "classifier", "") for kind in (
        ("F64", 8), ("I64", 8), ("BF16", 2), ("F16", 2), ("U8", 1), ("BOOL", 1), ("F4", 1))):  # fmt: skip
        yield "tensor types", f"{part or 'all'} {dtype}", cast(part, dtype, size)
    for count in (1_000, 19_000, 120_000):
        yield "sizes", f"{count} tensors", many_tensors(count)
    for count in (100, 1_999, 7_000):
        yield "sizes", f"{count} targets", put(CONFIG, ["target_modules"], ["query"] + [f"l{n}" for n in range(count)])
    yield "sizes", "11,000 files", lambda folder: [(folder / f"f{number}").touch() for number in range(11_000)]
    yield "sizes", "a deep folder", lambda folder: (folder / "/".join(["d"] * 200)).mkdir(parents=True)
    yield "sizes", "a card of 1 MiB", content("README.md", b"<!-- lorahub:begin a -->\n" * 40_000)
    yield "sizes", "a card of 2 MiB", content("README.md", b"x" * 2**21)
    for name in (
        b"evil\x1b[2J.json",
        b"bad\xff\xfe.txt",
        b"new\nline.py",
        b"back\\slash.json",
        "\u202egpj.exe".encode(),
    ):
        yield "file names", repr(name), lambda folder, name=name: open(os.fsencode(folder) + b"/" + name, "wb").close()
    yield "file names", "programs", lambda folder: [content(f"{n}.py", b"")(folder) for n in range(200)]
    yield "file names", "pickles", lambda folder: [content(f"{n}.bin", b"")(folder) for n in range(200)]
    for name, text in {
        "aliases": "a: &a [x,x]\n" + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)},*{chr(97 + n)},*{chr(97 + n)}]\n" for n in range(20)),
        "a date": "date: 2024-01-01\ntags: 2024-01-01", "no date": "date: 2024-99-99", "a tag": "tags: !!python/object/apply:os.system [id]",
        "deep": "a: " + "[" * 3000 + "]" * 3000, "nan": "model-index: [{results: [{dataset: {split: test}, metrics: [{name: Accuracy, value: .nan}]}]}]",
        "wrong types": "model-index: 3\ntags: {a: b}\nbase_model: [1, {a: 2}]\nlicense: [x]", "huge": "a: " + "9" * 6000,
        "keys": "? [a, b]\n: 1\n? {c: d}\n: 2", "metrics": "model-index: [{results: [{dataset: x, metrics: 4}]}]", "escapes": 'license: "\\e[2J"',
        "long": "a: " + "x" * 200_000, "bytes": "a: !!binary aGVsbG8=", "a set": "a: !!set {b, c}", "many": "a: [" + "[]," * 15_000 + "]",
    }.items():  # fmt: skip
        yield "cards", name, front_matter(text)
    yield "cards", "no text", content("README.md", b"\xff\xfe\0")
    for name, value in (("a long type", {"a": {"dtype": "x" * 200_000}}), ("a long text", "x" * 200_000)):
        data = json.dumps(value).encode()
        yield "linear probe", name, content("linear_probe.safetensors", struct.pack("<Q", len(data)) + data)
    yield "origin", "a list", content("pulled.json", b"[]")
    for name in ("escapes", "a path", "long text", "null"):
        yield "origin", name, content("pulled.json", json.dumps({"repo": VALUES[name], "revision": "0" * 40}).encode())


@dataclass(frozen=True)
class Case:
    kind: str
    name: str
    change: object

    def __str__(self):
        return f"{self.kind}: {self.name}"[:100]


CASES = [Case(kind, name, change) for kind, name, change in _corpus()]


# Mutations.


def _flip(data, rng):
    changed = bytearray(data)
    for _ in range(rng.randint(1, 16)):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _cut(data, rng):
    return data[: rng.randrange(len(data) + 1)]


def _insert(data, rng):
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.randint(1, 64)) + data[place:]


def _repeat(data, rng):
    low, high = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:high] + data[low:high] + data[high:]


def _places(value, at=()):
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places(item, (*at, key))


def _replace(data, rng):
    """Replace a value somewhere in a JSON text, or in the header of a safetensors file."""
    length = None if data[:1] in b"{[" else int.from_bytes(data[:8], "little")
    text, rest = (data, b"") if length is None else (data[8 : 8 + length], data[8 + length :])
    value = json.loads(text)
    *path, last = rng.choice([place for place in _places(value) if place])
    at = value
    for key in path:
        at = at[key]
    new = rng.choice(list(VALUES.values()))
    raw = new if isinstance(new, Raw) else None
    at[last] = "@raw@" if raw else new
    changed = json.dumps(value)
    changed = (changed.replace('"@raw@"', raw.text) if raw else changed).encode(errors="surrogatepass")
    return changed if length is None else len(changed).to_bytes(8, "little") + changed + rest


def mutated(name, data, rng):
    """Return how a file of the folder is changed, and its new content."""
    ways = [_flip, _cut, _insert, _repeat]
    if name.endswith((".json", ".safetensors")):
        ways += [_replace] * 4
    way = rng.choice(ways)
    return f"{way.__name__[1:]} {name}", way(data, rng)


# What lorahub makes of a folder.


@contextmanager
def limited(what):
    """Fail if the block takes more than 20 s, or 1 GB more memory at its peak than before."""

    late = []

    def stop(*_):
        late.append(f"{what} took more than {SECONDS} s")
        raise TimeoutError(*late)  # what catches it, as a client that tries again, does not hide it

    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    assert not late, late
    grown = _memory("VmHWM") - before
    assert grown < BYTES, f"{what} took {grown:,} bytes"


def _memory(name):
    match = re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(match[1]) * 1024


def judge(folder, engine):
    """Return how check, description, load and answer of a folder end: a word or two, to count them by."""
    try:
        report = safety.local(folder)
        described(folder, report)
        safety.refuse(report, folder)
    except LorahubError as error:
        one_line(error)
        return "refused by the check"
    try:
        located = fetch.adapter(folder)
        if adapters.needs_own_base(report) is None:
            [name] = engine.add(located)
            try:
                answers = engine.classify(TEXTS, [name])[name]
                engine.classify_base(TEXTS, [name])
            finally:
                engine.drop(name)
        else:
            [predictor] = open_predictors([located], engine_base(engine))
            [answers] = predictor.classify(TEXTS).values()
    except LorahubError as error:
        one_line(error)
        return "refused on load or answer"
    for answer in answers:
        values = [*answer.probabilities.values(), *answer.calibrated.values(), answer.confidence]
        assert all(map(math.isfinite, values)), values
        assert abs(sum(answer.calibrated.values()) - 1) < 1e-3
    assert len(answers) == len(TEXTS)
    return "finite answers"


def engine_base(engine):
    return str(engine._base.resolved.folder)


def described(folder, report):
    """Do what `info`, `card`, `verify`, `runs`, `list` and the app read of a folder, apart from its weights."""
    for finding in report.findings:
        one_line(finding.text, raw=True)
    assert len(report.findings) < 400

    def inspection():
        details = search.inspect(str(folder))
        for name, value in details.lines():
            one_line(f"{name} {value}", raw=True)
        printable.in_json(json.dumps(details.to_dict(), ensure_ascii=False, allow_nan=False, default=str)).encode()

    def record():
        run = records.load(folder)
        run_table.table([run], memory=True)
        run_table.verdict(run)
        run_table.select([run], where=["f1_macro>0.1"], sort="-created")
        search.describe_run(folder, run)
        json.dumps(run.to_dict(), allow_nan=False)
        cards.render(run)

    def card():
        text = runfiles.read_text(folder / "README.md")
        sections.merge(text, sections.compose({"tags": ["x"]}, "x"))
        sections.own(text)
        sections.tags(text)
        verify._generated(text)
        verify._card_figures(folder)

    steps = [
        inspection, record, card, lambda: records.find(folder.parent), lambda: verify._read_probe(folder),
        lambda: Predictions.load(folder, "test", "adapter", labels=2),
    ]  # fmt: skip
    for step in steps:
        try:
            step()
        except LorahubError as error:
            one_line(error)


def one_line(message, *, raw=False):
    text = str(message)
    assert raw or "\n" not in text
    assert len(text) < 10_000, text[:200]
    printable.line(text).encode()


class Folder:
    """A good folder, changed in place and put back."""

    def __init__(self, source, target):
        self.path, self.files = target, {}
        for name in FILES:
            if (source / name).is_file():
                self.files[name] = (source / name).read_bytes()
        self.restore()

    def restore(self):
        _remove(self.path)
        for name, data in self.files.items():
            content(name, data)(self.path)


def _remove(path):
    """Remove a folder, whatever is in it."""
    for place, folders, files in os.walk(os.fsencode(path), topdown=False):
        for name in files:
            os.unlink(place + b"/" + name)
        for name in folders:
            (os.unlink if os.path.islink(place + b"/" + name) else os.rmdir)(place + b"/" + name)


def run(cases, folder, engine, outcomes, slow):
    """Judge every case and count the outcomes; `slow` gets the seconds of the slowest. Raises on the first bad one."""
    failures = []
    for case in cases:
        folder.restore()
        case.change(folder.path)
        started = time.monotonic()
        try:
            with limited(case):
                outcome = judge(folder.path, engine)
        except Exception as error:  # any other error is a failure of the case
            place = error.__traceback__
            while place.tb_next:
                place = place.tb_next
            where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}"
            failures.append(f"{case}: {type(error).__name__} at {where}: {str(error)[:200]}")
            continue
        outcomes[case.kind, outcome] += 1
        slow.append((round(time.monotonic() - started, 2), str(case)))
    folder.restore()
    return failures


def mutations(folder, seed, count):
    """Yield cases, each with one file of the folder changed in one to three ways."""
    rng = random.Random(seed)
    names = list(folder.files)
    for number in range(count):
        name = rng.choice([*names, CONFIG, WEIGHTS, "labels.json", "calibration.json", "record.json"])
        data, words = folder.files.get(name, b"{}"), []
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            try:
                word, data = mutated(name, data, rng)
            except (ValueError, IndexError, RecursionError):  # no JSON any more
                break
            words.append(word)
        yield Case("mutation", f"{seed}/{number} {', '.join(words)}", content(name, data))
