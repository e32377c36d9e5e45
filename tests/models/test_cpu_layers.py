"""Layers that train faster on a CPU compute what peft's and torch's layers compute."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.pytorch_utils import Conv1D

from lorahub.config import AdapterConfig, BaseConfig
from lorahub.labels import LabelSet
from lorahub.models import base as bases
from lorahub.models import cpu_layers, methods

pytestmark = pytest.mark.slow
NAMES = LabelSet(("label0", "label1", "label2"))


@pytest.fixture
def attached(tiny_base):
    """attached(architecture, installed, **adapter) -> a model to train, the same weights in each call."""

    def attached(architecture, *, installed, method="lora", dropout=0.0):
        folder = str(tiny_base(architecture))
        torch.manual_seed(0)
        base = bases.load(BaseConfig(id=folder, max_length=32), NAMES)
        model = methods.attach(base, AdapterConfig(method=method, rank=4, dropout=dropout))
        for module in model.modules():
            # The base's own dropout differs between the layers by its masks.
            if isinstance(module, nn.Dropout):
                module.p = dropout
        model.config.attention_probs_dropout_prob = 0.0
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
        if installed:
            cpu_layers.install(model)
        return model

    return attached


def gradients(model, seed=1):
    """The loss of a batch and the gradient of each trained parameter."""
    torch.manual_seed(seed)
    ids, mask = torch.randint(5, 30, (4, 12)), torch.ones(4, 12, dtype=torch.int64)
    mask[0, 6:] = 0
    logits = model(input_ids=ids, attention_mask=mask).logits
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0]))
    loss.backward()
    return loss.detach(), {name: item.grad for name, item in model.named_parameters() if item.requires_grad}


@pytest.mark.parametrize("method", ["lora", "rslora", "dora"])
@pytest.mark.parametrize("architecture", ["bert", "deberta-v2", "llama"])
def test_loss_and_gradients_are_those_of_peft(attached, architecture, method):
    expected, wanted = gradients(attached(architecture, installed=False, method=method).train())
    loss, found = gradients(attached(architecture, installed=True, method=method).train())
    torch.testing.assert_close(loss, expected)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-4, msg=name)


def test_the_fused_layer_is_used(attached):
    kinds = [type(module) for module in attached("bert", installed=True, dropout=0.1).modules()]
    assert kinds.count(cpu_layers.FusedLora) > 10
    assert nn.Dropout not in kinds
    assert cpu_layers.FusedLora not in map(type, attached("bert", installed=True, method="ia3").modules())


def test_gradients_with_dropout_are_those_of_autograd():
    """The function with a mask, against the same formula from torch's own operations, and finite differences."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 5, 6), torch.randn(4, 6), torch.randn(4)
    down, up, mask = torch.randn(3, 6), torch.randn(4, 3), cpu_layers.dropout_mask(x, 0.4)
    trained = [tensor.double().requires_grad_() for tensor in (x, down, up)]
    frozen = [tensor.double() for tensor in (mask, weight, bias)]

    def fused(x, down, up):
        return cpu_layers._LoraFunction.apply(x, *frozen, down, up, 0.7).view(2, 5, 4)

    def plain(x, down, up):
        mask, weight, bias = frozen
        return x @ weight.T + bias + 0.7 * (x * mask) @ down.T @ up.T

    torch.testing.assert_close(fused(*trained), plain(*trained))
    assert torch.autograd.gradcheck(fused, trained)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_masks_have_the_probability_and_keep_the_mean(probability):
    torch.manual_seed(0)
    like = torch.empty(1000, 300)
    masks = [cpu_layers.dropout_mask(like, probability) for _ in range(3)]
    for mask in masks:
        assert mask.unique().tolist() == pytest.approx([0, 1 / (1 - probability)])
        # Standard error: sqrt(p (1 - p) / 300,000) < 0.001.
        assert float((mask == 0).float().mean()) == pytest.approx(probability, abs=0.004)
    both = ((masks[0] == 0) & (masks[1] == 0)).float().mean()
    assert float(both) == pytest.approx(probability**2, abs=0.004)


