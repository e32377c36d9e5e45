"""`lorahub sweep` in real processes: killed and gone on with, side by side, and what it says."""

import itertools
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import optuna
import psutil
import pytest
from field_tables import documented, leaves, matches
from optuna.trial import TrialState

from lorahub import config as configs
from lorahub import records
from lorahub.data import claims
from lorahub.errors import ConfigError
from lorahub.experiments.sweep import report as reports
from lorahub.experiments.sweep import run as experiment
from lorahub.experiments.sweep import storage, trials
from lorahub.stats.predictions import Predictions
from lorahub.training.run import validate

PAGE = (Path(__file__).parents[2] / "docs" / "sweep.md").read_text(encoding="utf-8").partition("## `--json`")[2]
NAME = "tiny"
QUICK = ("train.min_steps=6", "train.epochs=0.1", "train.batch_size=8", "eval.bootstrap=200", "base.max_length=32")
SPACE = ("adapter.rank=1..8:log", "adapter.dropout=0..0.3", "train.learning_rate=1e-3..1e-1:log", "adapter.alpha=4,16")


@pytest.fixture(scope="module")
def base(tiny_base):
    return str(tiny_base("bert"))


@pytest.fixture(scope="module")
def flags(base):
    """The arguments of a small search, but for its folder and its number of trials."""
    base = ["--data", "starter-checkable", "--base", base, "--name", NAME]
    settings = [part for item in QUICK for part in ("--set", item)]
    return [*base, *settings, *(part for item in SPACE for part in ("--range", item))]


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    """A search that ran through: its folder."""
    out = tmp_path_factory.mktemp("sweep") / "whole"
    told = []
    found = experiment.sweep(
        data="starter-checkable", base=base, name=NAME, settings=QUICK, ranges=SPACE, trials=7, out=out,
        on_trial=lambda tried, ended, wanted: told.append((tried.trial, ended, wanted)),
    )  # fmt: skip
    assert told == [(number, number, 7) for number in range(1, 8)]
    reports.save(found.report, found.folder)
    return out


def command(flags, *more):
    return [sys.executable, "-m", "lorahub", "sweep", *flags, *map(str, more)]


