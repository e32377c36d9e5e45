"""Config: conversion by field type, unknown keys named, recipes loaded."""

import pytest
import yaml

from lorahub import config
from lorahub.errors import ConfigError


def test_every_field_has_help_and_a_default():
    for section in config.SECTIONS:
        for name, schema in config.field_schemas(section).items():
            assert len(schema["description"]) > 10, name
            assert schema["description"].endswith("."), name
            assert name == "label_map" or "default" in schema, name


@pytest.mark.parametrize("text", ["2e-4", "2.0e-4", "0.0002"])
def test_a_number_is_a_number_however_yaml_reads_it(tmp_path, text):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"train:\n  learning_rate: {text}\n", encoding="utf-8")
    assert config.load(recipe).train.learning_rate == pytest.approx(2e-4)


def test_flags_override_the_recipe_and_the_rest_is_default(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("train: {epochs: 7, seed: 3}\n", encoding="utf-8")
    found = config.load(recipe, ["train.epochs=2", "adapter.targets=q_proj, v_proj", "data.label_map={0: yes-label}"])
    assert (found.train.epochs, found.train.seed) == (2.0, 3)
    assert found.adapter.targets == ("q_proj", "v_proj")
    assert found.data.label_map == {"0": "yes-label"}
    assert found.base == config.BaseConfig()


def test_yaml_guesses_do_not_decide():
    found = config.load(None, ["train.mixed_precision=no", "data.labels=[0, 1]", "train.seed=1e3"])
    assert (found.train.mixed_precision, found.data.labels, found.train.seed) == ("no", ("0", "1"), 1000)


def test_what_is_written_is_what_is_read():
    found = config.load(None, ["train.epochs=2", "data.labels=[a, b]"])
    assert config.from_dict(config.to_dict(found)) == found
    assert config.differences(found) == {"train.epochs": 2.0, "data.labels": ["a", "b"]}
    assert config.differences(config.Config()) == {}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epoch=3", ["train.epoch", "train.epochs"]),
        ("trian.epochs=3", ["trian", "train"]),
        ("train.epochs=many", ["train.epochs", "a number", "many"]),
        ("train.batch_size=2.5", ["train.batch_size", "whole number"]),
        ("train.batch_size=0", ["at least 1"]),
        ("train.learning_rate=.nan", ["train.learning_rate", "a number"]),
        ("adapter.dropout=0.99", ["at most 0.95"]),
        ("train.schedule=cosin", ["cosine"]),
        ("train.length_groups=1", ["true or false"]),
        ("data.labels=[no, yes]", ["text", "quotes"]),
        ("data.labels=7", ["list"]),
        ("train.epochs=true", ["a number", "True"]),
        ("data.id=true", ["text", "quotes"]),
        ("adapter.rank=big", ["a whole number or auto"]),
        ("adapter.rank=0", ["at least 1"]),
        ("train.learning_rate=0", ["above 0;"]),
        ("train.seed=4294967296", ["at most 4294967295"]),
        ("epochs=3", ["section.field=value"]),
        ("train.epochs", ["section.field=value"]),
    ],
)
def test_a_wrong_value_names_the_field_and_the_fix(override, words):
    with pytest.raises(ConfigError) as error:
        config.load(None, [override])
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("name", list(config.shipped_recipes()))
def test_every_shipped_recipe_loads_and_holds_only_what_differs(name):
    path = config.shipped_recipes()[name]
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert path.read_text(encoding="utf-8").startswith("# "), "a recipe starts with a line on what it is"
    found = config.load(name)
    assert sum(len(fields) for fields in values.values()) <= len(config.differences(found)) + 4
