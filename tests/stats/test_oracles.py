"""Our statistics against scipy's, statsmodels' and scikit-learn's, on the same data."""

import numpy as np
import pytest
from scipy import stats
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from statsmodels.stats import contingency_tables, multitest, weightstats

from lorahub.stats import bootstrap, calibration, equivalence, few_claims, metrics, paired
from lorahub.stats.verdicts import Calibration, calibrated, softmax


def two_systems(claims, seed, shares=(0.5, 0.3, 0.2)):
    """Gold ids of three labels and the answers of two systems that see the same hard claims."""
    rng = np.random.default_rng(seed)
    gold = rng.choice(3, p=shares, size=claims)
    shared = rng.normal(size=(claims, 3)) + 1.4 * np.eye(3)[gold]
    answers = [(shared + rng.normal(scale=noise, size=(claims, 3))).argmax(1) for noise in (0.6, 0.9)]
    return gold, *answers


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_the_paired_bootstrap_is_scipys(metric):
    """Both draw 4,000 resamples of 400 claims; the ends of percentile intervals agree within their own noise."""
    gold, ours, theirs = two_systems(400, seed=0)
    draws = bootstrap.paired_draws(gold, ours, theirs, 3, resamples=4000).metrics[metric]

    def value(rows, answers):
        counts = np.bincount(gold[rows] * 3 + answers[rows], minlength=9).reshape(3, 3)
        f1 = 2 * counts.diagonal() / (counts.sum(0) + counts.sum(1))
        support = counts.sum(1) / counts.sum()
        return {"accuracy": counts.trace() / 400, "f1_macro": f1.mean(), "f1_weighted": support @ f1}[metric]

    def difference(rows):
        return value(rows, ours) - value(rows, theirs)

    other = stats.bootstrap(
        (np.arange(400),), difference, n_resamples=4000, method="percentile", vectorized=False, rng=1
    )
    scikit = [metrics.quick(gold, answers)[metric] for answers in (ours, theirs)]
    assert draws[0] == pytest.approx(scikit[0] - scikit[1], abs=1e-12)
    assert draws[1:].std(ddof=1) == pytest.approx(other.standard_error, rel=0.05)
    np.testing.assert_allclose(
        bootstrap.percentiles(draws[1:], 0.95), tuple(other.confidence_interval), atol=0.15 * other.standard_error
    )


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 7), (8, 2), (12, 13), (13, 13), (40, 20), (300, 240)])
def test_mcnemar_is_statsmodels(b, c):
    p, test = paired.mcnemar(b, c)
    table = [[500, b], [c, 100]]
    other = contingency_tables.mcnemar(table, exact=test == "exact binomial", correction=False)
    assert p == pytest.approx(other.pvalue, abs=1e-12)


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_holm_is_statsmodels(count):
    p_values = np.random.default_rng(count).random(count) ** 3
    np.testing.assert_allclose(paired.holm(p_values), multitest.multipletests(p_values, method="holm")[1])


@pytest.mark.parametrize("margin", [0.02, 0.03, 0.05])
def test_the_two_one_sided_tests_are_statsmodels(margin):
    """On accuracy, a mean of paired differences, of 3,000 claims: flips that were not seen hardly matter."""
    gold, ours, theirs = two_systems(3000, seed=5)
    draws = bootstrap.paired_draws(gold, ours, theirs, 3, resamples=20_000).metrics["accuracy"]
    unseen = few_claims.unseen_flips(gold, (ours, theirs), 3, metric="accuracy", confidence=0.95)
    (row,) = equivalence.test([draws], [unseen], 3000, margin=margin, confidence=0.95)
    p = weightstats.ttost_paired((ours == gold) * 1.0, (theirs == gold) * 1.0, -margin, margin)[0]
    assert row.p == pytest.approx(p, abs=0.01)


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_the_temperature_is_scikit_learns(sharpness):
    rng = np.random.default_rng(6)
    features = rng.normal(size=(1200, 4))
    gold = (features @ rng.normal(size=(4, 3)) + rng.gumbel(size=(1200, 3))).argmax(1)
    model = LogisticRegression().fit(features[:600], gold[:600])
    model.coef_, model.intercept_ = model.coef_ * sharpness, model.intercept_ * sharpness
    other = CalibratedClassifierCV(FrozenEstimator(model), method="temperature").fit(features[600:], gold[600:])
    logits = model.decision_function(features).astype(np.float32)
    temperature = calibration.fit_temperature(logits[600:], gold[600:])
    ours = calibrated(logits[600:], Calibration(temperature=temperature))
    # Temperatures are tried in steps of 3.3 %.
    np.testing.assert_allclose(ours, other.predict_proba(features[600:]), atol=0.01)
    assert abs(ours - softmax(logits[600:])).max() > 0.05 or sharpness == 1.0
