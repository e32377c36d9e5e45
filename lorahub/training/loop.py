"""The training loop, whole, from top to bottom.

In: a model of which any part asks for gradients, encoded claims and a TrainConfig. Out: the same model holding its best
weights by a validation metric, and a `Fit` that tells what happened. Devices, processes and precision are accelerate's.
Ctrl-C ends the loop early and keeps the best so far; where checkpoints are written, it writes one and stops.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedTokenizerBase, get_scheduler

from lorahub.config import TrainConfig
from lorahub.data.batches import EncodedClaims, training_batches
from lorahub.errors import TrainingError
from lorahub.labels import LabelSet
from lorahub.stats.metrics import quick
from lorahub.stats.verdicts import Ids
from lorahub.training import alarms, evaluation, memory, optimizers
from lorahub.training.checkpoints import Checkpoints, rest
from lorahub.training.progress import Fit, State

log = logging.getLogger(__name__)

_MOST_EVALUATIONS = 10
# Losses and rates shown live are means over this many steps: steady enough to read.
_SHOWN_OVER = 20


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a progress display needs after an optimiser step."""

    step: int
    total: int
    loss: float
    learning_rate: float
    samples_per_second: float
    validation: dict[str, float] | None = None


def fit(  # noqa: C901 - one story, read from top to bottom
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    train: EncodedClaims,
    validation: EncodedClaims,
    labels: LabelSet,
    config: TrainConfig,
    *,
    accelerator: Accelerator,
    scoring_batch_size: int,
    optimizer_form: str = optimizers.ADAMW,
    checkpoints: Checkpoints | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Fit:
    """Train in place and leave the best weights in `model`; raises TrainingError when nothing usable came out."""
    loader = training_batches(
        train, tokenizer, batch_size=config.batch_size, seed=config.seed, grouped=config.length_groups
    )
    sampler: Any = loader.batch_sampler
    state = State(model)
    trained = list(state.trained.values())
    if not trained:
        raise TrainingError("nothing is trainable: the adapter matched no layer. Check adapter.targets.")
    optimizer = optimizers.build(optimizer_form, trained, config)
    batches_per_epoch = math.ceil(len(loader) / accelerator.num_processes)
    steps_per_epoch, total = planned_steps(config, batches_per_epoch)
    # A prepared scheduler advances once for every process.
    scheduler = get_scheduler(
        "constant_with_warmup" if config.schedule == "constant" else config.schedule,
        optimizer,
        num_warmup_steps=round(config.warmup * total) * accelerator.num_processes,
        num_training_steps=total * accelerator.num_processes,
    )
    weights = torch.tensor(class_weights(train.gold, len(labels), config.class_weights), device=accelerator.device)
    evaluate_every = config.evaluate_every or math.ceil(
        total / min(_MOST_EVALUATIONS, max(1, round(2 * total / steps_per_epoch)))
    )
    wrapped, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)

    if checkpoints is not None:
        checkpoints.begin(accelerator, state)
    happened = state.fit
    happened.planned_steps = total
    started, cpu_started = time.perf_counter() - happened.seconds, time.process_time() - happened.cpu_seconds
    wrapped.train()
    try:
        while not _is_over(happened, config):
            epoch, seen_of_epoch = divmod(happened.batches, batches_per_epoch)
            sampler.set_epoch(epoch)
            loader.set_epoch(epoch)  # or accelerate's own count, from 0, decides
            for batch in rest(loader, seen_of_epoch):
                with accelerator.accumulate(wrapped):
                    batch.pop("row")
                    gold = batch.pop("labels")
                    loss = F.cross_entropy(
                        wrapped(**batch).logits.float(), gold, weight=weights, label_smoothing=config.label_smoothing
                    )
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(trained, config.max_grad_norm)
                    optimizer.step()
                    rate = scheduler.get_last_lr()[0]
                    scheduler.step()
                    optimizer.zero_grad()
                happened.batches += 1
                happened.seen += len(gold) * accelerator.num_processes
                happened.recent = [*happened.recent[-(_SHOWN_OVER - 1) :], loss.item()]
                if not accelerator.sync_gradients:
                    continue
                happened.steps += 1
                alarms.check_loss(happened.recent[-1], happened.steps, rate)
                metrics = None
                if happened.steps % evaluate_every == 0 or happened.steps == total:
                    metrics, warning = _evaluate(
                        wrapped, tokenizer, validation, labels, accelerator, batch_size=scoring_batch_size
                    )
                    memory.give_back()
                    if warning and 2 * happened.steps >= total:  # early on it is the rule
                        log.warning("step %d: %s", happened.steps, warning)
                    loss_shown = float(np.mean(happened.recent))
                    happened.curve.append(
                        {"step": happened.steps, "loss": loss_shown, "learning_rate": rate, **metrics}
                    )
                    happened.since_best += 1
                    # Of equal scores, which a small validation split often gives, the surer one is the better.
                    value, sureness = metrics[config.metric], -metrics["loss_validation"]
                    if (value, sureness) > (happened.best_value, -happened.best_loss):
                        happened.best_value, happened.best_loss = value, -sureness
                        happened.best_step, happened.since_best = happened.steps, 0
                        state.keep_best()
                happened.seconds = time.perf_counter() - started
                happened.cpu_seconds = time.process_time() - cpu_started
                if on_step is not None:
                    on_step(
                        Step(
                            step=happened.steps,
                            total=total,
                            loss=float(np.mean(happened.recent)),
                            learning_rate=rate,
                            samples_per_second=happened.samples_per_second,
                            validation=metrics,
                        )
                    )
                over = _is_over(happened, config)
                if checkpoints is not None:
                    checkpoints.after_step(last=over)
                if over:
                    break
    except KeyboardInterrupt:
        if not happened.steps or (checkpoints is not None and checkpoints.every is not None):
            raise
        happened.interrupted = True
        happened.warnings.append(f"stopped by hand after {happened.steps} of {total} steps.")
    except TrainingError as error:
        if state.best is None:
            raise
        happened.warnings.append(f"training stopped early: {error}")

    if state.best is None:
        happened.best_step = happened.steps
    state.restore_best()
    # From here on `model` answers as its saved files will, in full precision.
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
    model.eval()
    if _patience_is_over(happened, config):
        log.info("stopped early: no better %s for %d evaluations", config.metric, config.patience)
    return happened


