"""Every method trains in the same loop, is saved, loads anywhere, and is served or refused in one line."""

import json
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import learnable, sentences
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lorahub import config, runfiles
from lorahub.config import AdapterConfig, BaseConfig
from lorahub.data import claims
from lorahub.errors import AdapterError, ConfigError, PublishError
from lorahub.hub import integrity, safety
from lorahub.labels import LabelSet
from lorahub.method_names import METHODS
from lorahub.models import adapters, architectures, initialization, methods, quantization
from lorahub.models import base as bases
from lorahub.serving.engine.engine import Engine
from lorahub.serving.evaluate import evaluate
from lorahub.serving.loading import MixedPredictor, open_predictors
from lorahub.stats.verdicts import softmax
from lorahub.training import optimizers
from lorahub.training.run import train
from lorahub.training.session import TrainingSession

pytestmark = pytest.mark.slow

QUICK = ["train.min_steps=12", "train.epochs=1", "train.batch_size=16", "eval.bootstrap=200"]
SERVED_TOGETHER = ("lora", "qlora", "dora", "rslora", "linear-probe")
UNSUPPORTED_BY_LLAMA = ("prompt", "p-tuning")
CASES = [
    (kind, method)
    for kind in ("bert", "llama")
    for method in METHODS
    if kind == "bert" or method not in UNSUPPORTED_BY_LLAMA
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "claims.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in learnable(120)), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def trained(tiny_base, data, tmp_path_factory):
    """(model_type, method, *settings) -> a finished run, made once."""
    made, root = {}, tmp_path_factory.mktemp("methods")

    def make(model_type, method, *settings):
        key = (model_type, method, *settings)
        if key not in made:
            out = root / f"{model_type}-{method}-{len(made)}"
            base = str(tiny_base(model_type))
            made[key] = train(data=data, base=base, method=method, out=out, settings=[*QUICK, *settings])
        return made[key]

    return make


def probe(run):
    rows = json.loads((run.folder / "probe.json").read_text(encoding="utf-8"))
    return [row["claim"] for row in rows], np.array([row["logits"] for row in rows], np.float32)


def fresh(tiny_base, model_type, **settings):
    return bases.load(BaseConfig(id=str(tiny_base(model_type)), max_length=32, **settings), LabelSet(("a", "b")))


@pytest.mark.parametrize("checkpointing", ["never", "always"])
@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_no_gradient_is_computed_below_the_trained_layers(tiny_base, data, model_type, checkpointing):
    settings = ["adapter.layers=last:1", f"train.checkpointing={checkpointing}", "train.batch_size=4"]
    given = config.load(None, [f"base.id={tiny_base(model_type)}", f"data.id={data}", *settings])
    session = TrainingSession(given, claims.load(given.data))
    session.attach()
    layers, outputs = architectures.layers(session.base.model)[1], []
    for layer in layers:
        layer.register_forward_hook(lambda module, args, output: outputs.append(output))
    session.model.train()
    session.model(**session.base.tokenizer("a vaccine", return_tensors="pt")).logits.sum().backward()
    assert [output.requires_grad for output in outputs[:2]] == [False, True]
    trained = {name for name, item in session.model.named_parameters() if item.requires_grad}
    assert not [name for name in trained if ".0." in name.replace("modules_to_save.default.", "")]
    assert all(item.grad is not None for item in session.model.parameters() if item.requires_grad)


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_an_adapter_of_the_last_layer_is_plain_peft(tiny_base, trained, method):
    run = trained("bert", method, "adapter.layers=last:1")
    saved = json.loads((run.folder / runfiles.PEFT.config).read_text())
    assert (saved["layers_to_transform"], saved["layers_pattern"]) == ([1], "layer")
    assert run.record.config.adapter.layers == "last:1"
    assert {
        name.split(".layer.")[1][0] for name in load_file(run.folder / runfiles.PEFT.weights) if ".layer." in name
    } == {"1"}
    texts, expected = probe(run)
    labels = json.loads((run.folder / "labels.json").read_text())
    model = AutoModelForSequenceClassification.from_pretrained(tiny_base("bert"), num_labels=len(labels))
    model = PeftModel.from_pretrained(model, run.folder).eval()
    found = [model(**AutoTokenizer.from_pretrained(run.folder)(text, return_tensors="pt")).logits for text in texts]
    np.testing.assert_allclose(torch.cat(found).detach().numpy(), expected, atol=1e-4)


def test_every_method_of_the_config_has_a_row_and_a_recipe_with_its_source():
    assert tuple(methods.TABLE) == METHODS
    for name in METHODS:
        first = config.shipped_recipes()[name].read_text(encoding="utf-8").splitlines()[0]
        assert "arXiv:" in first, name
        assert config.load(name).adapter.method == name
        assert config.load(None, [f"adapter.method={name}"]) == config.load(name), "the recipe holds the defaults"
    assert config.load(None, ["adapter.method=full", "train.learning_rate=1"]).train.learning_rate == 1


@pytest.mark.parametrize(("model_type", "method"), CASES)
def test_a_saved_method_gives_the_same_logits_anywhere(model_type, method, trained, tiny_base):
    run = trained(model_type, method)
    texts, claimed = probe(run)
    tokenizer, base = AutoTokenizer.from_pretrained(run.folder), tiny_base(model_type)
    if method == "full":
        model = AutoModelForSequenceClassification.from_pretrained(run.folder)
        assert not (run.folder / "adapter_config.json").exists()
    else:
        kept = (
            {
                "quantization_config": quantization.settings(
                    "nf4", ["classifier", "score", "bert.pooler"], torch.bfloat16
                )
            }
            if method == "qlora"
            else {}
        )
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2, **kept)
        quantization.disable_repacking(model)
        if method == "linear-probe":
            model.load_state_dict(load_file(run.folder / "head.safetensors"), strict=False)
        else:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, run.folder)
    model.eval()
    found = []
    with torch.inference_mode():
        for text in texts:
            found.append(model(**tokenizer([text], truncation=True, return_tensors="pt")).logits[0].float().numpy())
    np.testing.assert_allclose(found, claimed, atol=1e-3 if method == "qlora" else 1e-5)
    assert np.ptp(claimed, axis=0).max() > 1e-3, "the claims must differ by more than what is tolerated"


