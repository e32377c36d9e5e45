"""The one interface of all models: argument checks, names, and the path from logits to verdicts."""

import numpy as np
import pandas as pd
import pytest
from conftest import sentences

from lorahub.config import BaseConfig
from lorahub.errors import AdapterError, ConfigError
from lorahub.hub import fetch
from lorahub.labels import LabelSet
from lorahub.serving.engine.engine import Engine
from lorahub.serving.loading import MixedPredictor, open_predictors
from lorahub.serving.predictor import Prediction, Request
from lorahub.serving.single import SinglePredictor
from lorahub.stats.verdicts import Calibration

pytestmark = pytest.mark.slow

TEXTS = sentences(3, seed=2)


@pytest.fixture(scope="module")
def predictors(tiny_base, make_adapter):
    """One adapter behind every implementation."""
    base, folder = str(tiny_base("bert")), make_adapter("bert", labels=3, name="mine")
    engine = Engine(base, [folder])
    single = SinglePredictor(fetch.adapter(folder), base, BaseConfig(), name="mine")
    return {"engine": engine, "single": single, "mixed": MixedPredictor([engine])}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": "a string"}, r"texts is a single string; give a list, as in \['a string'\]"),
        ({"texts": ["a", None]}, r"texts\[1\] is None, not a string"),
        ({"texts": ["a"], "adapters": "mine"}, "adapters is a single string"),
        ({"texts": ["a"], "evidence": "b"}, "evidence is a single string"),
        ({"texts": ["a", "b"], "evidence": ["c"]}, "2 texts came with 1 pieces of evidence"),
        ({"texts": ["a"], "strength": float("nan")}, "strength is nan"),
    ],
)
@pytest.mark.parametrize("kind", ["engine", "single", "mixed"])
def test_invalid_arguments_are_refused_alike(kind, arguments, message, predictors):
    for method in (predictors[kind].classify, predictors[kind].logits):
        with pytest.raises(ConfigError, match=message):
            method(**arguments)


@pytest.mark.parametrize("kind", ["engine", "single", "mixed"])
def test_every_implementation_gives_the_same_answers(kind, predictors):
    predictor, engine = predictors[kind], predictors["engine"]
    assert predictor.names == ["mine"]
    assert predictor.adapters["mine"].labels == engine.adapters["mine"].labels
    np.testing.assert_allclose(predictor.logits(TEXTS)["mine"], engine.logits(TEXTS)["mine"], atol=1e-5)
    labels = [verdict.label for verdict in engine.classify(TEXTS)["mine"]]
    for texts in (TEXTS, tuple(TEXTS), np.array(TEXTS), pd.Series(TEXTS)):
        assert [verdict.label for verdict in predictor.classify(texts, ["mine", "mine"])["mine"]] == labels
    assert predictor.classify([]) == {"mine": []}
    assert predictor.logits([])["mine"].shape == (0, 3)
    assert predictor.classify(TEXTS, []) == {}
    with pytest.raises(AdapterError, match="no adapter 'mien' is loaded; loaded: mine"):
        predictor.classify(TEXTS, ["mien"])


def test_strength_needs_an_adapter_that_scales(predictors):
    with pytest.raises(ConfigError, match="mine has no scalable LoRA update"):
        predictors["single"].logits(TEXTS, strength=0.5)


def test_verdicts_follow_the_calibration_unless_it_is_off():
    logits = np.float32([[0.2, 0.0], [3.0, 0.0]])
    calibration = Calibration(bias=(0.0, 1.0), threshold=0.8)
    prediction = Prediction(logits=logits, labels=LabelSet(("no", "yes")), calibration=calibration)
    adjusted, plain = prediction.verdicts(), prediction.verdicts(adjust=False)
    assert [verdict.label for verdict in adjusted] == ["yes", "no"]
    assert [verdict.abstain for verdict in adjusted] == [True, False]
    assert [verdict.label for verdict in plain] == ["no", "no"]
    assert not any(verdict.abstain for verdict in plain)
    assert plain[0].probabilities == adjusted[0].probabilities == plain[0].calibrated
    assert Request(["a"], evidence=["b"]).evidence == ["b"]


def test_adapters_of_one_base_share_an_engine(tiny_base, make_adapter):
    folders = [make_adapter("bert", labels=2 + seed, seed=seed, name=f"a{seed}") for seed in range(2)]
    (predictor,) = open_predictors(folders, str(tiny_base("bert")))
    assert isinstance(predictor, Engine)
    assert predictor.names == ["a0", "a1"]
