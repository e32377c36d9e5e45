"""benchmarks/many_users.py in small: many threads on one engine while adapters come and go, every answer checked."""

import sys
from pathlib import Path

import pytest
from conftest import LONG, sentences

from lorahub.config import BaseConfig
from lorahub.serving.engine import Engine

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.mark.slow
def test_no_wrong_answer_and_no_error_while_adapters_are_loaded_evicted_and_dropped(tiny_base, make_adapter):
    from many_users import Visitors, reference

    config = BaseConfig(id=str(tiny_base("bert")), max_length=32)
    methods = ("lora", "dora", "rslora")
    folders = [
        make_adapter("bert", labels=2 + n, rank=2**n, seed=n, method=methods[n % 3], name=f"a{n}") for n in range(6)
    ]
    texts = sentences(30, seed=2)
    expected = {folder.name: reference(folder, config, texts) for folder in folders}
    engine = Engine(config.id, folders[:-1], config=config, most_adapters=4)
    visitors = Visitors(engine, folders, texts, expected)
    visitors.run(users=10, seconds=60 if LONG else 5)
    found = visitors.report()
    assert (found["wrong"], found["errors"]) == (0, [])
    assert found["requests"] > 10
    assert found["loaded_and_dropped"] > 0
    assert sum(held.loaded for held in engine.status().adapters) <= 4
    assert not any(held.in_use for held in engine.status().adapters)
    assert found["memory_growth_bytes"] < 50_000_000