@pytest.mark.parametrize(("model_type", "method"), CASES)
def test_a_method_is_evaluated_and_served_together_or_refused_in_one_line(model_type, method, trained, tiny_base, data):
    run, base = trained(model_type, method), str(tiny_base(model_type))
    texts, claimed = probe(run)
    (answers,) = open_predictors([run.folder], base, settings=BaseConfig(quantize=run.record.config.base.quantize))
    np.testing.assert_allclose(answers.logits(texts)[run.folder.name], claimed, atol=1e-4)
    (figures,) = evaluate([str(run.folder)], data=data, base=base, settings=["base.device=cpu"]).results.values()
    if method != "qlora":  # evaluated on the given unquantized base
        assert figures.f1_macro == pytest.approx(run.record.adapter().f1_macro)
    if method in SERVED_TOGETHER:
        assert isinstance(answers, Engine)
        return
    with pytest.raises(AdapterError, match="cannot share a base") as caught:
        Engine(base, [run.folder])
    assert "\n" not in str(caught.value)


def test_classify_takes_every_kind_of_run_and_says_which_run_apart(trained, tiny_base, cli, caplog):
    made = [trained("bert", method) for method in ("full", "lora", "ia3")]
    texts, _ = probe(made[0])
    chosen = [word for run in made for word in ("--adapter", run.folder)]
    code, out, err = cli("classify", *texts, *chosen, "--base", tiny_base("bert"), "--json")
    assert code == 0, err
    found = {(row["text"], row["adapter"]): row["probabilities"] for row in json.loads(out)}
    for run in made:
        claims, claimed = probe(run)
        shares = [list(found[text, run.folder.name].values()) for text in claims]
        np.testing.assert_allclose(shares, softmax(claimed), atol=1e-4)
    whole, shared, scaled = (run.folder.name for run in made)
    assert f"{whole} holds a whole model and cannot share a base: it runs separately" in caplog.text
    assert f"{scaled} holds IA3 weights and cannot share a base" in caplog.text
    assert f"{shared} holds" not in caplog.text


