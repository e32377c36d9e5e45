"""A Space: everything in it pinned, one commit, the hardware afterwards; and what is pushed really is the page."""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from lorahub.errors import AdapterError, HubError, PublishError
from lorahub.hub import fetch
from lorahub.publish import deployment, push, space, space_files
from lorahub.publish.space_files import Pinned

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SPACE, ADAPTER = "alice/claims", "alice/tiny"


@pytest.fixture(scope="session")
def checkout():
    """What stands for this checkout: its wheel, really built, once."""
    return deployment.find_package()


@pytest.fixture
def adapter(hub, hub_base, tiny_run, tmp_path, checkout, monkeypatch):
    """A published adapter, pinned, on its published base; wheels are not built again for every test."""
    folder = shutil.copytree(tiny_run.folder, tmp_path / "runs" / "tiny")
    commit = push.send(push.plan(folder, push.Options(base_id=hub_base))).commit
    monkeypatch.setattr(deployment, "find_package", lambda: checkout)
    hub.requests.clear()
    return f"{ADAPTER}@{commit}"


def planned(**options):
    return space.plan(space.Options(**{"repo": SPACE, "adapters": [ADAPTER], **options}))


def front_matter(content):
    return yaml.safe_load(content.decode().split("---\n")[1])


def pushed_files(hub):
    return {path: data for path, data in hub.files(SPACE, kind="space").items() if path != ".gitattributes"}


def test_title_and_emoji_are_options_and_the_owners_edits_of_the_readme_stay(hub, adapter):
    space.send(planned(title="Which claims hold?", emoji="🔎"))
    readme = pushed_files(hub)["README.md"].decode()
    matter = front_matter(readme.encode())
    assert (matter["title"], matter["emoji"]) == ("Which claims hold?", "🔎")
    assert "# Which claims hold?" in readme
    assert space.send(planned()).sent == [], "they stay, and nothing else changes"
    edited = readme.replace("colorFrom: green", "colorFrom: red\nthumbnail: x.png") + "\nAsk me at the seminar.\n"
    hub.put(SPACE, {"README.md": edited.replace("Which claims", "What").encode()}, kind="space")
    space.send(planned(emoji="🧪", hardware="zero-a10g"))
    readme = pushed_files(hub)["README.md"].decode()
    matter = front_matter(readme.encode())
    assert (matter["title"], matter["emoji"], matter["colorFrom"]) == ("What hold?", "🧪", "red")
    assert (matter["thumbnail"], matter["suggested_hardware"]) == ("x.png", "zero-a10g")
    assert readme.endswith("Ask me at the seminar.\n")
    assert readme.count("# What hold?") == 1


def test_the_base_is_pinned_where_the_adapters_recorded_it_but_at_no_commit_of_a_pull_request(hub, adapter, hub_base):
    base, recorded = hub_base.split("@")
    newer = hub.put(base, {"notes.txt": b"newer"})
    assert planned(base=base).space.base.revision == recorded
    assert planned(base=f"{base}@{newer}").space.base.revision == newer
    proposed = hub.put(base, {"notes.txt": b"evil"}, ref="refs/pr/1")
    config = json.loads(hub.files(ADAPTER)["adapter_config.json"])
    hub.put(ADAPTER, {"adapter_config.json": json.dumps({**config, "revision": proposed}).encode()})
    assert planned(base=base).space.base.revision == newer


def test_a_push_is_one_commit_with_the_whole_space(hub, adapter, checkout):
    done = space.send(planned(message="Hello"))
    repo = hub.repo(SPACE, "space")
    assert [commit.title for commit in repo.commits.values()] == ["initial commit", "Hello"]
    assert done.commit == repo.branches["main"]
    files = pushed_files(hub)
    assert set(files) == {"README.md", "app.py", "requirements.txt", checkout.wheel.name} == set(done.sent)
    assert files[checkout.wheel.name] == checkout.wheel.content
    assert not hub.sent("/hardware")


