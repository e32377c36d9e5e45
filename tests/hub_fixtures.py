"""A Hub on this machine: the real client, the command line in process, and the command line as a program."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import hub_compute  # noqa: F401 - adds its routes
import pytest
from hub_server import ALICE, Hub

TOKEN = ALICE


def record_files(folder):
    """Record the files of a run folder as they are now."""
    from lorahub import records
    from lorahub.hub import integrity

    record = records.load(folder)
    record.files = integrity.hash_files(folder)
    record.save(folder)


def swap_head(weights):
    """Exchange the rows of a head's last layer for two labels, in a safetensors file of the same size."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(weights)
    for name in (name for name in tensors if ".classifier." in name):
        tensors[name] = tensors[name][::-1].copy()
    save_file(tensors, weights, metadata={"format": "pt"})


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A running Hub with the users alice (logged in) and bob; this process is online, but only to it."""
    from lorahub.hub import client

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    # The client's own clock alone; `time.sleep` itself belongs to everybody.
    hurried = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    monkeypatch.setattr("huggingface_hub.file_download.time", hurried)
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with Hub(tmp_path / "hub").running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def hub_base(hub, tiny_base):
    """The tiny base on the Hub, and the option that names it."""
    folder = tiny_base("bert")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    commit = hub.put("org/tiny-bert", files)
    hub.requests.clear()
    return f"org/tiny-bert@{commit}"


@pytest.fixture
def run_folder(tiny_run, tmp_path):
    """A copy of the tiny run that a test may change."""
    return shutil.copytree(tiny_run.folder, tmp_path / "runs" / "tiny")


@pytest.fixture
def program(hub, tmp_path):
    """Run `lorahub` as its users do, or Python code, in a process and an environment of its own, online to the hub."""

    def run(*arguments, cwd=tmp_path, token=TOKEN, home=None, code=None, **extra):
        home = home or tmp_path / "home"
        home.mkdir(exist_ok=True)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        environment |= {
            "HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[1]), **extra,
        }  # fmt: skip
        if token:
            environment["HF_TOKEN"] = token
        command = [sys.executable, *(["-c", code] if code else ["-m", "lorahub"]), *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=cwd, env=environment, timeout=300
        )

    return run
