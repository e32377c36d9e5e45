"""A run: complete, reproducible, honest about what happened, and readable by peft alone."""

import json
import random
import re
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import LONG, learnable
from processes import Command

from lorahub import records
from lorahub.hub import integrity
from lorahub.serving.engine.engine import Engine
from lorahub.stats.results import SYSTEMS
from lorahub.training.run import train

QUICK = ["train.min_steps=12", "train.epochs=1", "train.batch_size=16", "eval.bootstrap=200"]


@pytest.fixture
def data(claims_file):
    return str(claims_file(learnable(120), "claims.jsonl"))


def test_a_run_folder_is_whole(tiny_run):
    there = {path.relative_to(tiny_run.folder).as_posix() for path in tiny_run.folder.rglob("*") if path.is_file()}
    assert there >= {
        "adapter_config.json", "adapter_model.safetensors", "labels.json", "record.json", "probe.json",
        "calibration.json", "linear_probe.safetensors", "README.md", "tokenizer.json", "plots/confusion.png",
        "plots/reliability.png", "plots/curve.png", "plots/coverage.png",
    }  # fmt: skip
    assert {f"predictions/{split}.{system}.parquet" for split in ("validation", "test") for system in SYSTEMS} <= there
    assert "config.json" not in there
    assert not [path for path in tiny_run.folder.parent.iterdir() if path.name.startswith(".")]


