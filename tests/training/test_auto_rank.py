"""`adapter.rank=auto`: what is kept is what was measured, and its files and record say so."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import learnable

from lorahub import config
from lorahub.config import AUTO_RANK
from lorahub.errors import ConfigError
from lorahub.experiments.ranks import run as experiment
from lorahub.hub import integrity
from lorahub.stats import metrics
from lorahub.stats.calibration import halves
from lorahub.stats.predictions import Predictions
from lorahub.stats.verdicts import Calibration, decide
from lorahub.training.run import train

pytestmark = pytest.mark.slow

QUICK = [
    "train.min_steps=40", "train.epochs=1", "train.batch_size=8", "eval.bootstrap=200", "eval.batch_size=256",
    "data.validation_fraction=0.3", "eval.margin=0.2",
]  # fmt: skip


@pytest.fixture(scope="module")
def arguments(tiny_base, tmp_path_factory):
    data = tmp_path_factory.mktemp("auto") / "claims.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in learnable(300)), encoding="utf-8")
    return {"data": str(data), "base": str(tiny_base("bert"))}


@pytest.fixture(scope="module")
def chosen(arguments, tmp_path_factory):
    """A run whose rank was chosen on validation, and the same training at the full rank."""
    root = tmp_path_factory.mktemp("runs")
    return tuple(
        train(**arguments, out=root / name, settings=[*QUICK, f"adapter.rank={rank}"])
        for name, rank in (("auto", "auto"), ("whole", AUTO_RANK))
    )


def test_the_files_have_the_rank_that_the_record_names(chosen):
    run, whole = chosen
    choice = run.record.progress.rank
    saved = json.loads((run.folder / "adapter_config.json").read_text())
    assert run.record.config.adapter.rank == "auto"
    assert (choice.trained, choice.kept) == (AUTO_RANK, saved["r"])
    assert saved["r"] < AUTO_RANK
    assert integrity.altered(run.folder, run.record) == (), "the hashes are of the truncated files"
    assert saved["lora_alpha"] == pytest.approx(16 / AUTO_RANK * saved["r"]), "the scale is that of the trained rank"
    assert choice.low <= choice.kept <= choice.high
    others = f"{choice.low} to {choice.high}" if choice.low < choice.high else "no other"
    assert choice.why.startswith(f"rank {choice.kept} ({others} in 95 % of resamples): the lowest that validation ")
    card = (run.folder / "README.md").read_text()
    assert f"rank {AUTO_RANK} trained, kept rank {choice.kept}" in card
    assert whole.record.progress.rank is None
    assert "trained, kept" not in (whole.folder / "README.md").read_text()
    page = (Path(__file__).parents[2] / "docs" / "record.md").read_text(encoding="utf-8")
    row = re.search(r"^\| `happened.rank` .*$", page, re.M)[0]
    assert all(f"`{name}`" in row for name in choice.to_dict())


def test_it_is_the_same_training_cut(chosen, arguments, tmp_path):
    """The figures are those that `lorahub ranks` finds at that rank, and the difference is that of the two runs."""
    run, whole = chosen
    assert run.record.progress.curve == whole.record.progress.curve
    choice = run.record.progress.rank
    _, curves = experiment.ranks(whole.folder, out=tmp_path / "out", **arguments)
    assert curves.truncated.plateau.rank == choice.kept
    assert curves.truncated.plateau.gap.interval == choice.interval
    point = next(point for point in curves.truncated.points if point.rank == choice.kept)
    for split in ("validation", "test"):
        own = run.record.results[split]["adapter"]
        assert own.f1_macro == pytest.approx(point.figures[split]["f1_macro"])
    figures = []
    for found in (run, whole):
        stored = Predictions.load(found.folder, "validation", "adapter", labels=2)
        answers, rows = decide(stored.logits, Calibration.load(found.folder, 2)), halves(stored.gold).select
        figures.append(metrics.quick(stored.gold[rows], answers[rows])["f1_macro"])
    assert choice.difference == pytest.approx(figures[0] - figures[1])


def test_predictions_and_bias_are_those_of_what_was_kept(chosen):
    run, _ = chosen
    found = Predictions.load(run.folder, "test", "adapter", labels=2)
    answers = decide(found.logits, Calibration.load(run.folder, 2))
    assert metrics.quick(found.gold, answers)["f1_macro"] == run.record.adapter().f1_macro
    assert np.isfinite(found.logits).all()


def test_retraining_what_was_cut_is_refused(chosen, arguments, cli, tmp_path):
    run, _ = chosen
    if run.record.progress.rank.kept == 1:
        words = "auto has rank 1, the lowest there is"
    else:
        words = "was not trained at it (adapter.rank=auto, adapter.init=default)"
    code, _, err = cli(
        "ranks",
        run.folder,
        "--retrain",
        "--data",
        arguments["data"],
        "--base",
        arguments["base"],
        "--out",
        tmp_path / "out",
    )
    assert code == 2
    assert words in err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["adapter.method=full", "adapter.rank=auto"], "adapter.rank=auto: full has no rank to choose. Leave it out"),
        (["adapter.method=prompt", "adapter.rank=auto"], "adapter.rank=auto: prompt has no rank to choose"),
        (["adapter.init=olora", "adapter.rank=auto"], "cannot truncate an adapter with adapter.init=olora"),
        (["adapter.rank=automatic"], "adapter.rank takes a whole number or auto; found 'automatic'"),
        (["adapter.rank=null"], "adapter.rank takes a whole number or auto; found None"),
        (["adapter.rank=0"], "adapter.rank must be at least 1; found 0"),
        (["adapter.rank=[auto]"], "adapter.rank takes a whole number or auto; found ['auto']"),
    ],
)
def test_bad_ranks_are_one_line_before_anything_is_read(cli, settings, words):
    code, out, err = cli("train", "--data", "nowhere", *(part for item in settings for part in ("--set", item)))
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1


def test_auto_is_a_value_of_its_own():
    found = config.load(None, ["adapter.rank=auto"])
    assert (found.adapter.rank, found.adapter.trained_rank) == ("auto", AUTO_RANK)
    assert config.from_dict(config.to_dict(found)) == found
    assert config.load(None, ["adapter.rank=4"]).adapter.trained_rank == 4
    with pytest.raises(ConfigError):
        config.load(None, ["train.seed=auto"])
