"""Adapters: mixed = one by one, saved = loaded, plain peft = lorahub, for every architecture."""

import json
import threading

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES, sentences
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lorahub.config import BaseConfig
from lorahub.models import architectures
from lorahub.models import base as bases
from lorahub.serving.engine.engine import Engine

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4


def engine_for(base, folders):
    return Engine(str(base), folders)


def vanilla_logits(base, folder, texts):
    """Logits by transformers and peft alone, one claim at a time, as the card's snippet does it."""
    from peft import PeftModel

    labels = json.loads((folder / "labels.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(labels))
    model.config.pad_token_id = tokenizer.pad_token_id
    model = PeftModel.from_pretrained(model, folder).eval()
    found = []
    with torch.inference_mode():
        for text in texts:
            encoded = tokenizer([text], truncation=True, return_tensors="pt")
            found.append(model(**encoded).logits[0].float().numpy())
    return np.stack(found)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_mixed_batch_equals_one_by_one_in_plain_peft(model_type, tiny_base, make_adapter):
    folders = [
        make_adapter(model_type, labels=3, rank=2, seed=1, name="three"),
        make_adapter(model_type, labels=6, rank=16, seed=2, name="six"),
        make_adapter(model_type, labels=2, rank=4, seed=3, name="two", targets=("q_proj", "v_proj")),
    ]
    texts = sentences(9, seed=4, low=1, high=29)
    base = tiny_base(model_type)
    mixed = engine_for(base, folders).logits(texts)
    for folder in folders:
        alone = vanilla_logits(base, folder, texts)
        assert mixed[folder.name].shape == alone.shape
        np.testing.assert_allclose(mixed[folder.name], alone, atol=TOLERANCE)
        assert (mixed[folder.name].argmax(1) == alone.argmax(1)).all()
    spread = np.ptp(mixed["six"], axis=0).max()
    assert spread > 100 * TOLERANCE, "the claims must differ by more than what is tolerated"


def test_every_adapter_reads_as_much_of_a_text_as_it_was_trained_on(tiny_base, make_adapter):
    folders = [make_adapter("bert", seed=size, name=f"cut{size}", max_length=size) for size in (10, 32)]
    texts = sentences(6, seed=11, low=4, high=29)
    base = tiny_base("bert")
    found = engine_for(base, folders).logits(texts)
    for folder in folders:
        np.testing.assert_allclose(found[folder.name], vanilla_logits(base, folder, texts), atol=TOLERANCE)
    short = [" ".join(text.split()[:8]) for text in texts]
    again = engine_for(base, folders).logits(short)
    np.testing.assert_allclose(found["cut10"], again["cut10"], atol=TOLERANCE)
    assert np.abs(found["cut32"] - again["cut32"]).max() > 100 * TOLERANCE


@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_padding_changes_nothing(model_type, tiny_base, make_adapter):
    engine = engine_for(tiny_base(model_type), [make_adapter(model_type, name="a")])
    short, long = "vaccine causes flu .", " ".join(sentences(1, low=28, high=29))
    alone = engine.logits([short])["a"][0]
    beside = engine.logits([short, long])["a"][0]
    np.testing.assert_allclose(alone, beside, atol=TOLERANCE)


def test_an_adapter_changes_the_answer_and_a_dropped_one_is_gone(tiny_base, make_adapter):
    engine = engine_for(
        tiny_base("bert"), [make_adapter("bert", seed=1, name="a"), make_adapter("bert", seed=2, name="b")]
    )
    text = ["the vaccine causes cancer"]
    found = engine.logits(text)
    assert np.abs(found["a"] - found["b"]).max() > 1e-2
    engine.drop("a")
    assert list(engine.adapters) == ["b"]
    # Alone in its batch the same row is multiplied by another kernel, so the last bit may differ.
    np.testing.assert_allclose(engine.logits(text)["b"], found["b"], atol=TOLERANCE)


def test_two_adapters_of_one_name_get_two_names(tiny_base, make_adapter):
    first, second = make_adapter("bert", name="same"), make_adapter("bert", seed=5, name="same")
    assert list(engine_for(tiny_base("bert"), [first, second]).adapters) == ["same", "same-2"]


def test_threads_never_get_each_others_adapter(tiny_base, make_adapter):
    folders = [make_adapter("bert", labels=count, seed=count, name=f"a{count}") for count in (2, 3, 5)]
    engine = engine_for(tiny_base("bert"), folders)
    texts = sentences(6, seed=9)
    expected = {name: engine.logits(texts, [name])[name] for name in engine.adapters}
    wrong = []

    def ask(name, other):
        for _ in range(25):
            found = engine.logits(texts, [name, other])
            for key in (name, other):
                if not np.allclose(found[key], expected[key], atol=TOLERANCE):
                    wrong.append(key)

    names = list(expected)
    threads = [threading.Thread(target=ask, args=(names[i % 3], names[(i + 1) % 3])) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_save_and_reload_is_bit_equal(tiny_base, make_adapter):
    from lorahub.labels import LabelSet
    from lorahub.models import adapters

    folder = make_adapter("bert", labels=4, name="bits")
    names = LabelSet.load(folder)
    base = bases.load(BaseConfig(id=str(tiny_base("bert"))), names)
    model = adapters.load_with_peft(folder, base)
    again = folder.parent / "again"
    adapters.save(model, again, base, names)
    before, after = (load_file(place / "adapter_model.safetensors") for place in (folder, again))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_head_is_saved_and_no_path_with_it(model_type, make_adapter, tiny_base):
    folder = make_adapter(model_type, name="heads")
    config = json.loads((folder / "adapter_config.json").read_text())
    keys = load_file(folder / "adapter_model.safetensors")
    base = bases.load(BaseConfig(id=str(tiny_base(model_type))))
    assert set(config["modules_to_save"]) == set(base.heads)
    for head in base.heads:
        assert any(f".{head}." in key for key in keys)
    assert str(tiny_base(model_type).parent) not in (folder / "adapter_config.json").read_text()
    assert isinstance(config["target_modules"], list)
    assert not (folder / "config.json").exists()


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_tutorial_targets_reach_the_attention_of_every_architecture(model_type, tiny_base):
    base = bases.load(BaseConfig(id=str(tiny_base(model_type))))
    names = architectures.target_names(base.model, ["q_proj", "v_proj"], base.heads)
    matched = [
        name
        for name, module in base.model.named_modules()
        if isinstance(module, torch.nn.Linear) and any(name.endswith(f".{target}") for target in names)
    ]
    layers = 2
    assert len(matched) == layers * len(names)


def test_a_decoder_without_pad_token_gets_eos_everywhere(tiny_base):
    base = bases.load(BaseConfig(id=str(tiny_base("llama"))))
    assert base.tokenizer.pad_token == base.tokenizer.eos_token
    assert base.model.config.pad_token_id == base.tokenizer.eos_token_id
    assert "eos" in base.reasons["pad_token"]
    assert set(base.reasons) >= {"device", "dtype", "padding_side", "max_length"}
