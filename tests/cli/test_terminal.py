"""Whatever an adapter, a record or a file holds, the terminal shows it and does not obey it."""

import ast
import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lorahub
from lorahub import printable, runfiles
from lorahub.cli import show

EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31mred\r\nsafety: all checks passed\t\u202egnp.exe\u2066\u2028\ud800\u200f"
BARE = set(EVIL) - set("[2J]0;ownedred safety: all checks passedgnp.exe31m")


def unseen(text):
    return {sign for sign in text if sign in BARE and sign != "\n"}


@given(st.text(st.characters()) | st.text(st.sampled_from(EVIL)))
def test_text_in_one_line_has_no_control_characters_and_can_be_encoded(text):
    shown = printable.line(text)
    assert not unseen(shown)
    assert "\n" not in shown
    shown.encode()
    assert printable.lines(text).count("\n") == text.replace("\r\n", "\n").count("\n")
    assert json.loads(printable.in_json(json.dumps(text, ensure_ascii=False))) == json.loads(json.dumps(text))


def test_ordinary_text_is_shown_as_it_is():
    for text in ("Größe 3 €", "می‌خواهم", "👩‍👩‍👧", "日本語", "a\u0301 b"):
        assert printable.line(text) == text


@pytest.fixture
def evil_run(run_folder):
    """A run whose record, card, and labels in both, hold control characters."""
    record = json.loads((run_folder / runfiles.RECORD).read_text())
    record["name"] = f"run {EVIL[:-2]}"
    record["environment"]["data"]["id"] = EVIL[:-2]
    record["happened"]["warnings"] = [EVIL[:-2]]
    (run_folder / runfiles.RECORD).write_text(json.dumps(record))
    return run_folder


@pytest.mark.slow
@pytest.mark.parametrize("command", ["runs", "info", "card", "list --local", "verify", "push --dry-run"])
@pytest.mark.parametrize("as_json", [False, True])
def test_no_command_lets_a_record_write_to_the_terminal(evil_run, cli, monkeypatch, command, as_json):
    monkeypatch.chdir(evil_run.parent.parent)
    name, *options = command.split()
    arguments = [name, *options, *(["--json"] if as_json else [])]
    if name not in ("list", "runs"):
        arguments.insert(1, "tiny")
    code, out, err = cli(*arguments)
    assert code in (0, 1, 2)
    assert not unseen(out)
    assert not unseen(err)
    # A card is a text of several lines.
    assert "\nsafety: all checks passed" not in out or name in ("card", "push")


def test_an_error_and_a_warning_are_one_line(cli, tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = cli("info", "no\x1b[2J\nsuch")
    assert code == 2
    assert not unseen(err)
    folder = tmp_path / "runs" / "a\x1b[2J\nb"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text("[]")
    program = [sys.executable, "-m", "lorahub", "runs"]
    shown = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert not unseen(shown.stderr)
    assert len([line for line in shown.stderr.splitlines() if "left out" in line]) == 1
    logging.getLogger("lorahub").setLevel(logging.NOTSET)


def test_only_the_modules_for_it_print():
    """A command that printed by itself would pass the escapes by."""
    for path in (Path(lorahub.__file__).parent / "cli").glob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = {ast.unparse(call) for call in calls}
        if path.name != "terminal.py":
            assert not names & {"print", "typer.echo", "typer.secho", "sys.stdout.write", "sys.stderr.write"}, path.name


def test_numbers_that_json_lacks_are_null(capsys):
    from lorahub.cli import show

    show.print_json({"a": float("nan"), 3: [float("inf")], "b": Path("x"), "c": (1, 2)})
    assert json.loads(capsys.readouterr().out) == {"a": None, "3": [None], "b": "x", "c": [1, 2]}


@pytest.mark.parametrize("width", [80, 200])
def test_the_words_of_a_wide_table_stay_whole_in_a_narrow_terminal(width, capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    header = ("run", *(f"column-{number}" for number in range(9)))
    rows = [(f"starter-{name}", *(f"0.{number}66-{name}" for number in range(9))) for name in ("one", "two")]
    show.table(header, rows, title="two runs")
    lines = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out).splitlines()  # bold headings
    words = " ".join(lines).split()
    assert {*header, *rows[0], *rows[1], "runs"} <= set(words)
    assert max(map(len, lines)) <= width
    assert words.count("column-3") == (2 if width == 80 else 1)