def test_everything_in_it_is_pinned(hub, hub_base, adapter, checkout):
    files = planned().files
    matter = front_matter(files["README.md"])
    base, revision = hub_base.split("@")
    assert matter["models"] == [base, ADAPTER]
    assert matter["sdk_version"] == metadata.version("gradio")
    assert matter["python_version"] == "3.12"
    assert "python_version: '3.12'" in files["README.md"].decode(), "without quotes 3.10 would be 3.1"
    assert len(matter["short_description"]) <= 60
    (preloaded,) = matter["preload_from_hub"]
    name, names, commit = preloaded.split()
    assert (name, commit) == (base, revision)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(names.split(","))
    assert set(names.split(",")) <= set(hub.files(base))
    code = files["app.py"].decode()
    assert len(code.splitlines()) <= 30
    assert f'BASE = "{hub_base}"' in code
    assert f'"{adapter}",' in code
    assert "import spaces" not in code
    asked = [line for line in files["requirements.txt"].decode().splitlines() if not line.startswith("#")]
    sha256 = hashlib.sha256(checkout.wheel.content).hexdigest()
    where = f"{hub.url}/spaces/{SPACE}/resolve/main/{checkout.wheel.name}"
    assert asked == [f"hf-lorahub[app] @ {where}#sha256={sha256}"]


def test_an_adapter_is_shown_at_the_commit_that_was_named(hub, adapter):
    hub.put(ADAPTER, {"notes.txt": b"later"})
    assert str(planned(adapters=[adapter]).space.adapters[0]) == adapter
    assert str(planned().space.adapters[0]) != adapter


def test_a_repeated_push_makes_no_commit_and_an_older_wheel_goes(hub, adapter, checkout):
    first = space.send(planned())
    again = space.send(planned())
    assert (again.commit, again.sent) == (first.commit, [])
    hub.put(SPACE, {"hf_lorahub-0.0.9-py3-none-any.whl": b"old", "notes.txt": b"mine"}, kind="space")
    space.send(planned())
    assert {path for path in pushed_files(hub) if path.endswith((".whl", ".txt"))} == {
        checkout.wheel.name, "requirements.txt", "notes.txt",
    }  # fmt: skip


def test_hardware_is_asked_for_after_the_commit_and_only_once(hub, adapter):
    plan = planned(hardware="zero-a10g")
    assert front_matter(plan.files["README.md"])["suggested_hardware"] == "zero-a10g"
    assert "not billed" in plan.notes[0]
    space.send(plan)
    order = [path for method, path, *_ in hub.requests if method == "POST" and re.search("/commit/|/hardware$", path)]
    assert order == [f"/api/spaces/{SPACE}/commit/main", f"/api/spaces/{SPACE}/hardware"]
    assert hub.hardware == {SPACE: "zero-a10g"}
    space.send(planned(hardware="zero-a10g"))
    assert len(hub.sent(f"{SPACE}/hardware$", "POST")) == 1


def test_what_costs_money_says_how_much_and_an_unknown_flavor_is_refused_before_anything_is_sent(hub, adapter):
    assert "costs $0.40 an hour until you pause the Space" in planned(hardware="t4-small").notes[0]
    with pytest.raises(PublishError, match=r"no hardware 't5'.*t4-small"):
        planned(hardware="t5")
    hub.fail("/api/spaces/hardware", 403, times=9)
    assert "may be billed by the hour" in planned(hardware="t4-small").notes[0]
    assert ("space", SPACE) not in hub.repos


def test_refused_hardware_leaves_the_space_and_says_so(hub, adapter):
    hub.fail("/hardware$", 403, method="POST", times=9)
    with pytest.raises(HubError, match=r"alice/claims, which is pushed, zero-a10g"):
        space.send(planned(hardware="zero-a10g"))
    assert "app.py" in pushed_files(hub)


def test_what_is_not_on_the_hub_or_not_sound_is_not_shown(hub, adapter, tiny_run):
    for name in (str(tiny_run.folder), "tiny", "./runs/tiny"):
        with pytest.raises(PublishError, match="not a Hub id"):
            planned(adapters=[name])
    with pytest.raises(HubError, match="show the adapter alice/missing"):
        planned(adapters=["alice/missing"])
    with pytest.raises(PublishError, match="twice"):
        planned(adapters=[ADAPTER, adapter])
    hub.put("alice/pickled", {**hub.files(ADAPTER), "adapter_model.bin": b"x", "adapter_model.safetensors": None})
    with pytest.raises(AdapterError, match="alice/pickled is not loaded"):
        planned(adapters=["alice/pickled"])
    assert ("space", SPACE) not in hub.repos


