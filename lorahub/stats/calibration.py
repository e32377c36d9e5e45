"""Bias, temperature and abstention threshold, chosen on validation.

In: validation logits (N, C) and gold ids (N,). Out: a `Calibration`. One half of validation selects: the checkpoint,
the rank, the trial of a sweep and the bias, all by the metric of the labels that the bias gives. The other half
calibrates: temperature and threshold. Rows that selected a model look better than new ones, and a threshold chosen on
them breaks its risk. Sources: logit adjustment, Menon et al. 2021, arXiv:2007.07314, section 3; temperature, Guo et al.
2017, arXiv:1706.04599, section 4.2; threshold, see selective.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lorahub.config import Config, EvalConfig
from lorahub.stats import selective
from lorahub.stats.metrics import quick
from lorahub.stats.verdicts import Calibration, Floats, Ids, calibrated, confidences, decide, softmax

# Adding t * log(prior) with one strength t is one parameter however many labels there are: it can be chosen on a few
# hundred claims without fitting their noise, which a free bias per label cannot.
STRENGTHS = np.linspace(-1.0, 1.0, 21)
# A gain below this is within the noise of a validation split: the bias stays 0.
SMALLEST_GAIN = 0.005
TEMPERATURES = np.geomspace(0.2, 10.0, 120)
FEWEST_CLAIMS = 50


@dataclass(frozen=True, kw_only=True)
class Halves:
    """The rows of validation that select and those that calibrate, in ascending order."""

    select: Ids
    calibrate: Ids


def halves(gold: Ids) -> Halves:
    """Divide the rows of validation into two halves with equal shares of every label.

    The same for every run on the same claims. With fewer than 50 claims all of them select and none calibrates.
    """
    rows = np.arange(len(gold))
    if len(gold) < FEWEST_CLAIMS:
        return Halves(select=rows, calibrate=rows[:0])
    order = np.lexsort((np.random.default_rng(0).permutation(len(gold)), gold))
    return Halves(select=np.sort(order[::2]), calibrate=np.sort(order[1::2]))


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How a model decides on the selecting half of validation.

    `rows` are its rows (S,), `answers` the label ids after the `bias` (S,), `metrics` their figures.
    """

    rows: Ids
    answers: Ids
    metrics: dict[str, float]
    bias: tuple[float, ...]


def select(logits: Floats, gold: Mapping[str, Ids], config: Config) -> Selection:
    """Choose the bias of a model as its run decides, from its logits on validation (N, C) and the gold ids by split."""
    answered, rows = gold["validation"], halves(gold["validation"]).select
    bias: tuple[float, ...] = ()
    if config.eval.adjust and len(answered) >= FEWEST_CLAIMS:
        bias = _bias(logits[rows], answered[rows], _shares(gold["train"], logits.shape[1]), metric=config.train.metric)
    answers = decide(logits[rows], Calibration(bias=bias))
    return Selection(rows=rows, answers=answers, metrics=quick(answered[rows], answers), bias=bias)


def of_run(logits: Floats, gold: Mapping[str, Ids], config: Config) -> Calibration:
    """Fit a run's calibration from its logits on validation (N, C) and the gold ids by split.

    With fewer than 50 claims everything stays neutral.
    """
    answered, rows = gold["validation"], halves(gold["validation"]).calibrate
    bias = select(logits, gold, config).bias
    if not len(rows):
        return Calibration(split="validation")
    return calibrate(logits[rows], answered[rows], bias, config.eval)


def calibrate(logits: Floats, gold: Ids, bias: tuple[float, ...], options: EvalConfig) -> Calibration:
    """Choose the temperature by likelihood, then the threshold by its risk, on claims that did not select the model."""
    fitted = Calibration(temperature=fit_temperature(logits, gold, bias), bias=bias, split="validation")
    if not options.abstain_risk:
        return fitted
    ids = decide(logits, fitted)
    sure = confidences(calibrated(logits, fitted), ids)
    threshold = selective.threshold(ids == gold, sure, risk=options.abstain_risk, certainty=options.confidence)
    return fitted.model_copy(update={"threshold": threshold})


def temperature_of(logits: Mapping[str, Floats], gold: Mapping[str, Ids]) -> Calibration:
    """Return a system's temperature alone, from its logits (N, C) and gold ids by split; neutral with few claims."""
    answered, rows = gold["validation"], halves(gold["validation"]).calibrate
    if not len(rows):
        return Calibration()
    return Calibration(temperature=fit_temperature(logits["validation"][rows], answered[rows]))


def _shares(gold: Ids, labels: int) -> npt.NDArray[np.float64]:
    counts = np.maximum(np.bincount(gold, minlength=labels), 1).astype(np.float64)
    shares: npt.NDArray[np.float64] = counts / counts.sum()
    return shares


def _bias(logits: Floats, gold: Ids, shares: npt.NDArray[np.float64], *, metric: str) -> tuple[float, ...]:
    """Return the bias (C,) that is best by `metric`, empty if none is better by more than noise.

    `shares` (C,) are the label shares of the training claims.
    """

    def value(strength: float) -> float:
        bias = tuple(strength * np.log(shares))
        return quick(gold, decide(logits, Calibration(bias=bias)))[metric]

    values = np.array([value(strength) for strength in STRENGTHS])
    # A plateau generalizes better than a peak, so strengths are compared by the mean over neighbors.
    smooth = np.convolve(np.pad(values, 1, mode="edge"), np.ones(3) / 3, mode="valid")
    best = int(smooth.argmax())
    if smooth[best] - value(0.0) < SMALLEST_GAIN:
        return ()
    return tuple(float(item) for item in STRENGTHS[best] * np.log(shares))


def fit_temperature(logits: Floats, gold: Ids, bias: tuple[float, ...] = ()) -> float:
    """Return the temperature with the lowest mean negative log-likelihood (nats a claim)."""
    shifted = logits + np.asarray(bias, dtype=logits.dtype) if bias else logits

    def loss(temperature: float) -> float:
        chosen = softmax(shifted / np.float32(temperature))[np.arange(len(gold)), gold]
        return float(-np.log(np.maximum(chosen, 1e-12)).mean())

    return float(min(TEMPERATURES, key=loss))
