"""The scheduler: shared passes, turns, cancellation, a full queue, errors."""

import multiprocessing
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest
from conftest import sentences

from lorahub.errors import EngineBusyError
from lorahub.serving.engine import shared_layers
from lorahub.serving.engine.engine import Engine
from lorahub.serving.engine.scheduler import Job, Scheduler

pytestmark = pytest.mark.slow


def job(*lengths, adapters=("a",), kind="logits"):
    return Job(items=[{"input_ids": [0] * length} for length in lengths], adapters=adapters, kind=kind)


def lengths(part):
    return np.array([len(part.job.items[place]["input_ids"]) for place in part.places])


class Recorder:
    """Returns the length of each text and records the slices of each pass; `hold` blocks passes until `go` is set."""

    def __init__(self, *, hold=False):
        self.passes, self.started, self.go = [], threading.Event(), threading.Event()
        if not hold:
            self.go.set()

    def __call__(self, slices):
        self.passes.append(slices)
        self.started.set()
        assert self.go.wait(20)
        return [lengths(part) for part in slices]


def in_order(job):
    return job.output().tolist()


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_every_text_is_processed_once_within_the_tokens_of_a_pass():
    run, request = Recorder(), job(*range(1, 60), adapters=("a", "b"))
    Scheduler(run, tokens=200, most=1).run([request])
    assert in_order(request) == list(range(1, 60))
    for (part,) in run.passes:
        cost = max(lengths(part)) * 2 * len(part.places)
        assert cost <= 200 or len(part.places) == 1
    assert len(run.passes) < 59


def test_a_pass_has_more_texts_if_their_adapters_share_layers():
    run, request = Recorder(), job(*[10] * 8, adapters=range(8))
    request.rows_per_text = 2.5
    Scheduler(run, tokens=100, most=1).run([request])
    assert [len(part.places) for (part,) in run.passes] == [4, 4]
    assert shared_layers.rows_per_text([0, 0, 0], 6) == 3
    assert shared_layers.rows_per_text([4] * 8, 6) == (4 * 1 + 2 * 8) / 6
    assert shared_layers.rows_per_text([0, *[4] * 7], 6) == (4 * 2 + 2 * 8) / 6
    assert shared_layers.rows_per_text([6] * 32, 6) == 8


def test_a_text_longer_than_a_pass_is_processed():
    run, request = Recorder(), job(500, 3)
    Scheduler(run, tokens=100, most=1).run([request])
    assert in_order(request) == [500, 3]


def test_all_passes_run_in_one_thread():
    threads = set()

    def run(slices):
        threads.add(threading.get_ident())
        return [lengths(part) for part in slices]

    scheduler = Scheduler(run, tokens=50, most=9)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: scheduler.run([job(9, 20, 50)]), range(16)))
    assert len(threads) == 1


def test_a_forked_process_can_run_jobs():
    scheduler, fork = Scheduler(Recorder(), tokens=100, most=9), multiprocessing.get_context("fork")
    scheduler.run([job(3)])
    answers = fork.Queue()

    def send():
        request = job(5, 7)
        scheduler.run([request])
        answers.put(in_order(request))

    child = fork.Process(target=send, daemon=True)
    child.start()
    assert answers.get(timeout=20) == [5, 7]
    child.join(20)
    assert child.exitcode == 0


