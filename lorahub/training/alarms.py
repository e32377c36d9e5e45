"""What can go wrong in silence while training, said in words with what to do about it."""

import math

import numpy as np

from lorahub.config import EvalConfig
from lorahub.errors import TrainingError
from lorahub.labels import LabelSet
from lorahub.stats.verdicts import Calibration, Ids


def check_loss(loss: float, step: int, learning_rate: float) -> None:
    """Raise TrainingError when the loss is no number."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss became {loss} at step {step} (learning rate {learning_rate:g}). Lower train.learning_rate, "
            "raise train.warmup, or set train.mixed_precision=no."
        )


def one_class(predicted: Ids, gold: Ids, labels: LabelSet) -> str | None:
    """A warning when every prediction is the same label although the gold labels differ; else None."""
    found = np.unique(predicted)
    if len(found) > 1 or len(np.unique(gold)) < 2:
        return None
    return (
        f"the adapter answers {labels.names[int(found[0])]!r} to every validation claim. Lower train.learning_rate, "
        "raise train.warmup or train.epochs, or set train.class_weights=sqrt."
    )


def never_predicted(predicted: Ids, gold: Ids, labels: LabelSet) -> str | None:
    """A warning naming labels that occur in `gold` but are never predicted; else None."""
    absent = sorted(set(gold.tolist()) - set(predicted.tolist()))
    if not absent or len(np.unique(predicted)) == 1:
        return None
    names = ", ".join(labels.names[index] for index in absent)
    return f"never predicted on validation: {names}. Try train.class_weights=sqrt or more claims of that label."


def never_abstains(found: Calibration, options: EvalConfig, *, claims: int) -> str | None:
    """A warning when a threshold was asked for and `claims` validation claims gave none; else None."""
    if found.threshold is not None or not options.abstain_risk:
        return None
    return (
        f"no confidence is known to keep wrong answers at or below {options.abstain_risk:.0%} (eval.abstain_risk, with "
        f"certainty {options.confidence:.0%}, from {claims:,} validation claims): the adapter has no threshold and "
        "never abstains. More validation claims or a higher risk may give one."
    )
