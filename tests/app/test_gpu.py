"""A borrowed GPU: few declared seconds that follow the work, plain values across a process, and nothing without one.

ZeroGPU runs only on a Space; its way of calling (fork, pickle, of an error only the class's
name) is done here for real.
"""

import multiprocessing
import pickle
import subprocess
import sys
import threading
import time

import gradio as gr
import numpy as np
import pytest

from lorahub.app import answers, errors, gpu_batches, zerogpu
from lorahub.app.answers import Question
from lorahub.data import table_check
from lorahub.errors import AdapterError, EngineBusyError
from lorahub.experiments.compare import file as compare_file
from lorahub.labels import LabelSet
from lorahub.serving.predictor import Prediction, Verdict

pytestmark = pytest.mark.slow


def zero_gpu(declared):
    """A decorator that calls as spaces 0.51 does, and notes the seconds that were declared."""

    def decorator(*, duration):
        def wrap(task):
            def call(*arguments):
                declared.append(duration(*arguments))
                packed = pickle.dumps(arguments)
                context = multiprocessing.get_context("fork")
                here, there = context.Pipe()

                def work():
                    try:
                        there.send_bytes(pickle.dumps(task(*pickle.loads(packed))))
                    except Exception as error:
                        there.send_bytes(pickle.dumps(gr.Error(type(error).__name__)))

                worker = context.Process(target=work)
                worker.start()
                answer = pickle.loads(here.recv_bytes())
                worker.join()
                if isinstance(answer, gr.Error):
                    raise answer
                return answer

            return call

        return wrap

    return decorator


@pytest.fixture
def declared(monkeypatch):
    seconds = []
    monkeypatch.setattr(zerogpu, "GPU", zero_gpu(seconds))
    return seconds


class Engine:
    """What `classifier` needs of an engine, in a process where nothing else may run after a fork."""

    device = "cuda:0"

    def __init__(self):
        self.lock = multiprocessing.get_context("fork").Lock()  # as the real one, it cannot be pickled

    adapters = {}  # noqa: RUF012

    def classify(self, texts, adapters, *, evidence, strength):
        if "missing" in adapters:
            raise AdapterError("no adapter 'missing' is loaded; loaded: a.")
        label = f"{texts[0]} {evidence}"
        return {name: [Verdict(label=label, probabilities={}, calibrated={})] for name in adapters}

    def classify_base(self, texts, adapters, *, evidence):
        return {}


class FileEngine:
    """Answers any text at once."""

    names = ("a",)

    def compute(self, request):
        logits = np.tile(np.float32([2, 0]), (len(request.texts), 1))
        return {name: Prediction(logits=logits, labels=LabelSet(("no", "yes"))) for name in request.adapters}


def test_a_question_is_put_to_another_process_and_comes_back_as_values(declared):
    response = answers.classifier(Engine())(Question.parse("one", ["a"]))
    assert response.adapters["a"].adapter.label == "one None"
    assert response.device == "cuda:0"
    assert declared == [zerogpu.Pace().seconds(1)]


def test_an_error_that_a_person_can_fix_keeps_its_sentence(declared):
    with pytest.raises(AdapterError, match="no adapter 'missing' is loaded"):
        answers.classifier(Engine())(Question.parse("one", ["missing"]))
    with pytest.raises(gr.Error, match="ZeroDivisionError"):
        zerogpu.borrowed(lambda: 1 // 0, lambda: 5)()


def test_what_the_lender_says_reaches_the_visitor_as_it_is():
    with pytest.raises(gr.Error, match="quota") as caught, errors.shown():
        raise gr.Error("You have exceeded your GPU quota")
    assert "bug" not in str(caught.value)


def test_seconds_follow_the_work_and_are_few():
    pace = zerogpu.Pace()
    assert pace.seconds(1) <= 10
    assert pace.seconds(1) <= pace.seconds(2000) < pace.seconds(4000)
    assert pace.seconds(10**7) == 60


def test_seconds_follow_what_calls_took_with_room_to_spare():
    pace = zerogpu.Pace()
    pace.saw(1, 30.0)  # a first call of one row is all warm-up
    assert pace.seconds(1000) == zerogpu.Pace().seconds(1000)
    pace.saw(1000, 1.0)
    assert pace.seconds(4000) == 5 + 8
    pace.saw(1000, 10.0)
    assert pace.seconds(1000) == 5 + 20
    pace.saw(1000, 1.0)
    assert pace.seconds(1100) == 5 + 4


def test_the_next_call_declares_what_the_last_one_took(declared):
    slow = zerogpu.borrowed(lambda texts: time.sleep(0.5), len)
    for _ in range(2):
        slow(["text"] * 100)
    assert declared == [6, 7]


def test_a_file_is_judged_in_few_loans(declared, monkeypatch, claims_file, tmp_path):
    """Each loan starts a worker: many rows go into one, and their seconds are declared."""
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    predictor = gpu_batches.GpuBatchPredictor(FileEngine())
    table = table_check.read(claims_file([{"claim": "water"}] * 5000), claim="claim")
    rows = predictor.chunk_rows(1)
    *_, found = compare_file.compare(predictor, table, tmp_path / "out.csv", ["a"], chunk_rows=rows)
    assert found.answers == {"a": {"no": 5000, "yes": 0}}
    assert len(declared) == 2
    assert declared[0] == 5 + 41
    # More adapters are more work for the same rows: a loan stays below what is lent at most.
    assert zerogpu.Pace().seconds(12 * predictor.chunk_rows(12)) < 60


def test_a_file_waits_where_the_engine_takes_no_more(monkeypatch):
    engine, refused = FileEngine(), []
    compute = engine.compute

    def busy_twice(request):
        if len(refused) < 2:
            refused.append(request)
            raise EngineBusyError("requests waiting: 64, and the engine takes no more. Try again in a moment.")
        return compute(request)

    monkeypatch.setattr(engine, "compute", busy_twice)
    monkeypatch.setattr(gpu_batches, "_WAITS", (0, 0))
    predictor = gpu_batches.GpuBatchPredictor(engine)
    assert [verdict.label for verdict in predictor.classify(["one"], ["a"])["a"]] == ["no"]
    refused.clear()
    monkeypatch.setattr(gpu_batches, "_WAITS", (0,))
    with pytest.raises(EngineBusyError):
        predictor.classify(["one"], ["a"])


def test_the_package_itself_changes_nothing_where_no_gpu_is_lent(monkeypatch):
    """The real package, as on a laptop or a Space of another hardware."""
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    assert zerogpu.GPU is not None
    assert zerogpu.GPU.__module__.startswith("spaces.")
    assert not zerogpu.lends()
    lock = threading.Lock()  # nothing is pickled
    assert zerogpu.borrowed(lambda text: (lock, text), len)("one") == (lock, "one")
    with pytest.raises(AdapterError, match="no adapter 'missing'"):
        answers.classifier(Engine())(Question.parse("one", ["missing"]))


def test_without_a_lender_a_function_stays_itself(monkeypatch):
    monkeypatch.setattr(zerogpu, "GPU", None)
    assert zerogpu.borrowed(len, lambda text: 5) is len


def test_a_folder_named_spaces_is_not_taken_for_the_package(tmp_path):
    (tmp_path / "spaces").mkdir()
    code = "from lorahub.app.zerogpu import GPU; assert GPU is None or GPU.__module__.startswith('spaces.'); print(1)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
