"""Half precision: a base in bfloat16 keeps its trained modules in float32, in training, in the files and on reload."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import learnable

from lorahub.config import BaseConfig
from lorahub.labels import LabelSet
from lorahub.models import adapters, base
from lorahub.scoring import intervals
from lorahub.serving import engine

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_a_bfloat16_base_trains_and_the_saved_adapter_answers_alike(model_type, precision, tiny_base, tmp_path):
    """In a process of its own, since accelerate allows one precision a process."""
    data, out = tmp_path / "claims.jsonl", tmp_path / "run"
    data.write_text("".join(json.dumps(row) + "\n" for row in learnable(200)), encoding="utf-8")
    settings = ("base.dtype=bfloat16", f"train.mixed_precision={precision}", "train.min_steps=60", "train.epochs=1",
                "train.batch_size=16", "eval.bootstrap=100")  # fmt: skip
    flags = [word for setting in settings for word in ("--set", setting)]
    command = ["train", "--data", data, "--base", tiny_base(model_type), "--out", out, *flags]
    done = subprocess.run(
        [sys.executable, "-m", "lorahub", *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((out / "record.json").read_text())
    assert record["results"]["test"]["adapter"]["accuracy"] > record["results"]["test"]["majority"]["accuracy"] + 0.1
    labels = LabelSet.load(out)
    config = BaseConfig(id=str(tiny_base(model_type)), dtype="bfloat16")
    loaded = adapters.load_with_peft(out, base.load(config, labels))
    heads = [value for name, value in loaded.named_parameters() if "modules_to_save.default" in name]
    assert heads
    assert {value.dtype for value in heads} == {torch.float32}
    rows = json.loads((out / "probe.json").read_text())
    served = engine.Engine(config.id, [out], config=config)
    found = served.logits([row["claim"] for row in rows])["run"]
    assert np.abs(found - np.array([row["logits"] for row in rows])).max() < 0.05


def test_intervals_of_many_labels_take_little_memory():
    """As many labels as banking77 has; a matrix of answers a claim would take 15 GB."""
    import tracemalloc

    rng = np.random.default_rng(0)
    gold, ours, theirs = rng.integers(0, 77, (3, 3000))
    tracemalloc.start()
    found = intervals.paired_difference(gold, ours, theirs, 77, resamples=2000, confidence=0.95)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not found["f1_macro"]["detectable"]
    assert peak < 400e6, peak
