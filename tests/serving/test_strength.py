"""The strength of an adapter's update: 1 is as trained, 0 the base under the adapter's head."""

import threading

import numpy as np
import pytest
import torch
from conftest import sentences

from lorahub.config import BaseConfig
from lorahub.labels import LabelSet
from lorahub.models import adapters
from lorahub.models import base as bases
from lorahub.serving.engine.engine import Engine

pytestmark = pytest.mark.slow

TEXTS = sentences(6, seed=4)


@pytest.fixture(scope="module", params=["bert", "llama"])
def served(request, tiny_base, make_adapter):
    """An engine and its adapters' folders: ranks, label counts and methods mixed, on an encoder and a decoder."""
    base = str(tiny_base(request.param))
    folders = {
        method: make_adapter(request.param, labels=labels, rank=rank, seed=rank, name=method, method=method)
        for labels, rank, method in [(3, 4, "lora"), (2, 8, "dora"), (5, 2, "rslora")]
    }
    return Engine(base, folders.values()), folders, base


def by_hand(folder, base, strength):
    """Logits of W + strength · (W' - W), where W' is what peft merges into the base's W, under the adapter's head."""
    loaded = bases.load(BaseConfig(id=base, max_length=32), LabelSet.load(folder))
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    merged = adapters.load_with_peft(folder, loaded).merge_and_unload()
    with torch.no_grad():
        for name, value in merged.state_dict().items():
            if name.endswith("weight") and value.ndim == 2 and not set(name.split(".")) & set(loaded.heads):
                value.copy_(before[name] + strength * (value - before[name]))
    batch = loaded.tokenizer(TEXTS, padding=True, truncation=True, max_length=32, return_tensors="pt")
    with torch.inference_mode():
        return merged.eval()(**batch).logits.numpy()


@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0])
def test_strength_scales_the_update_of_the_base_weights(served, strength):
    engine, folders, base = served
    found, whole = engine.logits(TEXTS, strength=strength), engine.logits(TEXTS)
    for name, folder in folders.items():
        np.testing.assert_allclose(found[name], by_hand(folder, base, strength), atol=1e-4)
        assert np.abs(found[name] - whole[name]).max() > 1e-3


def test_strength_1_changes_no_bit(served):
    engine, folders, base = served
    whole, same = engine.logits(TEXTS), engine.logits(TEXTS, strength=1.0)
    for name, folder in folders.items():
        np.testing.assert_array_equal(whole[name], same[name])
        np.testing.assert_allclose(same[name], by_hand(folder, base, 1.0), atol=1e-4)


def test_requests_of_different_strengths_do_not_share_a_pass(served):
    engine, _, _ = served
    strengths = [0.0, 0.5, 1.0, 2.0]
    wanted = {strength: engine.logits(TEXTS, strength=strength) for strength in strengths}
    wrong = []

    def ask(strength):
        for _ in range(10):
            found = engine.logits(TEXTS, strength=strength)
            wrong.extend(name for name in found if not np.allclose(found[name], wanted[strength][name], atol=1e-5))

    threads = [threading.Thread(target=ask, args=(strength,)) for strength in strengths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