def test_runs_of_one_name_that_run_apart_are_numbered(trained, tmp_path):
    run = trained("bert", "full")
    copy = shutil.copytree(run.folder, tmp_path / run.folder.name)
    assert MixedPredictor(open_predictors([run.folder, copy])).names == [run.folder.name, f"{run.folder.name}-2"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_saves_the_heads(method, trained):
    run = trained("bert", method)
    file = next(name for name in ("adapter_model", "head", "model") if (run.folder / f"{name}.safetensors").exists())
    tensors = load_file(run.folder / f"{file}.safetensors")
    heads = {name: tensor for name, tensor in tensors.items() if "classifier." in name}
    assert len(heads) == 2
    assert all(tensor.dtype == torch.float32 for tensor in heads.values())
    assert any(tensor.abs().max() > 0 for name, tensor in heads.items() if name.endswith("bias")), "it never moved"
    if method == "linear-probe":
        assert set(heads) == set(tensors)


@pytest.mark.parametrize(
    ("model_type", "method", "why"),
    [("llama", "prompt", "last real token"), ("llama", "p-tuning", "last real token"),
     ("deberta-v2", "prefix", "keys and values"), ("modernbert", "prefix", "keys and values"),
     ("distilbert", "prefix", "keys and values")],
)  # fmt: skip
def test_an_unsupported_method_is_refused_with_the_supported_ones(model_type, method, why, tiny_base):
    base = fresh(tiny_base, model_type)
    with pytest.raises(ConfigError, match=why) as caught:
        methods.check(base, AdapterConfig(method=method))
    supported = str(caught.value).split("Use one of ")[1].rstrip(".").split(", ")
    assert method not in supported
    assert {"lora", "qlora", "dora", "rslora", "ia3", "full", "linear-probe"} <= set(supported)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "full", "quantize": "nf4"}, "base.quantize=none"),
        ({"method": "qlora"}, "base.quantize=nf4"),
        ({"method": "prompt", "prompt_tokens": 60}, "prompt_tokens"),
        ({"method": "dora", "init": "pissa"}, "adapter.init"),
        ({"method": "lora", "init": "loftq"}, "adapter.init"),
        ({"method": "lora", "init": "olora", "rank": 300}, "adapter.rank"),
        ({"method": "lora", "init": "pissa", "quantize": "nf4"}, "loftq"),
    ],
)
def test_what_does_not_go_together_is_refused_before_training(settings, words, tiny_base):
    given = dict(settings)
    base = fresh(tiny_base, "bert", quantize=given.pop("quantize", "none"))
    with pytest.raises(ConfigError) as caught:
        methods.check(base, AdapterConfig(**given))
    assert words in str(caught.value)


def test_claims_leave_room_for_virtual_tokens_and_padding_changes_nothing(trained, tiny_base):
    run = trained("bert", "prompt", "base.max_length=128")
    assert run.record.environment.reasons["max_length"].startswith("44 tokens: 64 minus 20 virtual tokens")
    (answers,) = open_predictors([run.folder], str(tiny_base("bert")))
    short, long = "vaccine causes flu .", " ".join(sentences(1, low=60, high=61))
    name = run.folder.name
    alone = [answers.logits([text])[name][0] for text in (short, long)]
    np.testing.assert_allclose(answers.logits([short, long])[name], alone, atol=1e-5)


# QLoRA


def bits_per_parameter(model):
    """Bits of a quantized parameter with its constants, counted over the tensors that hold them (no code books)."""
    held = count = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            nested = [state.state2.absmax, state.offset] if state.nested else []
            held += sum(tensor.nbytes for tensor in (parameter.data, state.absmax, *nested))
            count += quantization.count(parameter)
    return 8 * held / count


@pytest.fixture(scope="module")
def qlora(trained):
    return trained("llama", "qlora", "train.min_steps=60")


def test_a_quantized_base_takes_four_bits_a_parameter_and_its_heads_are_whole(tiny_base):
    base = fresh(tiny_base, "bert", quantize="nf4", dtype="bfloat16")
    methods.check(base, AdapterConfig(method="qlora"))
    model = methods.attach(base, AdapterConfig(method="qlora"))
    packed = {name: item for name, item in model.named_parameters() if hasattr(item, "quant_state")}
    layers = [name for name, module in model.named_modules() if "lora_A.default" in name]
    # Two layers of six linear ones; the pooler, which may be a new head, stays whole.
    assert len(packed) == 12
    assert len(layers) == 13
    for item in packed.values():
        assert item.dtype == torch.uint8
        assert item.numel() * item.element_size() == quantization.count(item) / 2
    assert 4 < bits_per_parameter(model) < 5
    for name, item in model.named_parameters():
        if "classifier" in name or item.requires_grad:
            assert item.dtype == torch.float32, name
    _, total = methods.count_parameters(model)
    _, whole = methods.count_parameters(methods.attach(fresh(tiny_base, "bert"), AdapterConfig()))
    assert total == whole


def test_evaluating_does_not_change_a_quantized_base(tiny_base):
    base = fresh(tiny_base, "llama", quantize="nf4")
    before = [item.data.clone() for item in base.model.parameters()]
    bits = bits_per_parameter(base.model)
    batch = base.tokenizer(["the vaccine"], return_tensors="pt")
    with torch.inference_mode():
        base.model.eval()(**batch)
    assert all(torch.equal(old, new.data) for old, new in zip(before, base.model.parameters(), strict=True))
    assert bits_per_parameter(base.model) == bits


