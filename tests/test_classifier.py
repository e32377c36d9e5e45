"""`ClaimClassifier`: fitted on texts, saved as a run folder, pushed like `lorahub push`, pickled with its adapter."""

import inspect
import json
import pickle
import random
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import learnable
from hub_fixtures import TOKEN
from huggingface_hub import ModelHubMixin
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import lorahub
from lorahub import ClaimClassifier, LorahubError, records
from lorahub.config import DataConfig
from lorahub.data import claims
from lorahub.errors import AdapterError, ConfigError, DataError
from lorahub.publish import push
from lorahub.reports import cards, run_table

# Nearly every test here trains.
pytestmark = pytest.mark.slow
SETTINGS = {"train.min_steps": 150, "train.epochs": 1, "train.batch_size": 16, "eval.bootstrap": 100}
BRIEF = {**SETTINGS, "train.min_steps": 6, "train.warmup": 0, "train.evaluate_every": 6}
ROWS = learnable(240)
TEXTS, LABELS = [row["claim"] for row in ROWS], [row["label"] for row in ROWS]
UNSEEN = learnable(40, seed=1)
NEW, GOLD = [row["claim"] for row in UNSEEN], [row["label"] for row in UNSEEN]
BASE = "tiny-bert"
# Accuracy on two equally common labels; an untrained classifier reaches about a half.
LEARNT = 0.7


@pytest.fixture(autouse=True)
def bases(tiny_base, monkeypatch):
    """Change to the folder above the tiny base, so that its name is enough and no path is stored anywhere."""
    monkeypatch.chdir(tiny_base(BASE.removeprefix("tiny-")).parent)


