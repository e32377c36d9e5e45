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
from hub_server import READER

from lorahub import config
from lorahub.errors import HubError, PublishError
from lorahub.publish import deployment, jobs

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
REPO = "alice/far"
ASK = ["job", "--data", "starter-wording", "--set", "train.epochs=2", "--flavor", "a10g-small"]


@pytest.fixture(autouse=True)
def released(monkeypatch):
    monkeypatch.setattr(deployment, "find_package", lambda: deployment.Package(version="0.1.0"))


@pytest.fixture
def wheel(monkeypatch):
    """A checkout, whose wheel test_space builds for real."""
    made = deployment.Package(
        version="0.1.0", wheel=deployment.Wheel(name="hf_lorahub-0.1.0-py3-none-any.whl", content=b"w")
    )
    monkeypatch.setattr(deployment, "find_package", lambda: made)
    return made


def spec(hub):
    return hub.jobs["job-1"]["spec"]


def asked(command):
    """The config that a Job's command asks for."""
    return config.load(None, [word.removeprefix("--set=") for word in command if word.startswith("--set=")])


def planned(*settings, **options):
    wanted = config.load(None, ["data.id=starter-wording", *settings])
    return jobs.plan(wanted, jobs.Options(**{"flavor": "a10g-small", "push": REPO, **options}))


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
    assert list(hub.repos) == [("model", REPO)], "nothing is uploaded for a release and data that ships with it"


def test_the_token_is_a_secret_and_nowhere_else(hub, cli):
    hub.job_output = [f"printed {TOKEN}"]
    code, out, err = cli(*ASK, "--push", REPO)
    assert code == 0, err
    assert spec(hub)["secrets"] == {"HF_TOKEN": TOKEN}
    assert TOKEN not in json.dumps({key: value for key, value in spec(hub).items() if key != "secrets"})
    assert TOKEN not in out + err
    assert "printed (token)" in out


def test_the_settings_of_the_job_are_the_settings_that_were_asked_for(hub):
    settings = [
        "data.label_map={a: b}",
        "data.labels=[b, c]",
        "train.learning_rate=2e-4",
        "eval.adjust=false",
        "data.claim=x.yaml",
    ]
    plan = planned(*settings)
    assert asked(plan.command) == config.load(None, ["data.id=starter-wording", *settings])
    assert jobs.start(plan).id == "job-1", "no setting is taken for a file"


def test_a_checkout_sends_its_wheel_to_a_private_place_and_mounts_it(hub, wheel):
    jobs.start(planned())
    repo = hub.repo("alice/lorahub-wheels", "dataset")
    assert repo.private
    assert hub.files(repo.id, kind="dataset")[wheel.wheel.name] == b"w"
    assert "file:///lorahub/hf_lorahub-0.1.0-py3-none-any.whl#sha256=" in spec(hub)["command"][3]
    (volume,) = spec(hub)["volumes"]
    assert (volume["type"], volume["source"], volume["mountPath"]) == ("dataset", repo.id, "/lorahub")
    assert volume["revision"] == repo.branches["main"]


def test_a_newer_wheel_takes_the_place_of_the_older_which_a_waiting_job_still_finds(hub, wheel, monkeypatch):
    jobs.start(planned())
    newer = deployment.Wheel(name="hf_lorahub-0.2.0-py3-none-any.whl", content=b"v")
    monkeypatch.setattr(deployment, "find_package", lambda: deployment.Package(version="0.2.0", wheel=newer))
    jobs.start(planned())
    assert set(hub.files("alice/lorahub-wheels", kind="dataset")) == {".gitattributes", "README.md", newer.name}
    waiting = hub.jobs["job-1"]["spec"]["volumes"][0]["revision"]
    assert wheel.wheel.name in hub.files("alice/lorahub-wheels", waiting, kind="dataset")


def test_local_data_is_uploaded_only_when_asked_and_only_to_a_private_place(hub, claims_file):
    data = claims_file(learnable(40), "claims.csv")
    with pytest.raises(PublishError, match=r"is on this machine.*--upload-data.*private data set alice/far-data"):
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
    with pytest.raises(PublishError, match="is public; nothing is uploaded"):
        planned(f"data.id={data}", upload_data=True)
    assert len(hub.jobs) == 1


@pytest.fixture
def two_uploads(hub, claims_file, tmp_path):
    """Two Jobs for one --push: the first with a folder of three splits, the second with a single file."""
    folder = tmp_path / "claims"
    folder.mkdir()
    for seed, name in enumerate(("train", "validation", "test")):
        claims_file(learnable(40, seed), f"{name}.jsonl").rename(folder / f"{name}.jsonl")
    jobs.start(planned(f"data.id={folder}", upload_data=True))
    single = claims_file(learnable(60, 3), "claims.csv")
    jobs.start(planned(f"data.id={single}", "data.revision=v1", upload_data=True))
    return [asked(hub.jobs[name]["spec"]["command"]).data for name in ("job-1", "job-2")]


