"""A training session: device, base model, tokenized claims and, once attached, the model that trains.

In: a Config and claims. Out: a `TrainingSession`, which `loop.fit` trains and which computes logits and features.
Nothing is written to disk.
"""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device, set_seed
from torch import nn
from torch.utils.checkpoint import noop_context_fn

from lorahub.config import Config
from lorahub.data.batches import Collate, EncodedClaims
from lorahub.data.claimset import ClaimData
from lorahub.data.sources import SPLITS
from lorahub.errors import ConfigError, one_line
from lorahub.models import base as bases
from lorahub.models import cpu_layers, methods, trial
from lorahub.stats.verdicts import Floats, Ids
from lorahub.training import memory, mixed_precision, optimizers
from lorahub.training.trackers import Tracker

log = logging.getLogger(__name__)

# Tokenized claims by split, base with its revision, and maximum length.
Encodings = dict[tuple[str, str, int], EncodedClaims]


class TrainingSession:
    """A base model and tokenized claims on a device, and the adapter that trains on them.

    `model` is the bare base until `attach`. `optimizer` is a form of `training.optimizers`; `trainable` and `total`
    count parameters; `resident_before` is the size of the process in bytes before the base was loaded.
    """

    def __init__(
        self,
        config: Config,
        data: ClaimData,
        *,
        splits: Sequence[str] = SPLITS,
        encodings: Encodings | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        """Seed all generators, load the base and tokenize `splits`.

        Sessions on the same claims may share `encodings`: claims are then tokenized once. Raises BaseModelError or
        ConfigError.
        """
        self.config, self.data = config, data
        # Before the base, which takes longer.
        device, _ = bases.choose_device(config.base.device)
        mixed_precision.check(config, device)
        set_seed(config.train.seed)
        self.resident_before = memory.resident()
        self.base = bases.load(config.base, data.labels)
        methods.check(self.base, config.adapter)
        trial.of_base(self.base)
        _, parameters = methods.count_parameters(self.base.model)
        self.mixed_precision = mixed_precision.choose(config, self.base.device, parameters)
        self.base.reasons["mixed_precision"] = f"{self.mixed_precision.name}: {self.mixed_precision.reason}"
        self.accelerator = _accelerator(self.base.device, self.mixed_precision.autocast, config, tracker)
        self._restore: Callable[[], None] = lambda: None
        self.model: nn.Module = self.base.model
        self.optimizer, self.trainable, self.total = optimizers.ADAMW, 0, 0
        known = {} if encodings is None else encodings
        self.encoded: dict[str, EncodedClaims] = {}
        for split in splits:
            key = split, f"{self.base.resolved.id}@{self.base.resolved.revision}", self.base.max_length
            if key not in known:
                known[key] = EncodedClaims(data.splits[split], self.base.tokenizer, max_length=self.base.max_length)
            self.encoded[split] = known[key]

    def attach(self) -> None:
        """Attach the adapter to the base, which changes in place, and choose the optimizer; raises ConfigError."""
        config, base = self.config, self.base
        self.model = methods.attach(base, config.adapter)
        trial.of_model(base, self.model)
        if base.device.type == "cpu" and self.accelerator.mixed_precision == "no":
            cpu_layers.install(self.model)
            base.reasons["layers"] = "LoRA fused, dropout masks cut from one sequence: training on a CPU"
        enable_gradient_checkpointing(self.model, config)
        memory_efficient = methods.TABLE[config.adapter.method].memory_efficient
        self.optimizer, why = optimizers.choose(config.train.optimizer, base.device, memory_efficient=memory_efficient)
        base.reasons["optimizer"] = f"{self.optimizer}: {why}"
        self.trainable, self.total = methods.count_parameters(self.model)
        percent = 100 * self.trainable / self.total
        log.info("training %s of %s parameters (%.2f %%)", f"{self.trainable:,}", f"{self.total:,}", percent)

    @property
    def gold(self) -> dict[str, Ids]:
        """The gold ids (N,) of the session's splits."""
        return {split: claims.gold for split, claims in self.encoded.items()}

    def lower_precision(self) -> None:
        """Give the frozen weights the precision of the training, if that is done without autocast."""
        if self.mixed_precision.lowers:
            self._restore = cpu_layers.lower(self.model)

    def full_precision(self) -> None:
        """Give the model the precision of its saved files, in which it answers before and after training."""
        self._restore()

    def logits(self, split: str, model: nn.Module | None = None) -> Floats:
        """Return the logits (N, C) of a split, from `model` if given, else from the session's model."""
        used = self.model if model is None else model
        return self._predict(split, used, lambda batch: used(**batch).logits)

    def features(self, split: str) -> Floats:
        """Return the features (N, H) of the bare base on a split; call it before `attach`."""
        base = self.base.model
        return self._predict(split, base, lambda batch: bases.features(base, batch))

    @torch.inference_mode()
    def _predict(
        self, split: str, model: nn.Module, forward: Callable[[dict[str, torch.Tensor]], torch.Tensor]
    ) -> Floats:
        """Return float32 outputs in the order of the claims, the same for every batch size and number of processes."""
        claims, accelerator, size = self.encoded[split], self.accelerator, self.config.eval.batch_size
        was_training = model.training
        model.eval()
        # From the longest claim to the shortest; every process takes each n-th batch.
        order = np.argsort([-length for length in claims.lengths], kind="stable").tolist()
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        collate = Collate(self.base.tokenizer)
        parts = []
        for rows in batches[accelerator.process_index :: accelerator.num_processes]:
            batch = send_to_device(collate([claims[row] for row in rows]), accelerator.device)
            del batch["labels"], batch["row"]
            # No autocast here: a model that accelerate has prepared applies its own.
            parts.append((rows, forward(batch).float().cpu().numpy()))
        model.train(was_training)
        if accelerator.num_processes > 1:
            parts = accelerator.gather_for_metrics(parts, use_gather_object=True)
        outputs = np.zeros((len(claims), parts[0][1].shape[1]), dtype=np.float32)
        for rows, values in parts:
            outputs[rows] = values
        return outputs


@contextmanager
def unchanged_random_state() -> Iterator[None]:
    """Restore the state of Python's, numpy's and torch's global generators, which a training seeds."""
    python, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002 - the generator that a caller uses
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)  # noqa: NPY002


