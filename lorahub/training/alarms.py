"""Warnings about failures of a training that raise no error, each with a fix."""

import math
from collections.abc import Iterator

import numpy as np

from lorahub.config import EvalConfig
from lorahub.data.batches import EncodedClaims
from lorahub.errors import TrainingError
from lorahub.labels import LabelSet
from lorahub.models.base import Base
from lorahub.stats.calibration import halves
from lorahub.stats.verdicts import Calibration, Floats, Ids, decide


def truncated(claims: EncodedClaims, base: Base, *, configured: int) -> list[str]:
    """Return a warning if training claims are not read to the end; `configured` is base.max_length."""
    count = len(claims.truncated)
    if not count:
        return []
    more = configured == base.max_length < base.limit
    fix = f"Raise base.max_length, up to {base.limit}." if more else "The base reads no more."
    return [
        f"{count:,} of {len(claims):,} training claims ({count / len(claims):.1%}) are longer than {base.max_length} "
        f"tokens, and their end is not read. {fix}"
    ]


def check_loss(loss: float, step: int, learning_rate: float) -> None:
    """Raise TrainingError if the loss is not finite."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss became {loss} at step {step} (learning rate {learning_rate:g}). Lower train.learning_rate, "
            "raise train.warmup, or set train.mixed_precision=no."
        )


def one_class(predicted: Ids, gold: Ids, labels: LabelSet) -> str | None:
    """Return a warning if all predictions are the same label although the gold labels differ; else None."""
    if len(np.unique(predicted)) > 1 or len(np.unique(gold)) < 2:
        return None
    return (
        f"the adapter answers {labels.names[int(predicted[0])]!r} to every validation claim. Lower "
        "train.learning_rate, raise train.warmup or train.epochs, or set train.class_weights=sqrt."
    )


def never_predicted(predicted: Ids, gold: Ids, labels: LabelSet) -> str | None:
    """Return a warning that names the labels which occur in `gold` but are never predicted; else None."""
    absent = sorted(set(gold.tolist()) - set(predicted.tolist()))
    if not absent or len(np.unique(predicted)) == 1:
        return None
    names = ", ".join(labels.names[index] for index in absent)
    return f"never predicted on validation: {names}. Try train.class_weights=sqrt or more claims of that label."


def never_abstains(calibration: Calibration, options: EvalConfig, *, claims: int) -> str | None:
    """Return a warning if `claims` validation claims gave no threshold although one was configured; else None."""
    if calibration.threshold is not None or not options.abstain_risk:
        return None
    return (
        f"no confidence is known to keep wrong answers at or below {options.abstain_risk:.0%} (eval.abstain_risk, with "
        f"certainty {options.confidence:.0%}, from {claims:,} validation claims): the adapter has no threshold and "
        "never abstains. More validation claims or a higher risk may give one."
    )


def after_training(
    logits: Floats, gold: Ids, calibration: Calibration, options: EvalConfig, labels: LabelSet
) -> Iterator[str]:
    """Yield the warnings about a trained adapter from its logits (N, C) and gold ids (N,) on validation."""
    answers = decide(logits, calibration)
    warnings = (
        one_class(answers, gold, labels),
        never_predicted(answers, gold, labels),
        never_abstains(calibration, options, claims=len(halves(gold).calibrate)),
    )
    yield from (warning for warning in warnings if warning)
