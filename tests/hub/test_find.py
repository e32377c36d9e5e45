"""Finding and fetching: list, info and pull, pinned, and from the cache without a network."""

import json
import shutil

import pytest

from lorahub.errors import AdapterError, HubError
from lorahub.hub import fetch
from lorahub.publish import push
from lorahub.serving.engine.engine import Engine

pytestmark = pytest.mark.slow

REPO = "alice/tiny"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def pushed(hub, hub_base, run_folder):
    """The tiny run on the Hub."""
    return push.send(push.plan(run_folder, push.Options(base_id=hub_base, licence="mit")))


def test_list_finds_the_adapters_of_a_base_on_the_hub_and_here(
    hub, hub_base, run_folder, pushed, cli, tmp_path, monkeypatch
):
    monkeypatch.chdir(run_folder.parent.parent)
    other = shutil.copytree(run_folder, tmp_path / "worse")
    record = json.loads((other / "record.json").read_text())
    record["results"]["test"]["adapter"]["f1_macro"] = 0.001
    (other / "record.json").write_text(json.dumps(record))
    push.send(push.plan(other, push.Options(repo="worse", base_id=hub_base)))
    hub.put("bob/else", {"README.md": b"---\nbase_model: org/other\ntags:\n- lorahub\n---\n"})
    hub.put(
        "bob/hidden",
        {"README.md": b"---\nbase_model: org/tiny-bert\nbase_model_relation: adapter\n---\n"},
        private=True,
    )
    code, out, err = cli("list", "--base", "org/tiny-bert", "--sort", "f1_macro", "--root", run_folder.parent, "--json")
    assert code == 0, err
    found = json.loads(out)["adapters"]
    assert [item["id"] for item in found] == [REPO, "alice/worse"]
    assert found[0]["labels"] == ["hedged", "plain"]
    assert found[0]["metrics"]["f1_macro"] > found[1]["metrics"]["f1_macro"] == 0.001
    assert found[0]["size_bytes"] > 10_000
    assert found[0]["revision"] == pushed.commit
    assert found[0]["licence"] == "mit"
    code, out, err = cli("list")
    assert {"bob/else", REPO, "runs/tiny"} <= set(out.split())
    assert "hidden" not in out
    code, out, err = cli("list", "--local", "--json")
    assert [item["where"] for item in json.loads(out)["adapters"]] == ["here"]
    code, out, err = cli("list", "--sort", "beauty")
    assert code == 2
    assert "f1_macro" in err


def test_list_without_a_network_shows_what_is_here_and_says_so(hub, run_folder, cli, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(run_folder.parent.parent)
    code, out, err = cli("list")
    assert code == 0
    assert "runs/tiny" in out
    assert "listing only runs on this machine" in err


def test_info_shows_an_adapter_before_its_weights_are_downloaded(hub, pushed, cli, run_folder):
    hub.requests.clear()
    code, out, err = cli("info", REPO)
    assert code == 0, err
    for words in ("hedged, plain", "org/tiny-bert at", "Macro F1 on test", "license: mit", "all checks passed"):
        assert words in out
    assert not [row for row in hub.sent(WEIGHTS, "GET") if row[2] == 200]
    code, out, err = cli("info", run_folder, "--json")
    assert json.loads(out)["safety"]["safe"] is True
    hub.put(REPO, {WEIGHTS: b"x"})
    code, out, err = cli("info", REPO, "--json")
    assert code == 1
    assert json.loads(out)["safety"]["safe"] is False


def test_pull_pins_a_commit_and_works_from_the_cache_when_offline(hub, pushed, cli, monkeypatch, tmp_path):
    code, out, err = cli("pull", REPO, "--json")
    assert code == 0, err
    first = json.loads(out)
    assert first["revision"] == pushed.commit
    hub.put(REPO, {"labels.json": b'["no", "yes"]'})
    code, out, _ = cli("pull", f"{REPO}@{pushed.commit}", "--out", tmp_path / "copy", "--json")
    assert json.loads(out)["revision"] == pushed.commit
    assert json.loads((tmp_path / "copy" / "labels.json").read_text()) == ["hedged", "plain"]
    assert (tmp_path / "copy" / "plots" / "confusion.png").exists()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, out, err = cli("pull", REPO, "--json")
    assert code == 0, err
    assert json.loads(out) == first
    with pytest.raises(AdapterError, match="not in the cache"):
        fetch.adapter("alice/other")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "fresh"))
    code, out, err = cli("pull", REPO)
    assert code == 2
    assert "not in the cache" in err, "a machine on which nothing was ever downloaded"