def test_the_base_is_one_and_not_taken_on_a_strangers_word(hub, hub_base, adapter):
    files = hub.files(ADAPTER)
    hub.put("bob/tiny", files)
    with pytest.raises(PublishError, match=r"bob/tiny says that its base is org/tiny-bert.*--base org/tiny-bert"):
        planned(adapters=["bob/tiny"])
    assert str(planned(adapters=["bob/tiny"], base="org/tiny-bert").space.base) == hub_base
    config = json.loads(files["adapter_config.json"]) | {"base_model_name_or_path": "org/other"}
    hub.put("alice/other", {**files, "adapter_config.json": json.dumps(config).encode()})
    with pytest.raises(PublishError, match=r"alice/other was made for org/other, not for org/tiny-bert"):
        planned(adapters=[ADAPTER, "alice/other"])
    hub.put("org/tiny-bert", {"notes.txt": b"later"})
    plan = planned(base="org/tiny-bert")
    assert str(plan.space.base) == hub_base, "the commit that the adapters recorded, not the newest"
    assert not any("its answers may differ" in note for note in plan.notes)
    assert not any("differ" in note for note in planned().notes), "without --base it is the commit it was trained on"


def test_a_private_adapter_needs_a_secret_and_no_token_is_ever_sent(hub, adapter):
    hub.repo(ADAPTER).private = True
    plan = planned()
    assert any("alice/tiny is private" in note and "secret HF_TOKEN" in note for note in plan.notes)
    assert not any(b"hf_alice" in content for content in plan.files.values())


def test_a_private_space_cannot_get_at_a_checkouts_wheel(hub, adapter, monkeypatch):
    with pytest.raises(PublishError, match="is private"):
        planned(private=True)
    monkeypatch.setattr(deployment, "find_package", lambda: deployment.Package(version="0.1.0"))
    space.send(planned(private=True))
    assert hub.repo(SPACE, "space").private
    assert pushed_files(hub)["requirements.txt"].endswith(b"\nhf-lorahub[app]==0.1.0\n")


def card(*lines):
    return "\n".join(["---", "title: x", "emoji: 🐢", *lines, "---", ""]).encode()


THEIRS = {
    "an app": ({"app.py": b"print()", "README.md": card("sdk: gradio")}, "app.py"),
    "a tag that is not ours": ({"app.py": b"print()", "README.md": card("sdk: gradio", "tags: [lorahubs]")}, "app.py"),
    "no tag after the colon": ({"app.py": b"print()", "README.md": card("sdk: gradio", "tags:")}, "app.py"),
    "a word for tags": ({"app.py": b"print()", "README.md": card("sdk: gradio", "tags: not-lorahub")}, "app.py"),
    "no card": ({"index.html": b"<p>"}, "index.html"),
    "a static page": ({"index.html": b"<p>", "README.md": card("sdk: static")}, "index.html"),
    "a new static one": ({"README.md": card("sdk: static")}, "sdk: static"),
    "a container": ({"Dockerfile": b"FROM x", "README.md": card("sdk: docker")}, "Dockerfile"),
    "a container with our tag": (
        {"Dockerfile": b"FROM x", "README.md": card("sdk: docker", "tags: [lorahub]")},
        "docker",
    ),
}


@pytest.mark.parametrize("what", THEIRS)
def test_a_space_of_somebody_else_is_not_replaced(hub, adapter, what):
    files, named = THEIRS[what]
    hub.put(SPACE, {".gitattributes": b"*.bin filter=lfs\n", **files}, kind="space")
    with pytest.raises(PublishError, match=rf"alice/claims holds what lorahub did not write \(.*{named}\)"):
        planned()


@pytest.mark.parametrize("tags", ["tags: [lorahub, mine]", "tags: lorahub"])
def test_a_space_that_is_empty_or_ours_is_filled(hub, adapter, tags):
    hub.put(SPACE, {".gitattributes": b"", "README.md": card("sdk: gradio", "tags:")}, kind="space")
    space.send(planned())
    hub.put(SPACE, {"README.md": card("sdk: gradio", tags), "app.py": b"print()"}, kind="space")
    assert space.send(planned()).sent == ["README.md", "app.py"]


