"""Which 16-bit type a device uses, by its compute capability: emulated bfloat16 does not count."""

import pytest
import torch

from lorahub import config as configs
from lorahub.cli.doctor import computes
from lorahub.models import precision, quantization
from lorahub.models.base import choose_dtype
from lorahub.training import mixed_precision

# V100, T4, A100, RTX 3090, L4, H100, B200.
GPUS = [((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((8, 6), "bf16"), ((8, 9), "bf16"), ((9, 0), "bf16"),
        ((10, 0), "bf16")]  # fmt: skip


@pytest.mark.parametrize(("capability", "expected"), GPUS)
def test_bfloat16_is_used_where_the_gpu_computes_in_it(capability, expected, monkeypatch):
    half = precision.of_capability(capability)
    assert half == {"fp16": torch.float16, "bf16": torch.bfloat16}[expected]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    for setting, autocast in (("auto", expected), ("no", "no")):
        config = configs.load(None, [f"train.mixed_precision={setting}"])
        assert mixed_precision.choose(config, torch.device("cuda"), 22_000_000).autocast == autocast
    assert choose_dtype("auto", 7_000_000_000, half=half)[0] == half
    assert choose_dtype("auto", 22_000_000, half=half)[0] == torch.float32
    name = precision.name(half)
    assert computes(capability) == f"compute capability {capability[0]}.{capability[1]}, 16-bit type {name}"


def test_a_cpu_trains_in_float32_and_computes_4_bits_in_bfloat16():
    cpu = torch.device("cpu")
    assert precision.half(cpu) is None
    assert precision.of_4_bits(cpu) == torch.bfloat16
    assert choose_dtype("auto", 7_000_000_000, half=None)[0] == torch.float32


@pytest.mark.parametrize("computed", [torch.float16, torch.bfloat16])
def test_layers_in_4_bits_compute_in_the_given_type(computed):
    assert quantization.settings("nf4", ["score"], computed).bnb_4bit_compute_dtype == computed
