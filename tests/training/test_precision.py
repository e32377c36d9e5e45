"""Half precision: trained modules stay in float32, in the files and on reload, and the figures are the files'."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import learnable
from processes import Command

from lorahub import config as configs
from lorahub.config import BaseConfig
from lorahub.labels import LabelSet
from lorahub.models import adapters, precision
from lorahub.models import base as bases
from lorahub.serving.engine.engine import Engine
from lorahub.training import mixed_precision

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def train(base, folder, *settings):
    """Train in a process of its own, since accelerate allows one precision a process, and return the run's folder."""
    data, out = folder / "claims.jsonl", folder / "run"
    data.write_text("".join(json.dumps(row) + "\n" for row in learnable(200)), encoding="utf-8")
    short = ("train.min_steps=60", "train.epochs=1", "train.batch_size=16", "eval.bootstrap=100")
    flags = [word for setting in (*short, *settings) for word in ("--set", setting)]
    done = Command("train", "--data", data, "--base", base, "--out", out, *flags)
    assert done.wait() == 0, done.err
    return out


def probe(folder):
    rows = json.loads((folder / "probe.json").read_text())
    return [row["claim"] for row in rows], np.array([row["logits"] for row in rows])


@pytest.mark.parametrize(
    ("model_type", "precision"),
    [
        ("bert", "no"),
        ("llama", "bf16"),
        pytest.param("bert", "bf16", marks=pytest.mark.long),
        pytest.param("llama", "no", marks=pytest.mark.long),
    ],
)
def test_a_bfloat16_base_trains_and_the_saved_adapter_answers_alike(model_type, precision, tiny_base, tmp_path):
    out = train(tiny_base(model_type), tmp_path, "base.dtype=bfloat16", f"train.mixed_precision={precision}")
    test = json.loads((out / "record.json").read_text())["results"]["test"]
    assert test["adapter"]["accuracy"] > test["majority"]["accuracy"] + 0.1
    config = BaseConfig(id=str(tiny_base(model_type)), dtype="bfloat16")
    loaded = adapters.load_with_peft(out, bases.load(config, LabelSet.load(out)))
    heads = [value for name, value in loaded.named_parameters() if "modules_to_save.default" in name]
    assert heads
    assert {value.dtype for value in heads} == {torch.float32}
    texts, logits = probe(out)
    assert np.abs(Engine(config.id, [out], config=config).logits(texts)["run"] - logits).max() < 0.05


def test_the_figures_are_those_of_the_saved_adapter_and_not_of_the_precision_of_training(tiny_base, tmp_path):
    out = train(tiny_base("bert"), tmp_path, "train.mixed_precision=bf16")
    texts, logits = probe(out)
    stored = pq.read_table(out / "predictions" / "validation.adapter.parquet")["logits"].to_pylist()
    assert np.abs(np.array(stored[: len(texts)]) - logits).max() < 1e-4


AMX = {"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": True}


@pytest.mark.parametrize(
    ("capabilities", "limit", "found"),
    [
        (AMX, None, "AMX"),
        (AMX, "avx512_core_amx", "AMX"),
        (AMX, "AVX512_CORE", None),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, None, None),
        ({"architecture": "arm64", "bf16": True}, "AVX512_CORE", "BFMMLA"),
        ({"architecture": "arm64", "bf16": False}, None, None),
        ({}, None, None),
    ],
)
def test_matrix_units_are_those_that_the_processor_has_and_onednn_may_use(capabilities, limit, found, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert precision.matrix_units() == found


@pytest.mark.parametrize(
    ("units", "settings", "device", "parameters", "found"),
    [
        ("AMX", [], "cpu", 22_000_000, ("bf16", True)),
        ("AMX", ["adapter.method=rslora"], "cpu", 22_000_000, ("bf16", True)),
        ("AMX", ["adapter.method=full"], "cpu", 22_000_000, ("no", False)),
        ("AMX", ["adapter.method=dora"], "cpu", 22_000_000, ("no", False)),
        ("AMX", ["adapter.method=qlora"], "cpu", 22_000_000, ("no", False)),
        ("AMX", ["train.mixed_precision=no"], "cpu", 22_000_000, ("no", False)),
        ("AMX", [], "cpu", 100_000, ("no", False)),
        ("AMX", [], "mps", 22_000_000, ("no", False)),
        (None, [], "cpu", 22_000_000, ("no", False)),
        (None, ["train.mixed_precision=bf16"], "cpu", 100_000, ("bf16", True)),
        (None, ["train.mixed_precision=bf16", "adapter.method=full"], "cpu", 100_000, ("bf16", False)),
        (None, ["train.mixed_precision=bf16"], "cuda", 100_000, ("bf16", False)),
    ],
)
def test_the_precision_follows_from_processor_method_and_size(units, settings, device, parameters, found, monkeypatch):
    monkeypatch.setattr(precision, "matrix_units", lambda: units)
    chosen = mixed_precision.choose(configs.load(None, settings), torch.device(device), parameters)
    assert (chosen.name, chosen.lowers) == found
    assert chosen.autocast == ("no" if chosen.lowers else chosen.name)