def test_a_card_that_is_no_text_is_one_line(hub, adapter):
    hub.put(SPACE, {"README.md": b"---\ntitle: \xff\n---\n"}, kind="space")
    with pytest.raises(PublishError, match="the card of alice/claims is not UTF-8 text"):
        planned()


def test_of_two_first_pushes_at_once_the_second_is_told(hub, adapter):
    first, second = planned(message="first"), planned(message="second")
    assert (first.head, second.head) == (None, None)
    space.send(first)
    with pytest.raises(HubError, match="in the meantime") as caught:
        space.send(second)
    assert caught.value.status == 412
    assert [commit.title for commit in hub.repo(SPACE, "space").commits.values()] == ["initial commit", "first"]


def test_a_race_is_told(hub, adapter):
    plan = planned(repo="alice/mine")
    space.send(plan)
    hub.put("alice/mine", {"app.py": b"print()"}, kind="space")
    late = space.plan(plan.options)
    hub.put("alice/mine", {"app.py": b"print(1)"}, kind="space")
    with pytest.raises(HubError, match="in the meantime") as caught:
        space.send(late)
    assert caught.value.status == 412


def test_the_command_shows_everything_and_sends_nothing(hub, adapter, cli):
    arguments = ["space", SPACE, "--adapters", f"{ADAPTER},", "--hardware", "t4-small"]
    code, out, err = cli(*arguments, "--dry-run")
    assert code == 0, err
    for words in ("would be created", "hf_lorahub-", "sdk_version", "hf-lorahub[app] @ http", "$0.40 an hour"):
        assert words in out
    code, out, _ = cli(*arguments, "--dry-run", "--json")
    found = json.loads(out)
    assert found["adapters"] == [adapter]
    assert {row["path"] for row in found["files"]} >= {"README.md", "app.py", "requirements.txt"}
    assert not hub.sent("", "POST")
    code, out, err = cli(*arguments)
    assert code == 0, err
    assert "published 4 files" in out
    assert "$0.40 an hour" in err
    code, out, err = cli("space", SPACE, "--adapters", ADAPTER, "--hardware", "t4-small")
    assert "no new commit" in out
    code, out, err = cli("space", SPACE, "--adapters", "tiny")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1


INSTALLED = {
    "a release": (None, "hf-lorahub[app]==0.1.0"),
    "a commit": (
        {"url": "https://github.com/o/hf-lorahub", "vcs_info": {"vcs": "git", "commit_id": "a" * 40}},
        f"hf-lorahub[app] @ git+https://github.com/o/hf-lorahub@{'a' * 40}",
    ),
    "an archive": (
        {"url": "https://github.com/o/hf-lorahub/archive/v1.zip", "archive_info": {}},
        "hf-lorahub[app] @ https://github.com/o/hf-lorahub/archive/v1.zip",
    ),
}


@pytest.mark.parametrize("how", INSTALLED)
def test_what_is_installed_decides_what_is_required(how, tmp_path, monkeypatch):
    noted, requirement = INSTALLED[how]
    monkeypatch.setattr(deployment, "_ROOT", tmp_path)
    install(tmp_path, noted, monkeypatch)
    assert deployment.find_package().requirement("app") == requirement


def test_an_installed_wheel_is_sent_while_it_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(deployment, "_ROOT", tmp_path)
    wheel = tmp_path / "hf_lorahub-0.1.0-py3-none-any.whl"
    wheel.write_bytes(b"wheel")
    install(tmp_path, {"url": wheel.as_uri(), "archive_info": {}}, monkeypatch)
    assert deployment.find_package().wheel == deployment.Wheel(name=wheel.name, content=b"wheel")
    wheel.unlink()
    with pytest.raises(PublishError, match="does not exist any more"):
        deployment.find_package()