def test_an_upload_deletes_the_files_of_the_one_before(hub, two_uploads):
    first, second = two_uploads
    repo = hub.repo(second.id, "dataset")
    assert set(hub.files(repo.id, kind="dataset")) == {".gitattributes", "README.md", "train.csv"}
    assert second.revision == repo.branches["main"]
    assert {"train.jsonl", "test.jsonl"} < set(hub.files(repo.id, first.revision, kind="dataset"))
    assert len(repo.commits) == 3, "one commit each, after the Hub's own"


READ = """
import json, sys
from lorahub.data import sources
for repo, revision in json.loads(sys.argv[1]):
    splits = sources.find(repo, revision=revision).splits
    print(json.dumps({name: [row["claim"] for row in split.rows()] for name, split in splits.items()}))
"""


def test_a_job_reads_exactly_what_was_uploaded_for_it(two_uploads, program):
    done = program(json.dumps([[data.id, data.revision] for data in two_uploads]), code=READ)
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    assert {name: len(claims) for name, claims in first.items()} == {"train": 40, "validation": 40, "test": 40}
    assert second == {"train": [row["claim"] for row in learnable(60, 3)]}, "which the seed splits, there as here"


def test_the_same_data_again_is_no_commit_and_a_lost_answer_no_failure(hub, claims_file):
    plan = planned(f"data.id={claims_file(learnable(40), 'claims.csv')}", upload_data=True)
    for _ in range(2):
        jobs.start(plan)
    repo = hub.repo("alice/far-data", "dataset")
    assert len(repo.commits) == 2, "the first is the Hub's own"
    other = planned(f"data.id={claims_file(learnable(40), 'claims.jsonl')}", upload_data=True)
    hub.fail("/commit/", "lost", method="POST")
    jobs.start(other)
    assert set(hub.files(repo.id, kind="dataset")) == {".gitattributes", "README.md", "train.jsonl"}
    assert asked(hub.jobs["job-3"]["spec"]["command"]).data.revision == repo.branches["main"]


@pytest.mark.parametrize("name", ["far-data", "lorahub-wheels"])
@pytest.mark.parametrize("front", ["", "---\ntags:\n---\n", "---\ntags: [lorahub]\n---\n"])
def test_a_data_set_of_somebodys_own_is_not_written_to(hub, wheel, claims_file, name, front):
    theirs = {"train.csv": b"mine"} | ({"README.md": front.encode()} if front else {})
    hub.put(f"alice/{name}", theirs, kind="dataset", private=True)
    with pytest.raises(PublishError, match=f"alice/{name} holds files that lorahub did not write"):
        planned(f"data.id={claims_file(learnable(40), 'claims.csv')}", upload_data=True)
    assert hub.files(f"alice/{name}", kind="dataset") == theirs
    assert not hub.sent("", "POST")


def test_a_data_set_that_appears_after_the_plan_is_not_written_to_either(hub, claims_file):
    plan = planned(f"data.id={claims_file(learnable(40), 'claims.csv')}", upload_data=True)
    hub.put("alice/far-data", {"train.csv": b"mine"}, kind="dataset", private=True)
    with pytest.raises(PublishError, match="did not write"):
        jobs.start(plan)
    assert hub.files("alice/far-data", kind="dataset") == {"train.csv": b"mine"}
    assert not hub.jobs


def test_a_job_whose_push_would_be_refused_is_not_started(hub, monkeypatch):
    hub.put(REPO, {"adapter_config.json": b"{}", "README.md": b"mine"})
    with pytest.raises(PublishError, match=r"did not write \(adapter_config.json\).*another name for --push"):
        planned()
    hub.put("bob/far", {"README.md": b"his"})
    with pytest.raises(HubError, match="refused to let you write to bob/far"):
        planned(push="bob/far")
    hub.put("alice/mine", {"README.md": b"mine"})
    monkeypatch.setenv("HF_TOKEN", READER)
    with pytest.raises(HubError, match="refused to let you write to alice/mine"):
        planned(push="alice/mine")
    with pytest.raises(HubError, match="refused to create alice/new"):
        jobs.start(planned(push="alice/new"))
    assert not hub.jobs
    assert not any(kind == "dataset" for kind, _ in hub.repos)


def test_the_job_finds_its_repository_made_and_replaces_a_classifier_only_when_asked(hub, tiny_run):
    jobs.start(planned(private=True))
    assert hub.repo(REPO).private
    record = (tiny_run.folder / "record.json").read_bytes()
    hub.put(REPO, {"adapter_config.json": b"{}", "record.json": record})
    with pytest.raises(PublishError, match=f"{REPO} holds a classifier.*--force-push"):
        planned(private=True)
    again = planned(private=True, force=True)
    assert again.command[-1] == "--force-push", "the push at the end of the Job replaces it too"
    jobs.start(again)
    assert len(hub.jobs) == 2


