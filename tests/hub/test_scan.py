"""Scan: one verdict with its reasons, for a folder and a repository, which info, pull and verify show too."""

import json
import shutil

import hostile
import pytest
from hub_fixtures import swap_head

from lorahub.hub import scan, search
from lorahub.publish import push

pytestmark = pytest.mark.slow

REPO, WEIGHTS = "alice/tiny", "adapter_model.safetensors"
FIELDS = ["name", "safe", "reasons", "altered", "notes"]


@pytest.fixture
def pushed(hub, hub_base, run_folder):
    """The tiny run on the Hub."""
    return push.send(push.plan(run_folder, push.Options(base_id=hub_base)))


def put(hub, folder, repo):
    """Put a folder on the Hub as it is."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return hub.put(repo, {path.relative_to(folder).as_posix(): path.read_bytes() for path in files})


def test_a_sound_run_and_a_sound_repository_are_safe(hub, pushed, run_folder, cli):
    code, out, err = cli("scan", run_folder)
    assert code == 0, err
    assert "safety: all checks passed" in out
    hub.requests.clear()
    code, out, err = cli("scan", REPO, "--json")
    assert code == 0, err
    assert json.loads(out) == {
        "name": f"{REPO}@{pushed.commit}", "safe": True, "reasons": [], "altered": [], "notes": []
    }  # fmt: skip
    assert not [row for row in hub.sent(WEIGHTS, "GET") if row[2] == 200], "no weights are downloaded"


def test_what_is_not_there_is_one_line(hub, cli, tmp_path):
    for name in ("none", tmp_path / "none", "alice/none"):
        code, out, err = cli("scan", name)
        assert (code, out) == (2, "")
        assert len(err.splitlines()) == 1
    hub.fail("/api/models/alice/none", 503, times=99)
    code, out, err = cli("scan", "alice/none")
    assert code == 2
    assert "503" in err


def test_a_folder_that_is_no_adapter_is_refused(cli, tmp_path):
    code, out, err = cli("scan", tmp_path, "--json")
    assert code == 1, err
    verdict = json.loads(out)
    assert [*verdict] == FIELDS
    assert not verdict["safe"]
    assert verdict["reasons"][0].startswith("it has no adapter_config.json")


# One of each kind; the first one that is listed.
CASES = [*{case.kind: case for case in reversed(hostile.CASES)}.values()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_a_hostile_folder_gets_a_verdict(run_folder, cli, case):
    with hostile.limited(case):
        case.change(run_folder)
        code, out, err = cli("scan", run_folder, "--json")
    assert code in (0, 1), err
    verdict = json.loads(out)
    assert code == (0 if verdict["safe"] else 1)
    assert verdict["safe"] == (verdict["reasons"] == [])
    for text in (*verdict["reasons"], *verdict["altered"], *verdict["notes"]):
        hostile.one_line(text, raw=True)


def test_reasons_are_escaped_and_wrapped(run_folder, cli):
    tensors = {f"base_model.model.{hostile.ESCAPES}{'x' * 300}": [1]}
    header = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]} for name, shape in tensors.items()}
    text = json.dumps(header).encode()
    (run_folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    code, out, err = cli("scan", run_folder)
    assert code == 1, err
    assert "REFUSED: " in out
    assert "safety: not loaded" in out
    assert "\\x1b[2J" in "".join(line.strip() for line in out.splitlines())
    assert out.replace("\n", "").isprintable()
    assert max(len(line) for line in out.splitlines()[1:]) <= 80
    code, out, err = cli("scan", run_folder, "--json")
    assert out.replace("\n", "").isprintable()


def test_info_pull_and_verify_show_the_same_verdict(hub, pushed, run_folder, cli, tmp_path):
    (run_folder / WEIGHTS).rename(run_folder / "adapter_model.bin")
    commit = put(hub, run_folder, "alice/pickled")
    expected = scan.scan("alice/pickled")
    assert not expected.safe
    assert "only adapter_model.bin, which is pickled" in expected.reasons[0]
    assert expected.notes
    code, out, err = cli("scan", "alice/pickled", "--json")
    assert (code, json.loads(out)["reasons"]) == (1, [*expected.reasons]), err
    code, out, err = cli("info", "alice/pickled", "--json")
    assert code == 1, err
    shown = json.loads(out)["safety"]
    assert (shown["reasons"], shown["notes"]) == ([*expected.reasons], [*expected.notes])
    code, out, err = cli("pull", "alice/pickled", "--out", tmp_path / "copy", "--json")
    assert code == 1, err
    assert json.loads(out)["safety"]["reasons"] == [*expected.reasons]
    assert not (tmp_path / "copy").exists()
    code, out, err = cli("verify", "alice/pickled", "--json")
    assert code == 1, err
    [check] = json.loads(out)["checks"]
    assert (check["name"], check["ok"], check["found"]) == ("file safety", False, "; ".join(expected.reasons))
    assert scan.scan(f"alice/pickled@{commit}") == expected
    assert search.inspect(str(run_folder)).verdict.reasons == scan.scan(str(run_folder)).reasons


def test_an_altered_adapter_is_safe_to_load_but_not_pulled(hub, pushed, run_folder, cli, tmp_path):
    copy = shutil.copytree(run_folder, tmp_path / "altered")
    swap_head(copy / WEIGHTS)
    put(hub, copy, "alice/altered")
    code, out, err = cli("scan", copy, "--json")
    assert code == 0, err
    [altered] = json.loads(out)["altered"]
    assert altered.startswith(f"{WEIGHTS} has sha256")
    assert search.inspect(str(copy)).verdict.altered == (altered,)
    code, out, err = cli("pull", "alice/altered", "--out", tmp_path / "pulled")
    assert code == 1, err
    assert "CHANGED after the run: adapter_model.safetensors" in out
    assert "safety: safe to load, but changed\n  not pulled" in out
    assert not (tmp_path / "pulled").exists()


def test_a_damaged_record_is_a_note(run_folder, cli):
    (run_folder / "record.json").write_text("[]")
    code, out, err = cli("scan", run_folder, "--json")
    assert code == 0, err
    assert any("not compared with its record" in note for note in json.loads(out)["notes"])
