"""A token, given in any way, is used and then found nowhere: not in what is printed, logged, written or sent."""

import json

import pytest

REPO = "alice/tiny"
# Commands one after the other, in one process that tells all it can.
COMMANDS = """
import json, sys
from lorahub.cli.main import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["lorahub", "-v", *words]
    try:
        main()
    except SystemExit as stop:
        print("exit", stop.code or 0, words[0], words[1], flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "way", ["environment", *(pytest.param(way, marks=pytest.mark.long) for way in ("login file", "flag"))]
)
def test_a_token_is_used_and_left_nowhere(hub, hub_base, program, run_folder, tiny_run, tmp_path, monkeypatch, way):
    secret = "hf_" + way.replace(" ", "").ljust(30, "Q")
    hub.users = {secret: "alice"}
    home, sent, work = tmp_path / "home", [], hub.work
    login = home / "hf" / "token"
    login.parent.mkdir(parents=True)
    if way == "login file":
        login.write_text(secret)

    def listen(request, path, body):
        headers = [f"{key}: {value}" for key, value in request.headers.items() if key != "authorization"]
        sent.append("\n".join([request.method, str(request.url), *headers]).encode() + body)
        return work(request, path, body)

    monkeypatch.setattr(hub, "work", listen)
    data, pulled = tiny_run.folder.parent / "claims.jsonl", tmp_path / "pulled"
    commands = {
        ("push", run_folder, REPO, "--private", "--base-id", hub_base): 0,
        ("info", REPO): 0,
        ("verify", REPO, "--base", hub_base, "--data", data): 0,
        ("compare", REPO, run_folder, "--base", hub_base, "--data", data): 0,
        ("pull", REPO, "--out", pulled): 0,
        ("classify", "flu", "--adapter", REPO, "--base", hub_base): 0,
        ("list", "--base", hub_base.split("@")[0]): 0,
        ("push", run_folder, "bob/tiny", "--base-id", hub_base): 2,
        ("info", "alice/missing"): 2,
    }
    flag = ["--token", secret] if way == "flag" else []
    words = json.dumps([[*map(str, command), *flag] for command in commands])
    token = secret if way == "environment" else None
    process = program(words, code=COMMANDS, home=home, token=token, HF_HUB_VERBOSITY="debug", HF_DEBUG="1")

    told = [line.split()[1:] for line in process.stdout.splitlines() if line.startswith("exit ")]
    expected = [[str(code), *map(str, command[:2])] for command, code in commands.items()]
    assert told == expected, process.stdout + process.stderr
    assert "alice/tiny" in process.stdout.split("exit 0 list")[0].split("exit 0 pull")[1], "a private one is listed"
    assert hub.repo(REPO).private, "so nobody else could have read it"
    assert "INFO" in process.stderr
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path != login}
    for name in (run_folder / "published.json", run_folder / "README.md", pulled / "record.json"):
        assert name in written
    looked_at = [process.stdout.encode(), process.stderr.encode(), *sent, *written.values()]
    for content in looked_at:
        assert secret.encode() not in content, content[:300]
    size = sum(map(len, looked_at))
    print(
        f"{way}: {size:,} bytes looked at: {len(sent)} requests, {len(written)} files, {len(process.stderr):,} of log"
    )
