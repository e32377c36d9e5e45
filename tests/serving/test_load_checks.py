"""Checks after loading: a good adapter passes, and each thing that can be wrong with it is found."""

import json
import shutil
from dataclasses import asdict

import pytest
from conftest import sentences
from safetensors.torch import load_file, save_file
from test_records import OLDEST

from lorahub.config import BaseConfig
from lorahub.hub.fetch import adapter as located
from lorahub.serving import load_checks
from lorahub.serving.engine.engine import Engine
from lorahub.serving.loading import open_predictors

pytestmark = pytest.mark.slow

LAYERS, NORM, EFFECT = "adapted layers", "norm of B", "effect on the logits"
BATCH, PADDING, LABELS = "same logits in a batch as alone", "same logits beside a long text", "predicted labels"


@pytest.fixture
def copied(make_adapter, tmp_path):
    """Return a copy of an adapter on the tiny BERT whose config and tensors `change` has changed."""

    def copy(change=lambda config, tensors: None, **options):
        folder = shutil.copytree(make_adapter("bert", **options), tmp_path / "copied")
        config = json.loads((folder / "adapter_config.json").read_text())
        tensors = load_file(folder / "adapter_model.safetensors")
        change(config, tensors)
        (folder / "adapter_config.json").write_text(json.dumps(config))
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        return folder

    return copy


def checked(engine, name=None):
    """The checks of an engine's adapter by name, as the app asks for them."""
    name = name or engine.names[0]
    return {
        check.name: check for check in load_checks.check(engine, name, load_checks.claims_for(engine.folder_of(name)))
    }


@pytest.mark.parametrize(
    ("architecture", "method", "precision"),
    [
        ("bert", "lora", "float32"),
        ("bert", "lora", "bfloat16"),
        ("roberta", "dora", "float16"),
        ("llama", "rslora", "float32"),
        ("llama", "rslora", "bfloat16"),
    ],
)
def test_a_good_adapter_passes(tiny_base, make_adapter, architecture, method, precision):
    folder = make_adapter(architecture, method=method)
    checks = checked(Engine(str(tiny_base(architecture)), [folder], config=BaseConfig(dtype=precision)))
    assert list(checks) == [LAYERS, NORM, EFFECT, BATCH, PADDING, LABELS]
    assert all(check.ok for name, check in checks.items() if name != LABELS), checks
    assert f"({precision})" in checks[BATCH].expected


def test_the_probe_is_used_and_labels_that_are_never_predicted_are_a_note(copied, tiny_base):
    folder = copied(labels=2)
    rows = [{"claim": text, "logits": [0.0, 0.0]} for text in sentences(9)]
    (folder / "probe.json").write_text(json.dumps(rows))
    claims = load_checks.claims_for(folder)
    assert claims.texts == [row["claim"] for row in rows]
    engine = Engine(str(tiny_base("bert")), [folder])
    (label,) = {verdict.label for verdict in engine.classify(claims.texts[:1])["copied"]}
    (other,) = {"label0", "label1"} - {label}
    assert asdict(load_checks.check(engine, "copied", claims.take([0]))[-1]) == {
        "name": LABELS,
        "expected": "each label, on claims: 1",
        "found": f"never {other}: a note, since few claims decide nothing",
        "ok": None,
    }
    assert checked(engine)[LABELS].expected == "each label, on claims: 8"


def test_b_of_zero_is_found(copied, tiny_base):
    def zero(config, tensors):
        for name, tensor in tensors.items():
            if ".lora_B." in name:
                tensor.zero_()

    checks = checked(Engine(str(tiny_base("bert")), [copied(zero)]))
    assert {name for name, check in checks.items() if check.ok is False} == {NORM, EFFECT}
    assert checks[NORM].found.startswith("0 in 13 of 13 layers")


def test_layers_that_the_weights_lack_are_found(copied, tiny_base):
    def drop(config, tensors):
        for name in [name for name in tensors if ".1.attention.self.query." in name]:
            del tensors[name]
        config["target_modules"].append("q_proj")

    checks = checked(Engine(str(tiny_base("bert")), [copied(drop)]))
    assert {name for name, check in checks.items() if check.ok is False} == {LAYERS}
    assert checks[LAYERS].found == (
        "12 of 13 layers; 1 without weights, the first is bert.encoder.layer.1.attention.self.query; "
        "no layer is named q_proj"
    )


def test_an_answer_that_depends_on_other_texts_is_found(copied, tiny_base, tmp_path):
    """The base's tokenizer gives no attention mask, so padding is read as text."""
    base = shutil.copytree(tiny_base("bert"), tmp_path / "tiny-bert")
    config = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps(config | {"model_input_names": ["input_ids"]}))
    checks = checked(Engine(str(base), [copied()]))
    assert {name for name, check in checks.items() if check.ok is False} == {BATCH, PADDING}


@pytest.mark.parametrize("method", ["ia3", "linear-probe"])
def test_what_does_not_apply_is_said(tiny_base, make_adapter, method):
    folder = make_adapter("bert", method=method)
    [predictor] = open_predictors([located(folder)], str(tiny_base("bert")))
    checks = {check.name: check for check in load_checks.check(predictor, folder.name, load_checks.claims_for(folder))}
    assert all(checks[name].ok is None and "no LoRA layers" in checks[name].found for name in (LAYERS, NORM, EFFECT))
    assert checks[BATCH].ok
    assert checks[PADDING].ok


def test_evidence_is_given_to_an_adapter_that_reads_it(copied, tiny_base, caplog):
    folder = copied()
    asked = {**OLDEST["asked"], "data": {"id": "pairs", "evidence": "evidence"}}
    (folder / "record.json").write_text(json.dumps({**OLDEST, "asked": asked}))
    engine = Engine(str(tiny_base("bert")), [folder])
    assert all(check.ok for name, check in checked(engine).items() if name != LABELS)
    rows = [{"claim": "a vaccine", "logits": [0.0], "evidence": "the doctors say so"}, {"claim": "a", "logits": [0.0]}]
    (folder / "probe.json").write_text(json.dumps(rows))
    assert load_checks.claims_for(folder).evidence == ["the doctors say so", ""]
    assert all(check.ok for name, check in checked(engine).items() if name != LABELS)
    assert not caplog.messages