def install(folder, noted, monkeypatch):
    """The notes that an installer leaves, where this process looks first."""
    info = folder / "hf_lorahub-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hf-lorahub\nVersion: 0.1.0\n")
    if noted:
        (info / "direct_url.json").write_text(json.dumps(noted))
    monkeypatch.syspath_prepend(folder)


def test_the_base_that_lorahub_brings_needs_no_word_of_trust(hub, checkout, monkeypatch):

    ours = hub.put(fetch.MINILM, {"config.json": b"{}"})
    hub.repo(fetch.MINILM).tags[fetch.MINILM_REVISION] = ours
    hub.put(fetch.MINILM, {"config.json": b"what main holds by now"})
    theirs = hub.put(fetch.MINILM, {"config.json": b"{ }"}, ref="refs/pr/1")
    shown = [Pinned(id="bob/x", revision="0" * 40, base_id=fetch.MINILM, base_revision=theirs)]
    for named in (None, "minilm", fetch.MINILM):
        found = space_files.pin_base(named, shown, owner="alice", token=None)
        assert (found.id, found.revision) == (fetch.MINILM, ours), "bob's file chose a commit"
    assert space_files.pin_base(f"{fetch.MINILM}@{theirs}", shown, owner="alice", token=None).revision == theirs
    assert fetch.base(f"{fetch.MINILM}@{fetch.MINILM_REVISION}").origin == "embedded package", "as a Space names it"


@pytest.mark.browser
def test_exactly_what_was_pushed_is_the_page(hub, adapter, checkout, chromium, tmp_path):
    """In an environment of its own: the wheel comes from the Space, everything else is linked to what is here."""
    space.send(planned())
    folder = tmp_path / "space"
    folder.mkdir()
    for path, content in pushed_files(hub).items():
        (folder / path).write_bytes(content)
    python = environment(tmp_path / "env")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", python]
    done = run([*pip, "install", "-r", "requirements.txt"], folder)
    assert done.returncode == 0, done.stderr
    assert hub.sent(rf"/resolve/main/{checkout.wheel.name}$", "GET"), "pip fetched the wheel of the Space"
    where = run([python, "-c", "import lorahub; print(lorahub.__file__)"], folder).stdout
    assert where.startswith(str(tmp_path / "env")), where
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = outside(tmp_path) | {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1",
        "GRADIO_SERVER_PORT": str(port), "SPACE_ID": SPACE,
    }  # fmt: skip
    app = subprocess.Popen(
        [python, "app.py"], cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    late = threading.Timer(240, app.kill)
    try:
        late.start()
        line = app.stdout.readline()
        assert f"http://127.0.0.1:{port}/" in line, app.communicate(timeout=30)[1]
        page = chromium.new_page()
        page.set_default_timeout(30_000)
        page.goto(f"http://127.0.0.1:{port}/")
        page.get_by_role("textbox", name="Claim").fill("the vaccine may cause flu")
        page.get_by_role("button", name="Check", exact=True).click()
        page.get_by_role("heading", name="“the vaccine may cause flu”").wait_for()
        assert page.locator(".lh-card h3").all_inner_texts() == ["tiny"]
        assert page.locator(".lh-verdict").first.inner_text() in ("hedged", "plain")
        page.get_by_role("tab", name="Runs").click()
        page.get_by_role("heading", name="tiny", exact=True).wait_for()
        page.close()
    finally:
        late.cancel()
        app.kill()
        app.communicate()


def environment(folder):
    """A fresh virtual environment that sees the packages of this one, but for lorahub; returns its Python."""
    done = run([sys.executable, "-m", "venv", "--without-pip", folder], ROOT)
    assert done.returncode == 0, done.stderr
    linked = folder / "linked"
    linked.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "lorahub" not in path.name:
            (linked / path.name).symlink_to(path)
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "linked.pth").write_text(f"{linked}\n")
    return folder / "bin" / "python"


def run(command, folder):
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True, text=True, check=False, cwd=folder, env=outside(folder), timeout=300,
    )  # fmt: skip


def outside(folder):
    """The variables of a process that knows neither this checkout nor whoever is logged in."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHON", "LORAHUB"))}
    return kept | {"HOME": str(folder), "no_proxy": "127.0.0.1,localhost", "NO_PROXY": "127.0.0.1,localhost"}
