"""Abstaining: the mark beside the label, and the threshold behind it."""

import json

import numpy as np
import pytest
from scipy import stats

from lorahub.config import EvalConfig
from lorahub.errors import AdapterError
from lorahub.labels import LabelSet
from lorahub.serving.predictor import Prediction
from lorahub.stats import calibration, selective
from lorahub.stats.verdicts import Calibration, abstains, calibrated, confidences, decide, softmax

LOGITS = np.array([[3, 0, 0], [0.2, 0, 0.1], [0, 1, 0]], np.float32)


def test_an_answer_below_the_threshold_is_marked_and_keeps_its_label():
    plain = Prediction(logits=LOGITS, labels=LabelSet(tuple("abc"))).verdicts()
    marked = Prediction(logits=LOGITS, labels=LabelSet(tuple("abc")), calibration=Calibration(threshold=0.5)).verdicts()
    assert [verdict.label for verdict in marked] == [verdict.label for verdict in plain] == ["a", "a", "b"]
    assert [verdict.abstain for verdict in plain] == [False] * 3
    assert [verdict.abstain for verdict in marked] == [False, True, False]


def test_the_confidence_is_the_calibrated_one():
    # The bias turns the label of the second claim, and the temperature its confidence.
    how = Calibration(bias=(0.0, 0.0, 1.0), temperature=0.1, threshold=0.99)
    ids, shown = decide(LOGITS, how), calibrated(LOGITS, how)
    assert ids.tolist() == [0, 2, 1]
    assert confidences(shown, ids).tolist() == shown.max(axis=1).tolist()
    assert abstains(confidences(shown, ids), how).tolist() == [False, False, True]


def test_a_threshold_is_kept_and_an_older_folder_never_abstains(tmp_path):
    Calibration(threshold=0.7, split="validation").save(tmp_path)
    assert Calibration.load(tmp_path, 3).threshold == 0.7
    (tmp_path / "calibration.json").write_text('{"temperature": 1.5, "bias": [], "split": "validation"}')
    assert Calibration.load(tmp_path, 3) == Calibration(temperature=1.5, split="validation")


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan"), "high"])
def test_a_threshold_that_is_no_probability_is_refused(tmp_path, wrong):
    (tmp_path / "calibration.json").write_text(json.dumps({"temperature": 1, "bias": [], "threshold": wrong}))
    with pytest.raises(AdapterError, match=r"calibration\.json"):
        Calibration.load(tmp_path, 3)


def drawn(count, seed, *, slope=1.0):
    """Confidences, and answers that are right as often as these say (slope 1): their true risk is known."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.4, 1, size=count).astype(np.float32)
    return rng.uniform(size=count) < slope * confidence, confidence


@pytest.mark.slow
def test_the_risk_asked_for_is_kept_on_new_claims_as_often_as_promised():
    # Of uniform confidences from t on, a share (1 - t) / 2 is wrong: a risk of 0.2 is kept from t = 0.6 on.
    found = [selective.threshold(*drawn(400, seed), risk=0.2, certainty=0.9) for seed in range(400)]
    known = np.array([value for value in found if value is not None])
    assert len(known) > 380
    assert (known < 0.6).mean() <= 0.1, "the guarantee"
    assert np.median(known) < 0.75, "and it is not kept by answering nothing"


def test_more_claims_give_a_threshold_nearer_to_the_true_one():
    few, many = (selective.threshold(*drawn(n, 1), risk=0.2, certainty=0.95) for n in (300, 30_000))
    assert 0.6 < many < 0.63 < few


def test_the_ends_all_answered_and_none():
    right, confidence = drawn(500, 2)
    assert selective.threshold(right | True, confidence, risk=0.1, certainty=0.95) == 0.0
    assert selective.threshold(right & False, confidence, risk=0.1, certainty=0.95) is None
    assert selective.threshold(right, confidence, risk=0.01, certainty=0.95) is None
    # Equally sure claims stand or fall together: 80 % of these are right, and none is surer.
    same = np.full(100, 0.9, np.float32)
    assert selective.threshold(np.arange(100) < 80, same, risk=0.2, certainty=0.95) is None
    assert selective.threshold(np.arange(100) < 80, same, risk=0.3, certainty=0.95) == 0.0


def test_the_bound_is_the_binomial_tail_of_the_paper():
    bound = selective.risk_bound(3, 50, certainty=0.95)
    assert stats.binom.cdf(3, 50, bound) == pytest.approx(0.05)
    assert selective.risk_bound(50, 50, certainty=0.95) == 1.0


def test_area_and_curve_by_hand():
    right = np.array([True, False, True, True])
    confidence = np.array([0.9, 0.8, 0.7, 0.7], np.float32)
    # Risks at the four claims' own confidences: 0, 1/2, 1/4, 1/4.
    assert selective.area(right, confidence) == pytest.approx(0.25)
    points = selective.curve(right, confidence)
    assert [(row.coverage, row.risk) for row in points] == [(0.25, 0), (0.5, 0.5), (1.0, 0.25)]
    assert [row.confidence for row in points] == pytest.approx([0.9, 0.8, 0.7])
    # A confidence that says nothing has an area like the share of wrong answers.
    rng = np.random.default_rng(0)
    useless = selective.area(rng.uniform(size=5000) < 0.7, rng.uniform(size=5000).astype(np.float32))
    assert useless == pytest.approx(0.3, abs=0.03)
    assert len(selective.curve(*drawn(5000, 3))) == 100


def test_calibration_chooses_the_threshold_by_the_risk_that_is_asked_for():
    rng = np.random.default_rng(5)
    true = rng.normal(size=(3000, 3)).astype(np.float32) * 1.5
    gold = np.array([rng.choice(3, p=row / row.sum()) for row in softmax(true).astype(np.float64)])
    asked = EvalConfig(adjust=False, abstain_risk=0.2)
    fitted = calibration.fit(true, gold, np.ones(3) / 3, metric="f1_macro", options=asked)
    found = selective.figures(true, gold, fitted, confidence=0.95)
    assert found.threshold == fitted.threshold
    assert found.answered == round(found.coverage * 3000)
    assert 0.8 < found.accuracy < 0.9
    assert found.interval.accuracy[0] > 0.79
    stricter = calibration.fit(true, gold, np.ones(3) / 3, metric="f1_macro", options=EvalConfig(abstain_risk=0.1))
    assert stricter.threshold > fitted.threshold
    none = calibration.fit(true, gold, np.ones(3) / 3, metric="f1_macro", options=EvalConfig(abstain_risk=0))
    assert none.threshold is None
    everything = selective.figures(true, gold, none, confidence=0.95)
    assert (everything.coverage, everything.answered) == (1.0, 3000)
    above_all = selective.figures(true, gold, Calibration(threshold=1.0), confidence=0.95)
    assert (above_all.answered, above_all.accuracy, above_all.interval.accuracy) == (0, None, None)
