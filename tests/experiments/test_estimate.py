"""`lorahub estimate`: counted without weights, equal to what is allocated, told and drawn; bad input is one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import learnable
from field_tables import documented, leaves, matches
from torch import nn

from lorahub import config as configs
from lorahub.experiments.estimate import costs, footprint, report, skeleton
from lorahub.experiments.estimate import run as experiment
from lorahub.experiments.estimate.trace import ACTIVATIONS, Trace
from lorahub.hub import fetch
from lorahub.training import optimizers

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "estimate.md").read_text(encoding="utf-8")


@pytest.fixture
def described(tiny_base, tmp_path):
    """A folder that holds a tiny base's config.json and nothing else."""

    def make(model_type):
        folder = tmp_path / f"only-{model_type}"
        folder.mkdir()
        shutil.copy(tiny_base(model_type) / "config.json", folder)
        return folder

    return make


def counted(base, *settings, method, device="cpu", half=False, tokens=16):
    config = configs.load(None, [f"adapter.method={method}", f"base.id={base}", *settings])
    empty = skeleton.load(config.base, fetch.description(str(base)), 3, half=half)
    return footprint.measure_step(empty, config, train_tokens=tokens, eval_tokens=tokens, device=device, half=half)


def test_a_trace_without_data_is_the_trace_with_data():
    from torch._subclasses.fake_tensor import FakeTensorMode

    def step():
        layer = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.LayerNorm(16), nn.Linear(16, 2))
        trace = Trace()
        trace.name(layer.parameters(), "weights")
        with trace:
            layer(torch.ones(4, 8)).sum().backward()
        trace.name([parameter.grad for parameter in layer.parameters()], "gradients")
        return [size for _, size in trace.events], trace.peak(), trace.operations

    real = step()
    with FakeTensorMode():
        assert step() == real
    assert real[1]["weights"] == 4 * (8 * 16 + 16 + 2 * 16 + 16 * 2 + 2)
    # Two products forward, and backward two for each but the first, whose input needs no gradient.
    assert real[2] == 2 * 4 * (8 * 16 + 16 * 2) + 2 * 4 * (8 * 16 + 2 * 16 * 2)


def test_weights_gradients_and_moments_are_what_their_formulas_say(described):
    full = counted(described("bert"), method="full")
    peak = full.on_cpu()
    assert full.trainable == full.total
    buffers = peak["weights"] - 4 * full.total
    assert 0 <= buffers < 2048, "position ids"
    assert peak["best"] == 4 * full.trainable
    steps = peak["optimizer"] - 8 * full.trainable
    assert 0 <= steps < 4 * 100, "two moments, and a step count a tensor"
    lora = counted(described("llama"), method="lora")
    assert lora.trainable < lora.total / 2
    assert lora.on_cpu()["adapters"] == 4 * lora.trainable
    assert counted(described("roberta"), "train.gradient_accumulation=4", method="full").on_cpu()["gradients"] > 0


def test_quantized_weights_take_the_bytes_of_a_loaded_base(tiny_base):
    from lorahub.models import base as bases
    from lorahub.models import methods

    config = configs.load(None, ["adapter.method=qlora", f"base.id={tiny_base('llama')}"])
    base = skeleton.load(config.base, fetch.description(str(tiny_base("llama"))), 3, half=False)
    with skeleton.META:
        model = methods.attach(base, config.adapter)
    total = methods.count_parameters(model)[1]
    skeleton.materialize(model, "cpu")
    assert methods.count_parameters(model)[1] == total
    loaded = methods.attach(bases.load(config.base), config.adapter)

    def size(model):
        """Bytes of the 4-bit weights with their constants."""
        packed = [item for item in model.parameters() if hasattr(item, "quant_state")]
        states = [parameter.quant_state for parameter in packed]
        constants = [item for state in states for item in (state.absmax, state.offset, state.state2.absmax)]
        return sum(item.nbytes for item in (*packed, *constants))

    assert size(model) == size(loaded) > 0


