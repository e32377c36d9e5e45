"""Estimates against trainings in fresh processes, by the code of the benchmark, on a small base and on a GPU."""

import importlib.util
import platform
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("estimate_benchmark", ROOT / "benchmarks" / "estimate.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up their fields
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def small(benchmark, tmp_path_factory):
    """A folder with claims and a base of 8 million parameters; the base."""
    folder = tmp_path_factory.mktemp("small")
    shape = {"model_type": "distilbert", "dim": 192, "n_layers": 4, "n_heads": 4, "hidden_dim": 768}
    model = benchmark.Model(name="distilbert-8m", tokens=96, config=shape)
    benchmark.write_claims(folder / "claims")
    model.write(folder)
    return model, folder


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allowance was measured with glibc")
@pytest.mark.parametrize("method", ["lora", pytest.param("qlora", marks=pytest.mark.long)])
def test_a_fresh_process_takes_what_was_estimated(benchmark, small, method):
    model, folder = small
    measured = benchmark.train(model, method, folder)["measured_bytes"]
    assert benchmark.estimated_bytes(model, method, folder) == pytest.approx(measured, rel=0.2)


@pytest.mark.gpu
def test_seven_billion_parameters_on_a_gpu(benchmark, tmp_path):
    benchmark.write_claims(tmp_path / "claims")
    benchmark.ON_GPU.write(tmp_path, "cuda")
    torch.cuda.empty_cache()
    measured = benchmark.train(benchmark.ON_GPU, "qlora", tmp_path)["measured_bytes"]
    assert benchmark.estimated_bytes(benchmark.ON_GPU, "qlora", tmp_path, "h100") == pytest.approx(measured, rel=0.15)
