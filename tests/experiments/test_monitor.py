"""`lorahub evaluate --since`: a run judged again, its history, and what is said when the score falls."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import learnable
from field_tables import documented, leaves, matches

from lorahub.experiments.monitor import history
from lorahub.publish import export

pytestmark = pytest.mark.slow

DOCUMENT = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text(encoding="utf-8")


@pytest.fixture
def run(tiny_run, tmp_path):
    """A copy of the tiny run, whose history is this test's own."""
    return shutil.copytree(tiny_run.folder, tmp_path / "mine")


@pytest.fixture
def since(cli, run, tiny_base):
    """Evaluate the run again on data -> (exit code, JSON or what was printed, stderr)."""

    def evaluate(data, *more, as_json=True):
        flags = ["--since", run, "--data", data, "--base", tiny_base("bert"), *more]
        code, out, err = cli("evaluate", *flags, *(["--json"] if as_json else []))
        return code, json.loads(out) if as_json and out else out, err

    return evaluate


def turned(rows, share):
    """The same rows, the first `share` of them with the other label."""
    other = {"hedged": "plain", "plain": "hedged"}
    return [
        {**row, "label": other[row["label"]]} if place < share * len(rows) else row for place, row in enumerate(rows)
    ]


def test_a_score_that_fell_is_told_kept_and_shown(since, run, claims_file):
    code, good, err = since(claims_file(learnable(120, seed=9), "march.jsonl"))
    assert (code, good["verdict"]) == (0, "none"), err
    assert good["notes"] == ["march.jsonl has no splits: all of its 120 claims are evaluated."]
    code, bad, err = since(claims_file(turned(learnable(120, seed=11), 0.5), "june.jsonl"))
    assert (code, bad["verdict"], bad["row"]["verdict"]) == (1, "fell", "fell"), err
    assert (bad["row"]["data"]["id"], bad["row"]["data"]["split"], bad["row"]["figures"]["n"]) == (
        "june.jsonl", "all", 120,
    )  # fmt: skip
    assert not bad["since_test"]["paired"]
    assert bad["since_test"]["metrics"]["f1_macro"]["interval"][1] < 0
    assert [(row["data"], row["verdict"]) for row in bad["since"]] == [("march.jsonl", "fell")]
    assert [row.data.id for row in history.load(run)] == ["march.jsonl", "june.jsonl"]
    picture = (run / "plots" / "history.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    for found in (good, bad):
        for path, value in leaves(found):
            assert any(matches(field, path) for field in documented(DOCUMENT)) or value == [], path
    paths = [path for path, _ in leaves(bad)]
    for field in documented(DOCUMENT):
        assert any(matches(field, path) for path in paths), f"docs/monitoring.md names {'.'.join(field)}"


def test_the_runs_own_test_claims_are_compared_claim_by_claim(since, tiny_run, run):
    data = tiny_run.folder.parent / "claims.jsonl"
    code, found, err = since(data)
    assert code == 0, err
    assert "evaluated on the 48 test claims of its run" in found["notes"][0]
    assert found["since_test"]["paired"]
    assert found["since_test"]["metrics"]["f1_macro"]["difference"] == 0
    assert found["row"]["figures"]["f1_macro"] == tiny_run.record.adapter().f1_macro
    code, out, err = since(data, as_json=False)
    assert code == 0, err
    assert "No detectable change since its own test result (the same 48 claims of claims.jsonl)" in out
    assert "No detectable change since the earlier evaluation." in out
    shutil.rmtree(run / "predictions")
    _, found, _ = since(data)
    assert [found["since_test"]["paired"], *(row["paired"] for row in found["since"])] == [False, True, True]


def test_data_is_read_as_the_run_read_its_own_and_labels_that_are_gone_are_told(since, claims_file):
    rows = [{"claim": row["claim"], "verdict": "p"} for row in learnable(40, seed=3) if row["label"] == "plain"]
    data = claims_file(rows, "plain.csv")
    code, found, err = since(data)
    assert (code, found) == (2, "")
    assert "data.label_map" in err
    code, found, err = since(data, "--set", "data.label_map={p: plain}")
    assert found["row"]["figures"]["per_label"]["hedged"]["support"] == 0, err
    assert "No claim has the label hedged now; test had some." in found["notes"]


def test_a_history_is_never_published(since, run, claims_file, hub, hub_base):
    since(claims_file(learnable(20, seed=9)))
    assert (run / "plots" / "history.png").exists()
    published = export.collect(run, base_id=hub_base).files
    assert "plots/curve.png" in published
    assert not [path for path in published if "history" in path]


def test_wrong_input_is_one_line_and_leaves_no_row(since, cli, run, claims_file, tmp_path):
    data = claims_file(learnable(20, seed=9))
    for arguments, words in (
        ([run, "--since", run], ["--since"]),
        ([], ["--since"]),
        (["--since", tmp_path / "none"], ["none"]),
    ):
        code, out, err = cli("evaluate", *arguments, "--data", data)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert all(word in err for word in words)
    bare = shutil.copytree(run, tmp_path / "bare")
    (bare / "record.json").unlink()
    code, _, err = cli("evaluate", "--since", bare, "--data", data)
    assert code == 2
    assert "record.json" in err
    code, _, err = since(data, "--split", "dev")
    assert (code, err.count("\n")) == (2, 1)
    assert not (run / "history").exists()
    (run / "history").mkdir()
    (run / "history" / "x.json").write_text("{}")
    code, _, err = since(data)
    assert code == 2
    assert "x.json lacks created" in err
