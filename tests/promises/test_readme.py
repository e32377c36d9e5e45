"""The commands of the README and of the pages that continue it run in order, in one folder, with a tiny base.

A fenced `sh` block holds nothing but `lorahub …` lines, so that it works in any shell, or stands under
`<!-- not run: reason -->`. `python` blocks run in their place among the commands.
"""

import json
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import learnable, sentences

from lorahub.data import tables

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/data.md", "docs/publishing.md", "docs/python.md", "docs/results.md")
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}
README = TEXTS["README.md"]
_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>.+?) -->\n)?^ *```(?P<kind>sh|python)\n(?P<body>.*?)^ *```$", re.M | re.S
)
# A tiny base learns nothing from real sentences: a few steps show that the command works.
QUICK = ["--set", "train.epochs=1", "--set", "train.min_steps=8", "--set", "eval.bootstrap=100"]


class Block(NamedTuple):
    """A fenced block: its language, its text, and why it is not run (None: it is)."""

    kind: str
    body: str
    reason: str | None


BLOCKS = [
    Block(match["kind"], match["body"], match["reason"]) for text in TEXTS.values() for match in _BLOCK.finditer(text)
]


def commands(body):
    """The commands of a block, as lists of words."""
    found = [shlex.split(line, comments=True) for line in body.splitlines()]
    return [words for words in found if words]


@pytest.fixture
def reader_folder(tmp_path, monkeypatch):
    """A folder with the files that the README speaks of, and a stand-in for the data set that it takes from the Hub."""

    def write(name, rows):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        with tables.Writer(path, kind=path.suffix) as writer:
            writer.write(rows)

    rows = learnable(120)
    write("claims.csv", rows)
    write("incoming.csv", [{"claim": text} for text in sentences(20)])
    unclear = [{"headline": text, "ruling": "unclear"} for text in sentences(10, seed=1)]
    write("statements.csv", [{"headline": row["claim"], "ruling": row["label"]} for row in rows] + unclear)
    months = [f"2024-{place // 10 + 1:02}-01" for place in range(len(rows))]
    speeches = zip(rows, months, strict=True)
    write("speeches.csv", [{**row, "speaker": f"speaker {month[5:7]}", "published": month} for row, month in speeches])
    pairs = zip(rows, sentences(len(rows), seed=2), strict=True)
    write("pairs.jsonl", [{"claim": row["claim"], "source": text, "label": row["label"]} for row, text in pairs])
    names = ("false", "mixture", "true", "unproven")
    health = [{"claim": row["claim"], "label": names[place % 4]} for place, row in enumerate(rows)]
    write("data/pubhealth/train.jsonl", health)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORAHUB_DATA", str(tmp_path / "data"))
    return tmp_path


def with_tiny_base(words, base, hub_base):
    """The command's words with the base replaced, and for training a few steps instead of many."""
    name, *rest = (word.replace("YOU/", "alice/") for word in words)
    if name == "push":
        return [name, *rest, "--base-id", hub_base]
    if name in ("list", "verify") or any("alice/" in word for word in rest):
        # The id of the base as published; given by hand, because a downloaded file does not decide it.
        return [name, *rest, *(["--base", hub_base] if name in ("list", "verify", "classify") else [])]
    if name not in ("train", "evaluate", "classify", "ranks", "app"):
        return words
    while "--base" in rest:
        place = rest.index("--base")
        rest = rest[:place] + rest[place + 2 :]
    return [name, *rest, "--base", str(base), *(QUICK if name == "train" else [])]


def assert_serves(words):
    """Start the app, wait for its page and stop it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "lorahub", *words, "--port", str(port)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        for _ in range(240):
            time.sleep(0.5)
            assert server.poll() is None, server.stdout.read().decode()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
                    assert "lorahub" in page.read().decode()
                    return
            except OSError:
                continue
        pytest.fail("the app did not answer within two minutes")
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.mark.slow
def test_every_command_runs_in_order(cli, hub, hub_base, tiny_base, reader_folder, capsys):
    base, ran = tiny_base("bert"), []
    for block in BLOCKS:
        if block.reason is not None:
            with capsys.disabled():
                print(f"\nnot run ({block.reason}): {'; '.join(block.body.splitlines())}", end="")
        elif block.kind == "python":
            exec(block.body.replace('base="minilm"', f"base={str(base)!r}"), {})
            assert capsys.readouterr().out
        else:
            for program, *words in commands(block.body):
                assert program == "lorahub"
                changed = with_tiny_base(words, base, hub_base)
                if words[0] == "app":
                    assert_serves(changed)
                else:
                    code, out, err = cli(*changed)
                    assert code == 0, f"{shlex.join(words)}: {err}"
                    assert out.strip(), f"{shlex.join(words)} prints nothing"
                ran.append(words[0])
    assert {"train", "classify", "evaluate", "runs", "compare", "ranks", "app", "push", "verify"} <= set(ran)
    assert (reader_folder / "judged.csv").exists()
    assert json.loads((reader_folder / "runs" / "pairs" / "record.json").read_text())["asked"]["data"]["evidence"]


def test_every_block_is_run_or_says_why_not():
    every = "".join(TEXTS.values())
    assert every.count("```sh\n") + every.count("```python\n") == len(BLOCKS)
    assert every.count("<!-- not run:") == sum(block.reason is not None for block in BLOCKS)
    for block in BLOCKS:
        for words in commands(block.body) if block.kind == "sh" else ():
            if block.reason is None:
                assert words[0] == "lorahub", f"{shlex.join(words)}: not a lorahub command; say why it is not run"
                assert not {"|", ">", "<", "&&", ";", "\\"} & set(words), (
                    f"{shlex.join(words)}: one plain command a line"
                )
            else:
                assert words[0] != "lorahub", f"{shlex.join(words)} can be run"


def test_pages_name_only_commands_that_exist(cli):
    _, out, _ = cli("--help")
    known = set(re.findall(r"^  ([a-z-]+) ", out.split("Commands:")[1], re.M))
    assert "train" in known
    for page in (README, *(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))):
        named = set(re.findall(r"(?:`|^\s*)lorahub (?:-v )?([a-z][a-z-]*)", page, re.M))
        assert named <= known


def test_the_order_of_the_readme():
    headings = re.findall(r"^## (.+)$", README, re.M)
    assert headings == [
        "Install", "Train, evaluate, classify", "Results", "Experiments", "Limits", "Documentation",
    ]  # fmt: skip
    assert len(README.splitlines()) <= 150