def test_double_quantization_saves_what_the_paper_says():
    import bitsandbytes as bnb

    found = {}
    for double in (False, True):
        layer = bnb.nn.Linear4bit(1024, 1024, bias=False, compress_statistics=double, quant_type="nf4")
        found[double] = bits_per_parameter(layer.to("cpu"))
    assert found[False] == pytest.approx(4.5)
    # arXiv:2305.14314, section 3: from 0.5 to 8/64 + 32/(64 * 256) = 0.127 bits a parameter.
    assert found[False] - found[True] == pytest.approx(0.373, abs=0.001)


def test_qlora_learns_on_a_cpu_and_the_record_says_what_ran(qlora):
    progress, reasons = qlora.record.progress, qlora.record.environment.reasons
    losses = [row.loss for row in progress.curve]
    assert losses[-1] < losses[0] - 0.2
    assert reasons["quantize"].startswith("nf4")
    assert reasons["optimizer"] == "adamw: paged-adamw needs a GPU, and this is cpu"
    assert qlora.record.config.base.quantize == "nf4"
    assert "bitsandbytes" in qlora.record.environment.packages


def test_a_qlora_adapter_brings_its_quantized_base_and_says_so_beside_another(qlora, tiny_base, caplog):
    texts, claimed = probe(qlora)
    folder = str(tiny_base("llama"))
    nf4 = Engine(folder, [qlora.folder], config=BaseConfig(quantize="nf4")).logits(texts)[qlora.folder.name]
    np.testing.assert_allclose(nf4, claimed, atol=1e-3)
    whole = Engine(folder, [qlora.folder]).logits(texts)[qlora.folder.name]
    assert np.abs(whole - claimed).max() > 1e-3
    assert "quantize nf4; none is loaded" in caplog.text


# Initializations