def test_masks_follow_from_torchs_seed_and_not_from_longer_ones_before():
    def draw():
        torch.manual_seed(3)
        return cpu_layers.dropout_mask(torch.empty(7, 9), 0.3).clone()

    first = draw()
    cpu_layers.dropout_mask(torch.empty(2_000_000), 0.3)
    assert torch.equal(draw(), first)
    assert not torch.equal(cpu_layers.dropout_mask(torch.empty(7, 9), 0.3), first)


def test_evaluation_is_bit_equal_to_peft(attached):
    ids = torch.randint(5, 30, (4, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, wanted = (
            attached("bert", installed=installed, dropout=0.2).eval()(input_ids=ids).logits
            for installed in (True, False)
        )
    assert torch.equal(found, wanted)


def test_recomputed_activations_have_the_same_masks(attached):
    """With gradient checkpointing the forward pass runs twice, from the same state of the generator."""
    plain, recomputed = (attached("bert", installed=True, dropout=0.2).train() for _ in range(2))
    recomputed.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    expected, wanted = gradients(plain)
    loss, found = gradients(recomputed)
    assert torch.equal(loss, expected)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], msg=name)


def test_attention_with_cut_masks_is_that_of_torch(monkeypatch):
    """With masks of ones: padded texts, masks to add, and what is left to torch."""
    torch.manual_seed(0)
    drawn = []

    def ones(like, probability):
        drawn.append(probability)
        return torch.ones_like(like)

    monkeypatch.setattr(cpu_layers, "dropout_mask", ones)
    query, key, value = (torch.randn(3, 4, 7, 8, requires_grad=True) for _ in range(3))
    real = torch.ones(3, 1, 1, 7, dtype=torch.bool)
    real[1, ..., 4:] = False
    added = torch.zeros(3, 1, 1, 7).masked_fill(~real, torch.finfo(torch.float32).min)
    module = nn.Module()
    module.is_causal, module.num_key_value_groups = False, 1
    for mask in (None, real, added):
        found, _ = cpu_layers._attention(module, query, key, value, mask, dropout=0.1, scaling=0.3)
        wanted, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.3)
        torch.testing.assert_close(found, wanted)
        ours, theirs = (torch.autograd.grad(item.square().sum(), (query, key, value)) for item in (found, wanted))
        torch.testing.assert_close(ours, theirs)
    assert drawn == [0.1] * 3
    module.is_causal, module.num_key_value_groups = True, 2
    causal = (query, key[:, :2], value[:, :2], None)
    found, _ = cpu_layers._attention(module, *causal, dropout=0.0)
    torch.testing.assert_close(found, sdpa_attention_forward(module, *causal)[0])
    assert len(drawn) == 3


def test_layers_with_transposed_weights_are_left_to_peft():
    """A Conv1D of GPT-2 with as many outputs as inputs: x·W would be computed as x·Wᵀ without an error."""
    torch.manual_seed(0)
    layers = nn.Sequential(Conv1D(6, 6))
    nn.init.normal_(layers[0].weight)
    model = get_peft_model(layers, LoraConfig(r=2, target_modules=["0"], fan_in_fan_out=True))
    x = torch.randn(3, 6)
    expected = model.train()(x)
    cpu_layers.install(model)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("architecture", ["bert", "deberta-v2", "llama"])
def test_frozen_weights_are_in_bfloat16_until_they_are_restored(attached, architecture):
    model = attached(architecture, installed=True, method="rslora")
    before = {name: item.data for name, item in model.named_parameters()}
    expected, wanted = gradients(model.train())
    model.zero_grad()
    restore = cpu_layers.lower(model)
    for parameter in model.parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16)
    loss, found = gradients(model)
    assert float(loss) == pytest.approx(float(expected), rel=0.05)
    together = [torch.cat([item.flatten() for item in values.values()]) for values in (found, wanted)]
    assert {item.dtype for item in found.values()} == {torch.float32}
    assert float(torch.cosine_similarity(*together, dim=0)) > 0.98
    restore()
    for name, parameter in model.named_parameters():
        assert parameter.data is before[name] or torch.equal(parameter, before[name])
        assert parameter.dtype == torch.float32
