"""Bias, temperature and abstention threshold, chosen on validation.

In: validation logits (N, C) and gold ids (N,). Out: a `Calibration`. Sources: logit adjustment, Menon et al. 2021,
arXiv:2007.07314, section 3; temperature, Guo et al. 2017, arXiv:1706.04599, section 4.2; threshold, see selective.py.
"""

from collections.abc import Mapping

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


def fit(logits: Floats, gold: Ids, priors: npt.NDArray[np.float64], *, metric: str, options: EvalConfig) -> Calibration:
    """Choose the bias by `metric`, then the temperature by likelihood, then the threshold by its risk.

    With too few claims all three stay neutral. `priors` (C,) are the label shares of the training claims.
    """
    if len(gold) < FEWEST_CLAIMS:
        return Calibration(split="validation")

    def value(strength: float) -> float:
        bias = tuple(strength * np.log(priors))
        return quick(gold, decide(logits, Calibration(bias=bias)))[metric]

    bias: tuple[float, ...] = ()
    if options.adjust:
        values = np.array([value(strength) for strength in STRENGTHS])
        # A plateau generalizes better than a peak, so strengths are compared by the mean over neighbors.
        smooth = np.convolve(np.pad(values, 1, mode="edge"), np.ones(3) / 3, mode="valid")
        best = int(smooth.argmax())
        if smooth[best] - value(0.0) >= SMALLEST_GAIN:
            bias = tuple(float(item) for item in STRENGTHS[best] * np.log(priors))
    fitted = Calibration(temperature=fit_temperature(logits, gold, bias), bias=bias, split="validation")
    return (
        fitted.model_copy(update={"threshold": _threshold(logits, gold, fitted, options)})
        if options.abstain_risk
        else fitted
    )


def _threshold(logits: Floats, gold: Ids, fitted: Calibration, options: EvalConfig) -> float | None:
    ids = decide(logits, fitted)
    sure = confidences(calibrated(logits, fitted), ids)
    return selective.threshold(ids == gold, sure, risk=options.abstain_risk, certainty=options.confidence)


def of_run(logits: Floats, gold: Mapping[str, Ids], config: Config) -> Calibration:
    """Fit as a run does: by its metric, from its logits on validation (N, C) and the gold ids by split."""
    counts = np.bincount(gold["train"], minlength=logits.shape[1])
    return fit(logits, gold["validation"], counts / counts.sum(), metric=config.train.metric, options=config.eval)


def temperature_of(logits: Mapping[str, Floats], gold: Mapping[str, Ids]) -> Calibration:
    """Return a system's temperature alone, from its logits (N, C) and gold ids by split; neutral with few claims."""
    if len(gold["validation"]) < FEWEST_CLAIMS:
        return Calibration()
    return Calibration(temperature=fit_temperature(logits["validation"], gold["validation"]))


def fit_temperature(logits: Floats, gold: Ids, bias: tuple[float, ...] = ()) -> float:
    """Return the temperature with the lowest mean negative log-likelihood (nats a claim)."""
    shifted = logits + np.asarray(bias, dtype=logits.dtype) if bias else logits

    def loss(temperature: float) -> float:
        chosen = softmax(shifted / np.float32(temperature))[np.arange(len(gold)), gold]
        return float(-np.log(np.maximum(chosen, 1e-12)).mean())

    return float(min(TEMPERATURES, key=loss))
