"""`lorahub methods`: runs that are done once, summaries of other recipes refused, a documented report."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import learnable
from field_tables import documented, leaves, matches

from lorahub.experiments.methods import run as experiment

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
QUICK = ("train.min_steps=4", "train.epochs=0.1", "train.batch_size=8", "eval.bootstrap=200")


@pytest.fixture(scope="module")
def compared(tiny_base, tmp_path_factory):
    """A data file, the arguments of a small comparison, and its folder once it has run through."""
    root = tmp_path_factory.mktemp("methods")
    data = root / "claims.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in learnable(160)), encoding="utf-8")
    arguments = {"data": str(data), "base": str(tiny_base("bert")), "settings": QUICK, "out": root / "out"}
    ran = []
    folder, table = experiment.methods(
        names=["full", "lora"], seeds=2, on_run=lambda text, *_: ran.append(text), **arguments
    )
    assert ran == ["full, seed 0", "lora, seed 0", "full, seed 1", "lora, seed 1"], "a whole row of the table first"
    return arguments, folder, table


def flags(arguments):
    return [
        "--data", arguments["data"], "--base", arguments["base"], "--out", arguments["out"],
        *(part for item in arguments["settings"] for part in ("--set", item)),
    ]  # fmt: skip


@pytest.mark.slow
def test_every_run_leaves_a_summary_a_folder_and_a_row(compared):
    _, folder, table = compared
    names = {path.name for path in folder.iterdir()}
    assert names == {
        f"{method}-s{seed}{end}" for method in ("full", "lora") for seed in (0, 1) for end in ("", ".json")
    }
    full, lora = table.methods
    assert (full.method, full.seeds, lora.seeds) == ("full", [0, 1], [0, 1])
    assert full.cost["trainable_parameters"] > 2 * lora.cost["trainable_parameters"]
    assert full.cost["file_bytes"] > lora.cost["file_bytes"] > 0
    assert 0 < lora.cost["memory_bytes"] < 2e9
    assert set(full.against) == {"majority", table.best_baseline}
    assert set(lora.against) == {"full", "majority", table.best_baseline}


@pytest.mark.slow
def test_json_report_and_nothing_is_run_twice(compared, cli):
    arguments, folder, table = compared
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*-s*.json")}
    code, out, err = cli("methods", "--methods", "full,lora", "--seeds", "2", *flags(arguments), "--json")
    assert code == 0, err
    assert "run 1 of" not in err
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*-s*.json")} == before
    found = json.loads(out)
    assert found == json.loads(json.dumps(table.to_dict())) == json.loads((folder / "methods.json").read_text())
    paths = [path for path, _ in leaves({**found, "methods": [found["methods"][1]]})]
    for path in paths:
        assert any(matches(field, path) for field in documented(PAGE)), f"docs/methods.md lacks {'.'.join(path)}"
    for field in documented(PAGE):
        assert any(matches(field, path) for path in paths), f"no {'.'.join(field)} in the JSON"
    assert (folder / "methods.png").read_bytes().startswith(b"\x89PNG")
    text = (folder / "methods.md").read_text()
    assert re.search(
        r"(lora is (better|worse) than full|lora and full are equivalent|Undecided between lora and full): macro F1",
        text,
    )
    code, out, _ = cli("methods", "--methods", "full,lora", "--seeds", "2", *flags(arguments))
    assert code == 0
    for words in ("claims.jsonl: ", "2 seeds", "peak memory", "CPU seconds", "Better than majority label", "±"):
        assert words in out


@pytest.mark.slow
def test_a_summary_of_another_recipe_or_other_claims_is_refused(compared, cli, tmp_path):
    arguments, folder, _ = compared
    code, _, err = cli("methods", "--methods", "full,lora", *flags(arguments), "--set", "train.epochs=0.2")
    assert code == 2
    assert "full-s0.json was run with train.epochs=0.1, which is 0.2 now" in err
    other = tmp_path / "claims.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in learnable(170)), encoding="utf-8")
    code, _, err = cli("methods", "--methods", "full,lora", *flags({**arguments, "data": other}))
    assert code == 2
    assert "was run on other claims of claims.jsonl" in err
    damaged = tmp_path / "cells"
    damaged.mkdir()
    (damaged / "lora-s0.json").write_text("{}")
    code, _, err = cli("methods", "--methods", "full,lora", *flags({**arguments, "out": damaged}))
    assert code == 2
    assert "lora-s0.json lacks method" in err


@pytest.mark.slow
def test_what_is_finished_outlives_a_kill(compared, cli, tmp_path):
    arguments, _, _ = compared
    out = tmp_path / "killed"
    command = [
        sys.executable,
        "-m",
        "lorahub",
        "methods",
        "--methods",
        "linear-probe,lora",
        "--seeds",
        "1",
        "--discard",
    ]
    command += [str(item) for item in flags({**arguments, "out": out})]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment, start_new_session=True)
    until = time.monotonic() + 240
    while not (out / "linear-probe-s0.json").exists():
        assert time.monotonic() < until
        assert first.poll() is None
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    stamp = (out / "linear-probe-s0.json").stat().st_mtime_ns
    code, _, err = cli(*command[3:])
    assert code == 0, err
    assert "linear-probe, seed 0" not in err
    assert "run 2 of 2: lora, seed 0" in err
    assert (out / "linear-probe-s0.json").stat().st_mtime_ns == stamp
    assert not (out / "lora-s0").exists(), "--discard"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods", "full,lorra"], "--methods takes some of lora, qlora"),
        (["--methods", "full"], "needs two or more different methods; found full"),
        (["--methods", ","], "found none"),
        (["--methods", "lora,lora"], "needs two or more different methods"),
        (["--seeds", "0"], "--seeds must be at least 1; found 0"),
        (["--reference", "dora"], "--reference dora is not among the methods"),
        (["--set", "adapter.method=lora"], "use --methods and --seeds to choose methods and seeds"),
        (["--set", "train.seed=3"], "use --methods and --seeds to choose methods and seeds"),
        (["--set", "train.epoch=3"], "there is no field train.epoch. Did you mean train.epochs?"),
        (["--data", "nowhere.csv"], "nowhere.csv"),
        (["--base", "nowhere"], "there is no base model 'nowhere'"),
        (["no-recipe"], "there is no recipe 'no-recipe'"),
    ],
)
def test_bad_input_is_one_line(cli, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("methods", "--data", "starter-checkable", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_the_folder_is_refused(cli, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = cli("methods", "--data", "starter-checkable", "--out", tmp_path / "file")
    assert code == 2
    assert "is a file; runs and report need a folder" in err


@pytest.mark.slow
def test_a_method_that_fails_says_so_and_keeps_the_others(cli, compared, tiny_base, tmp_path):
    arguments, _, _ = compared
    given = {**arguments, "base": tiny_base("llama"), "out": tmp_path / "out"}
    code, _, err = cli("methods", "--methods", "linear-probe,prompt", "--seeds", "1", *flags(given))
    assert code == 2
    assert "prompt with seed 0 was not trained" in err
    assert (tmp_path / "out" / "linear-probe-s0.json").exists()