def enable_gradient_checkpointing(
    model: Any, config: Config, contexts: Callable[[], tuple[Any, Any]] = noop_context_fn
) -> bool:
    """Recompute activations in the backward pass if `train.checkpointing` says so; return whether it does.

    `contexts` returns a context for the forward pass and one for the recomputation. Raises ConfigError.
    """
    method, mode = methods.TABLE[config.adapter.method], config.train.checkpointing
    if mode == "always" and method.soft_prompt:
        raise ConfigError("train.checkpointing=always does not work with virtual tokens. Use never or auto.")
    enabled = mode == "always" or (mode == "auto" and method.memory_efficient)
    if enabled:
        options = {"use_reentrant": False, "context_fn": contexts}
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
        # transformers then makes the embeddings require gradients, which only reentrant checkpointing needs: the
        # backward pass would run through every frozen layer below the adapter.
        model.disable_input_require_grads()
    return enabled


def _accelerator(device: torch.device, autocast: str, config: Config, tracker: Tracker | None) -> Accelerator:
    try:
        return Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=autocast,
            gradient_accumulation_steps=config.train.gradient_accumulation,
            log_with=None if tracker is None else tracker.kind,
            project_dir=None if tracker is None else tracker.run_folder,
        )
    except ValueError as error:
        # accelerate keeps one state per process.
        raise ConfigError(
            f"train.mixed_precision is {autocast}, but this process has already trained with another one. Use the "
            f"same precision or a new process ({one_line(error)})."
        ) from error