def test_checkpointing_and_bfloat16_take_less(described):
    base = described("llama")
    plain = counted(base, method="lora").on_cpu()[ACTIVATIONS]
    again = counted(base, "train.checkpointing=always", method="lora")
    assert again.on_cpu()[ACTIVATIONS] < 0.8 * plain
    assert again.operations > counted(base, method="lora").operations
    on_gpu = counted(base, method="lora", device="cuda", half=True).on_gpu()
    assert on_gpu[ACTIVATIONS] < plain
    assert "best" not in on_gpu
    assert all(count % 512 == 0 for count in on_gpu.values())


def test_moments_in_8_bits_are_a_quarter_and_their_constants():
    parameter = nn.Parameter(torch.empty(100, 256))

    def size(form, of=parameter):
        return sum(item.nbytes for item in optimizers.empty_moments(form, of))

    assert size("paged-adamw") == 8 * 25_600
    assert size("adamw8bit") == size("paged-adamw8bit") == 2 * (25_600 + 4 * 100 + 4 * 256)
    assert size("adamw8bit", nn.Parameter(torch.empty(4095))) == 8 * 4095, "small ones stay in 32 bits"


def test_on_a_gpu_the_chosen_optimizer_is_counted(described):
    found = counted(described("bert"), "train.optimizer=paged-adamw", method="full", device="cuda", half=True)
    assert found.on_gpu()["optimizer"] == pytest.approx(8 * found.trainable, rel=0.5), "blocks are rounded up"


@pytest.mark.parametrize("method", ["full", "lora", "qlora", "dora", "rslora", "ia3", "linear-probe"])
@pytest.mark.parametrize("model_type", ["bert", "deberta-v2", "modernbert", "qwen2"])
def test_every_architecture_is_counted_on_both_kinds_of_device(described, model_type, method):
    extra = ["adapter.targets=q_proj,v_proj"] if method == "ia3" else []
    found = experiment.estimate(
        base=str(described(model_type)), methods=[method], devices=["cpu", "t4", "h100"], settings=extra
    )
    assert [cost.device for cost in found.costs] == ["cpu", "t4", "h100"]
    for cost in found.costs:
        assert cost.fits
        assert cost.peak_bytes == sum(cost.components.values()) > 4 * cost.trainable_parameters
        assert cost.operations > 0


