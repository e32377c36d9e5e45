"""An interrupted training ends as an uninterrupted one: weights, curve and metrics are equal bit for bit."""

import json
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from conftest import learnable
from processes import Command
from safetensors.torch import load_file

from lorahub import records
from lorahub.errors import AdapterError, ConfigError
from lorahub.training.checkpoints import Every
from lorahub.training.progress import Callbacks
from lorahub.training.run import train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# 84 training claims are 6 batches an epoch.
QUICK = ("train.min_steps=20", "train.epochs=1", "train.batch_size=14", "train.evaluate_every=4", "eval.bootstrap=100")
TIMES = ("seconds", "samples_per_second", "cpu_seconds", "peak_bytes", "memory", "resumed_at")


class InterruptedTrainingError(Exception):
    """Ends a training in these tests."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "claims.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in learnable(120)), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def arguments(tiny_base, data):
    """(model_type, method, *settings) -> the arguments of `train`."""

    def make(model_type, method, *settings):
        base = str(tiny_base(model_type))
        return {"data": data, "base": base, "method": method, "settings": [*QUICK, *settings]}

    return make


def interrupted(step, **kwargs):
    """Train up to a step and fail there, before its checkpoint is written; return the steps that were taken."""
    steps = []

    def on_step(taken):
        steps.append(taken.step)
        if taken.step == step:
            raise InterruptedTrainingError

    with pytest.raises(InterruptedTrainingError):
        train(**kwargs, callbacks=Callbacks(on_step=on_step))
    return steps


def outcome(folder):
    """Return everything that a run records and writes, except times and memory."""
    record = records.load(folder).to_dict()
    happened = {name: value for name, value in record["happened"].items() if name not in TIMES}
    weights = next(path for path in folder.glob("*model.safetensors"))
    tensors = {name: tensor.tolist() for name, tensor in load_file(weights).items()}
    files = {path.name for path in folder.rglob("*") if path.is_file()}
    return happened, record["results"], record["environment"], tensors, (folder / "probe.json").read_text(), files


CASES = {
    "in the middle of an epoch": ("bert", "lora", (), 3, [12]),
    "at the end of an epoch": ("bert", "lora", (), 6, [16]),
    "twice": ("llama", "lora", (), 4, [7, 14]),
    "before the first evaluation": ("bert", "dora", (), 2, [4]),
    "with accumulated gradients": ("bert", "lora", ("train.gradient_accumulation=3",), 4, [13]),
    # A rate that breaks what was learnt: worse evaluations lie before the stop, which no patience of 8 precedes.
    "with patience": (
        "bert",
        "lora",
        ("train.patience=8", "train.min_steps=40", "train.learning_rate=0.3", "train.evaluate_every=2"),
        4,
        [17],
    ),
    "in bfloat16": ("bert", "lora", ("train.mixed_precision=bf16",), 5, [13]),
    "full": ("bert", "full", ("train.schedule=linear",), 5, [13]),
    "virtual tokens": ("bert", "p-tuning", (), 5, [13]),
    "eight-bit optimizer": ("llama", "lora", ("train.optimizer=adamw8bit",), 5, [13]),
    "an initialization that changes the base": ("llama", "lora", ("adapter.init=pissa",), 5, [13]),
    "qlora": ("llama", "qlora", (), 5, [13]),
}


@pytest.fixture(scope="module")
def whole(arguments, tmp_path_factory):
    """(model_type, method, *settings) -> the outcome of an uninterrupted run, trained once."""
    made = {}

    def make(*key):
        if key not in made:
            out = tmp_path_factory.mktemp("whole") / "run"
            train(**arguments(*key), out=out)
            made[key] = outcome(out)
        return made[key]

    return make


# The others differ in what a checkpoint holds, and run in full size only.
SHORT = ("in the middle of an epoch", "twice", "with accumulated gradients", "with patience", "qlora")


@pytest.mark.parametrize(
    "case", [case if case in SHORT else pytest.param(case, marks=pytest.mark.long) for case in CASES]
)
def test_a_stopped_training_ends_as_the_uninterrupted_one(case, arguments, whole, tmp_path):
    model_type, method, settings, every, stops = CASES[case]
    options, parts = arguments(model_type, method, *settings), tmp_path / "run"
    for place, step in enumerate(stops):
        interrupted(step, **options, out=parts, save_every=every, resume=place > 0)
        torch.manual_seed(0)  # whatever the process did in between
    done = train(**options, out=parts, save_every=every, resume=True)
    assert done.record.progress.resumed_at == [(step - 1) // every * every for step in stops]
    for resumed, uninterrupted in zip(outcome(parts), whole(model_type, method, *settings), strict=True):
        assert resumed == uninterrupted


def start(options, out, *flags):
    settings = [word for setting in options["settings"] for word in ("--set", setting)]
    named = ["--data", options["data"], "--base", options["base"], "--method", options["method"], "--out", str(out)]
    return Command("train", *named, *settings, *flags)


def test_a_killed_training_ends_as_the_uninterrupted_one(arguments, whole, tmp_path):
    key = ("bert", "lora", "train.min_steps=60", "train.evaluate_every=4")
    options, parts = arguments(*key), tmp_path / "run"
    flags, step, kills = ("--save-every", "2", "--resume"), 0, 0
    while step < 50:
        process, reached = start(options, parts, *flags), step + 25
        # Some steps further, wherever the process is by then: in a step, in an evaluation or writing a checkpoint.
        process.until(lambda reached=reached: newest(parts) >= reached)
        process.kill()
        assert process.wait() == -signal.SIGKILL, process.err
        assert not (parts / "record.json").exists()
        step, kills = newest(parts), kills + 1
    assert kills == 2
    last = start(options, parts, *flags)
    assert last.wait() == 0, last.err
    assert len(records.load(parts).progress.resumed_at) == kills
    for resumed, uninterrupted in zip(outcome(parts), whole(*key), strict=True):
        assert resumed == uninterrupted


def newest(folder):
    return max((int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*")), default=0)


def test_ctrl_c_writes_a_checkpoint_and_says_how_to_go_on(arguments, tmp_path):
    options = arguments("bert", "lora", "train.min_steps=3000", "train.evaluate_every=1000")
    out = tmp_path / "run"
    process = start(options, out, "--save-every", "100")
    process.until(lambda: newest(out) >= 100)
    time.sleep(0.05)  # the checkpoint of step 100 may still be being written
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    step = newest(out)
    assert step % 100, "a checkpoint of its own"
    assert f"lorahub: stopped. Step {step} is saved in {out / 'checkpoints'}. Continue with --resume." in process.err
    assert "Traceback" not in process.err


def test_a_checkpoint_holds_what_is_trained_and_nothing_of_the_base(arguments, tmp_path):
    interrupted(9, **arguments("bert", "lora"), out=tmp_path / "run", save_every=2)
    (path,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    assert path.name == "step-8", "older ones are removed"
    trained = load_file(path / "trained.safetensors")
    assert all("lora_" in name or "modules_to_save" in name for name in trained)
    assert set(load_file(path / "best.safetensors")) == set(trained)
    assert len(torch.load(path / "optimizer.bin", weights_only=True)["state"]) == len(trained)
    names = {"best.safetensors", "progress.json", "optimizer.bin", "random_states_0.pkl", "scheduler.bin"}
    assert {file.name for file in path.iterdir()} == {*names, "trained.safetensors"}


@pytest.fixture(scope="module")
def unfinished(arguments, tmp_path_factory):
    """A run that was interrupted after the checkpoint of step 4."""
    out = tmp_path_factory.mktemp("unfinished") / "run"
    interrupted(5, **arguments("bert", "lora"), out=out, save_every=4)
    return out


def test_a_partly_written_checkpoint_is_ignored(arguments, unfinished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(unfinished, out)
    partial = out / "checkpoints" / ".step-12.partial"
    partial.mkdir()
    (partial / "trained.safetensors").write_bytes(b"half")
    run = train(**arguments("bert", "lora"), out=out, save_every=4, resume=True)
    assert run.record.progress.resumed_at == [4]
    assert not (out / "checkpoints").exists(), "a finished run needs none"


def test_baselines_are_not_computed_twice(arguments, unfinished, tmp_path, monkeypatch):
    out = tmp_path / "run"
    shutil.copytree(unfinished, out)
    monkeypatch.setattr("lorahub.stats.baselines.fit", None)
    assert interrupted(6, **arguments("bert", "lora"), out=out, resume=True) == [5, 6]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"settings": [*QUICK, "train.learning_rate=0.01"]}, "train.learning_rate was 0.001 and is 0.01 now"),
        ({"method": "rslora"}, "adapter.method was 'lora' and is 'rslora' now"),
        ({"seed": 3}, "train.seed was 0 and is 3 now"),
        ({"data": 130}, "claims.train was "),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_in_a_line_that_names_the_difference(
    change, words, arguments, unfinished, claims_file
):
    if "data" in change:
        change = {"data": str(claims_file(learnable(change["data"]), "claims.jsonl"))}
    with pytest.raises(ConfigError) as caught:
        train(**{**arguments("bert", "lora"), **change}, out=unfinished, save_every=4, resume=True)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert newest(unfinished) == 4, "and is kept"


@pytest.mark.parametrize("name", ["trained.safetensors", "optimizer.bin", "progress.json"])
def test_a_damaged_checkpoint_is_one_line(name, arguments, unfinished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(unfinished, out)
    (out / "checkpoints" / "step-4" / name).write_bytes(b"{")
    with pytest.raises(AdapterError, match=r"step-4 is damaged .* start over with --force instead of --resume"):
        train(**arguments("bert", "lora"), out=out, save_every=4, resume=True)


def test_an_unfinished_run_is_only_replaced_with_force(arguments, unfinished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(unfinished, out)
    with pytest.raises(AdapterError, match="unfinished run. Continue it with --resume, or start over with --force"):
        train(**arguments("bert", "lora"), out=out)
    assert interrupted(2, **arguments("bert", "lora"), out=out, force=True) == [1, 2]
    assert newest(out) == 0


def test_resuming_without_a_checkpoint_starts_from_the_beginning_and_says_so(arguments, tmp_path, caplog):
    assert interrupted(1, **arguments("bert", "lora"), out=tmp_path / "run", resume=True) == [1]
    assert "holds no checkpoint; training starts from the beginning" in caplog.text


@pytest.mark.parametrize(
    ("text", "found"),
    [("200", Every(steps=200)), (200, Every(steps=200)), ("30s", Every(seconds=30)), ("10m", Every(seconds=600)),
     ("1.5h", Every(seconds=5400))],
)  # fmt: skip
def test_steps_and_times_between_checkpoints(text, found):
    assert Every.parse(text) == found


@pytest.mark.parametrize("text", ["0", "-3", "ten", "10 minutes", "0m", "1.5.h", ""])
def test_what_is_neither_steps_nor_a_time_is_refused(text, cli, tmp_path):
    code, out, error = cli("train", "--save-every", text, "--out", tmp_path / "run")
    assert (code, out) == (2, "")
    assert re.search("--save-every (takes a number of steps, such as 200, or a duration|must be above 0)", error)
    assert not (tmp_path / "run").exists()