def test_what_a_job_cannot_do_is_refused_before_anything_is_sent(hub, cli, tiny_base, tmp_path, capsys):
    folder = tiny_base("bert")
    capsys.readouterr()  # transformers tells of the base that is made here
    for arguments, words in {
        ("--push", REPO, "--base", folder): "folder of this machine",
        ("--push", REPO, "--flavor", "a11g"): "no hardware 'a11g'",
        ("--push", "a/b/c"): "not a valid repository id",
        ("--push", REPO, "--timeout", "soon"): "--timeout takes a duration",
    }.items():
        code, out, err = cli(*ASK, *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert words in err
    assert not hub.jobs
    assert not hub.repos


def test_an_option_of_local_training_is_refused_for_a_job_and_the_reverse(hub, cli):
    for command, *arguments in (
        [*ASK, "--push", REPO, "--out", "x"],
        [*ASK, "--push", REPO, "--force"],
        [*ASK, "--push", REPO, "--license", "mit"],
        ["train", "--dry-run"],
        ["train", "--upload-data"],
        ["train", "--timeout", "2h"],
    ):
        code, out, err = cli(command, *arguments)
        assert (code, out) == (2, "")
        assert "No such option" in err
    code, out, err = cli(*ASK)
    assert (code, out) == (2, "")
    assert "Missing option '--push'" in err
    assert not hub.jobs


def test_train_remote_is_an_alias_of_job(hub, cli):
    more = ["--data", "starter-wording", "--push", REPO, "--dry-run", "--json"]
    words = ["job", "--flavor", "a10g-small"], ["train", "--remote", "a10g-small"], ["train", "--remote=a10g-small"]
    plans = [cli(*command, *more) for command in words]
    assert json.loads(plans[0][1])["flavor"] == "a10g-small"
    assert plans[0] == plans[1] == plans[2]


def test_a_flag_that_would_do_nothing_is_refused(cli):
    for arguments, words in {
        ("--private",): "--private has no effect without --push",
        ("--license", "mit"): "--license has no effect without --push",
        ("--language", "en"): "--language has no effect without --push",
        ("--base-id", "a/b"): "--base-id has no effect without --push",
        ("--token", TOKEN): "--token has no effect without --push",
    }.items():
        code, out, err = cli("train", "--data", "missing.csv", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert words in err
        assert TOKEN not in err


def test_a_dry_run_shows_the_job_and_its_price_and_starts_nothing(hub, cli, wheel, claims_file):
    code, out, err = cli(*ASK, "--push", REPO, "--dry-run")
    assert code == 0, err
    for words in (jobs.IMAGE, "uv run --with", "a10g-small", "2h", "$1.00 an hour", "HF_TOKEN", "private data set"):
        assert words in out
    code, out, _ = cli(*ASK, "--push", REPO, "--dry-run", "--json")
    assert json.loads(out)["uploads"] == {"alice/lorahub-wheels": [wheel.wheel.name]}
    assert TOKEN not in out
    assert not hub.sent("", "POST")
    data = claims_file(learnable(40), "claims.csv")
    code, out, err = cli(*ASK, "--push", REPO, "--data", data, "--upload-data", "--dry-run")
    assert code == 0, err
    assert "train.csv to the private data set alice/far-data" in out
    assert '--set=data.revision="COMMIT-OF-THE-UPLOAD"' in out
    assert not hub.sent("", "POST")


def test_a_failed_job_is_exit_code_one(hub, cli):
    hub.job_output, hub.job_ends, hub.job_message = ["Traceback"], "ERROR", "Job failed with exit code 2"
    code, out, err = cli(*ASK, "--push", REPO)
    assert code == 1
    assert "Job failed with exit code 2" in out
    assert "ended with ERROR" in err
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
    with pytest.raises(HubError, match="does not allow it"):
        jobs.start(planned())
    assert len(hub.jobs) == 1


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
    assert "the Job keeps running. Its log: hf jobs logs job-1. Cancel it: hf jobs cancel job-1" in err
    assert "Traceback" not in err
    assert TOKEN not in out + err
    assert hub.jobs["job-1"]["stage"] == "RUNNING"
    assert any(path.endswith(".whl") for path in hub.files("alice/lorahub-wheels", kind="dataset"))


def test_a_local_training_pushes_when_it_is_done(hub, hub_base, tiny_base, cli, claims_file, tmp_path):
    data, base = claims_file(learnable(120), "claims.csv"), tiny_base("bert")
    command = ["train", "--data", data, "--base", base, "--out", tmp_path / "run", "--push", REPO]
    code, _, err = cli(*command)
    assert code == 2
    assert "--base-id USER/NAME" in err
    assert not (tmp_path / "run").exists(), "told before the training"
    code, out, err = cli(
        *command, "--base-id", hub_base, "--license", "mit", "--language", "de", "--private",
        "--set", "train.min_steps=10", "--set", "train.epochs=1", "--set", "eval.bootstrap=200",
    )  # fmt: skip
    assert code == 0, err
    assert f"published as {hub.url}/{REPO}" in out
    assert json.loads(hub.files(REPO)["adapter_config.json"])["base_model_name_or_path"] == "org/tiny-bert"
    assert b"\nlicense: mit\n" in hub.files(REPO)["README.md"]
    assert b"\nlanguage: de\n" in hub.files(REPO)["README.md"]
    assert hub.files(REPO)["adapter_model.safetensors"] == (tmp_path / "run" / "adapter_model.safetensors").read_bytes()
    assert hub.repo(REPO).private
