"""A run and a trial of the same config are the same training, number for number; a trial never uses test."""

import json

import numpy as np
import pytest
from conftest import learnable

from lorahub import config as configs
from lorahub.data import claims
from lorahub.data.claimset import ClaimData
from lorahub.stats.predictions import Predictions
from lorahub.training.progress import Callbacks
from lorahub.training.run import train, validate


@pytest.fixture(scope="module")
def arguments(tiny_base, tmp_path_factory):
    data = tmp_path_factory.mktemp("setup") / "claims.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in learnable(160)), encoding="utf-8")
    settings = ["train.min_steps=12", "train.epochs=0.1", "train.batch_size=8", "eval.bootstrap=200", "train.seed=3"]
    return {"data": str(data), "base": str(tiny_base("bert")), "settings": settings}


def resolved(arguments):
    return configs.load(
        None,
        [
            *configs.flags(data=arguments["data"], base=arguments["base"], method=None, seed=None),
            *arguments["settings"],
        ],
    )


@pytest.mark.slow
def test_a_validated_config_answers_as_the_run_of_it(arguments, tmp_path):
    run = train(**arguments, out=tmp_path / "run")
    kept = Predictions.load(run.folder, "validation", "adapter", labels=2)
    config = resolved(arguments)
    data = claims.load(config.data)
    encodings = {}
    for _ in range(2):
        session, progress = validate(config, data, encodings=encodings)
        assert np.array_equal(session.logits("validation"), kept.logits)
        assert progress.curve == run.record.progress.curve
        assert session.trainable == run.record.progress.trainable_parameters
    assert {split for split, *_ in encodings} == {"train", "validation"}, "tokenized once, and test never"


def test_a_validation_needs_no_test_split(arguments):
    config = resolved(arguments)
    data = claims.load(config.data)
    without = ClaimData(
        labels=data.labels,
        splits={name: rows for name, rows in data.splits.items() if name != "test"},
        source=data.source,
    )
    session, _ = validate(config, without)
    assert session.logits("validation").shape == (len(data.splits["validation"]), 2)


def test_an_exception_in_a_callback_ends_the_training(arguments):
    class EnoughError(Exception):
        pass

    seen = []

    def on_step(step):
        seen.append(step.step)
        if step.validation:
            raise EnoughError

    config = resolved(arguments)
    with pytest.raises(EnoughError):
        validate(config, claims.load(config.data), Callbacks(on_step=on_step))
    assert seen[-1] < 12
