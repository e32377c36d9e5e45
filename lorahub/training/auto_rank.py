"""`adapter.rank=auto`: a trained adapter of a high rank, cut to the smallest rank that validation cannot tell from it.

In: the trained model, what answers validation, and gold ids. Out: the model cut in place, and the `Plateau` that says
why. The alternative, training anew at the rank that is named, is not done: what is kept would be another model than the
one that was measured, with the noise of another training in it, for twice the time. A cut adapter is the one that was
judged. It is never better than training at its rank can be, so the rank is enough and not always the least.
"""

from collections.abc import Callable, Mapping
from typing import Any

from lorahub.config import Config
from lorahub.models import truncation
from lorahub.reports import tables
from lorahub.stats import calibration, plateau
from lorahub.stats.plateau import Plateau
from lorahub.stats.verdicts import Floats, Ids, decide


def cut(model: Any, answer: Callable[[], Floats], gold: Mapping[str, Ids], config: Config) -> Plateau:
    """Judge the model on validation at every rank of the ladder, with `answer` (N, C), and cut it to the plateau's."""
    updates, answers = truncation.updates(model), {}
    for rank in plateau.ladder(config.adapter.trained_rank):
        truncation.truncate(model, updates, rank)
        logits = answer()
        answers[rank] = decide(logits, calibration.of_run(logits, gold, config))
    found = plateau.find(
        gold["validation"],
        answers,
        logits.shape[1],
        metric=config.train.metric,
        resamples=config.eval.bootstrap,
        confidence=config.eval.confidence,
    )
    truncation.truncate(model, updates, found.rank)
    return found


def told(found: Plateau, config: Config) -> dict[str, Any]:
    """What a record says of the choice."""
    sure = tables.selected_rank(found, config.eval.confidence)
    return {
        "trained": found.reference,
        "kept": found.rank,
        "low": found.low,
        "high": found.high,
        "shares": {str(rank): share for rank, share in found.shares.items()},
        "difference": found.gap.difference,
        "interval": list(found.gap.interval),
        "why": f"{sure}: {tables.rank_reason(found, config.train.metric)}",
    }
