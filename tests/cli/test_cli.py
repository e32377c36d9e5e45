"""The command line: what each command prints, as a table for people and as JSON for programs."""

import json
import subprocess
import sys

import pytest
from conftest import learnable

from lorahub.data import tables

QUICK = ["--set", "train.min_steps=10", "--set", "train.epochs=1", "--set", "eval.bootstrap=200"]


@pytest.mark.slow
def test_train_prints_before_and_after_and_json_is_only_json(cli, claims_file, tiny_base, tmp_path):
    data = claims_file(learnable(120), "claims.csv")
    common = ["train", "--data", data, "--base", tiny_base("bert"), *QUICK]
    code, out, err = cli(*common, "--out", tmp_path / "one")
    assert code == 0, err
    for words in ("majority label", "TF-IDF", "linear probe", "before", "after: adapter", "parameters trained"):
        assert words in out
    code, out, _ = cli(*common, "--out", tmp_path / "two", "--json")
    assert code == 0
    record = json.loads(out)
    assert record["name"] == "two"
    assert list(record)[0] == "schema"
    code, out, _ = cli("runs", "--root", tmp_path)
    assert code == 0
    assert "one" in out
    assert "two" in out
    code, out, _ = cli("runs", "--root", tmp_path, "--json")
    assert {record["name"] for record in json.loads(out)} == {"one", "two"}


def test_classify_texts(cli, tiny_run, tiny_base):
    arguments = ["classify", "the vaccine may help", "--adapter", tiny_run.folder, "--base", tiny_base("bert")]
    code, out, err = cli(*arguments)
    assert code == 0, err
    assert "tiny" in out
    code, out, _ = cli(*arguments, "--json")
    found = json.loads(out)
    assert set(found[0]) == {"text", "adapter", "label", "probabilities", "calibrated"}
    assert sum(found[0]["probabilities"].values()) == pytest.approx(1, abs=1e-4)


def test_classify_a_file(cli, tiny_run, tiny_base, claims_file, tmp_path):
    source = claims_file(learnable(30), "in.jsonl")
    output = tmp_path / "out.parquet"
    code, out, err = cli(
        "classify", "--file", source, "--output", output, "--adapter", tiny_run.folder, "--base", tiny_base("bert")
    )
    assert code == 0, err
    assert "30 rows written" in out
    assert {"claim", "label", "tiny.label", "tiny.p.hedged"} <= set(tables.columns(output))


def test_evaluate_gives_the_runs_own_figures(cli, tiny_run, tiny_base, tmp_path):
    data = tiny_run.folder.parent / "claims.jsonl"
    code, out, err = cli(
        "evaluate", tiny_run.folder, "--data", data, "--base", tiny_base("bert"), "--json",
        "--set", "eval.bootstrap=200",
    )  # fmt: skip
    assert code == 0, err
    found, stored = json.loads(out)["tiny"], tiny_run.record.results["test"]["adapter"]
    assert found["confusion"] == stored["confusion"]
    assert found["f1_macro"] == pytest.approx(stored["f1_macro"])


def test_doctor_and_recipes_and_version(cli):
    code, out, _ = cli("doctor", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["packages"]["torch"][0]
    assert any("train" in line for line in found["can"])
    code, out, _ = cli("recipes")
    assert "tutorial" in out
    code, out, _ = cli("--version")
    assert out.startswith("lorahub 0.")


def test_an_unknown_option_is_exit_code_two():
    done = subprocess.run(
        [sys.executable, "-m", "lorahub", "train", "--epochs", "3"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
