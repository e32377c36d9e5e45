"""The engine against plain peft, one adapter and one claim at a time, on every architecture."""

import json

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES, sentences
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lorahub.config import BaseConfig
from lorahub.labels import LabelSet
from lorahub.models import adapters, architectures
from lorahub.models import base as bases
from lorahub.serving.engine import lora_layers
from lorahub.serving.engine.engine import Engine
from lorahub.serving.engine.scheduler import Job, Slice

# (method, rank, labels): ranks 1 to 64, 2 to 20 labels.
MIXED = (
    ("lora", 1, 2),
    ("rslora", 2, 20),
    ("dora", 4, 3),
    ("lora", 8, 5),
    ("dora", 16, 2),
    ("rslora", 32, 7),
    ("lora", 64, 20),
    ("dora", 64, 4),
)
TEXTS = sentences(7, seed=4, low=1, high=29)
# Logits, max |difference|. A GPU adds in a different order for every shape of a batch, which the rank-32 adapter
# magnifies. A bfloat16 number has 8 significant bits, so a logit of 4 has a resolution of 1/64.
TOLERANCE = 1e-3 if torch.cuda.is_available() else 1e-4
SPREAD = 5e-3
BF16_TOLERANCE = 0.1
NF4_TOLERANCE = 0.1


@pytest.fixture(scope="module")
def mixed(make_adapter):
    """model_type -> one folder for each of MIXED, and one that adapts the attention only."""

    def make(model_type):
        folders = [
            make_adapter(
                model_type, method=method, rank=rank, labels=labels, seed=rank, name=f"{method}-{rank}-{labels}"
            )
            for method, rank, labels in MIXED
        ]
        return [*folders, make_adapter(model_type, labels=6, name="attention", targets=("q_proj", "v_proj"))]

    return make


def one_by_one(model, tokenizer):
    """Return logits (N, C), one claim at a time, without padding."""
    with torch.inference_mode():
        inputs = [tokenizer([text], truncation=True, return_tensors="pt").to(model.device) for text in TEXTS]
        return torch.cat([model(**one).logits.float() for one in inputs]).cpu().numpy()


