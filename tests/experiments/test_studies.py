"""Studies: each place run once by whoever works on it, on every storage, whoever is killed; nothing is trained here."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState

from lorahub import config as configs
from lorahub.data import claims
from lorahub.errors import ConfigError
from lorahub.experiments.sweep import search_space, storage, study, trials
from lorahub.experiments.sweep.result import FAILED, FINISHED, PRUNED
from lorahub.experiments.sweep.study import Search
from lorahub.experiments.sweep.trials import Pulse
from lorahub.experiments.sweep.workers import Order

RANGES = ("adapter.rank=1..64:log", "adapter.dropout=0..0.3", "train.class_weights=none,sqrt,balanced")
# A worker whose trials cost nothing: the value follows from what was sampled.
WORKER = """
import sys, time
from lorahub.experiments import storage, study, trials
from lorahub.experiments.workers import Order
import numpy as np
order = Order.from_json(sys.stdin.readline())
print("ready", flush=True)
opened = study.load(order.search, storage.connect(order.url))
pulse = trials.Pulse()
while not trials.is_done(opened, order.search):
    trial = trials.claim(opened, order.search, pulse)
    if trial is None:
        time.sleep(0.05)
        continue
    values = order.search.suggest(trial)
    print(trials.place_of(trial), flush=True)
    time.sleep(float(sys.argv[1]))
    trials.finish(opened, trial, 1 / (1 + values["adapter.rank"]), np.arange(3), {"seconds": 0.0})
