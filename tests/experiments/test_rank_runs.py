"""`lorahub ranks`: one run truncated and retrained, summaries that are read again, a documented report."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import learnable
from field_tables import documented, leaves, matches
from safetensors.torch import load_file, save_file

from lorahub import config
from lorahub.experiments.ranks import run as experiment
from lorahub.stats.predictions import path_of
from lorahub.training.run import train

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "ranks.md").read_text(encoding="utf-8")
QUICK = ("train.min_steps=60", "train.epochs=1", "train.batch_size=8", "eval.bootstrap=200", "eval.batch_size=256")


@pytest.fixture(scope="module")
def high(tiny_base, tmp_path_factory):
    """A run of rank 8 on a tiny base, and where its data and base are."""
    root = tmp_path_factory.mktemp("ranks")
    data = root / "claims.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in learnable(400)), encoding="utf-8")
    given = {"data": str(data), "base": str(tiny_base("bert"))}
    settings = [*QUICK, "adapter.rank=8", "data.validation_fraction=0.3"]
    return train(**given, out=root / "high", settings=settings), given


@pytest.fixture(scope="module")
def retrained(high, tmp_path_factory):
    """Both curves of that run with two ranks retrained, and their folder."""
    run, given = high
    return experiment.ranks(run.folder, retrain=True, only=[1, 4], out=tmp_path_factory.mktemp("out"), **given)


def flags(given, out):
    return ["--data", given["data"], "--base", given["base"], "--out", out]


def test_at_its_own_rank_the_curve_is_the_run(high, tmp_path):
    run, given = high
    folder, found = experiment.ranks(run.folder, out=tmp_path / "out", **given)
    assert folder == tmp_path / "out"
    points = found.truncated.points
    assert [point.rank for point in points] == [1, 2, 4, 8]
    # alpha 16 at rank 8: the scale is 2 at every rank.
    assert [(point.alpha, point.scale) for point in points] == [(2, 2), (4, 2), (8, 2), (16, 2)]
    for split in ("validation", "test"):
        own = run.record.results[split]["adapter"]
        assert points[-1].figures[split] == {name: own.metric(name) for name in ("accuracy", "f1_weighted", "f1_macro")}
        assert points[-1].gaps[split].difference == 0
    shares = [point.kept for point in points]
    assert shares == sorted(shares)
    assert shares[0] < 0.9999
    assert shares[-1] == 1
    assert found.retrained is None
    assert found.checks == []
    named = found.truncated.plateau
    assert named.low <= named.rank <= named.high <= 8
    assert named.rank == 8 or named.gap.interval[0] > -named.margin


def test_retraining_changes_the_rank_alone(high, retrained):
    run, _ = high
    folder, found = retrained
    assert [point.rank for point in found.retrained.points] == [1, 4, 8]
    assert [(point.alpha, point.scale) for point in found.retrained.points] == [(16, 16), (16, 4), (16, 2)]
    assert [check.rank for check in found.checks] == [1, 4]
    for rank in (1, 4):
        record = json.loads((folder / f"rank-{rank}" / "record.json").read_text())
        asked, own = record["asked"], config.to_dict(run.record.config)
        assert asked["adapter"] == {**own["adapter"], "rank": rank}
        assert {name: asked[name] for name in ("data", "train", "eval", "base")} == {
            name: own[name] for name in ("data", "train", "eval", "base")
        }
        saved = json.loads((folder / f"rank-{rank}" / "adapter_config.json").read_text())
        assert (saved["r"], saved["lora_alpha"]) == (rank, 16)
        point = next(point for point in found.retrained.points if point.rank == rank)
        assert point.figures["test"]["f1_macro"] == record["results"]["test"]["adapter"]["f1_macro"]
        assert point.figures["validation"]["f1_macro"] == record["results"]["validation"]["adapter"]["f1_macro"]


def test_json_report_and_nothing_is_run_twice(high, retrained, cli):
    run, given = high
    folder, curves = retrained
    before = {path: path.stat().st_mtime_ns for path in folder.glob("rank-*.json")}
    assert set(before) == {folder / "rank-1.json", folder / "rank-4.json"}
    code, out, err = cli("ranks", run.folder, "--retrain", "--ranks", "4,1", *flags(given, folder), "--json")
    assert code == 0, err
    assert "training rank" not in err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    found = json.loads(out)
    assert found == json.loads(json.dumps(curves.to_dict())) == json.loads((folder / "ranks.json").read_text())
    paths = [path for path, _ in leaves(found)]
    fields = documented(PAGE)
    for path in paths:
        assert any(matches(field, path) for field in fields), f"docs/ranks.md lacks {'.'.join(path)}"
    for field in fields:
        assert field == ("CURVE",) or any(matches(field, path) for path in paths), f"no {'.'.join(field)} in the JSON"
    assert (folder / "ranks.png").read_bytes().startswith(b"\x89PNG")
    text = (folder / "ranks.md").read_text()
    for words in ("By truncation, the plateau begins at rank", "By training at each rank", "in 95 % of resamples"):
        assert words in text
    assert "At rank 4, truncated minus trained: macro F1 on validation" in text
    code, out, _ = cli("ranks", run.folder, *flags(given, folder))
    assert code == 0
    assert "claims.jsonl" in out
    assert "trained at it" not in out
    assert json.loads((folder / "ranks.json").read_text())["retrained"] is None


def test_a_summary_of_another_recipe_is_refused(high, retrained, cli, tmp_path):
    run, given = high
    folder, _ = retrained
    shutil.copytree(folder, tmp_path / "out")
    cell = json.loads((tmp_path / "out" / "rank-4.json").read_text())
    cell["asked"]["train"]["learning_rate"] = 0.5
    (tmp_path / "out" / "rank-4.json").write_text(json.dumps(cell))
    code, _, err = cli("ranks", run.folder, "--retrain", "--ranks", "4", *flags(given, tmp_path / "out"))
    assert code == 2
    assert "rank-4.json was run with train.learning_rate=0.5, which is 0.001 now" in err
    (tmp_path / "out" / "rank-1.json").write_text("{}")
    code, _, err = cli("ranks", run.folder, "--retrain", "--ranks", "1", *flags(given, tmp_path / "out"))
    assert code == 2
    assert "rank-1.json lacks method" in err


@pytest.fixture
def damaged(high, tmp_path):
    """A copy of the run to damage."""
    run, given = high
    shutil.copytree(run.folder, tmp_path / "copy")
    return tmp_path / "copy", given


def one_line(cli, *arguments):
    code, out, err = cli("ranks", *arguments)
    text = [line for line in err.splitlines() if line.startswith("lorahub: ")]
    assert (code, out, len(text)) == (2, "", 1), err
    return text[0]


def test_a_run_without_a_rank_is_refused(cli, damaged):
    folder, _ = damaged
    record = json.loads((folder / "record.json").read_text())
    record["asked"]["adapter"]["method"] = "ia3"
    (folder / "record.json").write_text(json.dumps(record))
    assert "copy was trained with ia3, which has no rank. Name a run of lora, qlora, dora, rslora." in one_line(
        cli, folder
    )


def test_a_run_that_has_no_lower_rank_is_refused(cli, damaged):
    folder, _ = damaged
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "r": 1}))
    tensors = load_file(folder / "adapter_model.safetensors")
    for name, tensor in tensors.items():
        if ".lora_" in name:
            tensors[name] = tensor[:1] if "lora_A" in name else tensor[:, :1].contiguous()
    save_file(tensors, folder / "adapter_model.safetensors")
    assert "copy has rank 1, the lowest there is" in one_line(cli, folder)


def test_a_run_whose_files_are_damaged_is_refused(cli, damaged):
    folder, _ = damaged
    (folder / "adapter_config.json").unlink()
    assert "copy is not loaded: " in one_line(cli, folder)


def test_an_unfinished_run_is_refused(cli, damaged):
    folder, _ = damaged
    (folder / "record.json").unlink()
    assert "has no record.json: the run did not finish" in one_line(cli, folder)


def test_a_run_without_predictions_on_validation_is_refused(cli, damaged):
    folder, given = damaged
    path_of(folder, "validation", "adapter").unlink()
    text = one_line(cli, folder, *flags(given, folder.parent / "out"))
    assert "copy has no predictions on validation, so no rank can be selected" in text
    assert not (folder.parent / "out").exists()


def test_other_data_and_another_base_are_refused(cli, damaged, tmp_path):
    folder, given = damaged
    other = tmp_path / "claims.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in learnable(400, seed=1)), encoding="utf-8")
    text = one_line(cli, folder, *flags({**given, "data": other}, tmp_path / "out"))
    assert "copy was trained on other claims than those of claims.jsonl. Give --data." in text
    assert "claims.jsonl was a file of the machine that trained. Give --data." in one_line(cli, folder)
    base = shutil.copytree(given["base"], tmp_path / "tiny-bert")
    weights = load_file(base / "model.safetensors")
    save_file({name: -tensor for name, tensor in weights.items()}, base / "model.safetensors", {"format": "pt"})
    text = one_line(cli, folder, *flags({**given, "base": base}, tmp_path / "out"))
    assert "of its validation claims differently than in training. Give the base" in text
    assert not (tmp_path / "out").exists()


def test_retraining_a_run_that_was_not_trained_at_its_rank_is_refused(cli, damaged):
    folder, given = damaged
    record = json.loads((folder / "record.json").read_text())
    record["asked"]["adapter"] |= {"rank": 4, "init": "pissa"}
    (folder / "record.json").write_text(json.dumps(record))
    text = one_line(cli, folder, "--retrain", *flags(given, folder.parent / "out"))
    assert "copy is saved with rank 8 but was trained with adapter.rank=4, adapter.init=pissa" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ranks", "1"], "--ranks chooses the ranks to retrain: add --retrain"),
        (["--discard"], "--discard is for retrained runs: add --retrain"),
        (["--retrain", "--ranks", "one"], "--ranks takes whole numbers, as in 1,2,4; found 'one'"),
        (["--retrain", "--ranks", "0"], "--ranks takes ranks from 1 to 7, below that of high; found 0"),
        (["--retrain", "--ranks", "8"], "--ranks takes ranks from 1 to 7, below that of high; found 8"),
    ],
)
def test_bad_flags_are_one_line(cli, high, tmp_path, arguments, words):
    run, given = high
    assert words in one_line(cli, run.folder, *arguments, *flags(given, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_no_run_and_a_file_in_the_place_of_the_folder(cli, high, tmp_path):
    run, given = high
    assert "there is no adapter folder 'nowhere'" in one_line(cli, "nowhere")
    (tmp_path / "file").write_text("")
    assert "is a file; runs and report need a folder" in one_line(cli, run.folder, *flags(given, tmp_path / "file"))
