"""`lorahub sweep` with real trainings: killed and continued, in parallel, and its report."""

import dataclasses
import itertools
import json
import re
import signal
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
from processes import Command

from lorahub import config as configs
from lorahub import records
from lorahub.data import claims
from lorahub.errors import ConfigError
from lorahub.experiments.sweep import report as reports
from lorahub.experiments.sweep import run as experiment
from lorahub.experiments.sweep import search_space, storage, trials
from lorahub.experiments.sweep import study as studies
from lorahub.experiments.sweep.study import Search
from lorahub.stats import calibration
from lorahub.stats.metrics import quick
from lorahub.stats.predictions import Predictions
from lorahub.stats.verdicts import Calibration, decide
from lorahub.training.progress import Callbacks
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
    """The folder of a completed search."""
    out = tmp_path_factory.mktemp("sweep") / "whole"
    calls = []
    search = experiment.sweep(
        data="starter-checkable", base=base, name=NAME, settings=QUICK, ranges=SPACE, trials=6, out=out,
        on_trial=lambda trial, ended, wanted: calls.append((trial.trial, ended, wanted)),
    )  # fmt: skip
    assert calls == [(number, number, 6) for number in range(1, 7)]
    reports.build(search.result).save(search.folder)
    return out


def start(flags, *more):
    return Command("sweep", *flags, *more)


def opened(url):
    return optuna.load_study(study_name=NAME, storage=storage.connect(url))


def in_folder(out):
    return storage.sqlite(out / "study.db")


def complete(study):
    """The trials that count, pruned ones included."""
    return [trial for trial in study.trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]


def wait_for(url, ready, process, seconds=300):
    """Wait until `ready(study)`; fail if the process ends before that."""
    until = time.monotonic() + seconds
    while True:
        # The study may not exist yet.
        with suppress(KeyError, ConfigError):
            study = opened(url)
            if ready(study):
                return study
        assert time.monotonic() < until
        assert process.poll() is None, process.err
        time.sleep(0.05)


def is_alive(process):
    """Whether a process runs; a killed one stays a zombie where nothing collects it."""
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_killed_sweep_continues_and_completes_its_trials(flags, cli, tmp_path, processes):
    out = tmp_path / "killed"
    first = start(flags, "--trials", 4, "--processes", processes, "--out", out)
    wait_for(
        in_folder(out),
        lambda study: complete(study) and sum(trial.state == TrialState.RUNNING for trial in study.trials) == processes,
        first,
    )
    children = psutil.Process(first.pid).children(recursive=True)
    first.send_signal(signal.SIGKILL)
    first.wait()
    until = time.monotonic() + 120
    while any(is_alive(child) for child in children):
        assert time.monotonic() < until
        time.sleep(0.1)
    before = {trial.number: trial.datetime_complete for trial in complete(opened(in_folder(out)))}
    assert not (out / "best.yaml").exists()
    code, _, err = cli("sweep", *flags, "--trials", 4, "--out", out)
    assert code == 0, err
    after = {trial.number: trial.datetime_complete for trial in complete(opened(in_folder(out)))}
    assert after.items() >= before.items(), "complete trials are not run again"
    assert len(after) == max(4, len(before))
    assert len(re.findall(r"^\d of 4: trial", err, re.M)) == len(after) - len(before)
    assert (out / "best" / "record.json").exists()


@pytest.mark.slow
def test_two_commands_on_one_storage_share_the_trials(flags, tmp_path):
    url = f"journal:{tmp_path / 'shared.log'}"
    both = [start(flags, "--trials", 4, "--storage", url, "--out", tmp_path / f"out{number}") for number in (1, 2)]
    for process in both:
        assert process.wait(500) == 0, process.err
    assert len(complete(opened(url))) in (4, 5)
    found = [json.loads((tmp_path / f"out{number}" / "sweep.json").read_text()) for number in (1, 2)]
    assert found[0]["trials"] == found[1]["trials"]
    assert len(found[0]["trials"]) == 4
    assert found[0]["best"] == found[1]["best"]
    assert found[0]["test"] == found[1]["test"]