@pytest.fixture(scope="module")
def trained(tiny_base):
    """A classifier fitted once; tests that change something take a copy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tiny_base("bert").parent)
        return ClaimClassifier(BASE, settings=SETTINGS, validation_fraction=0.25).fit(TEXTS, LABELS)


def brief(**parameters):
    """Return a classifier that trains for a few steps, for tests that do not depend on its quality."""
    return ClaimClassifier(BASE, **{"settings": BRIEF, **parameters})


def test_it_learns_and_predicts_labels_and_calibrated_probabilities(trained):
    assert trained.classes_.tolist() == ["hedged", "plain"]
    assert trained.score(NEW, GOLD) > LEARNT
    shares = trained.predict_proba(NEW)
    assert shares.shape == (40, 2)
    assert np.allclose(shares.sum(axis=1), 1, atol=1e-6)
    assert (trained.classes_[shares.argmax(axis=1)] == trained.predict(NEW)).all()
    engine = lorahub.Engine(BASE)
    with trained._folder() as folder:
        (name,) = engine.add(folder)
    verdicts = engine.classify(NEW, [name])[name]
    assert [verdict.label for verdict in verdicts] == trained.predict(NEW).tolist(), "the same path as everywhere"
    assert np.allclose([list(verdict.calibrated.values()) for verdict in verdicts], shares, atol=1e-5)
    assert trained.record_.environment.calibration.temperature != 1.0, "they are calibrated"


def test_lists_arrays_and_series_are_the_same_texts(trained):
    expected = trained.predict_proba(NEW)
    for form in (np.array(NEW), np.array(NEW, dtype=object), pd.Series(NEW, index=range(7, 47)), tuple(NEW), iter(NEW)):
        assert np.array_equal(trained.predict_proba(form), expected)
    assert trained.predict([]).shape == (0,)
    assert trained.predict_proba([]).shape == (0, 2)


def test_labels_keep_their_type(tmp_path):
    numbers = np.array([10 if label == "plain" else 2 for label in LABELS])
    fitted = brief().fit(pd.Series(TEXTS), pd.Series(numbers))
    assert fitted.classes_.tolist() == [2, 10], "sorted as numbers, not as words"
    assert fitted.predict(NEW).dtype == numbers.dtype
    assert 0 <= fitted.score(NEW, [10 if label == "plain" else 2 for label in GOLD]) <= 1
    fitted.save_pretrained(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "labels.json").read_text()) == ["2", "10"]


def test_parameters_are_flat_and_validated_only_in_fit(trained):
    made = ClaimClassifier(BASE, settings={"train.epochs": 3}, seed=7)
    assert made.get_params() == {
        "base": BASE, "method": "lora", "settings": {"train.epochs": 3}, "validation_fraction": 0.1,
        "test_fraction": 0.1, "seed": 7,
    }  # fmt: skip
    made.set_params(seed=np.int64(8), settings={"train.epochs": np.float64(2.0)})
    assert made._config().train.seed == 8
    assert made._config().train.epochs == 2.0
    copy = clone(trained)
    assert copy.get_params() == trained.get_params()
    assert not hasattr(copy, "classes_")
    assert ClaimClassifier(method="no such method").get_params()["method"] == "no such method"


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"method": "lorra"}, ["adapter.method", "lora"]),
        ({"seed": "x"}, ["train.seed", "'x'"]),
        ({"settings": {"train.epoch": 3}}, ["train.epoch", "train.epochs"]),
        ({"settings": {"epochs": 3}}, ["epochs"]),
        ({"settings": ["train.epochs=3"]}, ["settings", "mapping"]),
        ({"settings": {"data.id": "pubhealth"}}, ["data.id", "fit"]),
        ({"settings": {"train.seed": 3}}, ["train.seed", "parameter"]),
        ({"validation_fraction": 0.0}, ["data.validation_fraction", "above 0"]),
        ({"test_fraction": 0.9}, ["data.test_fraction", "at most 0.5"]),
    ],
)
def test_invalid_parameters_are_an_error_of_one_line_in_fit(parameters, words):
    with pytest.raises(ConfigError) as caught:
        ClaimClassifier(**parameters).fit(TEXTS, LABELS)
    assert [word for word in words if word not in str(caught.value)] == []
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("X", "y", "words"),
    [
        ("one text", ["a"], ["X", "one text"]),
        (5, ["a"], ["X", "5"]),
        ([["a claim", "its evidence"]] * 9, ["a", "b", "c"] * 3, ["X[0]", "not text"]),
        (np.zeros((4, 2)), ["a", "b"] * 2, ["shape (4, 2)", "column"]),
        (pd.DataFrame({"claim": TEXTS}), LABELS, ["DataFrame of shape (240, 1)", "column"]),
        (["a", None, "c"], ["a", "b", "a"], ["X[1]", "None"]),
        (["a", float("nan"), "c"], ["a", "b", "a"], ["X[1]", "nan"]),
        (["a", "  ", "c"], ["a", "b", "a"], ["X[1]", "empty"]),
        ([], [], ["no label"]),
        (TEXTS, LABELS[:-1], ["240", "239"]),
        (TEXTS, ["plain"] * 240, ["only one class, plain", "at least two classes"]),
        (TEXTS, [["a", "b"]] * 240, ["y", "(240, 2)"]),
        (TEXTS, np.linspace(0, 1, 240), ["y", "continuous"]),
        (TEXTS, [*LABELS[:-1], None], ["y"]),
        (TEXTS[:8], LABELS[:8], ["8 claims", "too few"]),
    ],
)
def test_invalid_texts_and_labels_are_a_value_error_of_one_line(X, y, words):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError) as caught:
            ClaimClassifier(BASE).fit(X, y)
    assert isinstance(caught.value, ValueError), "what scikit-learn's users expect"
    assert [word for word in words if word not in str(caught.value)] == []
    assert "\n" not in str(caught.value)


def test_an_unfitted_classifier_raises_not_fitted_error(tmp_path):
    made = ClaimClassifier()
    for call in (
        lambda: made.predict(NEW),
        lambda: made.predict_proba(NEW),
        lambda: made.save_pretrained(tmp_path / "run"),
        lambda: made.push_to_hub("alice/tiny"),
    ):
        with pytest.raises(NotFittedError) as caught:
            call()
        assert isinstance(caught.value, LorahubError)
    assert not (tmp_path / "run").exists()


def test_saving_gives_a_run_folder_and_no_config_json(trained, tiny_run, tmp_path):
    folder = tmp_path / "runs" / "mine"
    trained.save_pretrained(folder)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    run = {path.relative_to(tiny_run.folder).as_posix() for path in tiny_run.folder.rglob("*") if path.is_file()}
    assert found == run, "the files of a run that `lorahub train` has written"
    assert "config.json" not in found
    record = records.load(folder)
    assert record.config.data.id == record.environment.data.kind == "memory"
    assert record.environment.data.rows == {"train": 156, "validation": 60, "test": 24}
    assert set(record.results) == {"validation", "test"}
    assert "[More Information Needed]" not in (folder / "README.md").read_text()
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".md"):
            assert tempfile.gettempdir() not in path.read_text(encoding="utf-8"), path
    with pytest.raises(AdapterError, match="holds a finished run"):
        trained.save_pretrained(folder)
    trained.save_pretrained(folder, force=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(AdapterError, match="not empty"):
        trained.save_pretrained(tmp_path / "other", force=True)
    assert (tmp_path / "other" / "thesis.txt").read_text() == "mine"


def test_a_saved_classifier_is_loaded_with_its_predictions_and_parameters(trained, tmp_path):
    trained.save_pretrained(tmp_path / "mine")
    loaded = ClaimClassifier.from_pretrained(tmp_path / "mine", base=BASE)
    assert np.array_equal(loaded.predict_proba(NEW), trained.predict_proba(NEW))
    assert loaded.predict(NEW).tolist() == trained.predict(NEW).tolist()
    assert loaded.get_params() == trained.get_params(), "a clone trains in the same way"
    assert loaded.record_.to_dict() == trained.record_.to_dict()


@pytest.mark.parametrize(
    ("method", "setting"), [("full", {"train.learning_rate": 1e-3}), ("rslora", {"adapter.rank": 8})]
)
def test_a_clone_of_a_loaded_classifier_trains_in_the_same_way(method, setting, tmp_path):
    """Also where a setting is that of the package's default, which the method's own recipe replaces."""
    fitted = brief(method=method, settings={**BRIEF, **setting}).fit(TEXTS[:60], LABELS[:60])
    fitted.save_pretrained(tmp_path / "mine")
    loaded = ClaimClassifier.from_pretrained(tmp_path / "mine", base=BASE)
    assert clone(loaded)._config() == fitted._config()
    assert loaded.get_params() == fitted.get_params()


def global_random_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


def test_a_text_of_weight_0_is_left_out_and_the_global_random_state_is_kept():
    random.seed(5)
    np.random.seed(6)  # noqa: NPY002 - what a caller may use
    torch.manual_seed(7)
    states = global_random_states()
    weights = [float(place % 3 > 0) for place in range(90)]
    weighted = brief().fit(TEXTS[:90], [*LABELS[:89], "unheard of"], sample_weight=[*weights[:89], 0])
    fewer = brief().fit(*zip(*((TEXTS[place], LABELS[place]) for place in range(89) if weights[place]), strict=True))
    assert np.array_equal(weighted.predict_proba(NEW), fewer.predict_proba(NEW))
    assert weighted.classes_.tolist() == ["hedged", "plain"]
    assert global_random_states() == states


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1.0], ["sample_weight"]),
        ([-1.0] * 240, ["sample_weight", "negative"]),
        ([float("nan")] * 240, ["sample_weight", "NaN"]),
        (["x"] * 240, ["sample_weight", "'x'"]),
        ([0] * 240, ["sample_weight", "zero"]),
    ],
)
def test_invalid_weights_are_a_value_error_of_one_line(weights, words):
    with pytest.raises(DataError) as caught:
        ClaimClassifier(BASE).fit(TEXTS, LABELS, sample_weight=weights)
    assert [word for word in words if word.lower() not in str(caught.value).lower()] == []
    assert "\n" not in str(caught.value)


def test_without_a_test_split_all_texts_train_and_the_figures_say_so(tmp_path):
    fitted = brief(test_fraction=0).fit(TEXTS[:60], LABELS[:60])
    assert fitted.record_.environment.data.rows == {"train": 54, "validation": 6}
    fitted.save_pretrained(tmp_path / "mine")
    record = records.load(tmp_path / "mine")
    assert set(record.results) == {"validation"}
    assert record.adapter().n == 6
    card = cards.render(record)
    assert "## Results on the validation split" in card
    assert "no test split was held out: the figures are too good" in card
    assert "-" not in run_table.cells(record)
    loaded = ClaimClassifier.from_pretrained(tmp_path / "mine", base=BASE)
    assert loaded.get_params() == fitted.get_params()
    with pytest.raises(DataError, match=r"data\.test_fraction is 0, but figures need test claims"):
        claims.load(DataConfig(id="starter-topic", test_fraction=0))


def test_run_folders_and_plain_peft_folders_can_be_loaded(tiny_run, make_adapter):
    loaded = ClaimClassifier.from_pretrained(tiny_run.folder, base=BASE)
    assert loaded.score(NEW, GOLD) > LEARNT
    bare = ClaimClassifier.from_pretrained(make_adapter("bert", labels=4), base=BASE)
    assert bare.record_ is None
    assert bare.predict_proba(NEW).shape == (40, 4)
    assert np.array_equal(pickle.loads(pickle.dumps(bare)).predict_proba(NEW), bare.predict_proba(NEW))
    with pytest.raises(AdapterError, match="no adapter folder"):
        ClaimClassifier.from_pretrained("no-such-run")


def test_a_pickle_carries_the_adapter_and_no_path(trained, tmp_path):
    path = tmp_path / "classifier.pickle"
    path.write_bytes(pickle.dumps(trained))
    assert tempfile.gettempdir().encode() not in path.read_bytes()
    program = (
        "import pickle, sys, json; made = pickle.load(open(sys.argv[1], 'rb'));"
        "print(json.dumps([made.predict_proba(sys.argv[2:]).tolist(), made.classes_.tolist()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), *NEW[:5]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shares, classes = json.loads(done.stdout)
    assert np.allclose(shares, trained.predict_proba(NEW[:5]), atol=1e-6)
    assert classes == trained.classes_.tolist()


def test_hub_methods_take_the_parameters_of_the_mixin():
    for name, own in (
        ("save_pretrained", {"folder", "force"}),
        ("push_to_hub", {"base_id", "license", "language", "force"}),
        ("from_pretrained", {"identifier", "base"}),
    ):
        ours = set(inspect.signature(getattr(ClaimClassifier, name)).parameters)
        theirs = set(inspect.signature(getattr(ModelHubMixin, name)).parameters)
        assert ours - theirs == own


def test_push_to_hub_pushes_like_the_command_and_can_be_loaded(trained, hub, tiny_base, tmp_path):
    files = {path.name: path.read_bytes() for path in tiny_base("bert").iterdir()}
    commit = hub.put("org/tiny-bert", files)
    mine = pickle.loads(pickle.dumps(trained))
    url = mine.push_to_hub("alice/mine", base_id=f"org/tiny-bert@{commit}", license="mit", language="en")
    published = hub.files("alice/mine")
    assert url.startswith(f"{hub.url}/alice/mine/commit/")
    assert "config.json" not in published
    assert json.loads(published["adapter_config.json"])["base_model_name_or_path"] == "org/tiny-bert"
    assert b"[More Information Needed]" not in published["README.md"]
    assert b"lorahub:begin results" in published["README.md"], "our card, and no template's"
    assert len(hub.repo("alice/mine").commits) == 2
    assert mine.push_to_hub("alice/mine", license="mit", language="en") == url, "it remembers what it has pushed"
    assert len(hub.repo("alice/mine").commits) == 2, "nothing changed, so there is no new commit"
    mine.save_pretrained(tmp_path / "mine")
    commit = url.rpartition("/")[2]
    loaded = ClaimClassifier.from_pretrained("alice/mine", revision=commit, base="org/tiny-bert", token=TOKEN)
    assert np.allclose(loaded.predict_proba(NEW), trained.predict_proba(NEW), atol=1e-6)
    again = pickle.loads(pickle.dumps(loaded))
    assert np.array_equal(again.predict_proba(NEW), loaded.predict_proba(NEW))
    assert TOKEN.encode() not in pickle.dumps(loaded)
    with pytest.raises(AdapterError, match="no base is fetched on the word of a downloaded file"):
        ClaimClassifier.from_pretrained("alice/mine")
    with pytest.raises(LorahubError, match="revision"):
        ClaimClassifier.from_pretrained("alice/mine", revision="no-such-branch", base="org/tiny-bert")
    assert push.plan(tmp_path / "mine", push.Options(repo="alice/mine")).changed == [], "the command sends the same"


@pytest.mark.slow
def test_it_works_in_cross_validation_pipelines_and_searches():
    scores = cross_val_score(brief(), TEXTS, LABELS, cv=2)
    assert scores.shape == (2,)
    shouting = [text.upper() for text in TEXTS]
    quiet = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    pipeline = make_pipeline(quiet, brief(settings=SETTINGS)).fit(shouting, LABELS)
    assert pipeline.score([text.upper() for text in NEW], GOLD) > LEARNT
    assert pipeline.predict_proba(shouting[:3]).shape == (3, 2)
    idle = {**BRIEF, "train.learning_rate": 1e-6}
    search = GridSearchCV(brief(), {"settings": [idle, SETTINGS], "seed": [0]}, cv=2).fit(np.array(TEXTS), LABELS)
    assert search.best_params_ == {"settings": SETTINGS, "seed": 0}
    assert search.best_estimator_.score(NEW, GOLD) > LEARNT


@pytest.mark.slow
def test_the_same_seed_gives_the_same_classifier():
    first, second, other = (brief(seed=seed).fit(TEXTS, LABELS).predict_proba(NEW) for seed in (3, 3, 4))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
