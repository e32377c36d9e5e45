"""The wheel is whole, and with the base dependencies alone it is of use and says what is missing."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP = ["-m", "pip", "--quiet", "--disable-pip-version-check"]

pytestmark = pytest.mark.slow


def run(*command, **options):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    done = run(sys.executable, *PIP, "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("hf_lorahub-*.whl"))


@pytest.fixture(scope="module")
def alone(wheel, tmp_path_factory):
    """The folder of programs of a fresh environment with the wheel and its base dependencies."""
    folder = tmp_path_factory.mktemp("alone")
    made = run(sys.executable, "-m", "venv", "--without-pip", folder)
    assert made.returncode == 0, made.stderr
    options = ("install", "--no-compile", "-c", ROOT / "constraints.txt")
    done = run(sys.executable, *PIP, "--python", folder, *options, wheel)
    # Without a network only: where there is one, a requirement that cannot be met is a failure.
    if done.returncode and re.search("connection", done.stderr, re.I):
        pytest.skip(f"the base dependencies cannot be downloaded: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return folder / "bin"


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    packaged = {name for name in names if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in packaged} == {"lorahub"}
    on_disk = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "lorahub").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packaged == on_disk
    for kind in (
        "recipes/pubhealth.yaml",
        "templates/card.md",
        "templates/space/app.py.tmpl",
        "data/starter/train.csv",
        "data/starter/LICENSE",
        "py.typed",
    ):
        assert f"lorahub/{kind}" in packaged


def test_it_runs_without_torch(alone, tmp_path):
    assert run(alone / "python", "-c", "import torch").returncode != 0
    for command in (["--help"], ["doctor"], ["runs"]):
        done = run(alone / "lorahub", *command, cwd=tmp_path)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert done.stdout.strip()
    assert "pip install 'hf-lorahub[train]'" in run(alone / "lorahub", "doctor", cwd=tmp_path).stdout
    assert run(alone / "hf-lorahub", "--version", cwd=tmp_path).stdout.startswith("lorahub ")


@pytest.mark.parametrize(
    "command", [["train"], ["classify", "a claim", "--adapter", "x"], ["evaluate", "x", "--data", "y"], ["app"]]
)
def test_what_needs_torch_says_how_to_get_it(alone, tmp_path, command):
    done = run(alone / "lorahub", *command, cwd=tmp_path)
    assert done.returncode == 2
    assert not done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert "pip install 'hf-lorahub[train]'" in done.stderr


def test_the_python_api_says_it_too(alone, tmp_path):
    done = run(alone / "python", "-c", "import lorahub; lorahub.Engine", cwd=tmp_path)
    assert done.stderr.strip().splitlines()[-1].endswith("Run: pip install 'hf-lorahub[train]'")
