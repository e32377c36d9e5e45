"""Adapters that peft itself made, without a file of lorahub's: the logits are peft's own."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import sentences
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lorahub.config import BaseConfig
from lorahub.errors import AdapterError, UnsafeAdapterError
from lorahub.hub import safety
from lorahub.models import adapters
from lorahub.serving.engine.engine import Engine
from lorahub.serving.loading import MixedPredictor, open_predictors

TEXTS = sentences(6, seed=3, low=1, high=20)
TYPES = ("bert", "distilbert", "roberta", "llama")


def by_peft(base, folder, labels):
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels)
    model.config.pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    model = PeftModel.from_pretrained(model, folder).eval()
    with torch.no_grad():
        return np.concatenate([model(**tokenizer([text], return_tensors="pt")).logits.numpy() for text in TEXTS])


@pytest.fixture
def plain(tiny_base, tmp_path):
    """(model_type, labels, settings of LoraConfig) -> a folder that peft wrote."""

    def make(model_type, labels=3, name="plain", **settings):
        if model_type == "distilbert":
            settings["target_modules"] = ["q_lin", "v_lin"]
        torch.manual_seed(labels)
        model = AutoModelForSequenceClassification.from_pretrained(tiny_base(model_type), num_labels=labels)
        model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=4, init_lora_weights=False, **settings))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=0.2)
        model.save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


@pytest.mark.parametrize("model_type", TYPES)
def test_logits_are_those_of_peft_and_labels_have_placeholder_names(model_type, plain, tiny_base):
    more = {"modules_to_save": ["pre_classifier"]} if model_type == "distilbert" else {}
    folder, other = plain(model_type, **more), plain(model_type, labels=5, name="other", **more)
    listed = json.loads((folder / "adapter_config.json").read_text())["modules_to_save"]
    assert {"classifier", "score"} <= set(listed), "peft lists the heads of every architecture"
    engine = Engine(str(tiny_base(model_type)), [folder, other])
    logits = engine.logits(TEXTS)
    for made, labels in ((folder, 3), (other, 5)):
        expected = by_peft(tiny_base(model_type), made, labels)
        np.testing.assert_allclose(logits[made.name], expected, atol=1e-4)
        assert np.ptp(expected, axis=0).max() > 1e-2
    assert engine.adapters["plain"].labels.names == ("LABEL_0", "LABEL_1", "LABEL_2")
    notes = [finding.text for finding in safety.local(folder).findings if not finding.refused]
    assert any("write labels.json" in note for note in notes)


def test_a_head_that_peft_did_not_save_is_refused(plain, tiny_base):
    with pytest.raises(AdapterError, match="pre_classifier"):
        Engine(str(tiny_base("distilbert")), [plain("distilbert")])


def test_labels_are_named_by_the_config_of_the_base_or_of_the_adapter(plain, tiny_base, tmp_path):
    base = shutil.copytree(tiny_base("bert"), tmp_path / "named")
    config = json.loads((base / "config.json").read_text())
    names = {"0": "true", "1": "false", "2": "mixture"}
    (base / "config.json").write_text(json.dumps(config | {"id2label": names}))
    folder = plain("bert")
    assert Engine(str(base), [folder]).adapters["plain"].labels.names == ("true", "false", "mixture")
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "a", "1": "b", "2": "c"}}))
    assert adapters.load(folder).labels.names == ("a", "b", "c")


def test_a_base_in_a_folder_of_another_name_needs_the_same_tokenizer(plain, tiny_base, tmp_path):
    base = shutil.copytree(tiny_base("bert"), tmp_path / "elsewhere")
    folder = plain("bert")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "google/bert-base"}))
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    predictor = MixedPredictor(open_predictors([folder], str(base), settings=BaseConfig()))
    np.testing.assert_allclose(predictor.logits(TEXTS)["plain"], by_peft(base, folder, 3), atol=1e-4)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["flu"], vocabulary["tax"] = vocabulary["tax"], vocabulary["flu"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(AdapterError, match="another tokenizer"):
        Engine(str(base), [folder])


def test_a_run_that_lost_its_labels_and_a_folder_without_a_head_are_refused(plain, tiny_run, tmp_path):
    run = shutil.copytree(tiny_run.folder, tmp_path / "lost")
    (run / "labels.json").unlink()
    with pytest.raises(UnsafeAdapterError, match=r"has no labels\.json"):
        adapters.load(run)
    folder = plain("bert")
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name: tensor for name, tensor in tensors.items() if ".lora_" in name}, folder / "adapter_model.safetensors"
    )
    with pytest.raises(UnsafeAdapterError, match="no head for two or more"):
        adapters.load(folder)
