"""`adapter.rank=auto`: choose the rank on validation and truncate the trained adapter to it.

In: a TrainingSession whose adapter was trained at a high rank. Out: the adapter truncated to the smallest rank that is
shown to be at most `eval.margin` worse on validation, and the choice for the record. The adapter is not trained again
at that rank: the kept model would differ from the measured one, with the noise of another training, for twice the
time. A truncated adapter is never better than one trained at its rank, so the rank suffices but is not always the
smallest.
"""

from lorahub.config import AUTO
from lorahub.models import truncation
from lorahub.records import RankChoice
from lorahub.reports import tables
from lorahub.stats import calibration, plateau
from lorahub.training.session import TrainingSession


def truncate_to_selected_rank(session: TrainingSession) -> RankChoice | None:
    """Evaluate the adapter on validation at every rank of the ladder and truncate it; None unless rank is auto."""
    config, model = session.config, session.model
    if config.adapter.rank != AUTO:
        return None
    updates, answers = truncation.updates(model), {}
    for rank in plateau.ladder(config.adapter.trained_rank):
        truncation.truncate(model, updates, rank)
        selection = calibration.select(session.logits("validation"), session.gold, config)
        answers[rank] = selection.answers
    selected = plateau.find(
        session.gold["validation"][selection.rows],
        answers,
        len(session.data.labels),
        metric=config.train.metric,
        margin=config.eval.margin,
        resamples=config.eval.bootstrap,
        confidence=config.eval.confidence,
    )
    truncation.truncate(model, updates, selected.rank)
    sure = tables.selected_rank(selected, config.eval.confidence)
    return RankChoice(
        trained=selected.reference,
        kept=selected.rank,
        low=selected.low,
        high=selected.high,
        shares={str(rank): share for rank, share in selected.shares.items()},
        difference=selected.gap.difference,
        interval=selected.gap.interval,
        why=f"{sure}: {tables.rank_reason(selected, config.train.metric)}",
    )
