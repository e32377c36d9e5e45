"""Many visitors at once while adapters come and go: every answer is right, none fails, and the memory stays."""

import importlib
import json
from pathlib import Path

import pytest
from conftest import LONG, sentences

ROOT = Path(__file__).parents[2]


@pytest.fixture
def visited(tmp_path, monkeypatch, capsys):
    """visited(*options) -> what the benchmark measures; it runs in this process, the page in one of its own."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(sentences(40, seed=8)), encoding="utf-8")

    def run(*options):
        monkeypatch.setattr("sys.argv", ["app_users.py", "--json", "--texts", *map(str, (texts, *options))])
        with pytest.raises(SystemExit) as end:
            importlib.import_module("app_users").main()
        result = json.loads(capsys.readouterr().out)
        assert result["wrong"] == []
        assert end.value.code == 0
        assert result["changes"] > 0
        return result

    return run


@pytest.mark.slow
def test_a_few_visitors_get_right_answers_while_adapters_come_and_go(visited, tiny_base):
    found = visited("--base", tiny_base("bert"), "--users", 8, "--seconds", 8)
    assert found["answers"] > 10


@pytest.mark.long
@pytest.mark.skipif(not LONG, reason="a minute with 50 visitors on a real base: make test-long")
def test_fifty_visitors_get_right_answers_for_a_minute_in_the_same_memory(visited):
    found = visited("--users", 50, "--seconds", 60)
    assert found["answers"] > 100  # how many come depends on the machine; that they are right does not
    assert found["memory_mb"]["last_quarter"] < 1.05 * found["memory_mb"]["third_quarter"]
