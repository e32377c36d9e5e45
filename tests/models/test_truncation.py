"""Truncation: the best approximation of a lower rank, in a model and in the files that peft writes of it."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lorahub.config import BaseConfig
from lorahub.labels import LabelSet
from lorahub.models import adapters, initialization, truncation
from lorahub.models import base as bases

pytestmark = pytest.mark.slow

NAMES = LabelSet(("label0", "label1", "label2"))


@pytest.mark.parametrize(("outputs", "inputs", "rank"), [(48, 32, 8), (8, 32, 16), (32, 6, 16), (5, 4, 16)])
def test_a_pair_is_the_best_approximation_of_its_rank(outputs, inputs, rank):
    """Against the decomposition of the full matrix, also if a layer is narrower than the rank."""
    torch.manual_seed(0)
    down, up = torch.randn(rank, inputs), torch.randn(outputs, rank)
    found = truncation.decompose(down, up)
    left, values, right = torch.linalg.svd((up @ down).double(), full_matrices=False)
    for wanted in (1, 2, 4, rank):
        a, b = found.pair(wanted)
        assert (a.shape, b.shape) == ((wanted, inputs), (outputs, wanted))
        best = left[:, :wanted] * values[:wanted] @ right[:wanted]
        torch.testing.assert_close(b @ a, best, atol=1e-5, rtol=0)
        lost = float((up @ down - b @ a).square().sum())
        assert lost == pytest.approx(float(values[wanted:].square().sum()), abs=1e-4)


def opened(folder, tiny_base, quantize="none"):
    base = bases.load(BaseConfig(id=str(tiny_base("bert")), max_length=32, quantize=quantize), NAMES)
    return base, adapters.load_with_peft(folder, base)


def products(model):
    """s·B·A of every layer, with the scale that peft uses."""
    return {
        name: module.scaling["default"] * module.lora_B["default"].weight @ module.lora_A["default"].weight
        for name, module in initialization.pairs(model)
    }


def answers(model, tokens=6):
    ids = torch.arange(4, 4 + 3 * tokens).reshape(3, tokens)
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.mark.parametrize("method", ["lora", "rslora", "dora"])
def test_a_truncated_model_keeps_its_scale_and_equals_its_files(make_adapter, tiny_base, tmp_path, method):
    folder = make_adapter("bert", rank=8, method=method)
    base, model = opened(folder, tiny_base)
    before, full = answers(model), products(model)
    updates = truncation.updates(model)
    truncation.truncate(model, updates, 8)
    torch.testing.assert_close(answers(model), before, atol=1e-4, rtol=1e-4)
    truncation.truncate(model, updates, 2)
    for name, product in products(model).items():
        left, values, right = torch.linalg.svd(full[name])
        torch.testing.assert_close(product, left[:, :2] * values[:2] @ right[:2], atol=1e-4, rtol=1e-4)
    cut = answers(model)
    assert (cut - before).abs().max() > 1e-3, "truncation changes the answers"

    adapters.save(model, tmp_path / "cut", base, NAMES)
    config = json.loads((tmp_path / "cut" / "adapter_config.json").read_text())
    assert config["r"] == 2
    # make_adapter's alpha is twice the rank: s = 2, or 16 / sqrt(8) with rsLoRA.
    assert config["lora_alpha"] == pytest.approx(8.0 if method == "rslora" else 4.0)
    _, fresh = opened(tmp_path / "cut", tiny_base)
    torch.testing.assert_close(answers(fresh), cut, atol=1e-5, rtol=1e-5)
    if method == "dora":
        kept, now = (load_file(path / "adapter_model.safetensors") for path in (folder, tmp_path / "cut"))
        vectors = [name for name in kept if "magnitude" in name]
        assert vectors
        assert all(torch.equal(kept[name], now[name]) for name in vectors)

    truncation.truncate(model, updates, 8)
    torch.testing.assert_close(answers(model), before, atol=1e-4, rtol=1e-4)


def test_on_a_4_bit_base_only_the_update_is_truncated(make_adapter, tiny_base):
    _, model = opened(make_adapter("bert", rank=8), tiny_base, "nf4")
    before, updates = answers(model), truncation.updates(model)
    truncation.truncate(model, updates, 2)
    assert (answers(model) - before).abs().max() > 0.05
    truncation.truncate(model, updates, 8)
    # Layers in 4 bits compute in bfloat16.
    torch.testing.assert_close(answers(model), before, atol=5e-3, rtol=0)


def test_the_kept_share_grows_to_1(make_adapter, tiny_base):
    _, model = opened(make_adapter("bert", rank=8), tiny_base)
    updates = truncation.updates(model)
    shares = [truncation.kept(updates, rank) for rank in (1, 2, 4, 8)]
    assert np.all(np.diff(shares) > 0.05)
    assert shares[-1] == 1.0
    norms = sum(float((up @ down).square().sum()) for down, up in (update.pair(2) for update in updates.values()))
    total = sum(float(product.square().sum()) for product in products(model).values()) / 2**2
    assert shares[1] == pytest.approx(norms / total, rel=1e-5)
