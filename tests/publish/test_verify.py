"""Verify: a published adapter's claims are measured again, and a false one is found."""

import json
import re

import pytest

from lorahub.publish import push

REPO = "alice/tiny"


@pytest.fixture
def pushed(hub, hub_base, run_folder):
    """The tiny run on the Hub."""
    return push.send(push.plan(run_folder, push.Options(base_id=hub_base)))


@pytest.fixture
def verify(cli, hub_base, tiny_run):
    """Run the command and return its exit code and its checks by name."""

    def run(adapter=REPO, data=tiny_run.folder.parent / "claims.jsonl", base=hub_base):
        options = ["--data", data] if data else []
        code, out, err = cli("verify", adapter, *options, "--base", base, "--json")
        assert out, err
        return code, {check["name"]: check for check in json.loads(out)["checks"]}

    return run


def test_a_true_card_holds(pushed, verify):
    code, checks = verify()
    assert code == 0, checks
    assert set(checks) == {
        "file safety", "probe logits in plain peft", "probe logits in lorahub's engine", "claims.jsonl, test",
        "Accuracy", "Macro F1", "Weighted F1", "Expected calibration error",
    }  # fmt: skip
    assert all(check["ok"] for check in checks.values())


def test_a_prettier_card_is_found(hub, pushed, verify):
    card = hub.files(REPO)["README.md"].decode()
    hub.put(
        REPO,
        {
            "README.md": re.sub(
                r"value: 0\.\d+\n      name: Macro F1", "value: 0.99\n      name: Macro F1", card
            ).encode()
        },
    )
    code, checks = verify()
    assert code == 1
    assert checks["Macro F1"]["claimed"] == "0.9900"
    assert [name for name, check in checks.items() if not check["ok"]] == ["Macro F1"]


def test_another_probe_and_other_data_are_found(hub, pushed, verify, claims_file):
    from conftest import learnable

    rows = json.loads(hub.files(REPO)["probe.json"])
    rows[0]["logits"][0] += 0.5
    hub.put(REPO, {"probe.json": json.dumps(rows).encode()})
    code, checks = verify(data=claims_file(learnable(240, seed=5), "claims.jsonl"))
    assert code == 1
    assert not checks["probe logits in plain peft"]["ok"]
    assert not checks["claims.jsonl, test"]["ok"]


def test_data_that_nobody_else_has_is_said_and_not_counted(pushed, verify):
    code, checks = verify(data=None)
    assert code == 0
    assert checks["card's metrics"]["ok"] is None
    assert "--data" in checks["card's metrics"]["found"]


def test_an_unsafe_adapter_is_a_no(hub, pushed, verify):
    hub.put(REPO, {"adapter_model.safetensors": b"x"})
    code, checks = verify()
    assert code == 1
    assert list(checks) == ["file safety"]


def test_a_base_is_not_loaded_on_the_word_of_a_downloaded_file(hub, pushed, cli):
    code, out, err = cli("verify", REPO)
    assert code == 2
    assert "--base org/tiny-bert" in err
