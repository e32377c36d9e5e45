"""`hf lorahub …`: the real `hf` runs the installed lorahub, registered by us or installed from the repository by it."""

import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HF = Path(sys.executable).parent / "hf"
LIMIT = 300  # seconds that `hf extensions install` gives pip
FOLDER = ".local/share/hf/extensions/hf-lorahub"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of its own, for this process and for programs."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def hf(*arguments):
    """Run the real `hf` as a user would; nothing is asked of GitHub."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [str(HF), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)


def cpu_seconds():
    """What the programs started from here have worked so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def manifest(home):
    return json.loads((home / FOLDER / "manifest.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_real_hf_runs_a_registered_lorahub(cli, home):
    code, out, err = cli("hf-register")
    assert code == 0, err
    assert str(home / FOLDER / "manifest.json") in out, "it says what it wrote"
    assert Path(manifest(home)["executable_path"]).name == "hf-lorahub"
    for arguments, words in (
        (["lorahub", "push", "--help"], ["Usage: hf-lorahub push", "--create-pr", "USER/NAME"]),
        (["lorahub", "--help"], ["Commands:", "classify", "hf-register"]),
        (["--help"], ["lorahub"]),
    ):
        done = hf(*arguments)
        assert done.returncode == 0, done.stderr
        assert [word for word in words if word not in done.stdout] == []
    failed = hf("lorahub", "push", "no-such-run")
    assert failed.returncode == 2, "exit codes pass through"
    assert "there is no" in failed.stderr
    assert "hf lorahub" in hf("extensions", "list").stdout


def test_registering_again_renews_and_remove_undoes(cli, home):
    cli("hf-register")
    first = manifest(home)
    assert cli("hf-register")[0] == 0
    assert manifest(home)["executable_path"] == first["executable_path"]
    code, out, _ = cli("hf-register", "--remove")
    assert code == 0
    assert "is removed" in out
    assert not (home / FOLDER).exists()
    assert list((home / FOLDER).parent.iterdir()) == []
    code, out, _ = cli("hf-register", "--remove")
    assert (code, out) == (0, "hf lorahub was not registered.\n")


@pytest.mark.parametrize("there", [{"owner": "somebody"}, None, "no json"])
def test_somebody_elses_extension_is_replaced_only_with_force(cli, home, there):
    cli("hf-register")
    path = home / FOLDER / "manifest.json"
    if there is None:
        path.unlink()
    else:
        path.write_text(json.dumps({**manifest(home), **there}) if isinstance(there, dict) else there)
    before = path.read_bytes() if path.exists() else None
    for flags in ([], ["--remove"]):
        code, out, err = cli("hf-register", *flags)
        assert (code, out) == (2, "")
        assert len(err.splitlines()) == 1
        assert "--force" in err
        assert (path.read_bytes() if path.exists() else None) == before
    assert cli("hf-register", "--force")[0] == 0
    assert manifest(home)["owner"] != "somebody"


def test_json_says_what_hf_will_run(cli, home):
    code, out, _ = cli("hf-register", "--json")
    assert code == 0
    found = json.loads(out)
    assert found == {"folder": str(home / FOLDER), "runs": manifest(home)["executable_path"]}
    assert json.loads(cli("hf-register", "--remove", "--json")[1])["removed"] is True


def test_no_account_can_own_the_registered_name(cli, home):
    """`hf extensions update` asks GitHub for the manifest's owner: one that can exist could send us its code."""
    cli("hf-register")
    assert not re.fullmatch(r"[A-Za-z\d](?:[A-Za-z\d_]|-(?=[A-Za-z\d]))*", manifest(home)["owner"])


@pytest.mark.slow
def test_hf_extensions_install_takes_the_repository_as_it_is(home, tmp_path_factory, monkeypatch):
    """The real installing code of `hf extensions install`; only the archive comes from here in the place of GitHub."""
    import httpx2
    from huggingface_hub.cli import extensions

    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: no archive can be made of it")
    archive = tmp_path_factory.mktemp("archive") / "HEAD.zip"
    subprocess.run(
        ["git", "archive", "--format=zip", "--prefix=hf-lorahub-HEAD/", f"--output={archive}", "HEAD"],
        cwd=ROOT, check=True,
    )  # fmt: skip
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert "hf-lorahub" not in listed, "a file of that name in the root would be taken for the program itself"

    def unreachable(method, url, **options):
        raise httpx2.ConnectError(f"no GitHub in this test: {url}")

    real, commands = subprocess.run, []

    def run(command, *rest, **options):
        commands.append([str(word) for word in command])
        local = [str(archive) if word.endswith("/archive/HEAD.zip") else word for word in commands[-1]]
        return real(local, *rest, **options)

    # What is installed must not see the checkout that this test runs from.
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert extensions._EXTENSIONS_PIP_INSTALL_TIMEOUT == LIMIT
    with monkeypatch.context() as patch:
        patch.setattr(extensions, "_github_request", unreachable)
        patch.setattr(extensions.subprocess, "run", run)
        # On a busy machine the clock says little about the package; the work is what an idle one would take.
        patch.setattr(extensions, "_EXTENSIONS_PIP_INSTALL_TIMEOUT", 6 * LIMIT)
        before, started = cpu_seconds(), time.perf_counter()
        made = extensions._install_extension(owner="somebody", repo_name="hf-lorahub", short_name="lorahub")
        work, seconds = cpu_seconds() - before, time.perf_counter() - started
    assert [words[-1] for words in commands if "install" in words] == [
        "https://github.com/somebody/hf-lorahub/archive/HEAD.zip"
    ]
    assert made.type == "python"
    print(f"installed in {seconds:.0f} s, {work:.0f} s of work; the limit is {LIMIT} s")
    assert min(work, seconds) < LIMIT / 2
    program = Path(made.executable_path)
    assert program == home / FOLDER / "venv" / "bin" / "hf-lorahub"
    assert real([program, "--help"], capture_output=True, check=True).stdout.startswith(b"Usage: hf-lorahub")
    assert real([program.parent / "python", "-c", "import torch"], capture_output=True, check=False).returncode != 0
    done = hf("lorahub", "doctor")
    assert done.returncode == 0, done.stderr
    assert "pip install 'hf-lorahub[train]'" in done.stdout
