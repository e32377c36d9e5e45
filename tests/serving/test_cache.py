"""The bounded cache of adapters: eviction, pinning, and adapters in use."""

import gc
import shutil
import threading
import time
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import LONG, sentences

from lorahub.errors import AdapterError, ConfigError, EngineBusyError
from lorahub.serving.engine import cache as caches
from lorahub.serving.engine.engine import Engine

pytestmark = pytest.mark.slow

TEXTS = sentences(3, seed=1)


@pytest.fixture(scope="module")
def folders(make_adapter):
    return [make_adapter("bert", labels=2 + seed, seed=seed, name=f"a{seed}") for seed in range(4)]


@pytest.fixture(scope="module")
def expected(tiny_base, folders):
    return Engine(str(tiny_base("bert")), folders).logits(TEXTS)


@pytest.fixture
def engine(tiny_base, folders):
    return Engine(str(tiny_base("bert")), folders[:2], most_adapters=2)


def loaded(engine):
    return {held.name for held in engine.status().adapters if held.loaded}


def test_the_least_recently_used_adapter_is_evicted_and_loaded_again_on_request(engine, folders, expected):
    engine.logits(TEXTS, ["a0"])
    assert engine.add(folders[2]) == ["a2"]
    assert loaded(engine) == set(engine.adapters) == {"a0", "a2"}
    np.testing.assert_allclose(engine.logits(TEXTS, ["a1"])["a1"], expected["a1"], atol=1e-4)
    assert loaded(engine) == {"a1", "a2"}
    assert [held.name for held in engine.status().adapters] == ["a0", "a1", "a2"]


def test_the_bytes_in_memory_stay_under_their_limit(tiny_base, folders):
    every = {held.name: held.bytes for held in Engine(str(tiny_base("bert")), folders).status().adapters}
    limit = every["a0"] + every["a1"] + every["a2"]
    engine = Engine(str(tiny_base("bert")), most_bytes=limit)
    for folder in folders:
        engine.add(folder)
        assert 0 < engine.status().bytes <= limit
    assert loaded(engine) == {"a2", "a3"}


def test_eviction_frees_memory(engine, folders):
    engine.logits(TEXTS)
    tensors = [weakref.ref(engine.adapters["a0"].lora[layer][0]) for layer in engine.adapters["a0"].lora]
    engine.logits(TEXTS, ["a1"])
    engine.add(folders[2])
    gc.collect()
    assert tensors
    assert not [tensor for tensor in tensors if tensor() is not None]


def test_a_pinned_adapter_is_not_evicted(engine, folders):
    engine.pin("a0")
    engine.logits(TEXTS, ["a1"])
    engine.add(folders[2], folders[3])
    assert loaded(engine) == {"a0", "a3"}
    with pytest.raises(ConfigError, match="a1, a2 and 1 pinned adapters do not fit .* the limit is 2 adapters"):
        engine.logits(TEXTS, ["a1", "a2"])
    engine.pin("a0", False)
    assert set(engine.logits(TEXTS, ["a1", "a2"])) == {"a1", "a2"}


def test_an_adapter_in_use_is_not_evicted_and_waiting_ends_with_an_error(engine, folders, monkeypatch):
    monkeypatch.setattr(caches, "_WAIT_SECONDS", 0.1)
    with engine._cache.hold(["a0", "a1"]):
        assert all(held.in_use for held in engine.status().adapters)
        with pytest.raises(EngineBusyError, match="no memory for a2: other requests use their adapters"):
            engine.add(folders[2])
    engine.add(folders[2])
    assert not any(held.in_use for held in engine.status().adapters)


def test_a_request_waits_for_memory(engine, folders):
    started, done = threading.Event(), []

    def add():
        started.set()
        done.extend(engine.add(folders[2]))

    with engine._cache.hold(["a0", "a1"]):
        thread = threading.Thread(target=add)
        thread.start()
        started.wait()
        assert not done
    thread.join(timeout=20)
    assert done == ["a2"]


def test_requests_in_progress_finish_with_a_dropped_adapter(engine):
    with engine._cache.hold(["a0"]) as held:
        engine.drop("a0")
        assert held["a0"].lora
    with pytest.raises(AdapterError, match="no adapter 'a0' is loaded; loaded: a1"):
        engine.logits(TEXTS, ["a0"])


def test_a_deleted_adapter_folder_is_an_error_for_that_adapter_only(engine, folders, tmp_path):
    copy = shutil.copytree(folders[2], tmp_path / "copy")
    engine.add(copy)
    engine.logits(TEXTS, ["a0", "a1"])
    shutil.rmtree(copy)
    with pytest.raises(AdapterError, match="copy"):
        engine.logits(TEXTS, ["copy"])
    assert set(engine.logits(TEXTS, ["a0", "a1"])) == {"a0", "a1"}


@pytest.mark.parametrize("limit", ["most_adapters", "most_bytes"])
def test_a_limit_below_one_is_refused(limit, tiny_base):
    with pytest.raises(ConfigError, match=f"{limit} is 0"):
        Engine(str(tiny_base("bert")), **{limit: 0})


def test_logits_stay_correct_while_adapters_are_added_dropped_and_evicted(tiny_base, folders, expected):
    """Eight threads ask and two add and drop: for two seconds, in `make test-long` for a minute."""
    engine = Engine(str(tiny_base("bert")), folders[:3], most_adapters=3)
    answers, wrong, end = Counter(), [], time.monotonic() + (60 if LONG else 2)

    def ask(first, second):
        while time.monotonic() < end:
            found = engine.logits(TEXTS, [first, second])
            wrong.extend(name for name in found if not np.allclose(found[name], expected[name], atol=1e-4))
            answers["asked"] += len(found)

    def churn():
        while time.monotonic() < end:
            (name,) = engine.add(folders[3])
            found = engine.logits(TEXTS, [name])
            wrong.extend([name] if not np.allclose(found[name], expected["a3"], atol=1e-4) else [])
            engine.drop(name)
            answers["added and dropped"] += 1

    pairs = [("a0", "a1"), ("a1", "a2"), ("a2", "a0"), ("a0", "a2")] * 2
    with ThreadPoolExecutor(10) as threads:
        under_way = [threads.submit(ask, *pair) for pair in pairs]
        under_way += [threads.submit(churn) for _ in range(2)]
        for one in under_way:
            one.result()
    print(f"\n{dict(answers)}, {len(wrong)} wrong")
    assert not wrong
    assert answers["asked"] >= len(pairs)
    assert answers["added and dropped"] >= 2
    assert len(engine.adapters) <= 3
