"""`ClaimClassifier` passes scikit-learn's estimator checks, on a tiny base.

The checks use matrices of numbers, and scikit-learn skips most of them for an estimator of texts. So they run twice: as
they are, and with every row of numbers converted to a sentence. The checks that cannot pass then are in `LEFT_OUT` with
the reason, and must fail.
"""

import numpy as np
import pytest
from conftest import WORDS
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from lorahub import ClaimClassifier

LEVELS = 5
QUICK = {"train.min_steps": 4, "train.epochs": 0.1, "train.warmup": 0, "train.evaluate_every": 4, "eval.bootstrap": 100}
_NO_COLUMNS = "a text has no columns to count or check"
_NO_MATRIX = "is about matrices of numbers, which this test converts to sentences first"
LEFT_OUT = {
    "check_n_features_in": _NO_COLUMNS,
    "check_n_features_in_after_fitting": _NO_COLUMNS,
    "check_estimators_empty_data_messages": _NO_COLUMNS,
    "check_classifiers_train": f"four steps of a tiny random base do not reach its 83 %; {_NO_COLUMNS}",
    "check_sample_weight_equivalence_on_dense_data": "a text given twice is split and batched, one of weight 2 is not",
    "check_fit1d": "texts are one-dimensional",
    "check_fit2d_predict1d": "texts are one-dimensional",
    "check_dtype_object": _NO_MATRIX,
    "check_estimators_nan_inf": _NO_MATRIX,
    "check_estimator_sparse_tag": _NO_MATRIX,
    "check_estimator_sparse_array": _NO_MATRIX,
    "check_estimator_sparse_matrix": _NO_MATRIX,
}


class OfNumbers(ClaimClassifier):
    """A ClaimClassifier that reads a row of numbers as a sentence: one word per column, by its rounded value."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array, tags.input_tags.string = True, False, False
        return tags

    def fit(self, X, y, sample_weight=None):
        return super().fit(sentences_of(X), y, sample_weight)

    def predict(self, X):
        return super().predict(sentences_of(X))

    def predict_proba(self, X):
        return super().predict_proba(sentences_of(X))


def sentences_of(X):
    levels = (np.clip(np.round(np.asarray(X)), -2, 2) + 2).astype(int)
    return [" ".join(WORDS[(LEVELS * place + level) % len(WORDS)] for place, level in enumerate(row)) for row in levels]


@pytest.fixture(autouse=True)
def bases(tiny_base, monkeypatch):
    """Change to the folder above the tiny base: the estimators are created before it and have only its name."""
    monkeypatch.chdir(tiny_base("bert").parent)


# For an estimator of texts scikit-learn runs one check and warns about the others.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([ClaimClassifier()])
def test_the_checks_for_estimators_of_texts_pass(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [OfNumbers("tiny-bert", settings=QUICK, validation_fraction=0.2, test_fraction=0.2)],
    expected_failed_checks=lambda estimator: LEFT_OUT,
    xfail_strict=True,
)
def test_the_checks_for_classifiers_pass(estimator, check):
    check(estimator)


def test_every_skipped_check_exists_in_scikit_learn():
    names = {getattr(check, "func", check).__name__ for _, check in estimator_checks_generator(OfNumbers())}
    assert set(LEFT_OUT) <= names
    assert len(names - set(LEFT_OUT)) > 30, "most of them are run"
