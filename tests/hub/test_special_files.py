"""Only regular files of a bounded size are opened in a folder; anything else is refused in one line."""

import json
import os
import socket
import threading
import time

import pytest

from lorahub import records, runfiles
from lorahub.errors import AdapterError, LorahubError
from lorahub.hub import headers, rules, safety
from lorahub.labels import LabelSet
from lorahub.publish.guard import PushHistory
from lorahub.stats.baselines import LinearProbe
from lorahub.stats.predictions import Predictions
from lorahub.stats.verdicts import Calibration

# The readers by file; `PushHistory` is empty if its file cannot be read.
READERS = {
    "record.json": records.load,
    "labels.json": LabelSet.load,
    "calibration.json": lambda folder: Calibration.load(folder, 2),
    "probe.json": lambda folder: runfiles.read_json(folder / "probe.json", list[runfiles.ProbeRow]),
    "linear_probe.safetensors": lambda folder: LinearProbe.load(folder, 2),
    "README.md": lambda folder: runfiles.read_text(folder / "README.md"),
    "predictions/test.adapter.parquet": lambda folder: Predictions.load(folder, "test", "adapter", labels=2),
}


def fifo(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


def link(path):
    (path.parent.parent / "secret.json").write_text('["a", "b"]')
    path.symlink_to("../secret.json")


def nowhere(path):
    path.symlink_to(path.name)


def open_socket(path):
    socket.socket(socket.AF_UNIX).bind(path.name)


def folder(path):
    path.mkdir()


def too_large(path):
    with path.open("wb") as file:
        file.truncate(2**40)


KINDS = (fifo, device, link, folder, too_large)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_not_read(tmp_path, name, kind):
    inside = tmp_path / "run"
    (inside / name).parent.mkdir(parents=True)
    kind(inside / name)
    started = time.monotonic()
    with pytest.raises(AdapterError) as caught:
        READERS[name](inside)
    assert time.monotonic() - started < 5
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_history_of_pushes_that_is_no_file_is_empty(tmp_path, kind):
    (tmp_path / "run").mkdir()
    kind(tmp_path / "run" / "published.json")
    assert PushHistory.load(tmp_path / "run") == PushHistory()


def test_a_socket_and_a_link_to_itself_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_socket(tmp_path / "labels.json")
    nowhere(tmp_path / "record.json")
    found = safety.local(tmp_path).refused
    assert any("it is a socket" in text for text in found)
    assert any("leads nowhere" in text for text in found)


def test_a_link_inside_the_folder_and_into_the_hubs_cache_is_followed(tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / ("0" * 40)
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1").write_text('["a", "b"]')
    (snapshot / "labels.json").symlink_to(os.path.relpath(blobs / "1", snapshot))
    (snapshot / "same.json").symlink_to("labels.json")
    assert LabelSet.load(snapshot).names == ("a", "b")
    assert json.loads(runfiles.read_bytes(snapshot / "same.json")) == ["a", "b"]
    outside = tmp_path / "outside.json"
    outside.write_text("[]")
    (snapshot / "labels.json").unlink()
    (snapshot / "labels.json").symlink_to(outside)
    with pytest.raises(AdapterError, match="leads out of its folder"):
        LabelSet.load(snapshot)


def test_a_folder_full_of_files_is_not_listed_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(safety, "MOST_FILES", 100)
    for number in range(200):
        (tmp_path / f"{number}.txt").touch()
    assert any("more than 100 files" in text for text in safety.local(tmp_path).refused)


def header(tensors):
    return json.dumps(tensors).encode()


def test_many_tensors_are_matched_with_many_targets_in_linear_time():
    targets = [f"layer{number}" for number in range(7_000)]
    config = {"peft_type": "LORA", "r": 1, "target_modules": targets}
    shapes = {f"a.b.layer{number}x.lora_A.weight": (1, 1) for number in range(20_000)}
    started = time.process_time()
    assert len(list(rules.RULES["LORA"].tensors(shapes, config))) >= 20_000
    assert time.process_time() - started < 5


def test_more_tensors_targets_and_characters_than_any_adapter_has_are_refused():
    many = {f"t{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(120_000)}
    content = header(many)
    started = time.process_time()
    with pytest.raises(headers.HeaderError, match="120,000 tensors"):
        headers.parse(content, len(content), len(content) + 8)
    assert time.process_time() - started < 5
    sentences = list(rules.LAYOUTS[runfiles.PEFT].config({"peft_type": "LORA", "target_modules": ["q"] * 7_000}))
    assert any("7,000 names" in sentence for sentence in sentences)


@pytest.mark.parametrize(
    "fields",
    [
        None, [], {}, "F32",
        {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": ["a", 10**12], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [[0], 10**10], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [10**4000] * 2, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [1] * 100, "data_offsets": [0, 4]},
    ],
    ids=lambda fields: repr(fields)[:40],
)  # fmt: skip
def test_a_damaged_entry_of_a_header_is_refused(fields):
    content = header({"x": fields})
    with pytest.raises(headers.HeaderError):
        headers.parse(content, len(content), len(content) + 12)


def test_reading_waits_for_nobody(tmp_path):
    """A FIFO that somebody writes to is not read either."""
    os.mkfifo(tmp_path / "labels.json")
    keep = os.open(tmp_path / "labels.json", os.O_RDWR | os.O_NONBLOCK)
    os.write(keep, b'["a", "b"]')
    done = []
    thread = threading.Thread(target=lambda: done.append(pytest.raises(LorahubError, LabelSet.load, tmp_path)))
    thread.start()
    thread.join(5)
    os.close(keep)
    assert done
