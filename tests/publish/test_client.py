"""The door to the Hub: what heals is tried again, what does not fails at once. The real client, a local server."""

import logging

import pytest
from hub_server import BOB

from lorahub.errors import HubError
from lorahub.hub import client


def whoami(token=None):
    return client.call(lambda: client.api(token).whoami()["name"], doing="tell who you are")


def test_the_login_is_used_and_a_flag_wins(hub):
    assert whoami() == "alice"
    assert whoami(BOB) == "bob"


def test_the_real_client_makes_a_commit_and_reads_it_back(hub, tmp_path):
    api = client.api()
    api.create_repo("alice/one", private=True)
    (tmp_path / "big.safetensors").write_bytes(b"x" * 1000)
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\nhello")
    first = api.upload_folder(folder_path=tmp_path, repo_id="alice/one", allow_patterns=["big*", "README.md"])
    again = api.upload_folder(folder_path=tmp_path, repo_id="alice/one", allow_patterns=["big*", "README.md"])
    assert again.oid == first.oid
    assert hub.files("alice/one")["big.safetensors"] == b"x" * 1000
    assert len(hub.sent("/lfs/[0-9a-f]+$", "PUT")) == 1
    info = api.model_info("alice/one", files_metadata=True)
    assert info.sha == first.oid
    assert {item.rfilename for item in info.siblings} == {".gitattributes", "README.md", "big.safetensors"}
    snapshot = api.snapshot_download("alice/one", cache_dir=tmp_path / "c")
    assert (tmp_path / snapshot / "big.safetensors").read_bytes() == b"x" * 1000
    with pytest.raises(HubError, match="private") as caught:
        client.call(lambda: client.api(BOB).model_info("alice/one"), doing="read alice/one")
    assert caught.value.status == 404


def test_what_heals_is_tried_again_four_times_in_all(hub, caplog):
    hub.fail("/api/whoami-v2", 503, times=3)
    with caplog.at_level(logging.WARNING, "lorahub"):
        assert whoami() == "alice"
    assert len(hub.sent("whoami")) == 4
    assert "1 of 4" in caplog.text
    hub.fail("/api/whoami-v2", 500, times=9)
    with pytest.raises(HubError, match="500, 4 times"):
        whoami()
    assert len(hub.sent("whoami")) == 8


def test_a_cut_answer_is_tried_again(hub):
    hub.fail("/api/whoami-v2", "cut")
    assert whoami() == "alice"


def test_a_rate_limit_is_waited_for_as_long_as_the_hub_asks(hub, monkeypatch):
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    hub.fail("/api/whoami-v2", 429, headers={"Retry-After": "7"})
    assert whoami() == "alice"
    assert 7 in waits
    assert [status for *_, status, _ in hub.sent("whoami")] == [429, 200]


@pytest.mark.slow
def test_the_librarys_own_retries_do_not_multiply_ours(hub, monkeypatch):
    """A listing is retried by huggingface_hub too, six times with 23 seconds of waiting."""
    waits = []
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", waits.append)
    hub.fail("/api/models", 503, times=99)
    with pytest.raises(HubError, match="503, 4 times") as caught:
        client.call(lambda: list(client.api().list_models()), doing="list")
    assert caught.value.unavailable
    assert len(hub.sent("/api/models")) == 4
    assert len(waits) == 3
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="cannot be reached") as caught:
        client.call(lambda: list(client.api().list_models()), doing="list")
    assert caught.value.unavailable
    assert len(waits) == 3, "it fails at once"


def test_a_command_has_one_budget_for_all_of_its_retries(hub, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(client, "FIRST_WAIT", 1.0)
    monkeypatch.setattr(client.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(client.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    hub.fail("/api/whoami-v2", 503, times=99)
    with client.one_budget():
        for _ in range(9):
            with pytest.raises(HubError, match="503"):
                whoami()
        assert clock[0] == 7
        assert len(hub.sent("whoami")) == 4 + 8, "after the first request was given up, each has one attempt"
        hub.faults.clear()
        assert whoami() == "alice"
        hub.fail("/api/whoami-v2", 503, times=3)
        assert whoami() == "alice", "the Hub was there again, so it is tried again"
        hub.fail("/api/whoami-v2", 429, headers={"Retry-After": "17"})
        with pytest.raises(HubError, match="429"):
            whoami()
        assert clock[0] == 14, "17 more seconds would exceed the 30 of a command"
    with client.one_budget():
        hub.fail("/api/whoami-v2", 429, headers={"Retry-After": "17"})
        assert whoami() == "alice"
    assert clock[0] == 31


def test_a_programs_own_requests_keep_the_retries_of_the_library(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    whoami()
    hub.fail("/api/models", 503, times=2)
    assert list(client.api().list_models()) == []


def test_a_slow_answer_is_waited_for_and_not_asked_for_twice(hub):
    hub.fail("/api/whoami-v2", "slow")
    assert whoami() == "alice"
    assert len(hub.sent("whoami")) == 1


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (401, {}, "hf auth login"),
        (403, {}, "write access"),
        (403, {"X-Error-Code": "GatedRepo"}, "gated"),
        (404, {"X-Error-Code": "RepoNotFound"}, "private"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "no such revision"),
        (409, {}, "409"),
        (412, {}, "changed in the meantime"),
    ],
)
def test_what_does_not_heal_fails_at_once_with_the_fix(hub, status, headers, words):
    hub.fail("/api/models/alice/x$", status, headers=headers, times=9)
    with pytest.raises(HubError, match=words) as caught:
        client.call(lambda: client.api().model_info("alice/x"), doing="read alice/x")
    assert caught.value.status == status
    assert len(hub.sent("/api/models/alice/x$")) == 1
    assert "\n" not in str(caught.value)


def test_an_unreachable_hub_and_offline_mode_say_so_at_once(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"127.0.0.1:9 cannot be reached"):
        whoami()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        whoami()


def test_a_token_is_in_no_error_and_no_log(hub, caplog):
    wrong = "hf_" + "Wrong" * 7
    with caplog.at_level(logging.DEBUG), pytest.raises(HubError) as caught:
        whoami(wrong)
    assert wrong not in str(caught.value)
    assert wrong not in caplog.text
    assert client.redact(f"Bearer {wrong} and {wrong}") == "(token) and (token)"
    assert client.redact("hf_lorahub and hf_transfer") == "hf_lorahub and hf_transfer"


def test_a_bug_keeps_its_own_error():
    with pytest.raises(ZeroDivisionError):
        client.call(lambda: 1 // 0, doing="divide")
