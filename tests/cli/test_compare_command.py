"""`lorahub compare` on the command line: what it prints, its exit codes, and JSON that its page documents."""

import json
import re
import shutil
from pathlib import Path

import pytest
from field_tables import documented, leaves, matches

from lorahub.data import tables

PAGE = (Path(__file__).parents[2] / "docs" / "compare.md").read_text(encoding="utf-8")


def test_a_run_alone_is_shown_beside_its_baselines(cli, tiny_run):
    code, out, err = cli("compare", tiny_run.folder)
    assert code == 0, err
    for words in (
        "majority label",
        "McNemar",
        "by label",
        "tiny is better than majority label",
        "p (Holm)",
        "disagree",
    ):
        assert words in out
    assert "row " in out, "a claim is told by its row where its text is not at hand"


def test_a_requirement_that_is_not_met_is_exit_code_one(cli, tiny_run, tmp_path):
    code, out, _ = cli("compare", tiny_run.folder, "--require-better", "majority")
    assert code == 0
    assert "by macro F1. Met." in out
    twin = shutil.copytree(tiny_run.folder, tmp_path / "twin")
    code, out, _ = cli("compare", tiny_run.folder, "--require-better", twin)
    assert code == 1
    assert "No detectable difference between tiny and twin" in out
    assert "Not shown for tiny." in out
    code, out, _ = cli("compare", twin, "--require-better", tiny_run.folder, "--json")
    assert code == 1
    assert json.loads(out)["required"] == {
        "verdict": "better",
        "baseline": str(tiny_run.folder),
        "metric": "f1_macro",
        "met": False,
        "failed": ["twin"],
    }


def test_a_margin_answers_equivalent_or_undecided_and_sets_the_exit_code(cli, tiny_run, tmp_path):
    """The test split has 36 claims or so: enough for a margin of 0.3 and not for 0.02, even with the same answers."""
    twin = shutil.copytree(tiny_run.folder, tmp_path / "twin")
    code, out, _ = cli("compare", tiny_run.folder, twin, "--margin", 0.3, "--require-equivalent")
    assert code == 0
    assert "tiny and twin are equivalent: macro F1 +0.000, interval [-0." in out
    assert "Required: macro F1 equivalent within 0.3. Met." in out
    code, out, _ = cli("compare", tiny_run.folder, twin, "--margin", 0.02, "--require-equivalent")
    assert code == 1
    assert "Undecided between tiny and twin: macro F1 +0.000, interval [-0." in out
    assert re.search(r"that would take about [\d,]+ claims", out)
    assert "Not shown for " in out
    code, out, _ = cli("compare", tiny_run.folder, "--margin", 0.02, "--json")
    found = json.loads(out)
    assert code == 0
    assert {pair["verdict"] for pair in found["pairs"]} <= {"better", "worse", "equivalent", "undecided"}
    assert found["pairs"][0]["verdict"] == "better"


def test_a_margin_lists_the_flips(cli, tiny_run):
    """Against the majority label: claims that it has right and the adapter wrong, and the other way round."""
    code, out, err = cli("compare", tiny_run.folder, "--margin", 0.02, "--json")
    assert code == 0, err
    found = json.loads(out)
    claims = {item["row"]: item for item in found["disagreements"]}
    for pair in found["pairs"]:
        assert len(pair["right_to_wrong"]) == pair["mcnemar"]["only_theirs"]
        assert len(pair["wrong_to_right"]) == pair["mcnemar"]["only_ours"]
        for name, rows in ((pair["theirs"], pair["right_to_wrong"]), (pair["ours"], pair["wrong_to_right"])):
            assert all(claims[row]["answers"][name] == claims[row]["gold"] for row in rows)
    assert any(pair["wrong_to_right"] for pair in found["pairs"])
    code, out, _ = cli("compare", tiny_run.folder, "--margin", 0.02)
    assert "Label flips" in out
    assert "tiny vs majority label, right to wrong: " in out
    code, out, _ = cli("compare", tiny_run.folder)
    assert "Label flips" not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--margin", 0], "eval.margin must be above 0"),
        (["--margin", 0.02, "--metric", "ece"], "--metric ece has no test of equivalence"),
        (["--require-equivalent"], "--require-equivalent needs --margin"),
        (["--require-equivalent", "--margin", 0.02], "compares two or more adapters; name a second one"),
        (["--require-equivalent", "--margin", 0.02, "--require-better", "tfidf"], "exclude each other"),
    ],
)
def test_a_bad_margin_is_one_line(cli, tiny_run, arguments, words):
    code, out, err = cli("compare", tiny_run.folder, *arguments)
    assert (code, out) == (2, "")
    assert words in err