def test_json_is_documented_and_the_claims_own_lengths_count(tiny_base, cli, tmp_path):
    data = tmp_path / "claims.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in learnable(160)), encoding="utf-8")
    arguments = ["--base", tiny_base("bert"), "--method", "full,lora", "--gpu", "cpu,h100"]
    code, out, err = cli("estimate", *arguments, "--data", data, "--set", "train.min_steps=0", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    paths = [path for path, _ in leaves(found)]
    for path in paths:
        assert any(matches(field, path) for field in documented(PAGE)), f"docs/estimate.md lacks {'.'.join(path)}"
    for field in documented(PAGE):
        assert any(matches(field, path) for path in paths), f"no {'.'.join(field)} in the JSON"
    assert set(found["costs"][0]["components"]) == set(costs.COMPONENTS)
    assert (found["claims"], found["steps"], found["labels"]) == (112, 16, 2)
    assert 8 < found["tokens"] < 16
    assert found["costs"][0]["seconds"] == pytest.approx(16 * found["costs"][0]["seconds_per_step"])
    code, out, _ = cli("estimate", *arguments, "--json")
    longer = json.loads(out)
    assert (longer["tokens"], longer["claims"], longer["steps"]) == (64, None, None), "what the base takes"
    assert longer["costs"][0]["peak_bytes"] > found["costs"][0]["peak_bytes"]


def test_it_is_printed_and_drawn(described, cli, tmp_path):
    picture = tmp_path / "memory.png"
    code, out, err = cli("estimate", "--base", described("bert") / "config.json", "--gpu", "cpu,l4", "--plot", picture)
    assert (code, err) == (0, "")
    for words in (
        "only-bert",
        "batches of 32 claims of up to 64 tokens",
        "weights",
        "optimizer states",
        "qlora fits on",
    ):
        assert words in out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_does_not_fit_is_reported():
    row = dict.fromkeys(costs.COMPONENTS, 0) | {"weights": 15 * 10**9}
    small, large = costs.gpu("T4"), costs.gpu("h100")
    given = {"half": True, "operations": 10**12, "steps": None, "trainable": 1, "total": 2}
    found = costs.Estimate(
        base="b", parameters=2, labels=2, batch_size=1, tokens=8, claims=None, steps=None,
        costs=[costs.cost("lora", small, row, **given), costs.cost("lora", large, row, **given)],
    )  # fmt: skip
    assert [cost.fits for cost in found.costs] == [False, True], "a GPU's own libraries need memory too"
    shown = report.build(found)
    assert shown.tables[0].rows[0][2].startswith("15.0 GB NO")
    assert shown.sentences == ["lora fits on h100; the smallest is h100, with 15.0 GB of 80.0 GB."]
    # A T4 trains in float16.
    assert found.costs[0].seconds_per_step == pytest.approx(1 / (65 * costs.UTILIZATION))


def test_the_size_of_lora_on_a_matrix_is_the_tutorials(cli):
    code, out, err = cli("estimate", "--matrix", "512x64", "--rank", "8", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "outputs": 512, "inputs": 64, "rank": 8, "a": 512, "b": 4096, "parameters": 4608, "full": 32768,
        "saving": 0.859375,
    }  # fmt: skip
    code, out, _ = cli("estimate", "--matrix", "512x64")
    assert code == 0
    assert "LoRA trains 4,608 of 32,768 parameters (14.1%), 86% fewer." in out
    assert [line.split() for line in out.splitlines() if "512 x 8" in line] == [["B", "512", "x", "8", "4,096"]]


def test_of_a_base_on_the_hub_only_the_config_is_fetched(hub, hub_base, cli):
    code, out, err = cli("estimate", "--base", hub_base, "--method", "lora", "--gpu", "cpu", "--json")
    assert code == 0, err
    assert json.loads(out)["base"] == "org/tiny-bert"
    fetched = {path.rpartition("/")[2] for _, path, *_ in hub.sent("/resolve/", "GET")}
    assert fetched == {"config.json"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--base", "nowhere"], "there is no base model 'nowhere'"),
        (["--base", "org/nothing"], "the base model 'org/nothing' cannot be downloaded"),
        (["--gpu", "h1000"], "--gpu: 'h1000' is not in the table; it has t4"),
        (["--method", "lorra"], "--method takes some of lora"),
        (["--method", ","], "found none"),
        (["--method", "lora,lora"], "one or more different methods"),
        (["--method", "prompt"], "virtual tokens are not counted"),
        (["--plot", "memory.pdf"], "must end in .png"),
        (["--plot", "."], "must end in .png"),
        (["--set", "train.batch=3"], "there is no field train.batch"),
        (["--set", "adapter.targets=nothing"], "no linear layer 'nothing'"),
        (["--data", "nowhere.csv"], "nowhere.csv"),
        (["no-recipe"], "there is no recipe 'no-recipe'"),
        (["--matrix", "512"], "--matrix takes OUTPUTSxINPUTS, as in 512x64; found '512'"),
        (["--matrix", "0x64"], "--matrix takes OUTPUTSxINPUTS"),
        (["--matrix", "512x64", "--rank", "65"], "a 512x64 matrix has ranks from 1 to 64; found --rank 65"),
        (["--matrix", "512x64", "--rank", "0"], "ranks from 1 to 64"),
        (["--matrix", "512x64", "--base", "minilm"], "--matrix counts one matrix alone"),
        (["--rank", "8"], "--rank belongs to --matrix"),
    ],
)
def test_bad_input_is_one_line(cli, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("estimate", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"model_type": "no-such"}', "cannot be described for classification"),
        ('{"model_type": "clip_vision_model"}', "cannot be described for classification"),
        ("{", "cannot be described for classification"),
    ],
)
def test_a_config_that_is_no_classifiers_is_one_line(cli, tmp_path, content, words):
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    code, out, err = cli("estimate", "--base", tmp_path)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1
