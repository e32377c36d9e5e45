"""Importing is free: no heavy library, no network, no log handler; and `--help` is quick."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "lorahub"
HEAVY = ("torch", "transformers", "peft", "accelerate", "gradio", "bitsandbytes", "datasets", "matplotlib.pyplot")
HEAVY_ROOMS = (
    "lorahub.models", "lorahub.training", "lorahub.serving", "lorahub.data.batches", "lorahub.app.",
    "lorahub.classifier", "lorahub.experiments.estimate.footprint", "lorahub.experiments.estimate.run",
    "lorahub.experiments.estimate.skeleton", "lorahub.experiments.estimate.trace", "lorahub.experiments.compare.file",
)  # fmt: skip


def light_modules():
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted(PACKAGE.rglob("*.py"))
    ]
    return [name for name in names if not name.startswith(HEAVY_ROOMS)]


def test_light_modules_load_nothing_heavy_and_change_nothing():
    code = f"""
import importlib, logging, socket, sys, warnings
handlers, filters = list(logging.getLogger().handlers), list(warnings.filters)
def refuse(*a, **k): raise AssertionError("network at import")
socket.socket.connect = refuse
for name in {light_modules()!r}:
    importlib.import_module(name)
    loaded = [heavy for heavy in {HEAVY!r} if heavy in sys.modules]
    assert not loaded, (name, loaded)
assert logging.getLogger().handlers == handlers
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


COMMANDS = (
    [], ["train"], ["evaluate"], ["classify"], ["runs"], ["recipes"], ["app"], ["doctor"], ["push"], ["card"], ["pull"],
    ["list"], ["info"], ["scan"], ["verify"], ["space"], ["hf-register"], ["compare"], ["estimate"], ["methods"],
    ["ranks"], ["sweep"], ["job"], ["power"], ["bases"],
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "lorahub")
def test_help_imports_no_heavy_package(command):
    """`benchmarks/start.py` measures what is left."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "lorahub", *command, "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"torch", "transformers", "peft", "gradio", "sklearn", "scipy", "pandas", "datasets"}
