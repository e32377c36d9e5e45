"""Everything between a config and its training: device, base, tokenized claims, adapter, and the call of the loop.

In: a Config and claims. Out: `prepare` gives what is there before anything is trained, `attach` the model that trains,
`fit` trains it. Nothing is written here, and `validate` never looks at test: a trial of a search and a run of the same
config are the same training, number for number.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.checkpoint import noop_context_fn

from lorahub.config import AUTO, Config
from lorahub.data.batches import EncodedClaims
from lorahub.data.claimset import ClaimData
from lorahub.data.sources import SPLITS
from lorahub.errors import ConfigError, one_line
from lorahub.labels import LabelSet
from lorahub.models import base as bases
from lorahub.models import methods
from lorahub.models.base import Base
from lorahub.stats.plateau import Plateau
from lorahub.stats.verdicts import Floats
from lorahub.training import auto_rank, evaluation, loop, optimizers
from lorahub.training.checkpoints import Checkpoints
from lorahub.training.memory import Memory
from lorahub.training.progress import Fit
from lorahub.training.trackers import Tracker

log = logging.getLogger(__name__)

# Tokenized claims by split, base with its revision, and length.
Encodings = dict[tuple[str, str, int], EncodedClaims]


@dataclass(kw_only=True)
class Watcher:
    """What a caller may watch: `on_stage` gets a sentence for each stage, `on_step` every optimiser step.

    What `on_step` raises ends the training and reaches the caller.
    """

    on_stage: Callable[[str], None] = lambda text: log.info("%s", text)
    on_step: Callable[[loop.Step], None] | None = None

    def and_also(self, follow: Callable[[loop.Step], None] | None) -> "Watcher":
        """Return a watcher that tells `follow` of every step, and then this one."""
        told = [item for item in (follow, self.on_step) if item is not None]

        def on_step(step: loop.Step) -> None:
            for item in told:
                item(step)

        return Watcher(on_stage=self.on_stage, on_step=on_step)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A base and the claims as its tokens, before anything is attached or trained."""

    config: Config
    labels: LabelSet
    accelerator: Accelerator
    base: Base
    encoded: dict[str, EncodedClaims]
    memory: Memory

    def features(self, split: str) -> Floats:
        """What the bare base knows of a split, (N, H)."""
        return evaluation.features(self.base.model, self.encoded[split], self.base.tokenizer, **self._scoring())

    def logits(self, model: Any, split: str) -> Floats:
        """What a model answers on a split, (N, C)."""
        return evaluation.logits(model, self.encoded[split], self.base.tokenizer, **self._scoring())

    def _scoring(self) -> dict[str, Any]:
        return {"batch_size": self.config.eval.batch_size, "accelerator": self.accelerator}


@dataclass(frozen=True, kw_only=True)
class Attached:
    """A model that is ready to be trained, its optimiser's form, and its parameters: trained ones and all."""

    model: Any
    optimizer: str
    trainable: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Validated:
    """A training that was judged on validation alone: its logits (N, C), and what happened."""

    logits: Floats
    fit: Fit
    trainable: int


def validate(
    config: Config, data: ClaimData, watcher: Watcher | None = None, *, encodings: Encodings | None = None
) -> Validated:
    """Train a config on train and answer validation with its best weights; nothing is written.

    Whoever validates several configs hands the same `encodings` to all of them, so that claims are tokenized once.
    Raises what `training.run.run` raises.
    """
    watcher = watcher or Watcher()
    prepared = prepare(config, data, splits=("train", "validation"), encodings=encodings)
    attached = attach(prepared)
    fitted, _ = fit(prepared, attached, watcher)
    settle(prepared, attached.model)
    return Validated(logits=prepared.logits(attached.model, "validation"), fit=fitted, trainable=attached.trainable)