@pytest.mark.slow
def test_ctrl_c_keeps_what_finished_and_queues_the_interrupted_trial(base, flags, cli, tmp_path):
    out = tmp_path / "stopped"

    ended = []

    def press_in_the_second_trial(step):
        if ended:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        experiment.sweep(
            data="starter-checkable", base=base, name=NAME, settings=QUICK, ranges=SPACE, trials=30, out=out,
            on_trial=lambda trial, *counts: ended.append(trial), callbacks=Callbacks(on_step=press_in_the_second_trial),
        )  # fmt: skip
    finished, interrupted, queued = opened(in_folder(out)).trials
    assert finished.state == TrialState.COMPLETE
    assert interrupted.state == TrialState.FAIL
    assert (queued.state, queued.params) == (TrialState.WAITING, interrupted.params)
    code, _, err = cli("sweep", *flags, "--trials", 30, "--timeout", "0", "--out", out)
    assert code == 0, err
    assert len(complete(opened(in_folder(out)))) == 1, "no trial starts after the timeout"
    assert (out / "best" / "record.json").exists()


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_exit_code_130(flags, tmp_path):
    first = start(flags, "--trials", 30, "--processes", 2, "--out", tmp_path / "out")
    wait_for(in_folder(tmp_path / "out"), lambda study: len(study.trials) >= 2, first)
    first.send_signal(signal.SIGINT)
    assert first.wait(120) == 130, first.err
    assert "lorahub: stopped. Nothing half-written is left." in first.err
    states = Counter(trial.state for trial in opened(in_folder(tmp_path / "out")).trials)
    assert not states[TrialState.RUNNING]


@pytest.mark.slow
def test_the_best_config_is_a_recipe_and_its_run_is_tested(whole):
    report = json.loads((whole / "sweep.json").read_text())
    config = configs.load(whole / "best.yaml")
    best = report["best"]["values"]
    assert config.adapter.rank == best["adapter.rank"]
    assert config.train.learning_rate == best["train.learning_rate"]
    record = records.load(whole / "best")
    assert record.config.adapter.rank == best["adapter.rank"]
    assert report["test"]["adapter"]["f1_macro"] == record.adapter().f1_macro
    kept = Predictions.load(whole / "best", "validation", "adapter", labels=2)
    rows = calibration.halves(kept.gold).select
    answers = decide(kept.logits, Calibration.load(whole / "best", 2))
    value = quick(kept.gold[rows], answers[rows])["f1_macro"]
    assert value == report["best"]["value"], "trained again, it answers as the trial did"


@pytest.mark.slow
def test_json_report_and_pictures(flags, whole, cli):
    before = (whole / "best" / "record.json").stat().st_mtime_ns
    count = len(opened(in_folder(whole)).trials)
    code, out, err = cli("sweep", *flags, "--trials", 6, "--out", whole, "--json")
    assert code == 0, err
    assert "of 6: trial" not in err
    assert len(opened(in_folder(whole)).trials) == count == 6
    found = json.loads(out)
    assert found == json.loads((whole / "sweep.json").read_text())
    assert (whole / "best" / "record.json").stat().st_mtime_ns == before, "trained and tested once"
    assert sum(found["states"].values()) == found["asked"] == 6
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
    for picture in ("history.png", "quality.png", "importance.png"):
        assert (whole / picture).read_bytes().startswith(b"\x89PNG")
    text = (whole / "sweep.md").read_text()
    for words in ("the recipe's own values", "On test, evaluated once", "| rank | "):
        assert words in text