def planned_steps(config: TrainConfig, batches: int) -> tuple[int, int]:
    """Optimiser steps of an epoch and of the whole training, where an epoch has so many batches."""
    steps_per_epoch = math.ceil(batches / config.gradient_accumulation)
    return steps_per_epoch, max(1, round(config.epochs * steps_per_epoch), config.min_steps)


def class_weights(gold: Ids, labels: int, kind: str) -> list[float]:
    """Loss weight per label, scaled so that the mean over the training claims is 1.

    `sqrt` is 1/sqrt(frequency), `balanced` 1/frequency.
    """
    frequency = np.bincount(gold, minlength=labels) / len(gold)
    power = {"none": 0.0, "sqrt": 0.5, "balanced": 1.0}[kind]
    raw = np.maximum(frequency, 1 / len(gold)) ** -power
    return [float(weight) for weight in raw / (raw * frequency).sum()]


def _is_over(happened: Fit, config: TrainConfig) -> bool:
    return happened.steps >= happened.planned_steps or _patience_is_over(happened, config)


def _patience_is_over(happened: Fit, config: TrainConfig) -> bool:
    return bool(config.patience) and happened.since_best >= config.patience


def _evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    claims: EncodedClaims,
    labels: LabelSet,
    accelerator: Accelerator,
    *,
    batch_size: int,
) -> tuple[dict[str, float], str | None]:
    """Validation metrics and loss, and a warning when the model has collapsed onto one label."""
    logits = evaluation.logits(model, claims, tokenizer, batch_size=batch_size, accelerator=accelerator)
    predicted = logits.argmax(axis=1)
    metrics = quick(claims.gold, predicted)
    metrics["loss_validation"] = float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(claims.gold)))
    return metrics, alarms.one_class(predicted, claims.gold, labels)