def test_a_worse_one_is_called_worse_and_fails(cli, tiny_run):
    code, out, _ = cli("compare", f"{tiny_run.folder}:majority", "--require-better", tiny_run.folder)
    assert code == 1
    assert "majority label is worse than tiny" in out


def test_json_is_only_json_and_every_field_is_documented(cli, tiny_run):
    data = tiny_run.folder.parent / "claims.jsonl"
    code, out, err = cli(
        "compare", tiny_run.folder, "--data", data, "--require-better", "majority", "--margin", 0.02, "--json"
    )
    assert code == 0, err
    found = json.loads(out)
    assert all(row["claim"] for row in found["disagreements"]), "the texts are those of --data"
    paths = [path for path, _ in leaves(found)]
    for path in paths:
        assert any(matches(field, path) for field in documented(PAGE)), f"docs/compare.md lacks {'.'.join(path)}"
    listed = {("required", "failed"), ("notes",), ("labels",)}
    for field in documented(PAGE):
        assert field in listed or any(matches(field, path) for path in paths), f"no {'.'.join(field)} in the JSON"


def test_markdown_and_the_report_folder(cli, tiny_run, tmp_path):
    code, out, err = cli("compare", tiny_run.folder, "--markdown", "--output", tmp_path / "report")
    assert code == 0, err
    assert out.startswith("# tiny against its baselines\n")
    assert "written to" in err
    assert {path.name for path in (tmp_path / "report").iterdir()} == set(
        re.findall(r"`(comparison\.\w+|disagreements\.csv)`", PAGE)
    )


@pytest.mark.parametrize("ending", sorted({*tables.SUFFIXES} - {*tables.WRITTEN}))
def test_a_format_that_is_only_read_is_no_folder(cli, tiny_run, tmp_path, ending):
    code, _, err = cli("compare", tiny_run.folder, "--output", tmp_path / f"all{ending}")
    assert code == 2
    assert f"has the ending '{ending}'; lorahub writes .csv, .tsv, .jsonl, .parquet" in err
    assert not (tmp_path / f"all{ending}").exists()


@pytest.mark.parametrize("ending", tables.WRITTEN)
def test_all_disagreements_go_into_one_file(cli, tiny_run, tmp_path, ending):
    path = tmp_path / f"all{ending}"
    code, out, err = cli("compare", tiny_run.folder, f"{tiny_run.folder}:majority", "--output", path, "--show", 0)
    assert code == 0, err
    rows = list(tables.open_table(path).rows())
    code, out, _ = cli("compare", tiny_run.folder, f"{tiny_run.folder}:majority", "--json")
    found = json.loads(out)["disagreements"]
    assert [int(row["row"]) for row in rows] == [row["row"] for row in found]
    assert [row["tiny.label"] for row in rows] == [row["answers"]["tiny"] for row in found]
    assert len(rows) > 5


def test_systems_that_agree_leave_a_file_with_a_header(cli, tiny_run, tmp_path):
    twin = shutil.copytree(tiny_run.folder, tmp_path / "twin")
    for ending in (".csv", ".parquet"):
        code, _, err = cli("compare", tiny_run.folder, twin, "--output", tmp_path / f"none{ending}")
        assert code == 0, err
        assert tables.open_table(tmp_path / f"none{ending}").columns[-2:] == ("tiny.label", "twin.label")