@pytest.mark.parametrize(("method", "init"), [("lora", "pissa"), ("lora", "olora"), ("rslora", "pissa")])
@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_an_initialization_that_moves_the_base_is_served_beside_another_adapter(
    model_type, method, init, trained, tiny_base, make_adapter
):
    run = trained(model_type, method, f"adapter.init={init}")
    saved = json.loads((run.folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert (saved["init_lora_weights"], saved["r"]) == (True, 2 * run.record.config.adapter.rank)
    assert safety.local(run.folder).refused == []
    other, texts = make_adapter(model_type, labels=3, name="other"), sentences(5, seed=3)
    alone = Engine(str(tiny_base(model_type)), [other]).logits(texts)["other"]
    engine = Engine(str(tiny_base(model_type)), [other, run.folder])
    np.testing.assert_allclose(engine.logits(texts)["other"], alone, atol=1e-5)
    claims, claimed = probe(run)
    np.testing.assert_allclose(engine.logits(claims)[run.folder.name], claimed, atol=1e-4)


def test_a_loftq_run_is_served_beside_another_adapter(trained, tiny_base, make_adapter):
    run, four_bits = trained("llama", "qlora", "adapter.init=loftq"), BaseConfig(quantize="nf4")
    other, texts = make_adapter("llama", labels=3, name="other"), sentences(5, seed=3)
    alone = Engine(str(tiny_base("llama")), [other], config=four_bits).logits(texts)["other"]
    engine = Engine(str(tiny_base("llama")), [other, run.folder], config=four_bits)
    # Some 4-bit kernels of bitsandbytes round differently for passes of different sizes.
    np.testing.assert_allclose(engine.logits(texts)["other"], alone, atol=1e-2)
    claims, claimed = probe(run)
    np.testing.assert_allclose(engine.logits(claims)[run.folder.name], claimed, atol=1e-3)


def test_loftq_starts_nearer_to_the_whole_weights_and_leaves_the_base_alone(tiny_base):
    base = fresh(tiny_base, "llama", quantize="nf4")
    whole = dict(fresh(tiny_base, "llama").model.named_parameters())
    before = {name: item.data.clone() for name, item in base.model.named_parameters()}
    chosen = AdapterConfig(method="qlora", init="loftq", rank=4)
    methods.check(base, chosen)
    model = methods.attach(base, chosen)
    for name, module in initialization.pairs(model):
        kept, wanted = module.get_base_layer(), whole[f"{name}.weight"]
        update = module.scaling["default"] * module.lora_B["default"].weight @ module.lora_A["default"].weight
        near, far = (torch.linalg.norm(wanted - quantization.dense(kept) - add) for add in (update, 0))
        assert near < 0.9 * far, name
        assert torch.equal(kept.weight.data, before[f"{name}.weight"])


def test_dora_and_lora_answer_together_as_each_does_in_plain_peft(trained, tiny_base, make_adapter):
    run = trained("llama", "dora", "train.learning_rate=1e-2")
    texts = sentences(7, seed=5, low=1, high=20)
    base = bases.load(BaseConfig(id=str(tiny_base("llama"))), LabelSet.load(run.folder))
    plain = adapters.load_with_peft(run.folder, base)
    engine = Engine(str(tiny_base("llama")), [make_adapter("llama", labels=5, name="other"), run.folder])
    with torch.inference_mode():
        alone = [plain(**base.tokenizer([text], return_tensors="pt")).logits[0].numpy() for text in texts]
    np.testing.assert_allclose(engine.logits(texts)[run.folder.name], alone, atol=1e-4)
    without = {name: torch.ones_like(tensor) for name, tensor in adapters.load(run.folder).magnitudes.items()}
    assert without, "the magnitudes are read"


# Optimizers


@pytest.mark.parametrize(
    ("wanted", "device", "memory_efficient", "form"),
    [("auto", "cpu", False, "adamw"), ("auto", "cpu", True, "adamw"), ("auto", "cuda", True, "paged-adamw"),
     ("auto", "cuda", False, "adamw"), ("paged-adamw8bit", "cpu", False, "adamw8bit"),
     ("paged-adamw8bit", "cuda", False, "paged-adamw8bit"), ("adamw8bit", "cpu", True, "adamw8bit")],
)  # fmt: skip
def test_paging_is_for_gpus_and_the_reason_says_which_optimizer_ran(wanted, device, memory_efficient, form):
    found, why = optimizers.choose(wanted, torch.device(device), memory_efficient=memory_efficient)
    assert found == form
    assert ("needs a GPU" in why) == (
        device == "cpu" and (wanted.startswith("paged") or (wanted == "auto" and memory_efficient))
    )


def test_the_eight_bit_optimizer_trains_on_a_cpu(trained):
    run = trained("llama", "lora", "train.optimizer=paged-adamw8bit", "train.min_steps=30")
    losses = [row.loss for row in run.record.progress.curve]
    assert losses[-1] < losses[0]
    assert run.record.environment.reasons["optimizer"].startswith("adamw8bit")


def test_computing_activations_again_changes_no_weight(trained):
    plain, again = (trained("bert", "lora", f"train.checkpointing={choice}") for choice in ("never", "always"))
    first, second = (load_file(run.folder / "adapter_model.safetensors") for run in (plain, again))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-5, rtol=1e-4)


# What is made of a run


@pytest.mark.parametrize("method", [method for method in METHODS if method != "qlora"])
def test_the_cards_snippet_answers_as_the_probe(method, trained, tiny_base, monkeypatch):
    run = trained("bert", method)
    card = (run.folder / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", card, re.S).group(1).replace('"tiny-bert"', repr(str(tiny_base("bert"))))
    texts, claimed = probe(run)
    example = re.search(r'tokenizer\(\["(.*?)"\]', code).group(1)
    monkeypatch.chdir(run.folder)
    scope = {}
    exec(code.replace(example, texts[0]), scope)
    np.testing.assert_allclose(scope["logits"][0].numpy(), claimed[0], atol=1e-5)


def test_a_card_says_that_its_base_was_in_four_bits(trained):
    card = (trained("bert", "qlora").folder / "README.md").read_text(encoding="utf-8")
    assert "A QLoRA adapter for" in card
    assert "It was trained on a 4-bit base (nf4" in card


@pytest.mark.parametrize("method", ["prefix", "full", "linear-probe", "dora"])
def test_a_classifier_of_any_method_answers_after_unpickling_too(method, tiny_base):
    from lorahub import ClaimClassifier

    rows = learnable(80)
    texts, labels = [row["claim"] for row in rows], [row["label"] for row in rows]
    settings = {"train.min_steps": 4, "train.epochs": 1, "eval.bootstrap": 100}
    fitted = ClaimClassifier(tiny_base("bert"), method=method, settings=settings).fit(texts, labels)
    before = fitted.predict_proba(texts[:5])
    np.testing.assert_allclose(pickle.loads(pickle.dumps(fitted)).predict_proba(texts[:5]), before, atol=1e-6)


@pytest.mark.parametrize("method", ["full", "linear-probe"])
def test_what_is_no_peft_adapter_is_not_pushed_and_the_reason_said(method, trained):
    from lorahub.publish import export

    run = trained("bert", method)
    with pytest.raises(PublishError, match=f"trained with {method}"):
        export.collect(run.folder)
    layout = runfiles.layout(run.folder)
    assert {layout.config, layout.weights} < run.record.files.keys()
    assert integrity.altered(run.folder, run.record) == ()