def down(hub, status=503):
    hub.fail("", status, times=10_000)
    hub.requests.clear()


def test_a_hub_that_answers_503_is_as_one_that_cannot_be_reached(hub, hub_base, pushed, cli, caplog, tmp_path):
    base = hub_base.partition("@")[0]
    words = ("classify", "the flu", "--adapter", REPO, "--base", base, "--json")
    code, before, err = cli(*words)
    assert code == 0, err
    assert cli("pull", f"{REPO}@main")[0] == 0
    down(hub)
    code, after, err = cli(*words)
    assert code == 0, err
    assert after == before
    assert (
        f"{REPO} at {pushed.commit} is taken from the cache: the Hub refused to show {REPO}: it answered 503"
        in caplog.text
    )
    assert f"the base {base} at {hub_base.partition('@')[2]} is taken from the cache" in caplog.text
    assert len(hub.requests) <= 4 + 2, "retries do not multiply"
    for command, *more in (("pull", "--json"), ("info",), ("scan",)):
        code, out, err = cli(command, REPO, *more)
        assert code == 0, err
        assert pushed.commit in out + caplog.text
    assert cli("pull", f"{REPO}@main")[0] == 0
    code, out, err = cli("pull", f"{REPO}@{'0' * 40}")
    assert code == 2
    assert "not in the cache and the Hub cannot be used" in err.splitlines()[-1]
    with pytest.raises(AdapterError, match="whether alice/tiny is public"):
        fetch.download(REPO, token=False)


@pytest.mark.parametrize("step", ["/tree/", "/resolve/", "/api/models/alice/tiny$"])
def test_a_503_in_the_middle_of_a_pull_uses_the_cache_too(hub, pushed, cli, step):
    code, out, err = cli("pull", REPO, "--json")
    hub.fail(step, 503, times=10_000)
    assert json.loads(cli("pull", REPO, "--json")[1]) == json.loads(out)


def test_list_shows_what_is_here_when_the_hub_answers_503(hub, run_folder, pushed, cli, monkeypatch):
    monkeypatch.chdir(run_folder.parent.parent)
    cli("pull", REPO)
    down(hub)
    code, out, err = cli("list", "--json")
    assert code == 0, err
    found = {item["id"]: item["where"] for item in json.loads(out)["adapters"]}
    assert found == {"runs/tiny": "here", f"{REPO}@{pushed.commit}": "cache"}
    assert "listing only runs on this machine and the cache" in err
    assert len(hub.requests) == 4


