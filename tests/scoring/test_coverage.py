"""Abstaining: the mark beside the label, and the threshold behind it."""

import json

import numpy as np
import pytest

from lorahub.errors import AdapterError
from lorahub.scoring.verdicts import Calibration, abstains, calibrated, confidences, decide
from lorahub.serving.engine import verdicts

LOGITS = np.array([[3, 0, 0], [0.2, 0, 0.1], [0, 1, 0]], np.float32)


def test_an_answer_below_the_threshold_is_marked_and_keeps_its_label():
    plain = verdicts(LOGITS, "abc", Calibration())
    marked = verdicts(LOGITS, "abc", Calibration(threshold=0.5))
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