"""


def search(name, count, *, ranges=RANGES, **more):
    space = search_space.parse(ranges, configs.load(), projections=True)
    return Search(name=name, asked={"data": {"id": "starter-checkable"}}, space=space, trials=count, **more)


def opened(asked, url):
    return study.make_or_open(asked, storage.connect(url), claims.load(asked.config.data, compare=False), "minilm")


def local(tmp_path, name="s.db"):
    return storage.sqlite(tmp_path / name)


def worker(asked, url, *, seconds=0.0):
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(seconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    process.stdin.write(Order(search=asked, url=url, until=None).to_json() + "\n")
    process.stdin.flush()
    return process


def work(asked, url, count=None):
    """Run trials in this process, as many as `count`."""
    opened_study, pulse = opened(asked, url), Pulse()
    while count is None or count > 0:
        trial = trials.claim(opened_study, asked, pulse)
        if trial is None:
            return opened_study
        values = asked.suggest(trial)
        trials.finish(opened_study, trial, 1 / (1 + values["adapter.rank"]), np.arange(3), {"seconds": 0.0})
        count = None if count is None else count - 1
    return opened_study


def sampled(opened_study):
    return {item.trial: item.values for item in trials.tried(opened_study)}


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
def test_processes_side_by_side_run_each_place_once(url):
    asked = search("side-by-side", 40, sampler="random")
    found = opened(asked, url)
    workers = [worker(asked, url, seconds=0.01) for _ in range(3)]
    printed = [process.communicate(timeout=300)[0].split()[1:] for process in workers]
    assert all(process.returncode == 0 for process in workers)
    assert sorted(int(place) for places in printed for place in places) == list(range(1, 41)), "each place once"
    assert sum(bool(places) for places in printed) >= 2, "several worked"
    ended = Counter(trial.user_attrs["place"] for trial in found.trials if trial.state == TrialState.COMPLETE)
    assert ended == dict.fromkeys(range(1, 41), 1)


@pytest.mark.slow
def test_a_killed_worker_s_place_is_run_by_another(url):
    asked = search("killed", 4)
    found = opened(asked, url)
    first = worker(asked, url, seconds=600)
    assert [first.stdout.readline(), first.stdout.readline()] == ["ready\n", "1\n"]
    first.kill()
    first.wait()
    work(asked, url)
    assert Counter(trial.state for trial in found.trials) == {TrialState.COMPLETE: 4, TrialState.FAIL: 1}
    assert [item.trial for item in trials.tried(found)] == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_trial_that_ends_its_process_three_times_has_failed(tmp_path):
    asked, url = search("deadly", 2), local(tmp_path)
    found = opened(asked, url)
    for _ in range(3):
        process = worker(asked, url, seconds=600)
        assert [process.stdout.readline(), process.stdout.readline()] == ["ready\n", "1\n"]
        process.kill()
        process.wait()
    work(asked, url)
    failed, finished = trials.tried(found)
    assert (failed.state, finished.state) == (FAILED, FINISHED)
    assert failed.error == "its process ended 3 times while it ran"
    assert len(found.trials) == 4


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_what_is_sampled_does_not_depend_on_how_often_the_search_was_stopped(tmp_path, sampler):
    asked = search("s", 14, sampler=sampler, seed=5)
    whole = sampled(work(asked, local(tmp_path, "whole.db")))
    url = local(tmp_path, "parts.db")
    for count in (2, 9):
        found = work(asked, url, count)
        lost = trials.claim(found, asked, Pulse())
        asked.suggest(lost)
        trials.lose(found, lost)
    assert sampled(work(asked, url)) == whole
    other = sampled(work(search("s", 14, sampler=sampler, seed=6), local(tmp_path, "other.db")))
    assert other[1] == whole[1], "the recipe's own values come first"
    assert not [place for place in range(2, 15) if other[place] == whole[place]], "another seed, other values"


@pytest.mark.slow
def test_tpe_finds_more_than_chance(tmp_path):
    best = {}
    for sampler in ("tpe", "random"):
        values = [
            item.quality
            for seed in range(2)
            for item in trials.tried(
                work(search("s", 30, sampler=sampler, seed=seed), local(tmp_path, f"{sampler}{seed}"))
            )
        ]
        best[sampler] = np.mean(values)
    assert best["tpe"] > 1.3 * best["random"]


def test_a_grid_has_a_place_for_each_point(tmp_path):
    asked = search("s", 6, ranges=("adapter.rank=2,4,8", "train.class_weights=none,sqrt"), sampler="grid")
    assert list(sampled(work(asked, local(tmp_path))).values()) == asked.points


def test_more_trials_can_be_asked_for_and_fewer_cannot(tmp_path):
    first = sampled(work(search("s", 4), local(tmp_path)))
    more = sampled(work(search("s", 7), local(tmp_path)))
    assert len(more) == 7
    assert {place: more[place] for place in first} == first
    with pytest.raises(ConfigError, match="--trials 5: this study was begun with 7"):
        work(search("s", 5), local(tmp_path))


def test_of_two_trials_for_one_place_the_later_is_never_run(tmp_path):
    """As it comes when two commands begin a study at the same moment."""
    asked = search("s", 2)
    found = opened(asked, local(tmp_path))
    for place in (1, 1, 2, 2):
        found.enqueue_trial(asked.given(place), user_attrs={"place": place})
    work(asked, local(tmp_path))
    assert [trial.state.name for trial in found.trials] == ["COMPLETE", "WAITING", "COMPLETE", "WAITING"]
    assert [item.state for item in trials.tried(found)] == [FINISHED, FINISHED]


def test_a_worker_elsewhere_is_dead_once_its_beat_stands_still(tmp_path, monkeypatch):
    asked = search("s", 1)
    found = opened(asked, local(tmp_path))
    trial = trials.claim(found, asked, Pulse())
    assert not Pulse().is_dead(found.trials[0]), "this process runs"
    trial.set_user_attr("worker", {**trial.user_attrs["worker"], "machine": "another"})
    monkeypatch.setattr(trials, "_DEAD_AFTER", 0.3)
    pulse = Pulse()
    assert not pulse.is_dead(found.trials[0]), "seen for the first time"
    time.sleep(0.4)
    trial.set_user_attr("beat", 1)
    assert not pulse.is_dead(found.trials[0]), "its beat has moved"
    time.sleep(0.4)
    assert pulse.is_dead(found.trials[0])
    trial.set_user_attr("worker", {"machine": trials._machine(), "pid": os.getpid(), "since": 0.0})
    assert pulse.is_dead(found.trials[0]), "another process has got its number"


def test_a_claimed_trial_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "_BEAT_EVERY", 0.05)
    asked = search("s", 1)
    found = opened(asked, local(tmp_path))
    trial = trials.claim(found, asked, Pulse())
    with trials.alive(trial):
        until = time.monotonic() + 30
        while found.trials[0].user_attrs.get("beat", 0) < 2:
            assert time.monotonic() < until
            time.sleep(0.05)
    count = found.trials[0].user_attrs["beat"]
    time.sleep(0.2)
    assert found.trials[0].user_attrs["beat"] == count


def test_who_was_taken_for_dead_and_comes_back_changes_nothing(tmp_path):
    asked, url = search("s", 1), local(tmp_path)
    found = opened(asked, url)
    slow = trials.claim(found, asked, Pulse())
    asked.suggest(slow)
    found.tell(slow.number, state=TrialState.FAIL)
    work(asked, url)
    before = trials.tried(found)
    trials.finish(found, slow, 0.99, np.arange(3), {"seconds": 1.0})
    trials.lose(found, slow)
    assert trials.tried(found) == before
    assert before[0].value != 0.99


def test_how_a_trial_ended_is_kept(tmp_path):
    asked = search("s", 4)
    found = opened(asked, local(tmp_path))
    pulse = Pulse()
    answers = np.array([0, 3, 299, 1])
    for end in (
        lambda trial: trials.finish(
            found, trial, 0.5, answers, {"seconds": 2.0, "steps": 9, "trainable_parameters": 7}
        ),
        lambda trial: (trial.report(0.25, 1), trials.prune(found, trial, {"seconds": 1.0, "steps": 3})),
        lambda trial: trials.fail(found, trial, "nothing is trainable"),
        lambda trial: trials.lose(found, trial),
    ):
        trial = trials.claim(found, asked, pulse)
        asked.suggest(trial)
        end(trial)
    finished, pruned, failed = trials.tried(found)
    assert (finished.state, finished.value, finished.steps, finished.trainable_parameters) == (FINISHED, 0.5, 9, 7)
    assert (finished.answers == answers).all()
    assert (pruned.state, pruned.value, pruned.answers, pruned.steps) == (PRUNED, 0.25, None, 3)
    assert (failed.state, failed.error) == (FAILED, "nothing is trainable")
    assert trials.place_of(trials.claim(found, asked, pulse)) == 4, "what was lost is free again"
    assert json.dumps([item.to_dict() for item in (finished, pruned, failed)])


def test_importance_needs_trials_that_differ(tmp_path):
    assert study.importance(work(search("s", 4), local(tmp_path))) == {}
    found = study.importance(work(search("s", 20), local(tmp_path)))
    assert next(iter(found)) == "adapter.rank", "the one field that the value follows from"
    assert found["adapter.rank"] > 0.8
    assert sum(found.values()) == pytest.approx(1)


def test_an_order_survives_its_way_to_a_worker():
    order = Order(search=search("s", 3, pruner="hyperband", seed=4), url="sqlite:///x.db", until=12.5)
    assert Order.from_json(order.to_json()) == order
