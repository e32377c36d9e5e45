"""Remote training: one Job with the same lorahub and settings, the token as a secret only, and nothing sent unasked."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import learnable
from hub_fixtures import TOKEN

from lorahub import config
from lorahub.errors import HubError, PublishError
from lorahub.publish import jobs, package

ROOT = Path(__file__).parents[2]
REPO = "alice/far"
ASK = ["train", "--data", "starter-wording", "--set", "train.epochs=2", "--remote", "a10g-small"]


@pytest.fixture(autouse=True)
def released(monkeypatch):
    monkeypatch.setattr(package, "find", lambda: package.Package(version="0.1.0"))


@pytest.fixture
def wheel(monkeypatch):
    """A checkout, whose wheel test_space builds for real."""
    made = package.Package(version="0.1.0", wheel=package.Wheel(name="hf_lorahub-0.1.0-py3-none-any.whl", content=b"w"))
    monkeypatch.setattr(package, "find", lambda: made)
    return made


def spec(hub):
    return hub.jobs["job-1"]["spec"]


def planned(*settings, **options):
    asked = config.load(None, ["data.id=starter-wording", *settings])
    return jobs.plan(asked, jobs.Options(**{"flavor": "a10g-small", "push": REPO, **options}))


def test_the_job_trains_what_was_asked_with_this_release_and_pushes_it(hub, cli):
    hub.job_output = ["training", f"a line with {TOKEN}"]
    code, out, err = cli(*ASK, "--push", REPO, "--timeout", "90m", "--seed", "3")
    assert code == 0, err
    assert spec(hub)["command"] == [
        "uv", "run", "--with", "hf-lorahub[train]==0.1.0", "lorahub", "train",
        '--set=data.id="starter-wording"', "--set=train.seed=3", "--set=train.epochs=2.0", f"--push={REPO}",
    ]  # fmt: skip
    assert (spec(hub)["flavor"], spec(hub)["timeoutSeconds"]) == ("a10g-small", 5400)
    assert spec(hub)["dockerImage"] == jobs.IMAGE
    assert spec(hub)["labels"]["app"] == "lorahub"
    assert "training\n" in out
    assert "lorahub verify alice/far" in out
    for words in ("costs $1.00 an hour", "at most 90m", "hf jobs cancel job-1", "/jobs/alice/job-1"):
        assert words in err
    assert not hub.repos, "nothing is uploaded for a release and data that ships with it"


def test_the_token_is_a_secret_and_nowhere_else(hub, cli):
    hub.job_output = [f"printed {TOKEN}"]
    code, out, err = cli(*ASK, "--push", REPO)
    assert code == 0, err
    assert spec(hub)["secrets"] == {"HF_TOKEN": TOKEN}
    assert TOKEN not in json.dumps({key: value for key, value in spec(hub).items() if key != "secrets"})
    assert TOKEN not in out + err
    assert "printed (token)" in out


def test_the_settings_of_the_job_are_the_settings_that_were_asked_for(hub):
    asked = [
        "data.label_map={a: b}",
        "data.labels=[b, c]",
        "train.learning_rate=2e-4",
        "eval.adjust=false",
        "data.claim=x.yaml",
    ]
    plan = planned(*asked)
    given = [word.removeprefix("--set=") for word in plan.command if word.startswith("--set=")]
    assert config.load(None, given) == config.load(None, ["data.id=starter-wording", *asked])
    assert jobs.start(plan).id == "job-1", "no setting is taken for a file"


def test_a_checkout_sends_its_wheel_to_a_private_place_and_mounts_it(hub, wheel):
    jobs.start(planned())
    repo = hub.repo("alice/lorahub-wheels", "dataset")
    assert repo.private
    assert hub.files(repo.id, kind="dataset")[wheel.wheel.name] == b"w"
    assert "file:///lorahub/hf_lorahub-0.1.0-py3-none-any.whl#sha256=" in spec(hub)["command"][3]
    (volume,) = spec(hub)["volumes"]
    assert (volume["type"], volume["source"], volume["mountPath"]) == ("dataset", repo.id, "/lorahub")


def test_local_data_is_uploaded_only_when_asked_and_only_to_a_private_place(hub, claims_file):
    data = claims_file(learnable(40), "claims.csv")
    with pytest.raises(PublishError, match=r"lies on this machine.*--upload-data.*private data set alice/far-data"):
        planned(f"data.id={data}")
    assert not hub.repos
    plan = planned(f"data.id={data}", upload_data=True)
    jobs.start(plan)
    assert hub.files("alice/far-data", kind="dataset")["train.csv"] == data.read_bytes()
    assert hub.repo("alice/far-data", "dataset").private
    assert '--set=data.id="alice/far-data"' in spec(hub)["command"]
    assert str(data) not in json.dumps(spec(hub))
    hub.repo("alice/far-data", "dataset").private = False
    with pytest.raises(PublishError, match="is public; nothing is uploaded"):
        jobs.start(plan)
    assert len(hub.jobs) == 1


@pytest.mark.slow
def test_what_a_job_cannot_do_is_refused_before_anything_is_sent(hub, cli, tiny_base, tmp_path, capsys):
    folder = tiny_base("bert")
    capsys.readouterr()  # transformers tells of the base that is made here
    for arguments, words in {
        ("--out", tmp_path / "x", "--push", REPO): "--out and --force",
        (): "--push USER/NAME",
        ("--push", REPO, "--base", folder): "folder of this machine",
        ("--push", REPO, "--remote", "a11g"): "no hardware 'a11g'",
        ("--push", "a/b/c"): "no repository id",
        ("--push", REPO, "--timeout", "soon"): "--timeout takes a number",
    }.items():
        code, out, err = cli(*ASK, *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert words in err
    code, _, err = cli("train", "--dry-run")
    assert code == 2
    assert "--remote" in err
    assert not hub.jobs
    assert not hub.repos


def test_a_dry_run_shows_the_job_and_its_price_and_starts_nothing(hub, cli, wheel):
    code, out, err = cli(*ASK, "--push", REPO, "--dry-run")
    assert code == 0, err
    for words in (jobs.IMAGE, "uv run --with", "a10g-small", "2h", "$1.00 an hour", "HF_TOKEN", "private data set"):
        assert words in out
    code, out, _ = cli(*ASK, "--push", REPO, "--dry-run", "--json")
    assert json.loads(out)["uploads"] == {"alice/lorahub-wheels": [wheel.wheel.name]}
    assert TOKEN not in out
    assert not hub.sent("", "POST")


def test_a_failed_job_is_exit_code_one(hub, cli):
    hub.job_output, hub.job_ends, hub.job_message = ["Traceback"], "ERROR", "Job failed with exit code 2"
    code, out, err = cli(*ASK, "--push", REPO)
    assert code == 1
    assert "Job failed with exit code 2" in out
    assert "ended as ERROR" in err
    assert "hf jobs logs job-1" in err
    code, out, err = cli(*ASK, "--push", REPO, "--json")
    assert code == 1
    assert json.loads(out)["stage"] == "ERROR"


def test_a_job_whose_answer_was_lost_is_not_started_twice(hub):
    hub.fail("/api/jobs/alice$", "lost", method="POST")
    with pytest.raises(PublishError, match="may have started all the same"):
        jobs.start(planned())
    assert len(hub.jobs) == 1
    hub.fail("/api/jobs/alice$", 403, method="POST")
    with pytest.raises(HubError, match="token may not"):
        jobs.start(planned())
    assert len(hub.jobs) == 1


@pytest.mark.slow
def test_ctrl_c_leaves_the_job_running_and_says_how_to_see_it_again(hub, tmp_path):
    """The program as a person runs it, from this checkout: the wheel is built too."""
    hub.job_output, hub.job_ends = ["step 1"], None
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    running = subprocess.Popen(
        [sys.executable, "-m", "lorahub", *ASK, "--push", REPO],
        env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert running.stdout.readline() == "step 1\n"
        time.sleep(0.5)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    finally:
        hub.job_ends = "COMPLETED"
        running.kill()
    assert running.returncode == 130, err
    assert "the job goes on. Look again: hf jobs logs job-1; stop it: hf jobs cancel job-1" in err
    assert "Traceback" not in err
    assert TOKEN not in out + err
    assert hub.jobs["job-1"]["stage"] == "RUNNING"
    assert any(path.endswith(".whl") for path in hub.files("alice/lorahub-wheels", kind="dataset"))


@pytest.mark.slow
def test_a_local_training_pushes_when_it_is_done(hub, hub_base, cli, claims_file, tmp_path):
    data = claims_file(learnable(120), "claims.csv")
    code, out, err = cli(
        "train", "--data", data, "--base", "org/tiny-bert", "--out", tmp_path / "run", "--push", REPO, "--private",
        "--set", "train.min_steps=10", "--set", "train.epochs=1", "--set", "eval.bootstrap=200",
    )  # fmt: skip
    assert code == 0, err
    assert f"published as {hub.url}/{REPO}" in out
    assert hub.files(REPO)["adapter_model.safetensors"] == (tmp_path / "run" / "adapter_model.safetensors").read_bytes()
    assert hub.repo(REPO).private