def test_threads_that_outlive_the_main_thread_can_run_jobs():
    code = """
import threading, time
from lorahub.serving.engine.scheduler import Job, Scheduler

def send():
    scheduler.run([Job(items=[{"input_ids": [0]}])])
    threading.main_thread().join()
    time.sleep(0.2)
    scheduler.run([Job(items=[{"input_ids": [0]}])])
    print("done")

scheduler = Scheduler(lambda slices: [[0] for _ in slices], tokens=9, most=9)
threading.Thread(target=send).start()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_jobs_that_wait_at_the_same_time_share_a_pass():
    run = Recorder(hold=True)
    scheduler = Scheduler(run, tokens=1000, most=9)
    jobs = [job(10, adapters=(name,)) for name in "abcdef"]
    with ThreadPoolExecutor(9) as pool:
        busy = pool.submit(scheduler.run, [job(10)])
        assert run.started.wait(20)
        waiting = [pool.submit(scheduler.run, [item]) for item in jobs]
        wait_for(lambda: scheduler.requests == 7)
        run.go.set()
        for each in (busy, *waiting):
            each.result(20)
    assert [in_order(item) for item in jobs] == [[10]] * 6
    assert sorted(len(slices) for slices in run.passes) == [1, 6]
    assert scheduler.requests == 0


def test_a_long_request_does_not_block_a_short_one():
    run = Recorder(hold=True)
    scheduler = Scheduler(run, tokens=100, most=9)
    long, short = job(*[50] * 40), job(10)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(scheduler.run, [long])
        assert run.started.wait(20)
        second = pool.submit(scheduler.run, [short])
        wait_for(lambda: scheduler.requests == 2)
        run.go.set()
        second.result(20)
        first.result(20)
    turn = next(number for number, slices in enumerate(run.passes) if any(part.job is short for part in slices))
    assert turn <= 2
    assert len(run.passes) > 10


def test_jobs_of_different_kinds_never_share_a_pass():
    run = Recorder(hold=True)
    scheduler = Scheduler(run, tokens=1000, most=9)
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(scheduler.run, [job(10)])
        assert run.started.wait(20)
        others = [pool.submit(scheduler.run, [job(10, kind=kind)]) for kind in ("logits", "features") * 2]
        wait_for(lambda: scheduler.requests == 5)
        run.go.set()
        for each in (first, *others):
            each.result(20)
    assert all(len({part.job.kind for part in slices}) == 1 for slices in run.passes)


def test_a_full_queue_refuses_requests_at_once_and_accepts_them_later():
    run = Recorder(hold=True)
    scheduler = Scheduler(run, tokens=1000, most=1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(scheduler.run, [job(10)])
        assert run.started.wait(20)
        with pytest.raises(EngineBusyError, match="requests waiting: 1, .* Try again in a moment"):
            scheduler.run([job(10)])
        run.go.set()
        first.result(20)
    scheduler.run([job(10)])


def test_a_cancelled_request_ends_and_the_others_finish():
    run, stop = Recorder(hold=True), threading.Event()
    scheduler = Scheduler(run, tokens=100, most=9)
    kept = job(20)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(scheduler.run, [job(*[20] * 50)], stop=stop)
        assert run.started.wait(20)
        second = pool.submit(scheduler.run, [job(*[20] * 50)], stop=stop)
        third = pool.submit(scheduler.run, [kept])
        wait_for(lambda: scheduler.requests == 3)
        stop.set()
        with pytest.raises(CancelledError):
            second.result(20)
        run.go.set()
        with pytest.raises(CancelledError):
            first.result(20)
        third.result(20)
    assert in_order(kept) == [20]
    assert scheduler.requests == 0
    assert len(run.passes) < 10


def test_an_error_reaches_only_the_requests_of_its_pass():
    def run(slices):
        if any(len(part.job.items) == 2 for part in slices):
            raise MemoryError("too much")
        return [lengths(part) for part in slices]

    scheduler = Scheduler(run, tokens=1000, most=9)
    with pytest.raises(MemoryError, match="too much"):
        scheduler.run([job(10, 10)])
    fine = job(10)
    scheduler.run([fine])
    assert in_order(fine) == [10]


def test_an_interrupt_in_one_thread_does_not_affect_the_others():
    interrupt = True

    def run(slices):
        nonlocal interrupt
        if interrupt:
            interrupt = False
            raise KeyboardInterrupt
        return [lengths(part) for part in slices]

    scheduler = Scheduler(run, tokens=1000, most=9)
    with pytest.raises(KeyboardInterrupt):
        scheduler.run([job(10)])
    fine = job(10)
    scheduler.run([fine])
    assert in_order(fine) == [10]


@pytest.mark.parametrize("model_type", ["bert", "deberta-v2", "llama"])
def test_requests_for_different_adapters_and_lengths_share_correct_passes(model_type, tiny_base, make_adapter):
    folders = [make_adapter(model_type, labels=2 + n, rank=2**n, seed=n, name=f"a{n}") for n in range(4)]
    engine = Engine(str(tiny_base(model_type)), folders)
    texts = sentences(40, seed=5, low=1, high=29)
    expected = engine.logits(texts)
    passes = []
    answer = engine._forward.run
    engine._scheduler._run = lambda slices: (passes.append(len(slices)), time.sleep(0.01), answer(slices))[-1]

    def send(number):
        names = [f"a{number % 4}", f"a{(number * 3 + 1) % 4}"]
        some = slice(number, number + 1 + number % 3)
        found = engine.logits(texts[some], names)
        for name in dict.fromkeys(names):
            np.testing.assert_allclose(found[name], expected[name][some], atol=1e-4)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(send, range(36)))
    assert max(passes) > 1, "some requests share a pass"
