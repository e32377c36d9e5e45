"""Publishing: one commit with everything, nothing of this machine, nothing sent twice, nothing replaced unasked."""

import copy
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from hub_fixtures import TOKEN, record_files, swap_head
from hub_server import BOB
from huggingface_hub import ModelCard

from lorahub import records
from lorahub.errors import AdapterError, HubError, PublishError
from lorahub.hub import client, integrity
from lorahub.publish import export, push
from lorahub.publish.push import Options
from lorahub.reports import sections

pytestmark = pytest.mark.slow

REPO = "alice/tiny"
CARD, WEIGHTS = "README.md", "adapter_model.safetensors"
WRONG = "hf_" + "Wrong" * 7


@pytest.fixture
def base(hub_base):
    return hub_base


@pytest.fixture
def run(run_folder):
    return run_folder


def publish(folder, base, **options):
    return push.send(push.plan(folder, Options(**{"base_id": base, **options})))


def outcome(action):
    """What an action returns, or the HubError that it raises."""
    try:
        return action()
    except HubError as error:
        return error


def change_record(folder, change):
    values = json.loads((folder / "record.json").read_text())
    change(values)
    (folder / "record.json").write_text(json.dumps(values))


def lengthen(folder, lines=1):
    """Change a file and the record, as another run would."""
    (folder / "probe.json").write_text((folder / "probe.json").read_text() + "\n" * lines)
    record_files(folder)


def everything_sent(hub):
    return b"\n".join(
        data for repo in hub.repos.values() for at in repo.commits for data in hub.files(repo.id, at).values()
    )


