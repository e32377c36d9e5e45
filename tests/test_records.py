"""The run record: what older versions wrote still loads, and damage is one line that names the file and the part."""

import json
from pathlib import Path

import pytest

from lorahub import records
from lorahub.errors import AdapterError
from lorahub.records import RunRecord

FIGURES = {
    "n": 4, "accuracy": 0.75, "f1_weighted": 0.7, "f1_macro": 0.7, "ece": 0.1,
    "per_label": {name: {"precision": 1.0, "recall": 0.5, "f1": 0.7, "support": 2} for name in ("a", "b")},
    "confusion": [[2, 0], [1, 1]], "interval": {name: [0.5, 1] for name in ("accuracy", "f1_weighted", "f1_macro")},
}  # fmt: skip
# As the first version wrote it: without memory, processor time, chosen rank, resumed steps, threshold and abstention.
OLDEST = {
    "schema": 1,
    "name": "old",
    "created": "2025-01-01T00:00:00+00:00",
    "asked": {"data": {"id": "pubhealth"}, "adapter": {"rank": 4}, "train": {"epochs": 2.0, "seed": 3}},
    "happened": {
        "steps": 10, "planned_steps": 10, "epochs": 2, "seconds": 5.5, "samples_per_second": 100.0, "peak_bytes": 10**9,
        "trainable_parameters": 100, "total_parameters": 1000, "best_step": 8, "interrupted": False,
        "curve": [], "warnings": ["one"],
    },
    "environment": {
        "python": "3.11.0", "device": "cpu", "base_id": "org/base", "base_revision": None, "labels": ["a", "b"],
        "data": {"id": "pubhealth", "kind": "hub", "sha256": {"test": "0" * 64}, "rows": {"test": 4}},
        "seed": 3, "git": None, "baselines": {"tfidf": {"C": 4.0, "class_weight": None}},
        "calibration": {"temperature": 1.5, "bias": [0.0, -0.1]},
    },
    "results": {"validation": {"majority": FIGURES}, "test": {"adapter": FIGURES, "majority": FIGURES}},
}  # fmt: skip


@pytest.fixture
def read(tmp_path):
    """Write values as a record and load it."""

    def load(values):
        (tmp_path / "record.json").write_text(json.dumps(values), encoding="utf-8")
        return records.load(tmp_path)

    return load


def changed(**parts):
    """The oldest record with values at dotted names, `__` for a dot; None removes one."""
    values = json.loads(json.dumps(OLDEST))
    for name, value in parts.items():
        *path, last = name.split("__")
        place = values
        for key in path:
            place = place[key]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return values


def test_a_record_of_the_first_version_loads_with_defaults(read):
    record = read(OLDEST)
    assert (record.config.adapter.rank, record.config.train.seed, record.config.data.id) == (4, 3, "pubhealth")
    assert record.config.train.learning_rate == 1e-3, "a default"
    assert (record.progress.memory, record.progress.cpu_seconds, record.progress.resumed_at) == (None, None, [])
    assert record.environment.calibration.threshold is None
    assert record.environment.data.dropped_rows == {}
    assert record.adapter().selective is None
    assert record.adapter().paired == {}
    assert record.labels == ["a", "b"]


def test_an_older_record_is_written_as_it_was_read(read):
    written = read(OLDEST).to_dict()
    written["environment"]["data"] = OLDEST["environment"]["data"]  # with its defaults
    assert {**written, "asked": OLDEST["asked"]} == OLDEST
    assert set(written["asked"]["train"]) > set(OLDEST["asked"]["train"]), "resolved"


def test_fields_of_a_newer_version_are_kept_and_its_settings_left_out(read, caplog):
    values = changed(environment__weather="sunny", asked__train__momentum=0.9, asked__prompt={"length": 3})
    record = read(values)
    assert record.to_dict()["environment"]["weather"] == "sunny"
    assert record.config.train.epochs == 2
    assert "prompt, train.momentum" in caplog.text


def test_a_run_of_today_survives_the_disk(tiny_run):
    loaded = records.load(tiny_run.folder)
    assert loaded == tiny_run.record
    assert loaded.to_dict() == json.loads((tiny_run.folder / "record.json").read_text(encoding="utf-8"))
    assert RunRecord.model_validate(loaded.to_dict()).config == tiny_run.record.config


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"name": None, "results": None}, ["lacks name, results"]),
        ({"happened__steps": "ten"}, ["happened.steps", "integer"]),
        ({"happened": []}, ["happened"]),
        ({"asked__train__epochs": "many"}, ["asked", "train.epochs takes a number"]),
        ({"asked__train": 3}, ["asked", "'train'"]),
        ({"environment__labels": ["a", 3]}, ["environment.labels.1", "string"]),
        ({"environment__data__rows": None}, ["lacks environment.data.rows"]),
        (
            {"environment__calibration__temperature": 0},
            ["environment.calibration.temperature", "greater than or equal to 0.001"],
        ),
        ({"results__test__adapter__f1_macro": "0.9"}, ["results.test.adapter.f1_macro", "number"]),
        ({"results__test__adapter__accuracy": True}, ["results.test.adapter.accuracy", "number"]),
        ({"results__test__adapter__interval": {"accuracy": [0.1]}}, ["results.test.adapter.interval.accuracy"]),
        ({"schema": 0}, ["schema"]),
        ({"schema": 2}, ["schema 2", "Upgrade hf-lorahub"]),
    ],
)
def test_damage_is_one_line_that_names_the_part(read, parts, words):
    with pytest.raises(AdapterError) as caught:
        read(changed(**parts))
    for word in ("record.json", *words):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"3", b"[" * 60_000, b'{"schema": NaN}'])
def test_a_file_that_is_not_a_record_is_one_line(tmp_path, content):
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(AdapterError, match=r"record\.json .*Restore it or train again"):
        records.load(tmp_path)


def test_results_that_are_not_there_are_named(read):
    with pytest.raises(AdapterError, match="no results of the adapter on validation"):
        read(OLDEST).adapter("validation")


def test_the_published_schema_describes_records(tiny_run):
    """The schema of docs/ accepts a record of today and the oldest one, and names a wrong part."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(__file__).parents[1] / "docs" / "record.schema.json").read_text(encoding="utf-8"))
    check = jsonschema.Draft202012Validator(schema)
    for values in (tiny_run.record.to_dict(), OLDEST):
        assert not list(check.iter_errors(values))
    (error,) = check.iter_errors(changed(happened__steps="ten"))
    assert list(error.absolute_path) == ["happened", "steps"]