def start(flags, *more):
    return subprocess.Popen(command(flags, *more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def opened(url):
    return optuna.load_study(study_name=NAME, storage=storage.connect(url))


def in_folder(out):
    return storage.sqlite(out / "study.db")


def wait_for(url, ready, process, seconds=300):
    """Wait until the study is so; fails where the process ends before that."""
    until = time.monotonic() + seconds
    while True:
        # Not made yet, or only just.
        with suppress(KeyError, ConfigError):
            study = opened(url)
            if ready(study):
                return study
        assert time.monotonic() < until
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)


def ended(study):
    return [trial for trial in study.trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]


def of_place(study):
    """What each place has tried and how it came out."""
    return {item.trial: (item.state, item.value, item.values, item.steps) for item in trials.tried(study)}


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was(flags, whole, cli, tmp_path):
    out = tmp_path / "killed"
    first = start(flags, "--trials", 7, "--out", out)
    running = wait_for(
        in_folder(out),
        lambda study: len(ended(study)) >= 2 and any(trial.state == TrialState.RUNNING for trial in study.trials),
        first,
    )
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = {trial.number: trial.datetime_complete for trial in ended(opened(in_folder(out)))}
    under_way = [trial.number for trial in running.trials if trial.state == TrialState.RUNNING]
    assert 2 <= len(before) < 7
    assert not (out / "best.yaml").exists()

    code, _, err = cli("sweep", *flags, "--trials", 7, "--out", out)
    assert code == 0, err
    study = opened(in_folder(out))
    after = {trial.number: trial.datetime_complete for trial in ended(study)}
    assert after.items() >= before.items(), "what had ended was not run again"
    assert len(after) == 7
    assert len(re.findall(r"^\d of 7: trial", err, re.M)) == 7 - len(before)
    lost = [trial.number for trial in study.trials if trial.state == TrialState.FAIL]
    assert set(lost) <= set(under_way)
    assert len(study.trials) == 7 + len(lost)
    assert of_place(study) == of_place(opened(in_folder(whole))), "as one that was never stopped"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_two_commands_on_one_storage_run_each_trial_once(flags, tmp_path, kind):
    url = storage.sqlite(tmp_path / "shared.db") if kind == "sqlite" else f"journal:{tmp_path / 'shared.log'}"
    both = [start(flags, "--trials", 8, "--storage", url, "--out", tmp_path / f"out{number}") for number in (1, 2)]
    for process in both:
        _, err = process.communicate(timeout=500)
        assert process.returncode == 0, err
    study = opened(url)
    assert len(ended(study)) == 8
    places = Counter(trial.user_attrs["place"] for trial in ended(study))
    assert places == dict.fromkeys(range(1, 9), 1), "each exactly once"
    assert len({trial.user_attrs["worker"]["pid"] for trial in ended(study)}) == 2, "both worked"
    found = [json.loads((tmp_path / f"out{number}" / "sweep.json").read_text()) for number in (1, 2)]
    assert found[0]["best"] == found[1]["best"]
    assert found[0]["test"] == found[1]["test"]


@pytest.mark.slow
def test_workers_share_the_trials_and_stop_with_their_parent(flags, cli, tmp_path):
    out = tmp_path / "workers"
    first = start(flags, "--trials", 9, "--workers", 2, "--out", out)

    def both_work(study):
        return len({trial.user_attrs["worker"]["pid"] for trial in study.trials if "worker" in trial.user_attrs}) == 2

    study = wait_for(in_folder(out), lambda study: both_work(study) and ended(study), first)
    workers = {trial.user_attrs["worker"]["pid"] for trial in study.trials if "worker" in trial.user_attrs}
    first.send_signal(signal.SIGKILL)
    first.wait()
    deadline = time.monotonic() + 120
    while any(psutil.pid_exists(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    left = len(ended(opened(in_folder(out))))
    assert left < 9
    code, _, err = cli("sweep", *flags, "--trials", 9, "--out", out)
    assert code == 0, err
    study = opened(in_folder(out))
    assert Counter(trial.user_attrs["place"] for trial in ended(study)) == dict.fromkeys(range(1, 10), 1)
    assert len(re.findall(r"^\d of 9: trial", err, re.M)) == 9 - left


@pytest.mark.slow
def test_ctrl_c_loses_the_trial_under_way_and_nothing_else(flags, cli, tmp_path):
    out = tmp_path / "stopped"
    first = start(flags, "--trials", 30, "--out", out)
    wait_for(
        in_folder(out),
        lambda study: ended(study) and study.trials[-1].state == TrialState.RUNNING or len(ended(study)) > 2,
        first,
    )
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=120)
    assert first.returncode == 130, err
    assert "lorahub: stopped. Nothing half-written is left." in err
    study = opened(in_folder(out))
    states = Counter(trial.state for trial in study.trials)
    assert states[TrialState.RUNNING] == 0
    assert states[TrialState.FAIL] <= 1
    count = len(ended(study))
    assert 1 <= count < 30
    code, _, err = cli("sweep", *flags, "--trials", 30, "--timeout", "0", "--out", out)
    assert code == 0, err
    assert len(ended(opened(in_folder(out)))) == count, "no trial begins after the timeout"
    assert (out / "best" / "record.json").exists()


@pytest.mark.slow
def test_the_best_is_a_recipe_and_its_run_looked_at_test(whole, tmp_path):
    report = json.loads((whole / "sweep.json").read_text())
    config = configs.load(whole / "best.yaml")
    best = report["best"]["values"]
    assert config.adapter.rank == best["adapter.rank"]
    assert config.train.learning_rate == best["train.learning_rate"]
    record = records.load(whole / "best")
    assert record.config.adapter.rank == best["adapter.rank"]
    assert report["test"]["adapter"]["f1_macro"] == record.adapter().f1_macro
    kept = Predictions.load(whole / "best", "validation", "adapter", labels=2)
    (trial,) = [item for item in trials.tried(opened(in_folder(whole))) if item.trial == report["best"]["trial"]]
    assert (kept.logits.argmax(axis=1) == trial.answers).all(), "trained again, it answers as the trial did"


@pytest.mark.slow
def test_json_report_and_pictures(flags, whole, cli):
    before = (whole / "best" / "record.json").stat().st_mtime_ns
    count = len(opened(in_folder(whole)).trials)
    code, out, err = cli("sweep", *flags, "--trials", 7, "--out", whole, "--json")
    assert code == 0, err
    assert "of 7: trial" not in err
    assert len(opened(in_folder(whole)).trials) == count == 7
    found = json.loads(out)
    assert found == json.loads((whole / "sweep.json").read_text())
    assert (whole / "best" / "record.json").stat().st_mtime_ns == before, "trained and tested once"
    assert sum(found["states"].values()) == found["asked"] == 7
    assert found["own"]["trial"] == 1
    assert found["trials"][0]["values"]["adapter.rank"] == configs.load().adapter.rank
    assert found["incumbents"][-1]["trial"] == found["best"]["trial"]
    assert found["plateau"] in [row["trial"] for row in found["incumbents"]]
    assert set(found["curves"]) == {item.partition("=")[0] for item in SPACE}
    assert sum(found["importance"].values()) == pytest.approx(1)
    paths = {path for item in found["space"] for path, _ in leaves({**found, "space": [item]})}
    for path in paths:
        assert any(matches(field, path) for field in documented(PAGE)), f"docs/sweep.md lacks {'.'.join(path)}"
    for field in documented(PAGE):
        assert any(matches(field, path) for path in paths), f"no {'.'.join(field)} in the JSON"
    for picture in (reports.HISTORY, reports.QUALITY, reports.IMPORTANCE):
        assert (whole / picture).read_bytes().startswith(b"\x89PNG")
    told = (whole / "sweep.md").read_text()
    for words in ("gains stay inside the noise", "the recipe's own values", "On test, looked at once", "| rank | "):
        assert words in told


@pytest.mark.slow
def test_a_study_of_another_search_is_refused(flags, whole, cli):
    for more, words in (
        (["--set", "train.epochs=0.2"], "train.epochs was 0.1 and is 0.2 now"),
        (["--range", "train.weight_decay=0..1"], "search.ranges was ['adapter.rank=1..8:log'"),
        (["--seed", 3], "search.seed was 0 and is 3 now"),
        (["--sampler", "random"], "search.sampler was 'tpe' and is 'random' now"),
        (["--data", "starter-topic"], "data.id was 'starter-checkable' and is 'starter-topic' now"),
        (["--trials", 5], "--trials 5: this study was begun with 7. Give as many, or more."),
    ):
        code, out, err = cli("sweep", *flags, "--trials", 7, "--out", whole, *more)
        assert (code, out) == (2, "")
        assert words in err
        assert len(err.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_trial_that_cannot_be_trained_is_told_and_not_run_again(flags, cli, tmp_path):
    out = tmp_path / "failing"
    space = ["--range", "adapter.targets=all-linear,no_such_layer", "--sampler", "grid"]
    plain = flags[: flags.index("--range")]
    for _ in range(2):
        code, printed, err = cli("sweep", *plain, *space, "--out", out, "--json")
        assert code == 0, err
        found = json.loads(printed)
        assert found["states"] == {"finished": 1, "pruned": 0, "failed": 1}
        assert "no_such_layer" in found["trials"][1]["error"]
    assert len(opened(in_folder(out)).trials) == 2


@pytest.mark.slow
def test_poor_trials_are_stopped_early_and_leave_the_next_as_it_is(base, tmp_path):
    # The first word is the label: learned within six steps, at any of these rates but one.
    more = ("water", "doctors", "city", "tax", "school", "bus")
    rows = [
        {"claim": f"{first} {' '.join(words)}", "label": label}
        for words in itertools.product(more, more, more[:2])
        for first, label in (("vaccine", "yes"), ("flu", "no"))
    ]
    data = tmp_path / "claims.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = [*QUICK, "train.min_steps=12", "train.evaluate_every=3"]
    rates = [0.01, 0.015, 0.02, 0.025, 0.03, 1e-9, 0.011]
    found = experiment.sweep(
        data=str(data), base=base, settings=settings, sampler="grid", out=tmp_path / "out",
        ranges=[f"train.learning_rate={','.join(map(str, rates))}"],
    )  # fmt: skip
    *_, poor, last = found.report.trials
    assert (poor.state, last.state) == ("pruned", "finished")
    assert poor.steps < 12
    assert poor.answers is None
    config = configs.load(None, [f"data.id={data}", f"base.id={base}", *settings, f"train.learning_rate={rates[-1]}"])
    session, _ = validate(config, claims.load(config.data))
    assert (last.answers == session.logits("validation").argmax(axis=1)).all()


@pytest.mark.slow
def test_hyperband_stops_trials_too(flags, cli, tmp_path):
    settings = ["--set", "train.min_steps=10", "--set", "train.evaluate_every=1", "--pruner", "hyperband"]
    code, out, err = cli("sweep", *flags, *settings, "--trials", 12, "--out", tmp_path / "out", "--json")
    assert code == 0, err
    states = json.loads(out)["states"]
    assert states["failed"] == 0
    assert states["finished"] + states["pruned"] == 12
    assert states["pruned"] > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--range", "adapter.rnak=2..4"], "there is no field adapter.rnak. Did you mean adapter.rank?"),
        (["--range", "adapter.rank=8..2"], "ends at 2, which is not above 8"),
        (["--sampler", "grid"], "--sampler grid: adapter.alpha=4..128:log holds infinitely many values"),
        (["--sampler", "grid", "--range", "adapter.rank=2..9", "--trials", "3"], "make 8 combinations, more than"),
        (["--sampler", "tpee"], "--sampler is one of tpe, grid, random; found 'tpee'"),
        (["--pruner", "mean"], "--pruner is one of median, hyperband, none"),
        (["--trials", "0"], "--trials must be at least 1; found 0"),
        (["--workers", "0"], "--workers must be at least 1; found 0"),
        (["--timeout", "soon"], "--timeout takes a duration, such as 30s, 10m, 1.5h or 2d; found 'soon'"),
        (["--set", "train.epoch=3"], "there is no field train.epoch. Did you mean train.epochs?"),
        (["--set", "adapter.targets=nowhere"], "nowhere"),
        (["--data", "nowhere.csv"], "nowhere.csv"),
        (["--base", "nowhere"], "there is no base model 'nowhere'"),
        (["--storage", "study.db"], "--storage takes sqlite:///FILE, postgresql://USER@HOST/NAME or journal:FILE"),
        (["--storage", "sqlite:////no/such/folder/study.db"], "unable to open database file"),
        (["--storage", "postgresql://me:secret@127.0.0.1:9/x"], "postgresql://me:***@127.0.0.1:9/x cannot be used"),
        (["--storage", "nosql://host/x"], "nosql://host/x cannot be used"),
        (["no-recipe"], "there is no recipe 'no-recipe'"),
    ],
)
def test_bad_input_is_one_line(cli, tmp_path, monkeypatch, base, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("sweep", "--data", "starter-checkable", "--base", base, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_data_too_small_for_a_validation_split_is_one_line(cli, tmp_path, monkeypatch, base):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.csv").write_text("claim,label\na vaccine,x\nthe flu,y\na bus,x\ncity tax,y\n")
    code, _, err = cli("sweep", "--data", "few.csv", "--base", base)
    assert code == 2
    assert "too few to split by label. Add claims, give separate train, validation and test files" in err
    assert len(err.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["few.csv"]


def test_a_folder_in_use_is_refused(cli, tmp_path, base):
    (tmp_path / "file").write_text("")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "record.json").write_text("{}")
    for out, words in (("file", "is a file; a study needs a folder"), ("run", "is a run; a study has a folder")):
        code, _, err = cli("sweep", "--data", "starter-checkable", "--base", base, "--out", tmp_path / out)
        assert code == 2
        assert words in err


def test_without_optuna_the_line_that_installs_it_is_said(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = cli("sweep", "--data", "starter-checkable")
    assert code == 2
    assert "needs the package 'optuna', which is not installed. Run: pip install 'hf-lorahub[sweep]'" in err
    assert len(err.strip().splitlines()) == 1
