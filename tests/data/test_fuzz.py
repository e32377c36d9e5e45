"""Fuzzing: whatever a data file, a recipe or an adapter folder holds, it loads or one error says why it does not."""

import json
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import LONG
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorahub import config, records, runfiles
from lorahub.config import DataConfig
from lorahub.data import claims
from lorahub.errors import LorahubError

pytestmark = pytest.mark.slow
ROWS = [{"claim": f'claim {place}, "quoted" and ünïcode 😷', "label": ("a", "b")[place % 2]} for place in range(40)]
CSV = "claim,label\n" + "".join(
    '"{}",{}\n'.format(row["claim"].replace('"', '""'), row["label"]) for row in ROWS
)  # fmt: skip
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)
EXAMPLES = settings(
    max_examples=5000 if LONG else 150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
# A position, how many bytes go there, and what comes in their place.
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 30), st.binary(max_size=12)), min_size=1, max_size=4)


def mutated(content, edits):
    for share, length, fresh in edits:
        start = round(share * len(content))
        content = content[:start] + fresh + content[start + length :]
    return content


def parquet_bytes():
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue().to_pybytes()


def loads_or_says_why(load):
    try:
        load()
    except LorahubError as error:
        said = str(error)
    else:
        return
    assert 20 < len(said) < 1500
    assert "\n" not in said.strip()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", CSV.encode()),
        ("a.tsv", CSV.replace(",", "\t").encode()),
        ("a.jsonl", JSONL.encode()),
        ("a.parquet", parquet_bytes()),
    ],
)
def test_a_damaged_data_file_loads_or_says_why_not(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    assert sum(claims.load(DataConfig(id=str(path))).source.rows.values()) == 40

    @EXAMPLES
    @given(EDITS)
    def check(edits):
        path.write_bytes(mutated(content, edits))
        loads_or_says_why(lambda: claims.load(DataConfig(id=str(path))))

    check()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@EXAMPLES
@given(st.dictionaries(st.sampled_from([*config.SECTIONS, "dta"]), st.dictionaries(st.sampled_from(
    ["id", "labels", "label_map", "rank", "epochs", "seed", "metric", "batch_size", "max_length"]), VALUES, max_size=4)
    | VALUES, max_size=3))  # fmt: skip
def test_any_recipe_resolves_or_says_why_not(values):
    loads_or_says_why(lambda: config.from_dict(values))


@EXAMPLES
@given(st.text(max_size=40))
def test_any_override_resolves_or_says_why_not(text):
    loads_or_says_why(lambda: config.load(None, [f"train.epochs={text}"]))
    loads_or_says_why(lambda: config.load(None, [text]))


@pytest.mark.parametrize("name", ["adapter_config.json", "labels.json", "calibration.json", "record.json"])
def test_a_damaged_adapter_folder_loads_or_says_why_not(name, tiny_run, tmp_path):
    from lorahub.models import adapters

    folder = shutil.copytree(tiny_run.folder, tmp_path / "mine")
    content = (folder / name).read_bytes()

    @EXAMPLES
    @given(EDITS)
    def check(edits):
        (folder / name).write_bytes(mutated(content, edits))
        loads_or_says_why(lambda: adapters.load(folder))
        loads_or_says_why(lambda: records.load(folder))

    check()


FILES = ("adapter_config.json", "labels.json", "calibration.json", "tokenizer_config.json", "record.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", ['"text"', "[]", "1", "null", "9" * 5000, "[" * 100_000], ids=lambda text: text[:6])
def test_json_of_another_kind_is_refused_in_a_line(name, content, tiny_run, tmp_path):
    from lorahub.models import adapters

    folder = shutil.copytree(tiny_run.folder, tmp_path / "mine")
    (folder / name).write_text(content)
    with pytest.raises(LorahubError, match=re.escape(name)):
        (records if name == runfiles.RECORD else adapters).load(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "calibration.json", "tokenizer_config.json", "record.json"])
def test_an_adapter_folder_with_other_values_loads_or_says_why_not(name, tiny_run, tmp_path):
    from lorahub.models import adapters

    folder = shutil.copytree(tiny_run.folder, tmp_path / "mine")
    values = json.loads((folder / name).read_text())

    @EXAMPLES
    @given(st.dictionaries(st.sampled_from(sorted(values)), VALUES, min_size=1, max_size=2))
    def check(changes):
        (folder / name).write_text(json.dumps({**values, **changes}))
        loads_or_says_why(lambda: adapters.load(folder))
        loads_or_says_why(lambda: records.load(folder))

    check()


def test_damaged_weights_load_or_say_why_not(tiny_run, tmp_path):
    from lorahub.models import adapters

    folder = shutil.copytree(tiny_run.folder, tmp_path / "mine")
    content = (folder / "adapter_model.safetensors").read_bytes()

    @EXAMPLES
    @given(EDITS)
    def check(edits):
        (folder / "adapter_model.safetensors").write_bytes(mutated(content, edits))
        loads_or_says_why(lambda: adapters.load(folder))

    check()
