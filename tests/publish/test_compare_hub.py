"""Comparing with an adapter from the Hub, which brings no predictions and chooses neither base nor data."""

import json

import pytest

from lorahub.publish import push

pytestmark = pytest.mark.slow

REPO = "alice/tiny"


@pytest.fixture
def pushed(hub, hub_base, run_folder):
    """The tiny run on the Hub."""
    return push.send(push.plan(run_folder, push.Options(base_id=hub_base)))


def test_a_published_adapter_answers_now_and_equals_its_run(pushed, hub_base, run_folder, tiny_run, cli):
    data = tiny_run.folder.parent / "claims.jsonl"
    code, out, err = cli("compare", run_folder, REPO, "--data", data, "--base", hub_base, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert {name: item["source"] for name, item in found["systems"].items()} == {
        "tiny": "stored",
        "tiny-2": "computed",
    }
    assert found["disagreements"] == []
    assert found["pairs"][0]["verdict"] == "none"


def test_a_downloaded_record_chooses_neither_data_nor_base(pushed, hub_base, run_folder, tiny_run, cli):
    data = tiny_run.folder.parent / "claims.jsonl"
    code, out, err = cli("compare", run_folder, REPO, "--base", hub_base)
    assert (code, out) == (2, "")
    assert "--data" in err
    code, out, err = cli("compare", run_folder, REPO, "--data", data)
    assert (code, out) == (2, "")
    assert "If you trust it, give --base" in err
