"""What few claims do not show: errors and flips that did not occur among them, and intervals that allow for them.

In: a confusion matrix (C, C) with gold labels in rows, or gold ids and answers (N,), and bootstrap resamples. Out:
intervals, and resamples (R + 1,) that also vary by what was not observed.

A bootstrap draws only what it has seen. For a system that has 12 of 12 claims right its interval is [1, 1], and for two
systems with the same 12 answers the interval of their difference is [0, 0]. Agresti and Coull (1998, The American
Statistician 52:119-126) add z^2 / 2 successes and failures to a proportion. In the same way, the number of unseen
errors or flips is given the variance z^2, all of them in the label where they change the metric most: with none
observed among N claims, the interval ends z^2 / N from the observed value, as Wilson's does up to terms of 1 / N^2.
"""

import functools
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np

from lorahub.stats import bootstrap
from lorahub.stats.bootstrap import Counts, Values
from lorahub.stats.verdicts import Ids

_SEED = 20_240_602
Interval = tuple[float, float]


def binomial(hits: int, count: int, confidence: float) -> Interval:
    """Return the exact interval of a share (Clopper and Pearson 1934), whose coverage is never below `confidence`."""
    from scipy import stats  # 1.4 s, which reading a record need not take

    interval = stats.binomtest(hits, count).proportion_ci(confidence)
    return float(interval.low), float(interval.high)


def intervals(confusion: Counts, *, resamples: int, confidence: float) -> dict[str, Interval]:
    """Return intervals of the headline metrics: exact for accuracy, a widened bootstrap for F1."""
    labels = len(confusion)
    every = np.arange(labels * labels)
    observed = bootstrap.headline(confusion.reshape(1, -1), every // labels, every % labels, labels)
    drawn = bootstrap.bootstrap(confusion, resamples=resamples, confidence=confidence)
    right, count = int(confusion.trace()), int(confusion.sum())
    return {
        name: binomial(right, count, confidence)
        if name == "accuracy"
        else widen(
            float(observed[name][0]),
            interval,
            unseen_errors(confusion, metric=name, confidence=confidence),
            confidence=confidence,
        )
        for name, interval in drawn.items()
    }


def widen(value: float, interval: Interval, unseen: float, *, confidence: float) -> Interval:
    """Return the interval of a share with both of its sides lengthened by a standard deviation `unseen`."""
    extra, (low, high) = _z(confidence) * unseen, interval
    return (
        max(0.0, value - float(np.hypot(max(0.0, value - low), extra))),
        min(1.0, value + float(np.hypot(max(0.0, high - value), extra))),
    )


def unseen_errors(confusion: Counts | Values, *, metric: str, confidence: float) -> float:
    """Return the standard deviation of a metric from errors that were not observed.

    For a label of which half of the claims are wrong, the bootstrap lacks nothing, and where all or none are, it has no
    width: the number of unseen errors is scaled by |1 - 2 recall|.
    """
    support = confusion.sum(axis=1)
    recall = confusion.diagonal() / np.maximum(support, 1)
    effect = _effect(support, confusion.sum(axis=0), metric)
    return _z(confidence) * float((effect * np.abs(1 - 2 * recall))[support > 0].max())


def unseen_flips(gold: Ids, answers: Sequence[Ids], labels: int, *, metric: str, confidence: float) -> float:
    """Return the standard deviation of a metric's difference from flips that were not observed.

    A flip is a claim that one system has right and the other one wrong. `answers` are those of both systems to the
    claims with the gold ids (N,).
    """
    support = np.bincount(gold, minlength=labels)
    answered = np.bincount(np.concatenate(answers), minlength=labels) / len(answers)
    return _z(confidence) * float(_effect(support, answered, metric)[support > 0].max())


def unseen_flips_by_label(gold: Ids, answers: Sequence[Ids], labels: int, *, confidence: float) -> Values:
    """Return the same for the F1 of each label, (C,)."""
    support = np.bincount(gold, minlength=labels)
    answered = np.bincount(np.concatenate(answers), minlength=labels) / len(answers)
    flips: Values = _z(confidence) * 2 / np.maximum(support + answered, 1)
    return flips


def widened(draws: Values, unseen: float) -> Values:
    """Return differences (R + 1,) whose resamples also vary by normal noise of standard deviation `unseen`."""
    return np.concatenate([draws[:1], draws[1:] + unseen * _noise(len(draws) - 1)])


def enough_flips(gold: Ids, ours: Ids, theirs: Ids, *, confidence: float) -> bool:
    """Return whether enough claims are right with one system alone for McNemar's exact test to detect a difference.

    With k of them its smallest p-value is 2 / 2^k: a confidence of 0.95 needs 6, however many claims there are.
    """
    flips = int(((ours == gold) != (theirs == gold)).sum())
    return 2.0 ** (1 - flips) < 1 - confidence


def widened_metrics(
    draws: Mapping[str, Values], gold: Ids, answers: Sequence[Ids], labels: int, *, confidence: float
) -> dict[str, Values]:
    """Return differences (R + 1,) of two systems' headline metrics, widened by flips that were not observed."""
    return {
        metric: widened(values, unseen_flips(gold, answers, labels, metric=metric, confidence=confidence))
        for metric, values in draws.items()
    }


def _effect(support: Counts | Values, answered: Counts | Values, metric: str) -> Values:
    """Return by label, (C,), about how much one error changes a metric: of F1, 2 / (claims + answers) of its label."""
    if metric == "accuracy":
        return np.full(len(support), 1 / support.sum())
    effect: Values = 2 / np.maximum(support + answered, 1)
    if metric == "f1_macro":
        occurring: Values = effect / int((support + answered > 0).sum())
        return occurring
    weighted: Values = effect * support / support.sum()
    return weighted


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


@functools.cache
def _noise(count: int) -> Values:
    """Return evenly spaced quantiles of the standard normal distribution in random order, (R,)."""
    normal = NormalDist()
    quantiles = np.array([normal.inv_cdf((place + 0.5) / count) for place in range(count)])
    return np.random.default_rng(_SEED).permutation(quantiles)
