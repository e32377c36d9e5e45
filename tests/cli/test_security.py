"""`lorahub doctor --security`: each unsafe setting is found, with its fix, and no token is shown."""

import json
import os
from importlib import metadata

import pytest

SECRET = "hf_" + "a" * 30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without a token or a setting, as far as the checks look, in an empty folder."""
    for name in list(os.environ):
        if name.startswith(("HF_", "GRADIO_", "HUGGING_FACE", "LORAHUB_", "TORCH_FORCE", "TRUST_", "FORWARDED_")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    for name, path in {
        "HF_HOME": "",
        "HF_HUB_CACHE": "hub",
        "HF_TOKEN_PATH": "token",
        "HF_STORED_TOKENS_PATH": "stored_tokens",
    }.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", str(home / path))
    monkeypatch.syspath_prepend(home)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return home


@pytest.fixture
def checks(cli, machine):
    """Run the command: (exit code, checks by name)."""

    def run():
        code, out, err = cli("doctor", "--security", "--json")
        assert SECRET not in out + err
        found = json.loads(out)
        assert found["ok"] is (code == 0)
        return code, {check["name"]: check for check in found["checks"]}

    return run


def test_a_machine_without_settings_is_safe(checks, cli):
    code, found = checks()
    assert code == 0, found
    assert all(check["ok"] and not check["fix"] for check in found.values()), found
    assert found["Hub token"]["found"] == "none"
    assert found["Hub endpoint"]["found"] == "https://huggingface.co"
    assert found["package torch"]["found"] == f"{metadata.version('torch')}, at least 2.6"
    code, out, _ = cli("doctor", "--security")
    assert code == 0
    assert "only this machine reaches it" in out


VARIABLES = {
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": ("1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", False, "unset"),
    "TRUST_REMOTE_CODE": ("True", "TRUST_REMOTE_CODE", False, "unset"),
    "GRADIO_ALLOWED_PATHS": ("/", "GRADIO_ALLOWED_PATHS", False, "unset"),
    "GRADIO_VIBE_MODE": ("0", "GRADIO_VIBE_MODE", False, "unset"),
    "GRADIO_SERVER_NAME": ("0.0.0.0", "address of the app", None, "unset"),
    "FORWARDED_ALLOW_IPS": ("*", "trusted proxies", False, "address of your proxy"),
    "LORAHUB_ALLOW_PRIVATE": ("alice/secret", "private repositories in the app", None, "unset"),
    "HF_ENDPOINT": (f"http://bob:{SECRET}@mirror.example", "Hub endpoint", False, "https"),
}


@pytest.mark.parametrize("variable", VARIABLES)
def test_an_unsafe_variable_is_found(checks, monkeypatch, variable):
    value, name, ok, fix = VARIABLES[variable]
    monkeypatch.setenv(variable, value)
    code, found = checks()
    assert code == (1 if ok is False else 0)
    assert [check["name"] for check in found.values() if not check["ok"]] == [name]
    assert found[name]["ok"] is ok
    assert fix in found[name]["fix"]


@pytest.mark.parametrize(
    ("url", "ok"),
    [
        ("https://mirror.example", None),
        ("https://hub-ci.huggingface.co", True),
        ("https://huggingface.co.example", None),
        ("http://127.0.0.1:9000", True),
        ("http://huggingface.co", False),
        ("nonsense", False),
    ],
)
def test_endpoints(checks, monkeypatch, url, ok):
    monkeypatch.setenv("HF_ENDPOINT", url)
    assert checks()[1]["Hub endpoint"]["ok"] is ok


def test_where_the_token_comes_from_and_who_can_read_it(checks, machine, monkeypatch, cli):
    token = machine / "token"
    token.write_text(SECRET)
    token.chmod(0o600)
    code, found = checks()
    assert code == 0
    assert found["Hub token"]["found"] == f"the file {token}"
    monkeypatch.setenv("HF_TOKEN", SECRET)
    token.chmod(0o644)
    code, found = checks()
    assert code == 1
    assert found["Hub token"]["found"] == f"the environment (HF_TOKEN), else the file {token}"
    assert found["permissions of token"]["found"] == f"{token} has mode 644: others can read or write it"
    assert found["permissions of token"]["fix"] == f"chmod 600 {token}"
    code, out, _ = cli("doctor", "--security")
    assert code == 1
    assert f"permissions of token: chmod 600 {token}" in out
    assert SECRET not in out


def test_folders_that_everybody_can_write_to(checks, machine, tmp_path, monkeypatch):
    (tmp_path / "here" / "runs").mkdir()
    (tmp_path / "here" / "runs").chmod(0o1777)
    machine.chmod(0o777)
    (tmp_path / "temporary").mkdir()
    (tmp_path / "temporary").chmod(0o1777)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "temporary"))
    code, found = checks()
    assert code == 1
    assert {name for name, check in found.items() if not check["ok"]} == {
        "folder: runs",
        "folder: Hub cache",
        "folder: Python path",
    }
    assert found["folder: runs"]["fix"] == "chmod o-w runs"
    (tmp_path / "temporary").chmod(0o777)
    assert not checks()[1]["folder: temporary files"]["ok"]


def test_an_old_package_is_found(checks, monkeypatch):
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "5.9.1rc1" if name == "gradio" else version(name))
    code, found = checks()
    assert code == 1
    assert found["package gradio"] == {
        "name": "package gradio", "found": "5.9.1rc1, at least 6.0", "ok": False, "fix": "pip install 'gradio>=6.0'",
    }  # fmt: skip


def test_offline_mode_is_named(checks, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert checks()[1]["offline mode"]["found"] == "on (HF_HUB_OFFLINE)"