@pytest.mark.slow
def test_a_study_of_another_search_is_refused(flags, whole, cli):
    for more, words in (
        (["--set", "train.epochs=0.2"], "train.epochs was 0.1 and is 0.2 now"),
        (["--range", "train.weight_decay=0..1"], "search.ranges was ['adapter.rank=1..8:log'"),
        (["--seed", 3], "search.seed was 0 and is 3 now"),
        (["--sampler", "random"], "search.sampler was 'tpe' and is 'random' now"),
        (["--data", "starter-topic"], "data.id was 'starter-checkable' and is 'starter-topic' now"),
    ):
        code, out, err = cli("sweep", *flags, "--trials", 6, "--out", whole, *more)
        assert (code, out) == (2, "")
        assert words in err
        assert len(err.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_trial_that_cannot_be_trained_is_reported_and_not_run_again(flags, cli, tmp_path):
    out = tmp_path / "failing"
    space = ["--range", "adapter.targets=all-linear,no_such_layer", "--sampler", "grid"]
    plain = flags[: flags.index("--range")]
    for _ in range(2):
        code, printed, err = cli("sweep", *plain, *space, "--out", out, "--json")
        assert code == 0, err
        found = json.loads(printed)
        assert found["states"] == {"finished": 1, "pruned": 0, "failed": 1}
        assert [trial["error"] for trial in found["trials"] if "no_such_layer" in (trial["error"] or "")]
    assert len(opened(in_folder(out)).trials) == 2


@pytest.mark.slow
def test_poor_trials_are_stopped_early_and_do_not_change_the_next(base, tmp_path):
    # The first word is the label. It is learned within twelve steps at any learning rate but the poor one.
    more = ("water", "doctors", "city", "tax", "school", "bus")
    rows = [
        {"claim": f"{first} {' '.join(words)}", "label": label}
        for words in itertools.product(more, more, more[:2])
        for first, label in (("vaccine", "yes"), ("flu", "no"))
    ]
    data = tmp_path / "claims.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = [*QUICK, "train.min_steps=24", "train.evaluate_every=6"]
    config = configs.load(None, [f"data.id={data}", f"base.id={base}", *settings])
    search = Search(
        name=NAME, recipe=configs.to_dict(config), trials=8,
        space=search_space.parse(["train.learning_rate=1e-9..1e-1:log"], config, projections=True),
    )  # fmt: skip
    claim_data = claims.load(config.data)
    study = studies.create(search, storage.connect(f"journal:{tmp_path / 'study.log'}"), claim_data, "base")
    rates = [0.01, 0.015, 0.02, 0.025, 0.03, 1e-9, 0.011]
    for rate in rates:
        study.enqueue_trial({"train.learning_rate": rate})
    trials.run_here(
        search, study, claim_data, until=None, callbacks=Callbacks(),
        on_trial_end=lambda: None,
    )  # fmt: skip
    results = {item.values["train.learning_rate"]: item for item in studies.results(study, search)}
    assert set(rates) <= set(results)
    poor, last = results[1e-9], results[0.011]
    assert (poor.state, last.state) == ("pruned", "finished")
    assert poor.steps < 24
    assert poor.answers is None
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, learning_rate=0.011))
    session, _ = validate(config, claim_data)
    selection = calibration.select(session.logits("validation"), session.gold, config)
    assert (last.answers == selection.answers).all()


@pytest.mark.slow
def test_hyperband_stops_trials_too(flags, cli, tmp_path):
    settings = ["--set", "train.min_steps=10", "--set", "train.evaluate_every=1", "--pruner", "hyperband"]
    code, out, err = cli("sweep", *flags, *settings, "--trials", 8, "--out", tmp_path / "out", "--json")
    assert code == 0, err
    states = json.loads(out)["states"]
    assert states["failed"] == 0
    assert states["finished"] + states["pruned"] == 8
    assert states["pruned"] > 0


@pytest.mark.slow
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
        (["--processes", "0"], "--processes must be at least 1; found 0"),
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
    assert "too few to split by label: the rarest label is 'x' with 2 (x 2, y 2). Add" in err
    assert len(err.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["few.csv"]


def test_a_folder_in_use_is_refused(cli, tmp_path, base):
    (tmp_path / "file").write_text("")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "record.json").write_text("{}")
    messages = {"file": "is a file, and a study needs a folder", "run": "is a run, and a study needs its own folder"}
    for out, words in messages.items():
        code, _, err = cli("sweep", "--data", "starter-checkable", "--base", base, "--out", tmp_path / out)
        assert code == 2
        assert words in err


def test_without_optuna_the_line_that_installs_it_is_said(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = cli("sweep", "--data", "starter-checkable")
    assert code == 2
    assert "needs the package 'optuna', which is not installed. Run: pip install 'hf-lorahub[sweep]'" in err
    assert len(err.strip().splitlines()) == 1
