"""An answer is a finite number or no answer: an adapter that gives none is an error, and its neighbours answer."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorahub.app import answers
from lorahub.app.answers import Question
from lorahub.app.gpu_batches import GpuBatchPredictor
from lorahub.classifier import ClaimClassifier
from lorahub.errors import AdapterError
from lorahub.runfiles import PEFT
from lorahub.serving.engine.engine import Engine
from lorahub.serving.files import classify_file
from lorahub.serving.loading import MixedPredictor, open_predictors
from lorahub.serving.predictor import NotFiniteError
from lorahub.stats.predictions import Predictions
from lorahub.stats.verdicts import Calibration

pytestmark = pytest.mark.slow
CLAIM = "the vaccine causes cancer"


@pytest.fixture
def base(tiny_base):
    return str(tiny_base("bert"))


@pytest.fixture
def good(make_adapter):
    return make_adapter("bert", name="good")


@pytest.fixture
def copy(good, tmp_path):
    """Return a copy of the good adapter, with tensors whose name ends in this one filled with a value."""

    def make(name, ending="", value=0.0, source=good):
        folder = shutil.copytree(source, tmp_path / name)
        tensors = load_file(folder / PEFT.weights)
        for key, tensor in tensors.items():
            if ending and key.endswith(ending):
                tensor.fill_(value)
        save_file(tensors, folder / PEFT.weights)
        return folder

    return make


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 1e-60}, {"temperature": 1e-40}, {"temperature": 1e60}, {"temperature": 0.0},
        {"temperature": -1.0}, {"bias": [1e300, 0, 0]}, {"bias": [-3.4e38, 0, 0]}, {"temperature": 1e-6},
    ],
    ids=str,
)  # fmt: skip
def test_a_calibration_that_gives_no_finite_number_is_refused_on_load(copy, base, values):
    folder = copy("bad")
    (folder / "calibration.json").write_text(json.dumps(values))
    with pytest.raises(AdapterError, match=r"calibration\.json is damaged"):
        Engine(base, [folder])
    with pytest.raises(AdapterError, match=r"calibration\.json is damaged"):
        ClaimClassifier.from_pretrained(folder, base=base)


@pytest.mark.parametrize(
    ("ending", "value"),
    [("classifier.bias", 3e38), ("classifier.weight", 3e38), ("lora_B.weight", 1e38)],
)
def test_an_adapter_without_a_finite_answer_is_an_error_and_its_neighbours_answer(
    copy, base, good, tmp_path, claims_file, ending, value
):
    bad = copy("bad", ending, value)
    tensors = load_file(bad / PEFT.weights)
    if ending == "classifier.bias":
        # Two large numbers that overflow when they are added.
        tensors["base_model.model.classifier.weight"].fill_(1e38)
        save_file(tensors, bad / PEFT.weights)
    engine = Engine(base, [good])
    expected = engine.classify([CLAIM])["good"]
    engine.add(bad)
    for predictor in (engine, GpuBatchPredictor(engine), MixedPredictor([engine])):
        with pytest.raises(NotFiniteError, match="bad: the logits are not finite numbers") as caught:
            predictor.classify([CLAIM, CLAIM])
        assert "\n" not in str(caught.value)
        np.testing.assert_allclose(
            caught.value.answered["good"].logits[0], engine.logits([CLAIM], ["good"])["good"][0], atol=1e-5
        )
        assert predictor.classify([CLAIM], ["good"])["good"][0].label == expected[0].label
    engine.warm_up()
    given = answers.classifier(engine)(Question.parse(CLAIM, ["good", "bad"]))
    assert list(given.adapters) == ["good"]
    assert "bad" in given.failed
    with pytest.raises(NotFiniteError):
        answers.classifier(engine)(Question.parse(CLAIM, ["bad"]))
    with pytest.raises(NotFiniteError, match="bad"):
        list(classify_file(engine, claims_file([{"claim": CLAIM}]), tmp_path / "out.csv"))
    assert not (tmp_path / "out.csv").exists()
    with pytest.raises(NotFiniteError, match="bad"):
        ClaimClassifier.from_pretrained(bad, base=base).predict_proba([CLAIM])


def test_an_update_that_overflows_when_it_is_scaled_is_refused_on_load(copy, base):
    folder = copy("bad", "lora_B.weight", 3e38)
    config = json.loads((folder / PEFT.config).read_text())
    (folder / PEFT.config).write_text(json.dumps({**config, "lora_alpha": 1000}))
    with pytest.raises(AdapterError, match="not finite numbers in float32"):
        Engine(base, [folder])


def test_a_magnitude_that_overflows_is_refused_on_load(make_adapter, copy, base):
    folder = copy("bad", "lora_magnitude_vector", 3e38, make_adapter("bert", name="dora", method="dora"))
    tensors = load_file(folder / PEFT.weights)
    for key in tensors:
        if key.endswith(("lora_A.weight", "lora_B.weight")):
            tensors[key] = torch.full_like(tensors[key], 1e6)
    save_file(tensors, folder / PEFT.weights)
    try:
        engine = Engine(base, [folder])
    except AdapterError as error:
        assert "not finite" in str(error)  # noqa: PT017
    else:
        with pytest.raises(NotFiniteError):
            engine.classify([CLAIM])


def test_a_model_on_its_own_base_without_a_finite_answer_is_an_error(make_adapter, copy, base):
    source = make_adapter("bert", name="prompt", method="prompt")
    for value in (3e38, 3e4):
        folder = copy(f"prompt-{value:g}", "classifier.weight", value, source)
        tensors = load_file(folder / PEFT.weights)
        key = next(key for key in tensors if key.endswith("classifier.weight"))
        tensors[key] = tensors[key] * torch.sign(torch.randn_like(tensors[key]))
        save_file(tensors, folder / PEFT.weights)
        (predictor,) = open_predictors([folder], base)
        try:
            [verdict] = predictor.classify([CLAIM])[folder.name]
        except NotFiniteError as error:
            assert folder.name in str(error)  # noqa: PT017
        else:
            assert all(np.isfinite(list(verdict.calibrated.values())))


def test_the_command_shows_the_answers_that_there_are(copy, base, good, cli):
    bad = copy("bad", "classifier.weight", 3e38)
    code, out, err = cli("classify", CLAIM, "--adapter", good, "--adapter", bad, "--base", base, "--json")
    assert code == 2
    assert [row["adapter"] for row in json.loads(out)] == ["good"]
    assert err.startswith("lorahub: bad: the logits are not finite numbers")
    assert err.count("\n") == 1


def test_stored_logits_that_overflow_are_refused(tmp_path):
    logits = np.float32([[3e38, -3e38]])
    Predictions(sha256=["a"], gold=np.int64([0]), logits=logits).save(tmp_path, "test", "adapter")
    with pytest.raises(AdapterError, match="finite"):
        Predictions.load(tmp_path, "test", "adapter", labels=2)
    assert Calibration(temperature=1e-3)
