"""The whole story as its users live it: separate programs, the real client, a Hub, and another machine's cache."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import learnable
from hub_fixtures import TOKEN

REPO = "alice/story"
SETTINGS = ("train.min_steps=30", "train.epochs=1", "train.batch_size=16", "eval.bootstrap=200")


def done(process):
    assert process.returncode == 0, process.stderr
    assert TOKEN not in process.stdout + process.stderr
    assert "%|" not in process.stderr, "no progress bar where stderr is no terminal"
    return process


@pytest.mark.slow
def test_train_push_list_verify_pull_and_classify(hub, hub_base, program, claims_file, tmp_path):
    data = claims_file(learnable(160), "claims.csv")
    base, _ = hub_base.split("@")
    run = tmp_path / "runs" / "story"
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    done(program("train", "--data", data, "--base", hub_base, "--out", run, *settings))

    pushed = json.loads(done(program("push", "runs/story", "--license", "mit", "--language", "en", "--json")).stdout)
    assert pushed["repo"] == REPO
    assert len(hub.repo(REPO).commits) == 2
    wire = sum(size for *_, size in hub.sent(""))
    print(f"published {len(pushed['sent'])} files of {pushed['bytes_sent']:,} bytes; {wire:,} bytes on the wire")
    assert wire < 1.5 * pushed["bytes_sent"] + 20_000

    found = json.loads(done(program("list", "--base", base, "--json")).stdout)["adapters"]
    assert [(item["id"], item["where"]) for item in found] == [(REPO, "hub"), ("runs/story", "here")]

    elsewhere = {"home": tmp_path / "elsewhere", "cwd": tmp_path / "empty", "token": None}
    elsewhere["cwd"].mkdir()
    checked = done(program("verify", REPO, "--base", hub_base, "--data", data, "--json", **elsewhere))
    assert json.loads(checked.stdout)["ok"] is True

    pulled = json.loads(done(program("pull", REPO, "--json", **elsewhere)).stdout)
    assert pulled["revision"] == pushed["commit"]
    rows = json.loads((run / "probe.json").read_text())
    claims = [row["claim"] for row in rows]
    pinned = f"{REPO}@{pulled['revision']}"
    offline = {**elsewhere, "HF_HUB_OFFLINE": "1"}
    answers = done(program("classify", *claims, "--adapter", pinned, "--base", hub_base, "--json", **offline))
    logits = np.array([row["logits"] for row in rows])
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    got = [list(row["probabilities"].values()) for row in json.loads(answers.stdout)]
    np.testing.assert_allclose(got, expected, atol=1e-4)

    for path, content in hub.files(REPO).items():
        for secret in (TOKEN, str(tmp_path), str(Path.home())):
            assert secret.encode() not in content, path
    again = json.loads(done(program("push", "runs/story", "--json")).stdout)
    assert (again["sent"], again["commit"]) == ([], pushed["commit"])


@pytest.mark.slow
def test_the_published_cards_snippet_runs_with_transformers_and_peft_alone(
    hub, hub_base, program, run_folder, tmp_path
):
    done(program("push", run_folder, "--base-id", hub_base))
    card = hub.files("alice/tiny")["README.md"].decode()
    code = re.search(r"```python\n(.*?)```", card, re.S).group(1)
    rows = json.loads((run_folder / "probe.json").read_text())
    example = re.search(r'tokenizer\(\["(.*?)"\]', code).group(1)
    script = tmp_path / "snippet.py"
    script.write_text(code.replace(example, rows[0]["claim"]) + "print(logits[0].tolist())\n")
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "fresh"),
        "PATH": "/usr/bin",
        "HF_HUB_DISABLE_XET": "1",
    }
    process = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
    )
    assert process.returncode == 0, process.stderr
    label, logits = process.stdout.splitlines()[-2:]
    assert label in ("['hedged']", "['plain']")
    np.testing.assert_allclose(json.loads(logits), rows[0]["logits"], atol=1e-5)


@pytest.mark.slow
def test_a_published_classifier_its_card_and_a_hub_that_is_down(hub, hub_base, program, run_folder, tmp_path):
    """Another one is refused, edits of the card are merged; under 503 the cache is used and `list` takes under 30 s."""
    repo = "alice/tiny"
    options = ("--base-id", hub_base, "--license", "mit", "--language", "en")
    done(program("push", run_folder, *options))
    other = shutil.copytree(run_folder, tmp_path / "runs" / "other")
    (other / "published.json").unlink()
    record = json.loads((other / "record.json").read_text())
    record["asked"]["adapter"]["method"] = "rslora"
    (other / "record.json").write_text(json.dumps(record))
    before = hub.files(repo)
    refused = program("push", other, repo, *options)
    assert refused.returncode == 2
    for words in (f"{repo} holds a classifier with other method: lora on", f"{other} is rslora on", "--force"):
        assert words in refused.stderr
    assert hub.files(repo) == before

    hub.put(repo, {"README.md": before["README.md"].replace(b"---\n<!--", b"---\nSeen on the Hub.\n\n<!--")})
    (run_folder / "README.md").write_text((run_folder / "README.md").read_text() + "\nWritten here.\n")
    done(program("push", run_folder, *options))
    card = hub.files(repo)["README.md"].decode()
    assert "---\nSeen on the Hub.\n" in card
    assert card.endswith("Written here.\n")

    pulled = json.loads(done(program("pull", repo, "--json")).stdout)
    hub.fail("", 503, times=10_000)
    started = time.monotonic()
    listed = done(program("list", "--json"))
    seconds = time.monotonic() - started
    print(f"list under 503: {seconds:.1f} s")
    assert seconds < 30
    found = {item["id"]: item["where"] for item in json.loads(listed.stdout)["adapters"]}
    assert found[f"{repo}@{pulled['revision']}"] == "cache"
    assert {where for name, where in found.items() if name.startswith("runs/")} == {"here"}
    again = done(program("pull", repo, "--json"))
    assert json.loads(again.stdout) == pulled
    assert "is taken from the cache" in again.stderr


@pytest.mark.slow
def test_push_card_list_and_info_work_without_torch(hub, hub_base, program, run_folder, tmp_path):
    stub = tmp_path / "stub"
    stub.mkdir()
    for name in ("torch", "transformers", "peft", "accelerate", "datasets", "safetensors"):
        (stub / f"{name}.py").write_text(f"raise ModuleNotFoundError('No module named {name}', name='{name}')")
    light = {"PYTHONPATH": f"{stub}:{Path(__file__).parents[2]}"}
    done(program("push", run_folder, "--base-id", hub_base, **light))
    done(program("card", run_folder, **light))
    assert "alice/tiny" in done(program("list", **light)).stdout
    done(program("info", "alice/tiny", **light))
    done(program("pull", "alice/tiny", **light))
    refused = program("verify", "alice/tiny", **light)
    assert refused.returncode == 2
    assert "hf-lorahub[train]" in refused.stderr
