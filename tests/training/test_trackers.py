"""Trackers: real ones, on this machine only, closed however a training ends."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import learnable

from lorahub import records
from lorahub.errors import ConfigError, MissingPackageError
from lorahub.publish.export import PUBLISHED
from lorahub.training.progress import Callbacks
from lorahub.training.run import train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
QUICK = ["train.min_steps=8", "train.epochs=1", "train.batch_size=14", "train.evaluate_every=4", "eval.bootstrap=100"]
STEP_NAMES = {"train/loss", "train/learning_rate", "train/samples_per_second", "memory/cpu_bytes"}
EVALUATION_NAMES = {f"validation/{name}" for name in ("accuracy", "f1_macro", "f1_weighted", "loss_validation")}
SENDS = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID")


@pytest.fixture(scope="module")
def arguments(tiny_base, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "claims.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in learnable(120)), encoding="utf-8")
    return {"data": str(path), "base": str(tiny_base("bert")), "settings": QUICK}


@pytest.fixture
def closed_world(monkeypatch, tmp_path):
    """Block all connections to other machines; return the list of attempts."""
    tried, real = [], socket.socket.connect

    def connect(self, address):
        if self.family == socket.AF_UNIX or address[0] == "127.0.0.1":
            return real(self, address)  # wandb speaks to a process of its own
        tried.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", connect)
    for name in (*SENDS, "WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tried


def curves(folder):
    """Return what TensorBoard reads from a folder: name -> {step: value}."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder)).Reload()
    return {name: {item.step: item.value for item in read.Scalars(name)} for name in read.Tags()["scalars"]}


def test_tensorboard_shows_what_the_record_says(arguments, tmp_path, closed_world):
    run = train(**arguments, out=tmp_path / "run", tracker="tensorboard")
    found = curves(run.folder / "tensorboard")
    assert set(found) == STEP_NAMES | EVALUATION_NAMES
    assert set(found["train/loss"]) == set(range(1, 9))
    assert all(size > 1e7 for size in found["memory/cpu_bytes"].values())
    for row in run.record.progress.curve:
        assert found["validation/f1_macro"][row.step] == pytest.approx(row.f1_macro)
        assert found["train/learning_rate"][row.step] == pytest.approx(row.learning_rate)
    assert closed_world == []
    written = {path.relative_to(run.folder).as_posix() for path in (run.folder / "tensorboard").rglob("*")}
    assert not written & PUBLISHED, "a push leaves them out"


def test_a_resumed_training_continues_its_curves(arguments, tmp_path):
    def on_step(step):
        if step.step == 7:
            raise RuntimeError

    options = {**arguments, "out": tmp_path / "run", "tracker": "tensorboard", "save_every": 5}
    with pytest.raises(RuntimeError):
        train(**options, callbacks=Callbacks(on_step=on_step))
    assert set(curves(tmp_path / "run" / "tensorboard")["train/loss"]) == set(range(1, 8)), "closed and readable"
    train(**options, resume=True)
    found = curves(tmp_path / "run" / "tensorboard")
    assert set(found["train/loss"]) == set(range(1, 9)), "one value a step"
    train(**arguments, out=tmp_path / "run", force=True)
    assert not (tmp_path / "run" / "tensorboard").exists(), "a new run does not inherit the curves of the replaced one"


TRACKIO = """
import socket, sys
from lorahub.cli.main import main
tried = []
def connect(self, address):
    tried.append(address)
    raise OSError("no network in this test")
socket.socket.connect = connect
import trackio
given, real = [], trackio.init
def init(**options):
    given.append(options)
    return real(**options)
trackio.init = init
try:
    main()
finally:
    print("TRIED", tried, "SPACES", [options.get("space_id") for options in given], file=sys.stderr)
"""


def test_trackio_keeps_a_run_here_and_makes_no_space(arguments, tmp_path):
    settings = [word for setting in QUICK for word in ("--set", setting)]
    command = [
        "lorahub",
        "train",
        "--data",
        arguments["data"],
        "--base",
        arguments["base"],
        "--out",
        str(tmp_path / "run"),
    ]
    home = {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HOME": str(tmp_path / "hf")}
    kept = {name: value for name, value in os.environ.items() if name not in SENDS}
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv[1:] = sys.argv[2:]\n{TRACKIO}", *command, *settings,
         "--tracker", "trackio", "--json"],
        cwd=ROOT, env={**kept, **home}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["happened"]["steps"] == 8, "stdout holds only the record"
    assert "TRIED [] SPACES [None]" in done.stderr
    # In a process of its own, since trackio reads its folder when it is imported.
    code = (
        "import json, trackio; from trackio.sqlite_storage import SQLiteStorage; "
        "run, = trackio.Api().runs('lorahub'); logs = SQLiteStorage.get_logs('lorahub', run.name); "
        "print(json.dumps([run.name, run.config['train.seed'], [[row['step'], list(row)] for row in logs]]))"
    )
    read = subprocess.run(
        [sys.executable, "-c", code], env={**kept, **home}, capture_output=True, text=True, check=False
    )
    assert read.returncode == 0, read.stderr
    name, seed, rows = json.loads(read.stdout.splitlines()[-1])
    assert (name, seed) == ("run", 0)
    assert [step for step, _ in rows] == list(range(1, 9))
    assert set(rows[3][1]) >= STEP_NAMES | EVALUATION_NAMES


@pytest.mark.parametrize("variable", SENDS)
def test_trackio_refuses_upload_settings_of_the_environment(variable, arguments, tmp_path, monkeypatch):
    monkeypatch.setenv(variable, "someone/somewhere")
    with pytest.raises(ConfigError, match=f"{variable} is set, so trackio would send this run to someone/"):
        train(**arguments, out=tmp_path / "run", tracker="trackio")
    assert not (tmp_path / "run").exists()


def test_wandb_is_offline(arguments, tmp_path, closed_world):
    run = train(**arguments, out=tmp_path / "run", tracker="wandb")
    (offline,) = (run.folder / "wandb").glob("offline-run-*")
    assert next(offline.glob("*.wandb")).stat().st_size > 1000
    assert closed_world == []


def test_wandb_online_needs_a_login(arguments, tmp_path, closed_world, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(
        ConfigError, match="WANDB_MODE is online, and you are not logged in to wandb. Run `wandb login`"
    ):
        train(**arguments, out=tmp_path / "run", tracker="wandb")


@pytest.mark.parametrize("kind", ["trackio", "tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_read(kind, arguments, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(MissingPackageError, match=rf"pip install 'hf-lorahub\[{kind}\]'"):
        train(**{**arguments, "data": "nowhere.csv"}, out=tmp_path / "run", tracker=kind)


def test_an_unknown_tracker_is_refused_in_one_line(cli):
    code, out, error = cli("train", "--tracker", "tensorbord")
    assert (code, out) == (2, "")
    assert "--tracker is one of trackio, tensorboard, wandb, none; found 'tensorbord'" in error
    assert len(error.splitlines()) == 1


def test_a_tracker_changes_no_result(arguments, tmp_path):
    plain, tracked = (
        train(**arguments, out=tmp_path / "a"),
        train(**arguments, out=tmp_path / "b", tracker="tensorboard"),
    )
    assert tracked.record.results == plain.record.results
    assert records.load(tracked.folder).progress.curve == plain.record.progress.curve