def test_a_push_is_one_commit_with_all_the_evidence(hub, run, base):
    done = publish(run, base)
    assert done.repo == REPO, "the default name is the run's, under whoever is logged in"
    repo = hub.repo(REPO)
    assert [commit.title.split(" with")[0] for commit in repo.commits.values()] == ["initial commit", "Publish tiny"]
    files = hub.files(REPO)
    assert set(files) >= {
        CARD, WEIGHTS, "adapter_config.json", "labels.json", "record.json", "probe.json", "calibration.json",
        "linear_probe.safetensors", "tokenizer.json", "tokenizer_config.json", "plots/confusion.png",
    }  # fmt: skip
    assert not [path for path in files if path.startswith(("predictions", "checkpoints")) or path == "config.json"]
    assert files[WEIGHTS] == (run / WEIGHTS).read_bytes()
    name, commit = base.split("@")
    config = json.loads(files["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == (name, commit)
    record = json.loads(files["record.json"])
    assert record["environment"]["base_id"] == name
    matter = ModelCard(files[CARD].decode()).data.to_dict()
    assert (matter["base_model"], matter["base_model_relation"]) == (name, "adapter")
    assert REPO in files[CARD].decode()
    assert (run / CARD).read_bytes() == files[CARD]


def test_nothing_published_names_this_machine_or_the_token(hub, run, base):
    publish(run, base)
    sent = everything_sent(hub)
    for secret in (str(run), str(run.parent), TOKEN, "local_files_only"):
        assert secret.encode() not in sent


def test_a_repeated_push_makes_no_commit_and_sends_no_file(hub, run, base):
    first = publish(run, base)
    hub.requests.clear()
    again = publish(run, None)
    assert (again.commit, again.sent, again.bytes_sent) == (first.commit, [], 0)
    assert not hub.sent("/lfs/|/commit/|/preupload/")
    (run / "published.json").unlink()
    assert publish(run, base).commit == first.commit, "a copy without memory finds the same"


def test_only_what_changed_is_sent(hub, run, base):
    publish(run, base)
    hub.requests.clear()
    lengthen(run)
    assert publish(run, base).sent == ["probe.json", "record.json"]
    assert not hub.sent("/lfs/")


def test_a_stale_file_of_an_older_run_is_removed_and_a_persons_stays(hub, run, base):
    publish(run, base)
    mine = ("notes.txt", "plots/mine.png", "docs/labels.json", "archive/v1/adapter_model.safetensors")
    hub.put(REPO, dict.fromkeys(mine, b"mine"))
    (run / "plots" / "curve.png").unlink()
    plan = push.plan(run, Options(base_id=base))
    assert plan.deleted == ["plots/curve.png"]
    push.send(plan)
    assert "plots/curve.png" not in hub.files(REPO)
    assert {hub.files(REPO)[path] for path in mine} == {b"mine"}


def test_a_local_base_needs_a_hub_id_that_exists(hub, run):
    with pytest.raises(PublishError, match="--base-id USER/NAME"):
        push.plan(run, Options())
    with pytest.raises(HubError, match="show the base org/missing"):
        push.plan(run, Options(base_id="org/missing"))
    with pytest.raises(PublishError, match="takes a Hub id"):
        push.plan(run, Options(base_id=str(run)))
    assert not hub.repos


@pytest.mark.parametrize(
    "text",
    ["/home/jane/models/bert", "/Users/jane/x.csv", "C:\\\\Users\\\\jane\\\\x", "/tmp/cache/file", "hf_" + "a" * 30],
)
def test_a_path_or_token_in_any_text_stops_the_push(hub, run, base, text):
    change_record(run, lambda record: record["happened"]["warnings"].append(f"read from {text} today"))
    with pytest.raises(PublishError, match=r"record\.json holds a (path|token)") as caught:
        push.plan(run, Options(base_id=base))
    assert "a" * 20 not in str(caught.value)
    assert ("model", REPO) not in hub.repos


@pytest.mark.parametrize("text", ["https://example.org/home/page", "and/or", "24/7 in /ratio/", "see a/tmp/x"])
def test_a_url_or_a_slash_is_no_path(run, hub, base, text):
    change_record(run, lambda record: record["happened"]["warnings"].append(text))
    assert push.plan(run, Options(base_id=base)).changed


def test_this_machines_own_folders_are_found_even_in_a_vocabulary(hub, run, base):
    (run / "vocab.txt").write_text(f"the\n{run.parent}\n")
    record_files(run)
    with pytest.raises(PublishError, match=r"vocab\.txt holds a path of this machine"):
        push.plan(run, Options(base_id=base))


def test_what_would_not_load_is_not_published(hub, run, base):
    config = json.loads((run / "adapter_config.json").read_text())
    (run / "adapter_config.json").write_text(json.dumps({**config, "r": 3}))
    with pytest.raises(AdapterError, match="does not fit the config's rank 3"):
        push.plan(run, Options(base_id=base))
    (run / WEIGHTS).unlink()
    with pytest.raises(AdapterError, match=f"lacks {WEIGHTS}"):
        push.plan(run, Options(base_id=base))


def test_a_newer_run_on_the_hub_is_not_replaced_unasked(hub, run, base, tmp_path):
    newer = shutil.copytree(run, tmp_path / "newer")
    change_record(newer, lambda record: record.update(created="2999-01-01T00:00:00+00:00"))
    publish(newer, base, repo=REPO)
    before = hub.files(REPO)
    with pytest.raises(PublishError, match=r"newer than this one.*--force"):
        push.plan(run, Options(base_id=base))
    assert hub.files(REPO) == before
    publish(run, base, force=True)
    assert json.loads(hub.files(REPO)["record.json"])["created"] < "2999"


def test_a_change_made_on_the_hub_since_the_last_push_is_not_replaced_unasked(hub, run, base):
    publish(run, base)
    hub.put(REPO, {"labels.json": b'["no", "yes"]'})
    with pytest.raises(PublishError, match=r"changed since your last push \(labels\.json\)"):
        push.plan(run, Options(base_id=base))
    publish(run, base, force=True)
    assert json.loads(hub.files(REPO)["labels.json"]) == ["hedged", "plain"]


def test_a_repository_of_something_else_is_not_replaced_unasked(hub, run, base):
    hub.put(REPO, {WEIGHTS: b"other"})
    with pytest.raises(PublishError, match="lorahub did not write"):
        push.plan(run, Options(base_id=base))


def test_words_written_on_the_hub_survive_and_so_do_words_written_here(hub, run, base):
    publish(run, base)
    there = (
        hub.files(REPO)[CARD].decode().replace("<!-- lorahub:begin use -->", "My words.\n\n<!-- lorahub:begin use -->")
    )
    hub.put(REPO, {CARD: there.replace("library_name: peft", "library_name: peft\nlicense: cc-by-4.0").encode()})
    change_record(run, lambda record: record["results"]["test"]["adapter"].update(ece=0.123456))
    publish(run, base)
    card = hub.files(REPO)[CARD].decode()
    assert "My words." in card
    assert "0.123" in card
    assert sections.front_matter(card)["license"] == "cc-by-4.0"
    (run / CARD).write_text((run / CARD).read_text().replace("My words.", "Better words."))
    publish(run, base)
    assert "Better words." in hub.files(REPO)[CARD].decode()


def test_a_card_edited_in_two_places_is_merged_and_no_persons_text_is_lost(hub, run, base, cli):
    publish(run, base)
    plain = hub.files(REPO)[CARD].decode()
    mark = "<!-- lorahub:begin {} -->"
    both = plain.replace(mark.format("use"), f"First.\n\nSecond.\n\n{mark.format('use')}")
    hub.put(REPO, {CARD: both.replace("pipeline_tag:", "license: cc-by-4.0\npipeline_tag:").encode()})
    publish(run, base)
    on_hub = (
        hub.files(REPO)[CARD].decode()
        .replace("Second.", "Second, as seen on the Hub.")
        .replace("## Limits\n", "## Limits\n\nNot for legal texts.\n")
        .replace("license: cc-by-4.0", "license: cc-by-4.0\nthumbnail: x.png")
    )  # fmt: skip
    hub.put(REPO, {CARD: on_hub.encode()})
    here = (run / CARD).read_text().replace("First.", "First, as seen here.").replace("cc-by-4.0", "mit")
    (run / CARD).write_text(here)
    change_record(run, lambda record: record["results"]["test"]["adapter"].update(ece_calibrated=0.123456))
    plan = push.plan(run, Options(base_id=base))
    assert any("inside the section limits" in note for note in plan.notes)
    push.send(plan)
    for _ in range(2):
        card = hub.files(REPO)[CARD].decode()
        assert "First, as seen here.\n\nSecond, as seen on the Hub." in card
        assert card.count("Not for legal texts.") == 1
        assert card.index("lorahub:end limits") < card.index("Not for legal texts.")
        assert "0.123" in card
        matter = sections.front_matter(card)
        assert (matter["license"], matter["thumbnail"]) == ("mit", "x.png")
        lengthen(run)
        publish(run, base)
    hub.put(REPO, {CARD: hub.files(REPO)[CARD].replace(b"as seen on the Hub", b"theirs")})
    (run / CARD).write_text((run / CARD).read_text().replace("as seen on the Hub", "mine"))
    before = hub.files(REPO)
    with pytest.raises(PublishError, match="'Second, theirs.'.*--force, which keeps both"):
        publish(run, base)
    assert hub.files(REPO) == before
    code, out, err = cli("push", run, "--base-id", base, "--force")
    assert code == 0, err
    assert "both texts where it was edited" in err
    assert "Second, mine.\nSecond, theirs." in hub.files(REPO)[CARD].decode()


def test_force_replaces_a_classifier_and_keeps_the_text_of_its_card(hub, run, base, tmp_path):
    publish(run, base)
    hub.put(REPO, {CARD: hub.files(REPO)[CARD] + b"\nAsk me at the seminar.\n"})
    other = shutil.copytree(run, tmp_path / "other")
    (other / "published.json").unlink()
    change_record(other, lambda record: record["asked"]["adapter"].update(method="rslora"))
    publish(other, base, repo=REPO, force=True)
    card = hub.files(REPO)[CARD].decode()
    assert card.endswith("Ask me at the seminar.\n")
    assert "rank-stabilized" in card


def other_labels(record):
    record["environment"]["labels"] = ["maybe", "plain"]
    for systems in record["results"].values():
        for result in systems.values():
            result["per_label"] = {"maybe": result["per_label"]["hedged"], "plain": result["per_label"]["plain"]}


def other_data(record):
    record["environment"]["data"]["sha256"]["train"] = "0" * 64


def other_method(record):
    record["asked"]["adapter"]["method"] = "rslora"


@pytest.mark.parametrize("name", ["another folder", "labels", "data", "method"])
def test_a_push_replaces_another_classifier_only_with_force(hub, run, base, tmp_path, cli, name):
    publish(run, base)
    change = {"labels": other_labels, "data": other_data, "method": other_method}.get(name)
    mine = shutil.copytree(run, tmp_path / "mine")
    if change:
        # As if the run in the same folder had been trained again.
        change_record(mine, change)
        if name == "labels":
            (mine / "labels.json").write_text(json.dumps(["maybe", "plain"]))
            record_files(mine)
    else:
        (mine / "published.json").unlink()
        lengthen(mine)
    before = hub.files(REPO)
    code, out, err = cli("push", mine, REPO, "--base-id", base)
    assert code == 2
    err = err.splitlines()[-1]
    holds = f"a classifier with other {name}" if change else "a classifier of another folder"
    assert f"{REPO} holds {holds}: lora on org/tiny-bert with the labels hedged, plain, trained on" in err
    method, labels = "rslora" if name == "method" else "lora", "maybe, plain" if name == "labels" else "hedged, plain"
    assert f"{mine} is {method} on org/tiny-bert with the labels {labels}" in err
    assert "--force" in err
    assert hub.files(REPO) == before
    code, out, err = cli("push", mine, REPO, "--base-id", base, "--force")
    assert code == 0, err
    assert hub.files(REPO)["record.json"] != before["record.json"]


def test_a_repository_with_another_library_s_model_is_not_added_to_unasked(hub, run, base):
    hub.put(REPO, {"config.json": b"{}", "model.safetensors": b"x", CARD: b"# Mine\n"})
    with pytest.raises(PublishError, match=r"did not write \(config.json\)"):
        push.plan(run, Options(base_id=base))
    hub.put("alice/described", {"LICENSE": b"mine", CARD: b"# Mine\n"})
    publish(run, base, repo="described")
    assert hub.files("alice/described")[CARD].decode().split("---\n", 2)[2].startswith("# Mine\n")


def test_a_metric_that_got_worse_is_named_before_anything_is_sent(hub, run, base, tmp_path):
    publish(run, base)
    worse = shutil.copytree(run, tmp_path / "worse")
    change_record(
        worse, lambda record: record["results"]["test"]["adapter"].update(f1_macro=0.1, ece=0.9, accuracy=1.0)
    )
    hub.requests.clear()
    plan = push.plan(worse, Options(repo=REPO, base_id=base))
    assert [line.split(" is")[0] for line in plan.worse] == ["Macro F1", "Expected calibration error"]
    assert not hub.sent("", "POST")
    change_record(worse, lambda record: record["environment"]["data"]["sha256"].update(test="0" * 64))
    assert "on other test claims" in push.plan(worse, Options(repo=REPO, base_id=base)).worse[0]


def test_two_pushes_at_once_one_wins_and_the_other_is_told(hub, run, base, tmp_path):
    publish(run, base)
    plans = []
    for name in ("a", "b"):
        folder = shutil.copytree(run, tmp_path / name)
        lengthen(folder, 1 + len(plans))
        plans.append(push.plan(folder, Options(repo=REPO, base_id=base)))
    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(lambda plan: outcome(lambda: push.send(plan)), plans))
    told = [found for found in outcomes if isinstance(found, HubError)]
    assert len(told) == 1
    assert told[0].status == 412
    assert "changed in the meantime" in str(told[0])
    assert len(hub.repo(REPO).commits) == 3


def test_two_first_pushes_at_once_one_wins_and_the_other_is_told(hub, run, base, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    lengthen(other)
    first, second = (push.plan(folder, Options(repo=REPO, base_id=base)) for folder in (run, other))
    push.send(first)
    with pytest.raises(HubError, match="created by another user in the meantime") as told:
        push.send(second)
    assert told.value.status == 412
    assert hub.files(REPO)["probe.json"] == (run / "probe.json").read_bytes()


STEPS = ("repos/create", "validate-yaml", "/preupload/", "objects/batch", "/lfs/[0-9a-f]+$", "/verify$", "/commit/")
FAULTS = (500, 401, 403, 404, 409, 412, 429, "gated", "cut", "slow")


def combinations(steps):
    """Every step with every fault; make test runs two steps with each fault, make test-long all of them."""
    for row, step in enumerate(steps):
        for column, fault in enumerate(FAULTS):
            small = (row - column) % len(steps) in (0, len(steps) // 2)
            yield pytest.param(step, fault, id=f"{fault}-{step}", marks=() if small else pytest.mark.long)


@pytest.mark.parametrize(("step", "fault"), [*combinations(STEPS)])
def test_a_fault_at_any_step_publishes_nothing_or_all(hub, run, base, step, fault, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    plan = push.plan(run, Options(base_id=base))
    headers = {429: {"Retry-After": "0"}, "gated": {"X-Error-Code": "GatedRepo"}}.get(fault)
    injected = hub.fail(step, 403 if fault == "gated" else fault, times=1, headers=headers)
    error = outcome(lambda: push.send(plan))
    assert injected.times == 0, f"no push asks for {step}"
    assert isinstance(error, HubError) == (fault not in (429, 500, "cut", "slow")), error
    if isinstance(error, HubError):
        assert "\n" not in str(error)
        assert ("was created and is empty" in str(error)) == (("model", REPO) in hub.repos)
        assert ("model", REPO) not in hub.repos or set(hub.files(REPO)) == {".gitattributes"}
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert publish(run, base).repo == REPO
    assert WEIGHTS in hub.files(REPO)
    assert len(hub.repo(REPO).commits) == 2


def test_a_commit_whose_answer_was_lost_is_not_made_twice(hub, run, base):
    hub.fail("/commit/", "lost")
    done = publish(run, base)
    assert len(hub.repo(REPO).commits) == 2
    assert done.commit == hub.repo(REPO).branches["main"]


def test_a_commit_that_also_removes_a_file_and_whose_answer_was_lost_is_known(hub, run, base):
    publish(run, base)
    (run / "plots" / "curve.png").unlink()
    hub.fail("/commit/", "lost")
    done = publish(run, base)
    assert len(hub.repo(REPO).commits) == 3
    assert done.commit == hub.repo(REPO).branches["main"]
    assert publish(run, base).sent == []


def test_a_pull_request_whose_answer_was_lost_is_not_opened_twice(hub, run, base):
    publish(run, base)
    lengthen(run)
    hub.fail("/commit/", "lost")
    with pytest.raises(PublishError, match="did not say whether the pull request"):
        publish(run, base, create_pr=True)
    assert len(hub.repo(REPO).pulls) == 1


def test_a_repeated_pull_request_opens_no_second_one(hub, run, base):
    publish(run, base)
    lengthen(run)
    assert publish(run, base, create_pr=True).pull_request
    plan = push.plan(run, Options(base_id=base, create_pr=True))
    assert (plan.changed, plan.deleted) == ([], [])
    assert any("pull request 1" in note for note in plan.notes)
    push.send(plan)
    assert len(hub.repo(REPO).pulls) == 1


def test_a_collection_that_is_not_there_leaves_the_push_whole(hub, run, base):
    with pytest.raises(HubError, match=r"collection.*published, at|published, at") as caught:
        publish(run, base, collection="alice/typo-1")
    assert caught.value.status == 404
    lengthen(run)
    assert publish(run, base).sent == ["probe.json", "record.json"], "and the next push accuses nobody of a change"


READING = (
    "whoami", "/api/models/alice/tiny$", "/refs", "/tree/", "/resolve/", "/api/models/org/tiny-bert", "/branch/",
    "/collections/",
)  # fmt: skip


@pytest.mark.parametrize(("step", "fault"), [*combinations(READING)])
def test_a_fault_before_or_after_the_commit_changes_nothing_and_the_next_push_succeeds(
    hub, run, base, step, fault, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    publish(run, base)
    hub.collections["alice/mine-1"] = []
    lengthen(run)
    options = {"revision": "next", "collection": "alice/mine-1"}
    headers = {429: {"Retry-After": "0"}, "gated": {"X-Error-Code": "GatedRepo"}}.get(fault)
    # A HEAD has no body that could be cut.
    method = "GET" if fault == "cut" and step == "/resolve/" else ""
    injected = hub.fail(step, 403 if fault == "gated" else fault, method=method, times=1, headers=headers)
    before = hub.files(REPO)
    error = outcome(lambda: publish(run, base, **options))
    assert injected.times == 0, f"no push asks for {step}"
    if isinstance(error, HubError):
        assert fault not in (429, 500, "cut", "slow"), f"what heals is tried again: {error}"
        assert "\n" not in str(error)
    assert hub.files(REPO) == before, "another branch was asked for"
    assert publish(run, base, **options).commit == hub.repo(REPO).branches["next"]
    assert hub.files(REPO, "next")["probe.json"] == (run / "probe.json").read_bytes()
    assert len(hub.repo(REPO).commits) == 3
    assert [item["id"] for item in hub.collections["alice/mine-1"]] == [REPO]


def test_a_server_that_stays_down_is_given_up_after_four_tries(hub, run, base):
    hub.fail("/commit/", 503, times=99)
    with pytest.raises(HubError, match="503, 4 times"):
        publish(run, base)
    assert len(hub.sent("/commit/")) == 4


def test_private_branch_pull_request_message_and_collection(hub, run, base):
    publish(run, base, private=True)
    with pytest.raises(HubError):
        client.call(lambda: client.api(BOB).model_info(REPO), doing="look")
    lengthen(run)
    publish(run, base, revision="next", message="Try this")
    repo = hub.repo(REPO)
    assert repo.find("next").title == "Try this"
    assert repo.find("main").title != "Try this"
    hub.collections["alice/mine-1"] = []
    lengthen(run)
    done = publish(run, base, create_pr=True, collection="alice/mine-1")
    assert done.pull_request.endswith("/discussions/1")
    assert repo.find("main").id != done.commit
    assert hub.files(REPO, "refs/pr/1")["probe.json"] == (run / "probe.json").read_bytes()
    assert [item["id"] for item in hub.collections["alice/mine-1"]] == [REPO]


def test_a_stranger_can_open_a_pull_request_but_not_push(hub, run, base, tmp_path):
    publish(run, base)
    other = shutil.copytree(run, tmp_path / "other")
    lengthen(other)
    with pytest.raises(HubError, match="write access"):
        publish(other, base, repo=REPO, token=BOB)
    assert publish(other, base, repo=REPO, token=BOB, create_pr=True).pull_request


@pytest.mark.parametrize("name", ["a/b/c", "alice/has space", "alice/a--b", "alice/..", ""])
def test_a_name_that_the_hub_does_not_allow_is_refused_here(hub, run, base, name):
    with pytest.raises((PublishError, HubError), match="repository id"):
        push.plan(run, Options(repo=name or "/", base_id=base))


def test_bad_metadata_is_refused_by_the_hub_in_one_line(hub, run, base):
    with pytest.raises(HubError, match=r"license.*alice/tiny was created and is empty; the next push") as caught:
        publish(run, base, licence="my-own-words")
    assert "\n" not in str(caught.value)
    assert set(hub.files(REPO)) == {".gitattributes"}


def test_export_leaves_the_folder_alone(hub, run, base):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    push.plan(run, Options(base_id=base))
    export.collect(run, base_id=base)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_the_published_record_is_the_runs_own_but_for_the_base(hub, run, base):
    """The hashes are those of the published files: a push rewrites the two configs that name the base."""
    publish(run, base)
    mine, theirs = records.load(run).to_dict(), json.loads(hub.files(REPO)["record.json"])
    assert theirs["results"] == mine["results"]
    changed = copy.deepcopy(mine)
    changed["environment"] |= {"base_id": "org/tiny-bert", "base_revision": base.split("@")[1], "base_origin": "hub"}
    changed["asked"]["base"]["id"] = "org/tiny-bert"
    changed["environment"]["data"]["id"] = changed["asked"]["data"]["id"] = "local-file"
    changed["happened"]["warnings"] = theirs["happened"]["warnings"]
    for name in ("adapter_config.json", "tokenizer_config.json"):
        assert hub.files(REPO)[name] != (run / name).read_bytes()
        changed["files"][name] = integrity.hash_bytes(hub.files(REPO)[name]).to_dict()
    assert theirs == changed


def test_the_license_is_that_of_the_base_if_it_is_permissive_unless_one_is_named(hub, run, base, monkeypatch, cli):
    from lorahub.cli import publish as command

    name, commit = base.split("@")
    plan = push.plan(run, Options(base_id=base))
    assert "license" not in sections.front_matter(plan.card)
    assert any("names no license" in note for note in plan.notes)
    commit = hub.put(name, {CARD: b"---\nlicense: mit\n---\n"})
    plan = push.plan(run, Options(base_id=f"{name}@{commit}"))
    assert sections.front_matter(plan.card)["license"] == "mit"
    assert f"the license is mit, that of the base {name}; name another one with --license ID" in plan.notes
    assert push.plan(run, Options(base_id=name, licence="cc0-1.0")).assumed_licence is False
    closed = hub.put(name, {CARD: b"---\nlicense: cc-by-nc-4.0\n---\n"})
    assert "license" not in sections.front_matter(push.plan(run, Options(base_id=f"{name}@{closed}")).card)
    asked = []
    monkeypatch.setattr(command.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(command.typer, "prompt", lambda text, default: asked.append((text, default)) or "gpl-3.0")
    code, out, err = cli("push", run, "--base-id", f"{name}@{commit}", "--language", "en")
    assert code == 0, err
    assert f"lorahub verify {REPO}@{hub.repo(REPO).branches['main']} --base {name}@{commit}" in out
    assert [default for _, default in asked] == ["mit"]
    assert sections.front_matter(hub.files(REPO)[CARD].decode())["license"] == "gpl-3.0"
    lengthen(run)
    assert cli("push", run)[0] == 0
    assert len(asked) == 1, "the card names it now"


def test_a_dry_run_and_the_card_need_neither_login_nor_network(hub, run, base, cli, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nonexistent")
    code, out, err = cli("push", run, "--base-id", base, "--dry-run")
    assert code == 0, err
    assert "YOUR-NAME/tiny" in out
    assert "not logged in" in out
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, out, err = cli("push", run, "alice/tiny", "--base-id", base.partition("@")[0], "--dry-run", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert {row["state"] for row in found["files"]} == {"new"}
    assert any("what alice/tiny holds now is not known" in note for note in found["notes"])
    assert cli("card", run)[0] == 0
    code, out, err = cli("push", run, "alice/tiny", "--base-id", base)
    assert code == 2


def test_the_name_of_a_local_file_is_not_published(hub, run, base):
    change_record(run, lambda record: record["happened"]["warnings"].append("claims.jsonl has no splits: made here"))
    publish(run, base)
    assert b"claims.jsonl" not in everything_sent(hub)
    record = json.loads(hub.files(REPO)["record.json"])
    assert record["environment"]["data"]["id"] == record["asked"]["data"]["id"] == "local-file"
    assert "the file has no splits: made here" in record["happened"]["warnings"]


def reorder(run):
    (run / "labels.json").write_text('["plain", "hedged"]')


def cool(run):
    values = json.loads((run / "calibration.json").read_text())
    (run / "calibration.json").write_text(json.dumps({**values, "temperature": 9.5}))


CHANGES = {
    "labels.json": reorder,
    "calibration.json": cool,
    WEIGHTS: lambda run: swap_head(run / WEIGHTS),
    "tokenizer_config.json": lambda run: (run / "tokenizer_config.json").write_text("{}"),
    "adapter_config.json": lambda run: (run / "adapter_config.json").write_text(
        (run / "adapter_config.json").read_text() + "\n"
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_that_changed_since_its_training_is_not_published(hub, run, base, name, cli):
    CHANGES[name](run)
    code, out, err = cli("push", run, "--base-id", base, "--force")
    assert code == 2
    assert f"changed after the run: {name}" in err
    assert len(err.splitlines()) == 1
    assert ("model", REPO) not in hub.repos


def test_a_run_of_a_version_without_hashes_is_published_without(hub, run, base):
    change_record(run, lambda record: record.pop("files"))
    publish(run, base)
    assert "files" not in json.loads(hub.files(REPO)["record.json"])
    reorder(run)
    with pytest.raises(PublishError, match=r"labels\.json holds plain, hedged instead of hedged, plain"):
        push.plan(run, Options(base_id=base))


def test_the_command_says_what_it_would_do_and_what_it_did(hub, run, base, cli):
    code, out, err = cli("push", run, "--base-id", base, "--dry-run")
    assert code == 0, err
    assert "would be created" in out
    assert "adapter_model.safetensors" in out
    assert "## Results on the test split" in out
    assert ("model", REPO) not in hub.repos
    code, out, err = cli("push", run, "--base-id", base, "--dry-run", "--json")
    assert {row["state"] for row in json.loads(out)["files"]} == {"new"}
    code, out, err = cli("push", run, "--base-id", base, "--license", "mit", "--language", "en")
    assert code == 0, err
    assert re.search(r"published \d+ files \([\d.]+ [kM]B\)", out)
    assert "note:" not in err
    code, out, err = cli("push", run, "--json")
    assert json.loads(out)["sent"] == []
    assert err == ""
    code, out, err = cli("push", run, "--token", WRONG)
    assert code == 2
    assert "token is not valid" in err
    assert WRONG not in out + err


def test_the_card_command_prints_and_rewrites(run, cli):
    code, out, err = cli("card", run)
    assert code == 0, err
    assert out.startswith("---\n")
    (run / CARD).write_text((run / CARD).read_text() + "\nMine.\n")
    code, out, err = cli("card", run, "--write", "--license", "mit", "--repo", REPO)
    text = (run / CARD).read_text()
    assert text.endswith("Mine.\n")
    assert REPO in text
    code, out, err = cli("card", run, "--json")
    assert json.loads(out)["metadata"]["license"] == "mit"