def test_the_record_names_each_file_that_is_loaded(tiny_run):
    assert set(tiny_run.record.files) == {
        "adapter_config.json", "adapter_model.safetensors", "labels.json", "calibration.json", "probe.json",
        "linear_probe.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert integrity.altered(tiny_run.folder, records.load(tiny_run.folder)) == ()


def test_all_five_systems_are_judged_and_the_adapter_learns(tiny_run):
    test = tiny_run.record.results["test"]
    assert set(test) == set(SYSTEMS)
    for block in test.values():
        assert np.sum(block.confusion) == block.n
    assert test["adapter"].f1_macro > test["majority"].f1_macro + 0.3
    assert test["adapter"].paired["majority"]["f1_macro"].detectable


def test_the_record_survives_the_disk_and_names_no_path(tiny_run):
    assert records.load(tiny_run.folder).to_dict() == tiny_run.record.to_dict()
    for path in tiny_run.folder.rglob("*"):
        if path.suffix in (".json", ".md"):
            text = path.read_text(encoding="utf-8")
            assert str(tiny_run.folder.parent) not in text
            assert not re.search(r'"/(?:home|root|tmp|work|Users|var)/', text), path


def test_stored_predictions_give_the_stored_figures(tiny_run):
    from sklearn.metrics import f1_score

    table = pq.read_table(tiny_run.folder / "predictions" / "test.tfidf.parquet").to_pydict()
    predicted = np.array(table["logits"]).argmax(axis=1)
    stored = tiny_run.record.results["test"]["tfidf"]
    assert f1_score(table["gold"], predicted, average="macro") == pytest.approx(stored.f1_macro)
    assert "claim" not in table


def test_the_cards_own_snippet_runs_and_agrees_with_the_probe(tiny_run, tiny_base, capsys, monkeypatch):
    card = (tiny_run.folder / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", card, re.S).group(1)
    code = code.replace('"tiny-bert"', repr(str(tiny_base("bert"))))
    monkeypatch.chdir(tiny_run.folder)
    rows = json.loads((tiny_run.folder / "probe.json").read_text(encoding="utf-8"))
    example = re.search(r'tokenizer\(\["(.*?)"\]', code).group(1)
    scope: dict = {}
    exec(code.replace(example, rows[0]["claim"]), scope)
    assert torch.equal(scope["logits"][0], torch.tensor(rows[0]["logits"]))
    assert capsys.readouterr().out.strip() in ("['hedged']", "['plain']")


def test_the_engine_reproduces_the_probe(tiny_run, tiny_base):
    rows = json.loads((tiny_run.folder / "probe.json").read_text(encoding="utf-8"))
    engine = Engine(str(tiny_base("bert")), [tiny_run.folder])
    found = engine.logits([row["claim"] for row in rows])["tiny"]
    np.testing.assert_allclose(found, [row["logits"] for row in rows], atol=1e-5)
    base = engine.classify_base([rows[0]["claim"]])["tiny"][0]
    assert set(base.probabilities) == {"hedged", "plain"}


def test_every_number_of_the_card_is_in_the_record(tiny_run):
    card = (tiny_run.folder / "README.md").read_text(encoding="utf-8")
    assert "[More Information Needed]" not in card
    assert "$" not in card.split("```")[0]
    known = set()

    def collect(value):
        if isinstance(value, dict):
            [collect(item) for item in value.values()]
        elif isinstance(value, list):
            [collect(item) for item in value]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            known.add(f"{abs(value):.3f}")

    collect(tiny_run.record.to_dict())
    results = card.split("## Results")[1].split("## How it was trained")[0]
    for number in re.findall(r"\d\.\d{3}", results):
        assert number in known, number


@pytest.mark.slow
def test_same_seed_same_weights_and_same_figures(data, tiny_base, tmp_path):
    runs = [
        train(data=data, base=str(tiny_base("bert")), out=tmp_path / name, seed=3, settings=QUICK)
        for name in ("a", "b")
    ]
    first, second = (run.folder / "adapter_model.safetensors" for run in runs)
    assert first.read_bytes() == second.read_bytes()
    assert runs[0].record.results == runs[1].record.results
    other = train(data=data, base=str(tiny_base("bert")), out=tmp_path / "c", seed=4, settings=QUICK)
    assert (other.folder / "adapter_model.safetensors").read_bytes() != first.read_bytes()
    shas = {json.dumps(run.record.environment.data.sha256) for run in (*runs, other)}
    assert len(shas) == 1, "the training seed must not move the split"


@pytest.mark.slow
def test_a_finished_run_is_not_replaced_unasked(tiny_run, data, tiny_base, tmp_path):
    from lorahub.errors import AdapterError

    options = {"data": data, "base": str(tiny_base("bert")), "settings": QUICK}
    run = train(out=tmp_path / "r", **options)
    before = (run.folder / "record.json").read_bytes()
    with pytest.raises(AdapterError, match="--force"):
        train(out=tmp_path / "r", **options)
    assert (run.folder / "record.json").read_bytes() == before
    card = run.folder / "README.md"
    card.write_text(f"{card.read_text()}\nAsk me at the seminar.\n")
    (run.folder / "published.json").write_text("{}")
    train(out=tmp_path / "r", force=True, **options)
    assert card.read_text().endswith("Ask me at the seminar.\n"), "the author's text is kept"
    assert (run.folder / "published.json").exists()


@pytest.mark.slow
def test_ctrl_c_keeps_the_best_so_far(data, tiny_base, tmp_path):
    out = tmp_path / "stopped"
    settings = ["train.epochs=100000", "train.evaluate_every=5", "eval.bootstrap=200"]
    flags = [item for setting in settings for item in ("--set", setting)]
    process = Command("-v", "train", "--data", data, "--base", tiny_base("bert"), "--out", out, *flags, "--events")
    process.until(lambda: '"validation": {' in process.err)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 0, process.err
    record = records.load(out)
    assert record.progress.interrupted
    assert record.progress.best_step > 0
    assert "interrupted after" in process.out
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


@pytest.mark.slow
def test_a_run_killed_at_any_moment_is_absent_or_whole(data, tiny_base, tmp_path):
    """SIGKILL cannot be caught: whatever stands under the run's name afterwards is complete."""
    moments = random.Random(11)
    settings = ["train.epochs=20", "eval.bootstrap=200"]
    flags = [item for setting in settings for item in ("--set", setting)]
    for attempt in range(24 if LONG else 4):
        out = tmp_path / f"killed{attempt}"
        process = Command("train", "--data", data, "--base", tiny_base("bert"), "--out", out, *flags)
        if process.wait(moments.uniform(0, 9)) is None:
            process.kill()
            process.wait()
        if out.exists():
            assert records.load(out).adapter().n == 24
            assert (out / "adapter_model.safetensors").exists()
    # The folder is free for the next run whatever the killed one left beside it.
    again = train(data=data, base=str(tiny_base("bert")), out=tmp_path / "killed0", force=True, settings=QUICK)
    assert records.load(again.folder).name == "killed0"


@pytest.mark.slow
def test_a_diverging_run_says_so(data, tiny_base, tmp_path):
    from lorahub.errors import TrainingError

    with pytest.raises(TrainingError, match="learning_rate"):
        train(
            data=data,
            base=str(tiny_base("bert")),
            out=tmp_path / "nan",
            settings=["train.learning_rate=1e30", "train.warmup=0", "train.evaluate_every=1000"],
        )
    assert not (tmp_path / "nan").exists()


@pytest.mark.slow
def test_a_collapsed_run_carries_its_warning(claims_file, tiny_base, tmp_path):
    rows = [{**row, "label": "rare" if index % 12 == 0 else "common"} for index, row in enumerate(learnable(120))]
    settings = ["train.learning_rate=1e-7", "train.class_weights=none", "train.epochs=1", "train.min_steps=4"]
    run = train(data=str(claims_file(rows)), base=str(tiny_base("bert")), out=tmp_path / "flat", settings=settings)
    assert any("every validation claim" in text for text in run.record.progress.warnings)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["roberta", "distilbert", "deberta-v2", "modernbert", "llama", "qwen3"])
def test_every_architecture_trains_saves_and_is_served(model_type, data, tiny_base, tmp_path):
    run = train(data=data, base=str(tiny_base(model_type)), out=tmp_path / model_type, settings=QUICK)
    engine = Engine(str(tiny_base(model_type)), [run.folder])
    rows = json.loads((Path(run.folder) / "probe.json").read_text(encoding="utf-8"))
    found = engine.logits([row["claim"] for row in rows])[model_type]
    np.testing.assert_allclose(found, [row["logits"] for row in rows], atol=1e-4)