def prepare(
    config: Config,
    data: ClaimData,
    *,
    splits: Sequence[str] = SPLITS,
    encodings: Encodings | None = None,
    tracker: Tracker | None = None,
) -> Prepared:
    """Seed every generator, load the base and tokenize the splits; raises BaseModelError or ConfigError."""
    accelerator = _accelerator(config, tracker)
    set_seed(config.train.seed)
    memory = Memory.start()
    base = bases.load(config.base, data.labels)
    methods.check(base, config.adapter)
    known = {} if encodings is None else encodings
    encoded = {}
    for split in splits:
        key = split, f"{base.resolved.id}@{base.resolved.revision}", base.max_length
        if key not in known:
            known[key] = EncodedClaims(data.splits[split], base.tokenizer, max_length=base.max_length)
        encoded[split] = known[key]
    return Prepared(
        config=config, labels=data.labels, accelerator=accelerator, base=base, encoded=encoded, memory=memory
    )


def attach(prepared: Prepared) -> Attached:
    """Put the adapter on the base, which is changed in place; raises ConfigError."""
    config, base = prepared.config, prepared.base
    frugal = methods.TABLE[config.adapter.method].frugal
    model = methods.attach(base, config.adapter)
    recompute(model, config, frugal=frugal)
    optimizer, why = optimizers.choose(config.train.optimizer, base.device, frugal=frugal)
    base.reasons["optimizer"] = f"{optimizer}: {why}"
    trainable, total = methods.count_parameters(model)
    log.info("%s of %s parameters are trained (%.2f %%)", f"{trainable:,}", f"{total:,}", 100 * trainable / total)
    return Attached(model=model, optimizer=optimizer, trainable=trainable, total=total)


def fit(
    prepared: Prepared, attached: Attached, watcher: Watcher, checkpoints: Checkpoints | None = None
) -> tuple[Fit, Memory]:
    """Train in place; return what happened and how much memory it took. Raises TrainingError."""
    prepared.memory.training()
    with checkpoints or nullcontext():
        fitted = loop.fit(
            attached.model,
            prepared.base.tokenizer,
            prepared.encoded["train"],
            prepared.encoded["validation"],
            prepared.labels,
            prepared.config.train,
            accelerator=prepared.accelerator,
            scoring_batch_size=prepared.config.eval.batch_size,
            optimizer_form=attached.optimizer,
            checkpoints=checkpoints,
            on_step=watcher.on_step if prepared.accelerator.is_main_process else None,
        )
    return fitted, prepared.memory.peak()


def settle(prepared: Prepared, model: Any) -> Plateau | None:
    """Cut a trained model to the rank that validation names, where adapter.rank=auto asks for that."""
    if prepared.config.adapter.rank != AUTO:
        return None
    gold = {split: part.gold for split, part in prepared.encoded.items()}
    return auto_rank.cut(model, lambda: prepared.logits(model, "validation"), gold, prepared.config)


def recompute(
    model: Any, config: Config, *, frugal: bool, contexts: Callable[[], tuple[Any, Any]] = noop_context_fn
) -> bool:
    """Forget activations and compute them again in the backward pass, where that is asked for; return whether it is.

    `contexts` gives a context for the first computation and one for the second.
    """
    wanted = config.train.checkpointing
    if wanted == "always" and methods.TABLE[config.adapter.method].soft_prompt:
        raise ConfigError("train.checkpointing=always does not work behind virtual tokens. Use never, or auto.")
    asked = wanted == "always" or (wanted == "auto" and frugal)
    if asked:
        how = {"use_reentrant": False, "context_fn": contexts}
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
    return asked


def _accelerator(config: Config, tracker: Tracker | None) -> Accelerator:
    device, _ = bases.choose_device(config.base.device)
    precision = config.train.mixed_precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "no"
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("train.mixed_precision is fp16, which needs a GPU. Use --set train.mixed_precision=auto.")
    try:
        return Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=precision,
            gradient_accumulation_steps=config.train.gradient_accumulation,
            log_with=None if tracker is None else tracker.kind,
            project_dir=None if tracker is None else tracker.run_folder,
        )
    except ValueError as error:
        # accelerate keeps one state a process.
        raise ConfigError(
            f"train.mixed_precision is {precision} here, and this process has trained with another: use the same, or a "
            f"new process ({one_line(error)})."
        ) from error