def test_pull_takes_the_repository_also_where_a_folder_has_its_name(hub, pushed, cli, monkeypatch, tmp_path):
    (tmp_path / REPO).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("pull", REPO, "--out", "copy", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found.pop("safety") == {
        "name": f"{REPO}@{pushed.commit}", "safe": True, "reasons": [], "altered": [], "notes": []
    }  # fmt: skip
    assert found == {"repo": REPO, "revision": pushed.commit, "folder": "copy"}
    assert (tmp_path / "copy" / WEIGHTS).exists()


def test_a_pulled_folder_names_no_base_either(hub, hub_base, pushed, cli, tmp_path):
    code, out, err = cli("pull", REPO, "--out", tmp_path / "copy")
    assert code == 0, err
    hub.requests.clear()
    with pytest.raises(AdapterError, match="--base org/tiny-bert"):
        Engine(adapters=[tmp_path / "copy"])
    assert not hub.sent("org/tiny-bert"), "the base was asked for on the word of a downloaded file"
    assert list(Engine(hub_base, [tmp_path / "copy"]).adapters) == ["copy"]
    (tmp_path / "copy" / "pulled.json").write_text("[]")
    with pytest.raises(AdapterError, match=r"pulled\.json"):
        fetch.adapter(tmp_path / "copy")


@pytest.mark.parametrize("way", ["pull", "from_pretrained"])
def test_what_was_pulled_and_is_pushed_again_changes_nothing(hub, hub_base, pushed, cli, tmp_path, way):
    from lorahub import ClaimClassifier

    copy = tmp_path / "copy"
    if way == "pull":
        code, out, err = cli("pull", REPO, "--out", copy)
        assert code == 0, err
    else:
        ClaimClassifier.from_pretrained(REPO, base=hub_base).save_pretrained(copy)
    plan = push.plan(copy, push.Options(repo=REPO, base_id=hub_base))
    assert (plan.changed, plan.deleted) == ([], [])
    push.send(plan)
    assert hub.repo(REPO).branches["main"] == pushed.commit


def test_an_adapters_own_tokenizer_is_never_loaded(hub, hub_base, pushed):
    hub.put(REPO, {"tokenizer.json": b"no tokenizer", "vocab.txt": b"vaccine"})
    texts = ["the vaccine causes flu", "doctors never say"]
    mine, theirs = (Engine(hub_base, [f"{REPO}@{at}"]).logits(texts)["tiny"] for at in (pushed.commit, "main"))
    assert (mine == theirs).all()


def test_a_token_reaches_a_private_base(hub, hub_base, pushed, cli, monkeypatch):
    hub.repo(hub_base.partition("@")[0]).private = True
    hub.users["hf_org_secret"] = "org"
    hub.put("org/tiny", hub.files(REPO), private=True)
    monkeypatch.delenv("HF_TOKEN")
    words = ("classify", "the flu", "--adapter", "org/tiny", "--base", hub_base, "--json")
    code, out, err = cli(*words)
    assert code == 2
    assert "org/tiny" in err
    code, out, err = cli(*words, "--token", "hf_org_secret")
    assert code == 0, err
    assert "hf_org_secret" not in out + err


def test_a_base_is_asked_for_again_when_the_hub_stumbles(hub, hub_base):
    hub.fail("/api/models/org/tiny-bert", 503, times=2)
    assert fetch.base(hub_base.partition("@")[0]).revision == hub_base.partition("@")[2]


def test_pull_says_what_is_wrong_in_one_line(hub, cli, tmp_path):
    code, out, err = cli("pull", "alice/none")
    assert code == 2
    assert "404" in err
    assert len(err.splitlines()) == 1
    code, out, err = cli("pull", "none")
    assert code == 2
    assert "USER/NAME" in err
    for command in ("pull", "info"):
        code, out, err = cli(command, "alice/a--b")
        assert code == 2
        assert "alice/a--b" in err
        assert "--" in err
        assert "cache" not in err, "an id that the Hub allows nobody is no missing network"
    code, out, err = cli("pull", "alice/none", "--out", tmp_path)
    assert "exists" in err


def test_a_path_is_never_taken_for_a_hub_id(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(AdapterError, match="no adapter folder"):
        fetch.adapter("runs/none")
    assert not hub.requests
    with pytest.raises(HubError, match="404"):
        fetch.adapter("alice/none")


def test_the_engine_takes_hub_ids_but_no_base_on_a_files_word(hub, hub_base, pushed, run_folder):
    hub.requests.clear()
    with pytest.raises(AdapterError, match="--base org/tiny-bert"):
        Engine(adapters=[REPO])
    assert not hub.sent("org/tiny-bert"), "the base was asked for on the word of a downloaded file"
    engine = Engine(hub_base, [f"{REPO}@{pushed.commit}"])
    rows = json.loads((run_folder / "probe.json").read_text())
    found = engine.logits([row["claim"] for row in rows])["tiny"]
    assert abs(found - [row["logits"] for row in rows]).max() < 1e-4


def damage(folder, change):
    """A copy of a run beside it, whose record was changed in place."""
    other = shutil.copytree(folder, folder.parent / "bad")
    record = json.loads((other / "record.json").read_text())
    change(record)
    (other / "record.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.clear(),
        lambda record: record.pop("environment"),
        lambda record: record["environment"].pop("base_id"),
        lambda record: record["environment"].pop("labels"),
        lambda record: record["environment"]["data"].pop("id"),
        lambda record: record.update(created=3),
        lambda record: record["results"].update(test=[]),
        lambda record: record["results"]["test"]["adapter"].update(f1_macro="0.9"),
    ],
)
def test_a_damaged_run_is_left_out_and_breaks_no_neighbour(run_folder, cli, monkeypatch, change, caplog):
    damage(run_folder, change)
    monkeypatch.chdir(run_folder.parent)
    for words in (["list", "--local", "--root", ".", "--sort", "f1_macro"], ["runs", "--root", "."]):
        caplog.clear()
        code, out, err = cli(*words)
        assert code == 0, err
        assert "tiny" in out
        assert "bad is left out: bad/record.json" in caplog.text
    for here in ("tiny", run_folder):
        code, out, err = cli("info", here)
        assert code == 0, err
        assert "Macro F1 on test" in out
    code, out, err = cli("info", "bad")
    assert code == 2
    assert "bad/record.json" in err
    assert len(err.splitlines()) == 1
    monkeypatch.chdir(run_folder)
    code, out, err = cli("info", ".")
    assert "Macro F1 on test" in out, "the folder's own name is not asked for"
