"""The command line: what each command prints, as a table for people and as JSON for programs."""

import io
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
    assert set(found[0]) == {"text", "adapter", "label", "probabilities", "calibrated", "abstain", "truncated"}
    assert sum(found[0]["probabilities"].values()) == pytest.approx(1, abs=1e-4)


def test_classify_a_file(cli, tiny_run, tiny_base, claims_file, tmp_path):
    source = claims_file(learnable(30), "in.jsonl")
    output = tmp_path / "out.parquet"
    code, out, err = cli(
        "classify", "--file", source, "--output", output, "--adapter", tiny_run.folder, "--base", tiny_base("bert")
    )
    assert code == 0, err
    assert "30 rows written" in out
    assert {"claim", "label", "tiny.label", "tiny.p.hedged"} <= set(tables.open_table(output).columns)


def test_classify_standard_input(cli, tiny_run, tiny_base, monkeypatch):
    arguments = ["classify", "-", "--adapter", tiny_run.folder, "--base", tiny_base("bert")]

    def piped(content, *more):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        return cli(*arguments, *more)

    long = "the vaccine may help " * 40
    claims = ["the café may help", "the flu rises", long.strip()]
    code, out, err = piped(f"{claims[0]}\n\n{claims[1]}\r\n{long}".encode(), "--json")
    assert code == 0, err
    assert [answer["text"].strip() for answer in json.loads(out)] == claims
    code, out, _ = piped(long.encode())
    assert "the vaccine may help the vaccine may help the vaccine may help" in out
    assert len(out) < 800
    assert " …" in out
    for content, said in ((b"", "standard input is empty"), (b"caf\xe9", "standard input is not UTF-8")):
        code, _, err = piped(content)
        assert (code, err.count("\n")) == (2, 1)
        assert said in err


def test_classify_replaces_a_file_only_with_force(cli, tiny_run, tiny_base, claims_file, tmp_path):
    source, output = claims_file(learnable(30), "in.csv"), tmp_path / "out.csv"
    source.write_text(source.read_text().replace(",", ";"))
    output.write_text("precious")
    arguments = ["classify", "--file", source, "--output", output, "--adapter", tiny_run.folder]
    code, _, err = cli(*arguments, "--base", "no-such-base")
    assert (code, output.read_text()) == (2, "precious")
    assert "--force" in err
    code, out, err = cli(*arguments, "--base", tiny_base("bert"), "--force")
    assert code == 0, err
    assert f"30 rows written to {output.resolve()}" in out
    assert "note: in.csv: read with semicolons between columns." in err
    assert tables.open_table(output).columns[:3] == ("claim", "label", "tiny.label")


def test_evaluate_gives_the_runs_own_figures(cli, tiny_run, tiny_base, tmp_path):
    data = tiny_run.folder.parent / "claims.jsonl"
    code, out, err = cli(
        "evaluate", tiny_run.folder, "--data", data, "--base", tiny_base("bert"), "--json",
        "--set", "eval.bootstrap=200",
    )  # fmt: skip
    assert code == 0, err
    found, stored = json.loads(out)["tiny"], tiny_run.record.adapter()
    assert found["confusion"] == stored.confusion
    assert found["f1_macro"] == pytest.approx(stored.f1_macro)


def test_evaluate_reads_labels_that_differ_in_case(evaluate, claims_file):
    rows = [{"claim": row["claim"], "label": row["label"].title()} for row in learnable(20)]
    code, results, err = evaluate(claims_file(rows))
    assert code == 0, err
    assert [label["support"] for label in results["tiny"]["per_label"].values()] == [10, 10]


@pytest.fixture
def evaluate(cli, tiny_run, tiny_base):
    """Evaluate the tiny run on data -> (exit code, results, stderr)."""

    def run(data, *more, adapters=(tiny_run.folder,)):
        flags = ["--data", data, "--base", tiny_base("bert"), "--json", "--set", "eval.bootstrap=200", *more]
        code, out, err = cli("evaluate", *adapters, *flags)
        return code, json.loads(out) if out else None, err

    return run


def test_evaluate_judges_every_row_of_a_file(evaluate, claims_file):
    code, found, err = evaluate(claims_file(learnable(50, seed=9)))
    assert code == 0, err
    assert found["tiny"]["n"] == 50
    assert "all of its 50 claims are evaluated" in err
    code, found, err = evaluate(claims_file(learnable(1, seed=9)))
    assert (code, found["tiny"]["n"]) == (0, 1), err


def test_evaluate_prints_how_many_claims_it_judged(cli, tiny_run, tiny_base, claims_file):
    data = claims_file(learnable(53, seed=9))
    code, out, err = cli("evaluate", tiny_run.folder, "--data", data, "--base", tiny_base("bert"))
    assert code == 0, err
    assert " 53" in out
    assert "claims.csv, all" in out


def test_evaluate_needs_only_the_wanted_split_of_a_folder(evaluate, claims_file, tmp_path):
    folder = claims_file(learnable(20, seed=9), "test.csv").parent
    code, found, err = evaluate(folder)
    assert (code, found["tiny"]["n"]) == (0, 20), err
    assert "note" not in err
    code, _, err = evaluate(folder, "--split", "validation")
    assert code == 2
    assert "has no validation file" in err
    claims_file(learnable(40, seed=8), "train.csv")
    (folder / "test.csv").unlink()
    code, _, err = evaluate(folder)
    assert code == 2
    assert "no test split; it has train" in err


@pytest.mark.slow
def test_evaluate_finds_the_test_claims_of_a_run_again(evaluate, tiny_base, claims_file, tmp_path):
    """Whatever the run's split seed and columns were, none of its training claims is judged."""
    from lorahub.training.run import train

    rows = [{"headline": row["claim"], "label": row["label"]} for row in learnable(120, seed=4)]
    data = claims_file(rows, "mine.csv")
    settings = ["train.min_steps=6", "train.epochs=1", "eval.bootstrap=200", "data.claim=headline"]
    settings += ["data.test_fraction=0.3"]
    runs = [
        train(
            data=str(data), base=str(tiny_base("bert")), out=tmp_path / f"s{seed}",
            settings=[*settings, f"data.split_seed={seed}"],
        )
        for seed in (1, 2)
    ]  # fmt: skip
    copy = data.rename(data.with_name("renamed.csv"))
    code, found, err = evaluate(copy, adapters=[runs[0].folder])
    assert code == 0, err
    assert found["s1"]["n"] == 36
    assert found["s1"]["confusion"] == runs[0].record.adapter().confusion
    assert "evaluated on the 36 test claims of its run" in err
    code, _, err = evaluate(copy, adapters=[run.folder for run in runs])
    assert code == 2
    assert "one by one" in err
    # The same name, but one row more: no split of the run can be found in it.
    data = claims_file([*rows, {"headline": "the flu may rise", "label": "hedged"}], "mine.csv")
    code, found, err = evaluate(data, "--set", "data.claim=headline", adapters=[runs[0].folder])
    assert (code, found["s1"]["n"]) == (0, 121), err
    assert "may be among them" in err


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


def test_no_summary_is_cut_in_a_terminal_of_80_columns(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = cli("--help")
    assert "..." not in out.split("Commands:")[1]