def vanilla(base, folder, device):
    """Return the logits of transformers and peft alone, as in the snippet of a card."""
    labels = json.loads((folder / "labels.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(labels))
    model.config.pad_token_id = tokenizer.pad_token_id
    return one_by_one(PeftModel.from_pretrained(model, folder).eval().to(device), tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_mixed_methods_ranks_labels_and_lengths_match_plain_peft(model_type, mixed, tiny_base):
    folders, base = mixed(model_type), tiny_base(model_type)
    engine = Engine(str(base), folders)
    # DoRA changes the computation of a layer for all adapters of its pass: so once with it, and once without.
    everything = engine.logits(TEXTS)
    without = engine.logits(TEXTS, [name for name in engine.names if not name.startswith("dora")])
    for folder in folders:
        expected = vanilla(base, folder, engine.device)
        for found in (everything, without) if folder.name in without else (everything,):
            np.testing.assert_allclose(found[folder.name], expected, atol=TOLERANCE, rtol=0, err_msg=folder.name)
            assert (found[folder.name].argmax(1) == expected.argmax(1)).all()
            print(model_type, folder.name, np.abs(found[folder.name] - expected).max(), np.abs(expected).max())
        assert np.ptp(expected, axis=0).max() > SPREAD, "the claims differ by more than the tolerance"


# Adapters of both layers, of the last one and of the head alone: (name, settings).
LAYERS = (
    ("all", {"method": "dora", "rank": 8, "labels": 2}),
    ("last", {"layers": "last:1", "rank": 2, "labels": 5}),
    ("dora-last", {"layers": "last:1", "method": "dora", "rank": 4, "labels": 4}),
    ("head", {"method": "linear-probe", "labels": 3}),
    ("other-head", {"method": "linear-probe", "labels": 7}),
)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["bert", "distilbert", "modernbert", "qwen3", "deberta-v2"])
def test_layers_below_all_adapters_are_computed_once_and_match_plain_peft(model_type, make_adapter, tiny_base):
    base, names = tiny_base(model_type), [name for name, _ in LAYERS]
    folders = [
        make_adapter(model_type, name=name, seed=seed, **settings) for seed, (name, settings) in enumerate(LAYERS)
    ]
    expected = {}
    for folder in folders:
        loaded = bases.load(BaseConfig(id=str(base), max_length=32), LabelSet.load(folder))
        expected[folder.name] = one_by_one(adapters.load_with_peft(folder, loaded), loaded.tokenizer)
    engine, seen = Engine(str(base), folders), []
    for layer in architectures.layers(engine._base.model)[1]:
        layer.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    mixes = model_type != "deberta-v2"

    def check(name, logits, texts=slice(None)):
        np.testing.assert_allclose(logits, expected[name][texts], atol=TOLERANCE, rtol=0, err_msg=name)

    for asked, rows in ((names, [2, 4]), (names[1:], [1, 3]), (names[3:], [1, 1]), (names[:1], [1, 1])):
        seen.clear()
        for name, logits in engine.logits(TEXTS, asked).items():
            check(name, logits)
        # A request takes several passes of both layers.
        computed = [sum(seen[0::2]), sum(seen[1::2])]
        assert computed == [count * len(TEXTS) for count in rows] or not mixes
    if mixes:
        # Two requests in one pass, with different texts and different adapters, of which one is in both.
        items = engine._encode(TEXTS, None, 32).items
        loaded, parts = engine._cache.loaded(), ((slice(0, 3), names[:2]), (slice(3, 7), names[1:]))
        slices = [
            Slice(
                job=Job(items=items[texts], adapters=[loaded[name] for name in asked]),
                places=[*range(texts.stop - texts.start)],
            )
            for texts, asked in parts
        ]
        seen.clear()
        for (texts, asked), outputs in zip(parts, engine._forward.run(slices), strict=True):
            for place, name in enumerate(asked):
                check(name, outputs[:, place, : expected[name].shape[1]], texts)
        assert seen == [3 + 3 + 4, 3 * 2 + 4 * 2 + 4]


@pytest.mark.parametrize(("adapters", "rows"), [(2, 1), (3, 5), (8, 20)])
def test_the_batched_down_projection_keeps_each_rows_own_adapter(adapters, rows):
    random = torch.Generator().manual_seed(adapters)
    x = torch.randn(adapters, rows, 24, generator=random)
    # Interleaved as on a GPU.
    down = torch.randn(24, adapters, 4, generator=random).transpose(0, 1)
    torch.testing.assert_close(lora_layers.batched_down_projection(x, down), torch.matmul(x, down))


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["bert", "modernbert", "llama", "qwen3"])
@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [({"dtype": "bfloat16"}, BF16_TOLERANCE), ({"quantize": "nf4"}, NF4_TOLERANCE)],
    ids=["bf16", "nf4"],
)
def test_a_base_of_lower_precision_matches_peft(settings, tolerance, model_type, mixed, tiny_base):
    config = BaseConfig(id=str(tiny_base(model_type)), max_length=32, **settings)
    folders = mixed(model_type)
    found, sure = Engine(config.id, folders, config=config).logits(TEXTS), 0
    for folder in folders:
        base = bases.load(config, LabelSet.load(folder))
        expected = one_by_one(adapters.load_with_peft(folder, base), base.tokenizer)
        np.testing.assert_allclose(found[folder.name], expected, atol=tolerance, rtol=0, err_msg=folder.name)
        best = np.sort(expected, axis=1)
        clear = best[:, -1] - best[:, -2] > 2 * tolerance
        assert (found[folder.name].argmax(1) == expected.argmax(1))[clear].all()
        sure += clear.sum()
        print(model_type, settings, folder.name, np.abs(found[folder.name] - expected).max(), np.abs(expected).max())
    assert sure > len(TEXTS), "some arg max is certain within the tolerance"


@pytest.mark.gpu
@pytest.mark.parametrize("model_type", ["bert", "modernbert", "llama", "qwen3"])
@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [({}, TOLERANCE), ({"dtype": "bfloat16"}, BF16_TOLERANCE), ({"quantize": "nf4"}, NF4_TOLERANCE)],
    ids=["float32", "bf16", "nf4"],
)
def test_a_repeated_pass_is_replayed_and_matches_peft(settings, tolerance, model_type, mixed, tiny_base):
    config = BaseConfig(id=str(tiny_base(model_type)), max_length=32, **settings)
    folders = mixed(model_type)
    engine = Engine(config.id, folders, config=config)
    for round in range(2):  # the second after an adapter, and with it every recording, was dropped
        for _ in range(6):
            engine.logits(TEXTS[:1])
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            found = engine.logits([TEXTS[1]])
        assert any("cudaGraphLaunch" in event.key for event in seen.key_averages())
        for folder in folders[round:]:
            base = bases.load(config, LabelSet.load(folder))
            expected = one_by_one(adapters.load_with_peft(folder, base), base.tokenizer)[1]
            np.testing.assert_allclose(found[folder.name][0], expected, atol=tolerance, rtol=0, err_msg=folder.name)
        engine.drop(folders[round].name)


@pytest.mark.gpu
def test_a_base_that_cannot_be_recorded_runs_without_recordings(mixed, tiny_base):
    engine = Engine(str(tiny_base("bert")), mixed("bert")[:2])

    def looks(module, args, kwargs):
        kwargs["input_ids"].max().item()  # synchronizes with the GPU, which cannot be recorded

    engine._base.model.register_forward_pre_hook(looks, with_kwargs=True)
    answers = [engine.logits(TEXTS[:1]) for _ in range(8)]
    for name in engine.names:
        for answer in answers:
            np.testing.assert_allclose(answer[name], answers[0][name], atol=TOLERANCE, rtol=0)
