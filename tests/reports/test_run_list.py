"""`lorahub runs`: any field of a record filters, sorts and stands in a column."""

import json
from dataclasses import replace

import pytest

from lorahub.errors import ConfigError
from lorahub.records import RunRecord
from lorahub.reports import run_table


@pytest.fixture(scope="module")
def three(tiny_run):
    """The tiny run's record as those of three runs."""
    found = []
    for name, rank, score, data, gpu in (
        ("a", 4, 0.5, "pubhealth", None), ("b", 8, 0.75, "pubhealth", 3_500_000_000), ("c", 16, 0.6, "covid", None),
    ):  # fmt: skip
        values = tiny_run.record.to_dict() | {"name": name, "created": f"2026-0{len(found) + 1}-05T10:00:00+00:00"}
        values["asked"]["adapter"]["rank"] = rank
        record = RunRecord.model_validate(values)
        record.environment.data = replace(record.environment.data, id=data)
        memory = record.progress.memory
        memory.gpu_peak_bytes, memory.cpu_peak_bytes = gpu, 1_250_000_000
        record.adapter().f1_macro = score
        found.append(record)
    return found


@pytest.mark.parametrize(
    ("where", "names"),
    [
        (["data=pubhealth"], "ab"),
        (["data!=pubhealth"], "c"),
        (["adapter.rank>=8"], "bc"),
        (["asked.adapter.rank < 8"], "a"),
        (["f1_macro>0.5", "data=pubhealth"], "b"),
        (["adapter.rank=8.0"], "b"),
        (["created>=2026-02"], "bc"),
        (["data~HEALTH"], "ab"),
        (["environment.labels~hedged"], "abc"),
        (["interrupted=false"], "abc"),
        (["gpu_peak_bytes>0"], None),
        (["memory.gpu_peak_bytes>1e9"], "b"),
        (["memory.gpu_peak_bytes=null"], "ac"),
        (["method=lora", "seed=0", "tfidf.f1_macro>=0", "validation.adapter.accuracy<=1"], "abc"),
        (["name=z"], ""),
    ],
)
def test_conditions(three, where, names):
    if names is None:
        with pytest.raises(ConfigError, match=r"Did you mean memory\.gpu_peak_bytes\?"):
            run_table.select(three, where=where)
    else:
        assert "".join(run.name for run in run_table.select(three, where=where)) == names


@pytest.mark.slow
def test_sorting_puts_runs_without_the_field_last(three):
    def order(sort, **more):
        return "".join(run.name for run in run_table.select(three, sort=sort, **more))

    assert (order("f1_macro"), order("-f1_macro"), order("-f1_macro", limit=2)) == ("acb", "bca", "bc")
    assert (order("memory.gpu_peak_bytes"), order("-memory.gpu_peak_bytes")) == ("bac", "bac")
    assert order("-created") == "cba"


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("adapter.rnk>8", ["'adapter.rnk'", "Did you mean adapter.rank?"]),
        ("adapter.rank>many", ["adapter.rank is a number", "'many'"]),
        ("rank", ["FIELD", "'rank'"]),
        ("f1_macro>>0.5", ["is a number", "'>0.5'"]),
        ("__class__=x", ["no run has a field"]),
    ],
)
def test_a_wrong_condition_is_one_line(three, where, words):
    with pytest.raises(ConfigError) as caught:
        run_table.select(three, where=[where])
    for word in words:
        assert word in str(caught.value)


@pytest.fixture
def root(three, tmp_path):
    for record in three:
        (tmp_path / record.name).mkdir()
        record.save(tmp_path / record.name)
    return tmp_path


@pytest.mark.slow
def test_the_command_filters_sorts_and_shows_any_field(cli, root):
    code, out, err = cli("runs", "--root", root, "--where", "adapter.rank>=8", "--sort", "-f1_macro", "--memory")
    assert code == 0, err
    lines = [line.split() for line in out.splitlines() if line.strip()]
    assert [line[0] for line in lines[2:4]] == ["b", "c"]
    assert "GPU memory" in out
    assert "3,500 MB" in out
    assert "1,250 MB" in out
    code, out, _ = cli("runs", "--root", root, "--columns", "data,adapter.rank,f1_macro", "--limit", 1)
    assert code == 0
    assert ["c", "covid", "16", "0.600"] in [line.split() for line in out.splitlines()]
    code, out, _ = cli("runs", "--root", root, "--columns", "data, memory.gpu_peak_bytes", "--json")
    assert json.loads(out)[1] == {"name": "b", "data": "pubhealth", "memory.gpu_peak_bytes": 3_500_000_000}
    code, out, _ = cli("runs", "--root", root, "--where", "data=liar")
    assert (code, out) == (0, "no run meets these conditions.\n")
    code, out, _ = cli("runs", "--root", root, "--where", "data=liar", "--json")
    assert json.loads(out) == []
    code, out, err = cli("runs", "--root", root, "--columns", "data,f1_makro")
    assert (code, out) == (2, "")
    assert "Did you mean f1_macro?" in err
