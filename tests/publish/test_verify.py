"""Verify: a published adapter's claims are measured again, and a false one is found."""

import json
import re

import pytest
from hub_fixtures import swap_head

from lorahub import records
from lorahub.hub import integrity
from lorahub.publish import push

pytestmark = pytest.mark.slow

REPO = "alice/tiny"
GROUPS = ("labels", "calibration", "adapter config", "weights and heads", "tokenizer", "probes")


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
        "file safety", *(f"{group} as recorded" for group in GROUPS), "base revision",
        "probe logits in plain peft", "probe logits in lorahub's engine",
        "adapted layers", "norm of B", "effect on the logits", "same logits in a batch as alone",
        "same logits beside a long text", "predicted labels", "card's results", "claims.jsonl, test",
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


def reorder(folder):
    (folder / "labels.json").write_text('["plain", "hedged"]')


def cool(folder):
    values = json.loads((folder / "calibration.json").read_text())
    (folder / "calibration.json").write_text(json.dumps({**values, "temperature": 9.5}))


def shift(folder):
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"vaccine"', '"vaccind"'))


CHANGES = {
    "labels": (reorder, "labels.json holds plain, hedged instead of hedged, plain, in another order"),
    "calibration": (cool, "temperature in calibration.json is 9.5 instead of"),
    "weights and heads": (lambda folder: swap_head(folder / "adapter_model.safetensors"), "has sha256"),
    "tokenizer": (shift, "tokenizer.json has sha256"),
}


@pytest.mark.parametrize("group", CHANGES)
def test_a_changed_file_is_named_without_the_data(run_folder, cli, tiny_base, group):
    change, words = CHANGES[group]
    change(run_folder)
    code, out, err = cli("verify", run_folder, "--base", tiny_base("bert"), "--json")
    assert code == 1, err
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert words in checks[f"{group} as recorded"]["found"]
    assert [name for name in GROUPS if checks[f"{name} as recorded"]["ok"] is False] == [group]
    assert checks["card's metrics"]["ok"] is None, "the data is not there"


def test_a_record_without_hashes_still_tells_of_labels_and_calibration(run_folder, tiny_run):
    record = json.loads((run_folder / "record.json").read_text())
    del record["files"]
    (run_folder / "record.json").write_text(json.dumps(record))
    old = records.load(run_folder)
    found = {one.group: (one.recorded, one.unchanged) for one in integrity.compare(run_folder, old)}
    assert found == {
        "labels": ("labels in the record", True), "calibration": ("calibration in the record", True),
        **dict.fromkeys(GROUPS[2:], ("not recorded", None)),
    }  # fmt: skip
    reorder(run_folder)
    cool(run_folder)
    changed = [one.group for one in integrity.compare(run_folder, old) if one.unchanged is False]
    assert changed == ["labels", "calibration"]


def test_files_that_are_missing_added_or_no_files_are_told(run_folder):
    (run_folder / "tokenizer.json").unlink()
    (run_folder / "vocab.txt").write_text("the")
    (run_folder / "calibration.json").unlink()
    (run_folder / "calibration.json").mkdir()
    altered = integrity.altered(run_folder, records.load(run_folder))
    assert {"tokenizer.json is missing", "vocab.txt is not in the record"} < set(altered)
    assert "calibration.json cannot be read: it is a folder, not a file" in altered


def test_an_unsafe_adapter_is_a_no(hub, pushed, verify):
    hub.put(REPO, {"adapter_model.safetensors": b"x"})
    code, checks = verify()
    assert code == 1
    assert list(checks) == ["file safety"]


def test_a_base_is_not_loaded_on_the_word_of_a_downloaded_file(hub, pushed, cli):
    code, out, err = cli("verify", REPO)
    assert code == 2
    assert "--base org/tiny-bert" in err


@pytest.fixture
def rewrite(hub, pushed):
    """Change a JSON file of the published adapter in place."""

    def apply(name, change):
        values = json.loads(hub.files(REPO)[name])
        change(values)
        hub.put(REPO, {name: json.dumps(values).encode()})

    return apply


def test_a_prettier_table_is_found(hub, pushed, verify):
    card = hub.files(REPO)["README.md"].decode()
    row = next(line for line in card.splitlines() if line.startswith("| after: adapter"))
    hub.put(REPO, {"README.md": card.replace(row, re.sub(r"0\.\d+", "0.999", row)).encode()})
    code, checks = verify()
    assert code == 1
    assert "0.999" in checks["card's results"]["found"]
    assert [name for name, check in checks.items() if not check["ok"]] == ["card's results"]


def test_a_nicer_verdict_is_found_and_a_persons_own_words_are_not_judged(hub, pushed, verify):
    card = hub.files(REPO)["README.md"].decode()
    own = card.replace("<!-- lorahub:begin labels -->", "**Mine, and good.**\n\n<!-- lorahub:begin labels -->")
    hub.put(REPO, {"README.md": own.encode()})
    code, checks = verify()
    assert code == 0, checks
    verdict = next(line for line in card.splitlines() if line.startswith("**"))
    hub.put(REPO, {"README.md": card.replace(verdict, "**The adapter is better than all others.**").encode()})
    code, checks = verify()
    assert code == 1
    assert "better than all others" in checks["card's results"]["found"]
    hub.put(REPO, {"README.md": card.partition("<!-- lorahub:begin summary -->")[0].encode()})
    code, checks = verify()
    assert checks["card's results"]["ok"] is None
    assert "not compared" in checks["card's results"]["found"]


