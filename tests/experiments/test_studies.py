"""Studies: N complete trials on every storage, whatever is killed or interrupted; nothing is trained here."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from lorahub import config as configs
from lorahub.data import claims
from lorahub.experiments.sweep import search_space, storage, study, trials
from lorahub.experiments.sweep.result import FAILED, FINISHED, PRUNED
from lorahub.experiments.sweep.study import Search
from lorahub.experiments.sweep.trials import Objective, TrialError

RANGES = ("adapter.rank=1..64:log", "adapter.dropout=0..0.3", "train.class_weights=none,sqrt,balanced")
# A process that runs trials which take the given seconds, and prints a line per trial.
PROCESS = """
import pickle, sys
from test_studies import Instant, trials, storage, study
search, url, seconds = pickle.loads(bytes.fromhex(sys.argv[1]))
objective = Instant(search, lambda trial: print(trial.number, flush=True), seconds)
trials.run(study.load(search, storage.connect(url)), objective)
"""


class Instant(Objective):
    """Trials without a training: the value follows from the sampled rank. `before` is called with each trial."""

    def __init__(self, search, before=lambda trial: None, seconds=0.0):
        super().__init__(search=search, data=None, callbacks=None, is_stopped=lambda: False)
        self.before, self.seconds = before, seconds

    def _run(self, trial):
        values = self._values(trial)
        self.before(trial)
        time.sleep(self.seconds)
        study.set_cost(trial, {"seconds": 2.0, "steps": 9, "trainable_parameters": 7})
        study.set_answers(trial, np.array([0, 3, 299, 1]))
        return 1 / (1 + values["adapter.rank"])


def make_search(count, *, ranges=RANGES, name="s", **options):
    space = search_space.parse(ranges, configs.load(), projections=True)
    return Search(name=name, recipe={"data": {"id": "starter-checkable"}}, space=space, trials=count, **options)


def opened(search, url):
    return study.create(search, storage.connect(url), claims.load(search.config.data, compare=False), "minilm")


def run(search, url, before=lambda trial: None):
    """Run a search in this process -> its study."""
    opened_study = opened(search, url)
    trials.run(opened_study, Instant(search, before))
    return opened_study


def sampled(search, opened_study):
    return [item.values for item in study.results(opened_study, search)]


def start(search, url, seconds=0.0):
    order = pickle.dumps((search, url, seconds)).hex()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", PROCESS, order]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.fixture
def journal(tmp_path):
    return f"journal:{tmp_path / 's.log'}"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """The URL of a real PostgreSQL server that lives in a temporary folder."""
    if shutil.which("initdb") is None:
        pytest.skip("PostgreSQL's initdb is not on the PATH")
    # The path of a socket has to be short, and the server does not run as root.
    folder = Path("/tmp") / f"pg-{os.getpid()}"
    folder.mkdir(mode=0o755)
    user = {"user": "nobody"} if os.geteuid() == 0 else {}
    if user:
        shutil.chown(folder, "nobody")
    subprocess.run(
        ["initdb", "-D", folder / "db", "-A", "trust", "-U", "lorahub", "--no-sync"],
        check=True, capture_output=True, cwd=folder, **user,
    )  # fmt: skip
    server = subprocess.Popen(
        [Path(shutil.which("initdb")).resolve().parent / "postgres", "-D", folder / "db", "-k", folder, "-h", "", "-F"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder, **user,
    )  # fmt: skip
    url = f"postgresql://lorahub@/postgres?host={folder}"
    until = time.monotonic() + 60
    while not (folder / ".s.PGSQL.5432").exists():
        assert server.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)
    yield url
    server.send_signal(signal.SIGINT)
    server.wait(timeout=60)
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "journal", "postgres"])
def url(request, tmp_path):
    if request.param == "postgres":
        return request.getfixturevalue("postgres")
    return storage.sqlite(tmp_path / "s.db") if request.param == "sqlite" else f"journal:{tmp_path / 's.log'}"


@pytest.mark.slow
def test_processes_in_parallel_complete_the_trials(url):
    search = make_search(12, sampler="random", name="parallel")
    opened(search, url)
    processes = [start(search, url, seconds=0.1) for _ in range(2)]
    printed = [process.communicate(timeout=300)[0].split() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert all(printed), "both worked"
    numbers = [number for numbers in printed for number in numbers]
    assert len(numbers) == len(set(numbers)), "each trial was run once"
    assert len(numbers) in (12, 13)
    results = study.results(opened(search, url), search)
    assert [item.state for item in results] == [FINISHED] * 12


@pytest.mark.slow
def test_a_killed_process_does_not_stop_the_search(url, monkeypatch):
    search = make_search(3, name="killed")
    opened(search, url)
    process = start(search, url, seconds=600)
    assert process.stdout.readline() == "0\n"
    time.sleep(1)  # until a thread of the process has stored the first heartbeat
    process.kill()
    process.wait()
    before = opened(search, url).trials[0]
    monkeypatch.setattr(storage, "_GRACE_PERIOD", 1)
    time.sleep(2.5)
    after = run(search, url)
    assert [item.state for item in study.results(after, search)] == [FINISHED] * 3
    if url.startswith("journal:"):
        return  # without heartbeats
    assert after.trials[0].state == TrialState.FAIL
    assert after.trials[1].params == before.params, "the lost trial was run again"


@pytest.mark.slow
def test_a_trial_that_was_interrupted_three_times_has_failed(tmp_path):
    search, url = make_search(2), storage.sqlite(tmp_path / "s.db")
    own = search_space.own_values(search.space, search.config)

    def interrupt(trial):
        if trial.params == own:
            raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run(search, url, interrupt)
    after = run(search, url, interrupt)
    assert [trial.params == own for trial in after.trials] == [True, True, True, False, False]
    failed, *finished = study.results(after, search)
    assert (failed.state, failed.error) == (FAILED, "it was interrupted 3 times")
    assert [item.state for item in finished] == [FINISHED] * 2


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_seed_and_the_number_of_trials_decide_what_is_sampled(tmp_path, sampler):
    search = make_search(14, sampler=sampler, seed=5)
    once = sampled(search, run(search, f"journal:{tmp_path / 'once'}"))
    for count in (2, 9, 14):
        continued = run(replace(search, trials=count), f"journal:{tmp_path / 'continued'}")
    assert sampled(search, continued) == once
    assert len({tuple(values.items()) for values in once}) == 14, "a continued search repeats nothing"
    another = replace(search, seed=6)
    other = sampled(another, run(another, f"journal:{tmp_path / 'other'}"))
    assert other[0] == once[0] == search_space.own_values(search.space, search.config), "the recipe's own come first"
    assert not [values for values in other[1:] if values in once]


@pytest.mark.slow
def test_tpe_finds_more_than_chance(tmp_path):
    best = {}
    for sampler in ("tpe", "random"):
        searches = [make_search(30, sampler=sampler, seed=seed) for seed in range(2)]
        values = [
            item.quality
            for search in searches
            for item in study.results(run(search, f"journal:{tmp_path / f'{sampler}{search.seed}'}"), search)
        ]
        best[sampler] = np.mean(values)
    assert best["tpe"] > 1.3 * best["random"]


@pytest.mark.slow
def test_a_grid_runs_each_point_once_and_an_interrupted_one_again(tmp_path, url):
    ranges = ("adapter.rank=2,4,8", "train.class_weights=none,sqrt")
    search = make_search(6, ranges=ranges, sampler="grid", name="grid")
    calls = []

    def interrupt_third(trial):
        calls.append(trial.params)
        if len(calls) == 3:
            raise KeyboardInterrupt
        if trial.params == calls[0]:
            study.set_error(trial, "cannot be trained")
            raise TrialError

    with pytest.raises(KeyboardInterrupt):
        run(search, url, interrupt_third)
    after = run(search, url, interrupt_third)
    results = study.results(after, search)
    assert Counter(item.state for item in results) == {FINISHED: 5, FAILED: 1}
    points = {(item.values["adapter.rank"], item.values["train.class_weights"]) for item in results}
    assert points == {(rank, weights) for rank in (2, 4, 8) for weights in ("none", "sqrt")}
    assert len(calls) == 7
    assert len(run(search, url, interrupt_third).trials) == len(after.trials), "a finished grid runs nothing again"


def test_more_or_fewer_trials_can_be_requested(journal):
    four, seven, five = make_search(4), make_search(7), make_search(5)
    first = sampled(four, run(four, journal))
    more = sampled(seven, run(seven, journal))
    assert (len(more), more[:4]) == (7, first)
    after = run(five, journal)
    assert len(after.trials) == 7
    assert sampled(five, after) == more[:5]


def test_failed_trials_are_replaced_and_many_of_them_end_the_search(journal):
    def fail_every_second(trial):
        if trial.number % 2:
            study.set_error(trial, "too large")
            raise TrialError

    search = make_search(3)
    results = study.results(run(search, journal, fail_every_second), search)
    assert [item.state for item in results] == [FINISHED, FAILED, FINISHED, FAILED, FINISHED]
    assert results[1].error == "too large"

    def fail(trial):
        study.set_error(trial, "too large")
        raise TrialError

    search = make_search(3, name="failing")
    assert [item.state for item in study.results(run(search, journal, fail), search)] == [FAILED] * 3


def test_other_errors_stop_the_search(journal):
    def fail(trial):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        run(make_search(3), journal, fail)


def test_a_process_that_seemed_dead_does_not_overwrite_its_trial(journal):
    search = make_search(3)

    def fail_first_from_elsewhere(trial):
        if trial.number == 0:
            opened(search, journal).tell(trial.number, state=TrialState.FAIL)

    after = run(search, journal, fail_first_from_elsewhere)
    assert after.trials[0].state == TrialState.FAIL
    assert [item.trial for item in study.results(after, search)] == [2, 3, 4]


def test_how_a_trial_ended_is_stored(journal):
    search = make_search(3)

    def end(trial):
        if trial.number == 1:
            trial.report(0.25, 1)
            study.set_cost(trial, {"seconds": 1.0, "steps": 3})
            raise optuna.TrialPruned
        if trial.number == 2:
            study.set_error(trial, "nothing is trainable")
            raise TrialError

    finished, pruned, failed, _ = study.results(run(search, journal, end), search)
    assert (finished.state, finished.steps, finished.trainable_parameters) == (FINISHED, 9, 7)
    assert finished.value == 1 / (1 + finished.values["adapter.rank"])
    assert finished.answers.tolist() == [0, 3, 299, 1]
    assert (pruned.state, pruned.value, pruned.answers, pruned.steps) == (PRUNED, 0.25, None, 3)
    assert (failed.state, failed.error) == (FAILED, "nothing is trainable")


@pytest.mark.slow
def test_importance_needs_trials_that_differ(journal):
    assert study.importance(run(make_search(4), journal)) == {}
    shares = study.importance(run(make_search(20), journal))
    assert next(iter(shares)) == "adapter.rank", "the only field that the value follows from"
    assert shares["adapter.rank"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_no_configuration_is_trained_twice_and_a_space_that_is_used_up_ends_the_search(tmp_path, sampler):
    """Six configurations and thirty trials: each is trained once."""
    search = make_search(30, ranges=("adapter.rank=1..3", "train.class_weights=none,sqrt"), sampler=sampler)
    url = storage.sqlite(tmp_path / "study.db")
    opened_study = opened(search, url)
    trained = []
    trials.run(opened_study, Instant(search, lambda trial: trained.append(tuple(trial.params.values()))))
    assert len(trained) == len(set(trained)) == 6
    assert len(study.results(opened_study, search)) == 6
    assert search.is_done(study.load(search, storage.connect(url))), "also when it is continued"


def test_a_repeated_configuration_does_not_count_as_a_trial(tmp_path):
    search = make_search(4, ranges=("adapter.rank=1..5",), sampler="random")
    opened_study = opened(search, storage.sqlite(tmp_path / "study.db"))
    for rank in (2, 2, 2, 3):
        opened_study.enqueue_trial({"adapter.rank": rank})
    trials.run(opened_study, Instant(search))
    results = study.results(opened_study, search)
    assert len(results) == len({item.values["adapter.rank"] for item in results}) == 4
    assert all(item.state == FINISHED for item in results)
