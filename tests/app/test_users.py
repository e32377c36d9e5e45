"""Many visitors at once while adapters come and go: every answer is right, none fails, and the memory stays."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LONG, sentences

ROOT = Path(__file__).parents[2]


def visited(tmp_path, *options):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(sentences(40, seed=8)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "app_users.py", "--json", "--texts", texts, *map(str, options)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    assert done.returncode == 0
    assert found["changes"] > 0
    return found


@pytest.mark.slow
def test_a_few_visitors_get_right_answers_while_adapters_come_and_go(tiny_base, tmp_path):
    found = visited(tmp_path, "--base", tiny_base("bert"), "--users", 8, "--seconds", 8)
    assert found["answers"] > 20


@pytest.mark.long
@pytest.mark.skipif(not LONG, reason="a minute with 50 visitors on a real base: make test-long")
def test_fifty_visitors_get_right_answers_for_a_minute_in_the_same_memory(tmp_path):
    found = visited(tmp_path, "--users", 50, "--seconds", 60)
    assert found["answers"] > 100  # how many come depends on the machine; that they are right does not
    assert found["memory_mb"]["last_quarter"] < 1.05 * found["memory_mb"]["third_quarter"]