def test_a_prettier_record_is_found_though_its_card_says_the_truth(rewrite, verify):
    rewrite("record.json", lambda record: record["results"]["test"]["adapter"].update(f1_macro=0.99))
    code, checks = verify()
    assert code == 1
    assert checks["Macro F1"]["ok"]
    assert checks["Macro F1 in the record"]["claimed"] == "0.9900"
    assert not checks["Macro F1 in the record"]["ok"]


def test_a_base_that_moved_on_is_said(hub, hub_base, pushed, verify):
    name, old = hub_base.split("@")
    new = hub.put(name, {"README.md": b"a word more"})
    code, checks = verify(base=name)
    assert code == 0, checks
    assert checks["base revision"]["claimed"] == old
    assert checks["base revision"]["found"].startswith(f"{new}: figures may differ")
    assert checks["base revision"]["ok"] is None
    assert verify(base=hub_base)[1]["base revision"]["ok"]


def test_no_file_of_a_stranger_chooses_the_commit_of_a_base(hub, hub_base, rewrite, verify, cli):
    from lorahub.hub import fetch

    name, good = hub_base.split("@")
    evil = hub.put(name, {"config.json": b"evil"}, ref="refs/pr/1")

    def change(record):
        record["environment"]["base_revision"] = record["asked"]["base"]["revision"] = evil
        del record["files"]

    rewrite("record.json", change)
    rewrite("adapter_config.json", lambda config: config.update(revision=evil))
    code, checks = verify(base=name)
    assert code == 0, checks
    assert checks["base revision"]["found"].startswith(good)
    rewrite("record.json", lambda record: record["environment"].update(base_id=fetch.MINILM))
    rewrite("adapter_config.json", lambda config: config.update(base_model_name_or_path=fetch.MINILM))
    code, out, err = cli("verify", REPO)
    assert code == 2
    assert "another base?" in err
    assert not hub.sent("sentence-transformers"), "MiniLM is in the package at the commit that we know"


def test_an_own_run_is_measured_at_the_commit_that_it_was_trained_on(hub, hub_base, pushed, run_folder, cli, tiny_run):
    name, old = hub_base.split("@")
    hub.put(name, {"model.safetensors": b"what main holds now is no model"})
    record = json.loads((run_folder / "record.json").read_text())
    record["environment"] |= {"base_id": name, "base_revision": old}
    del record["files"]
    (run_folder / "record.json").write_text(json.dumps(record))
    config = json.loads((run_folder / "adapter_config.json").read_text())
    config |= {"base_model_name_or_path": name, "revision": old}
    (run_folder / "adapter_config.json").write_text(json.dumps(config))
    code, out, err = cli("verify", run_folder, "--data", tiny_run.folder.parent / "claims.jsonl", "--json")
    assert code == 0, out + err
    assert {check["name"]: check for check in json.loads(out)["checks"]}["base revision"]["found"] == old


def last_line(err):
    """What stands below the bars of downloads."""
    found = err.splitlines()[-1]
    assert found.startswith("lorahub: ")
    return found


def test_a_base_of_another_width_is_one_line(hub, pushed, tiny_base, tmp_path, cli, rewrite):
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    config = AutoConfig.from_pretrained(tiny_base("bert"))
    config.hidden_size = 64
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(tmp_path / "wide")
    AutoTokenizer.from_pretrained(tiny_base("bert")).save_pretrained(tmp_path / "wide")
    rewrite("adapter_config.json", lambda values: values.update(base_model_name_or_path="wide"))
    code, out, err = cli("verify", REPO, "--base", tmp_path / "wide")
    assert code == 2
    assert "another base?" in last_line(err)


RECORDS = {
    "no environment": lambda record: record.pop("environment"),
    "no base": lambda record: record["environment"].pop("base_id"),
    "no data": lambda record: record["environment"].pop("data"),
    "no fingerprints": lambda record: record["environment"]["data"].pop("sha256"),
    "no baselines": lambda record: record["results"]["validation"].clear(),
    "no parameters": lambda record: record["happened"].pop("trainable_parameters"),
    "no intervals": lambda record: record["results"]["test"]["adapter"].pop("interval"),
    "no test": lambda record: record["results"].pop("test"),
}


@pytest.mark.parametrize("case", RECORDS)
def test_a_record_that_lacks_something_is_one_line(rewrite, hub_base, cli, case):
    rewrite("record.json", RECORDS[case])
    code, out, err = cli("verify", REPO, "--base", hub_base)
    assert code == 2
    assert "record.json" in last_line(err)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("probe.json", b"[]"),
        ("probe.json", b"{}"),
        ("probe.json", b'[{"claim": "the flu"}]'),
        ("probe.json", b"[" * 60_000),
        ("README.md", b"---\nmodel-index: 5\n---\n"),
        ("README.md", b"---\nmodel-index:\n- results:\n  - metrics: []\n---\n"),
    ],
)
def test_a_file_that_holds_something_else_is_one_line(hub, hub_base, pushed, cli, name, content, tiny_run):
    hub.put(REPO, {name: content})
    code, out, err = cli("verify", REPO, "--base", hub_base, "--data", tiny_run.folder.parent / "claims.jsonl")
    assert code == 2
    assert name in last_line(err)


def test_a_downloaded_record_opens_no_file_of_this_machine(rewrite, verify, tiny_run, monkeypatch):
    monkeypatch.chdir(tiny_run.folder.parent)
    rewrite("record.json", lambda record: record["environment"]["data"].update(kind="hub", id="claims.jsonl"))
    code, checks = verify(data=None)
    assert "--data" in checks["card's metrics"]["found"]
