"""The training loop.

In: a TrainingSession with an attached adapter. Out: its model with the best weights by a validation metric, and the
progress of the training. Devices, processes and precision are handled by accelerate. Ctrl-C ends the loop early and
keeps the best weights so far; with checkpoints it writes one and stops.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from accelerate import Accelerator, skip_first_batches
from transformers import get_scheduler

from lorahub.config import TrainConfig
from lorahub.data.batches import EncodedClaims, training_batches
from lorahub.errors import TrainingError
from lorahub.records import CurvePoint
from lorahub.stats import calibration
from lorahub.stats.verdicts import Ids
from lorahub.training import alarms, memory, optimizers
from lorahub.training.checkpoints import Checkpoints
from lorahub.training.progress import Step, TrainingProgress, TrainingState
from lorahub.training.session import TrainingSession

log = logging.getLogger(__name__)

_MOST_EVALUATIONS = 10
# The loss that is shown is a mean over so many forward passes.
_SHOWN_OVER = 20


def fit(  # noqa: C901 - the whole story, read from top to bottom
    session: TrainingSession,
    on_step: Sequence[Callable[[Step], None]] = (),
    checkpoints: Checkpoints | None = None,
) -> TrainingProgress:
    """Train the session's model in place and leave the best weights in it; raises TrainingError.

    Every function of `on_step` is called after each optimizer step, in the main process.
    """
    config, accelerator, claims = session.config.train, session.accelerator, session.encoded["train"]
    state = TrainingState(session.model)
    trained = list(state.trained.values())
    if not trained:
        raise TrainingError("no parameter is trainable: the adapter matches no layer. Check adapter.targets.")
    loader = training_batches(
        claims, session.base.tokenizer, batch_size=config.batch_size, seed=config.seed, grouped=config.length_groups
    )
    sampler = loader.batch_sampler
    batches_per_epoch = math.ceil(len(loader) / accelerator.num_processes)
    steps_per_epoch, total = planned_steps(config, batches_per_epoch)
    evaluate_every = config.evaluate_every or math.ceil(
        total / min(_MOST_EVALUATIONS, max(1, round(2 * total / steps_per_epoch)))
    )
    optimizer = optimizers.build(session.optimizer, trained, config)
    scheduler = get_scheduler(
        "constant_with_warmup" if config.schedule == "constant" else config.schedule,
        optimizer,
        # A prepared scheduler advances once for every process.
        num_warmup_steps=round(config.warmup * total) * accelerator.num_processes,
        num_training_steps=total * accelerator.num_processes,
    )
    class_weight = torch.tensor(
        class_weights(claims.gold, len(session.data.labels), config.class_weights), device=accelerator.device
    )
    claim_weight = torch.tensor(claim_weights(claims), dtype=torch.float32, device=accelerator.device)
    session.lower_precision()
    model, optimizer, loader, scheduler = accelerator.prepare(session.model, optimizer, loader, scheduler)

    if checkpoints is not None:
        checkpoints.attach(accelerator, state)  # resumes: state, optimizer, scheduler and random states
    progress = state.progress
    progress.planned_steps = total
    batches = _batches(loader, sampler, batches_per_epoch, start=progress.batches)
    started, cpu_started = time.perf_counter() - progress.seconds, time.process_time() - progress.cpu_seconds
    in_step = 0  # claims of this process since the last optimizer step
    model.train()
    try:
        while not _is_finished(progress, config):
            batch = next(batches)
            gold, rows = batch.pop("labels"), batch.pop("row")
            with accelerator.accumulate(model):
                logits = model(**batch).logits.float()
                losses = F.cross_entropy(
                    logits, gold, weight=class_weight, label_smoothing=config.label_smoothing, reduction="none"
                )
                loss = (losses * claim_weight[rows]).sum()
                accelerator.backward(loss / config.batch_size)
                in_step += len(gold)
                if accelerator.sync_gradients:
                    progress.seen += _average_over_claims(trained, in_step, accelerator, config)
                    in_step = 0
                    accelerator.clip_grad_norm_(trained, config.max_grad_norm)
                optimizer.step()
                learning_rate = scheduler.get_last_lr()[0]
                scheduler.step()
                optimizer.zero_grad()
            progress.batches += 1
            progress.recent = [*progress.recent[-(_SHOWN_OVER - 1) :], loss.item() / len(gold)]
            alarms.check_loss(progress.recent[-1], progress.steps + 1, learning_rate)
            if not accelerator.sync_gradients:
                continue
            progress.steps += 1
            metrics = None
            if progress.steps % evaluate_every == 0 or progress.steps == total:
                metrics = _evaluate(session, progress)
                alarms.check_loss(metrics["loss_validation"], progress.steps, learning_rate)
                point = CurvePoint(step=progress.steps, loss=progress.loss, learning_rate=learning_rate, **metrics)
                state.add_evaluation(point, config.metric)
            progress.seconds = time.perf_counter() - started
            progress.cpu_seconds = time.process_time() - cpu_started
            if accelerator.is_main_process:
                step = Step(
                    step=progress.steps,
                    total=total,
                    loss=progress.loss,
                    learning_rate=learning_rate,
                    samples_per_second=progress.samples_per_second,
                    validation=metrics,
                )
                for callback in on_step:
                    callback(step)
            if checkpoints is not None:
                checkpoints.after_step(last=_is_finished(progress, config))
    except KeyboardInterrupt:
        if not progress.steps or (checkpoints is not None and checkpoints.every is not None):
            raise
        progress.interrupted = True
        progress.warnings.append(f"interrupted after {progress.steps} of {total} steps.")
    except TrainingError as error:
        if state.best is None:
            raise
        progress.warnings.append(f"training stopped early: {error}")

    state.restore_best()
    # Without accelerate's wrapper the model answers as its saved files will, in full precision.
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    session.full_precision()
    session.model.eval()
    if progress.steps < total and _is_finished(progress, config):
        log.info("stopped early: no better %s for %d evaluations", config.metric, config.patience)
    return progress


def planned_steps(config: TrainConfig, batches: int) -> tuple[int, int]:
    """Return the optimizer steps of an epoch of `batches` batches, and of the whole training."""
    steps_per_epoch = math.ceil(batches / config.gradient_accumulation)
    return steps_per_epoch, max(1, round(config.epochs * steps_per_epoch), config.min_steps)


def class_weights(gold: Ids, labels: int, kind: str) -> list[float]:
    """Return a loss weight per label, scaled so that the mean over the training claims is 1.

    `sqrt` is 1/sqrt(frequency), `balanced` 1/frequency.
    """
    frequency = np.bincount(gold, minlength=labels) / len(gold)
    power = {"none": 0.0, "sqrt": 0.5, "balanced": 1.0}[kind]
    raw = np.maximum(frequency, 1 / len(gold)) ** -power
    return [float(weight) for weight in raw / (raw * frequency).sum()]


def claim_weights(claims: EncodedClaims) -> list[float]:
    """Return the weight of each claim in the loss (N,), scaled to a mean of 1."""
    if claims.weight is None:
        return [1.0] * len(claims)
    return [float(weight) for weight in claims.weight / claims.weight.mean()]


def _average_over_claims(
    trained: Sequence[torch.nn.Parameter], count: int, accelerator: Accelerator, config: TrainConfig
) -> int:
    """Make gradients those of the mean over all claims of an optimizer step, and return the number of these claims.

    `count` is the number of claims of this process. Until here the gradients are sums over claims divided by the claims
    of a step of full batches. torch's weighted mean divides by the weights in the batch instead, so that the weights
    cancel out in a batch of one. The class weights have mean 1 over the training claims.
    """
    total = int(accelerator.reduce(torch.tensor(count, device=accelerator.device), reduction="sum"))
    full = config.batch_size * config.gradient_accumulation * accelerator.num_processes
    if total != full:
        for parameter in trained:
            if parameter.grad is not None:
                parameter.grad.mul_(full / total)
    return total


def _is_finished(progress: TrainingProgress, config: TrainConfig) -> bool:
    """Return whether all steps are taken or the patience is exhausted."""
    return progress.steps >= progress.planned_steps or 0 < config.patience <= progress.since_best


def _batches(loader: Any, sampler: Any, per_epoch: int, *, start: int) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the batches of one epoch after the other without end, from batch number `start` on."""
    while True:
        epoch, skipped = divmod(start, per_epoch)
        sampler.set_epoch(epoch)
        loader.set_epoch(epoch)  # or accelerate's own count, from 0, decides
        if skipped:
            batches = iter(skip_first_batches(loader, skipped))
            # Opening a loader draws a random number, which the interrupted training already drew in this epoch.
            with torch.random.fork_rng(devices=()):
                first = next(batches)
            yield first
            yield from batches
        else:
            yield from loader
        start = (epoch + 1) * per_epoch


def _evaluate(session: TrainingSession, progress: TrainingProgress) -> dict[str, float]:
    """Return metrics and loss on the selecting half of validation; log a warning if a single label is predicted."""
    # Not accelerate's wrapper: its forward pass waits for all processes, which may have different numbers of batches.
    logits = session.logits("validation")
    memory.release_freed()
    selection = calibration.select(logits, session.gold, session.config)
    logits, gold = logits[selection.rows], session.gold["validation"][selection.rows]
    warning = alarms.one_class(selection.answers, gold, session.data.labels)
    if warning and 2 * progress.steps >= progress.planned_steps:  # normal early in training
        log.warning("step %d: %s", progress.steps, warning)
    loss = float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(gold)))
    return {**selection.metrics, "loss_validation": loss}
