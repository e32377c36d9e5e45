"""What a training step takes, found without data: the step itself, run on tensors that have shapes but no values.

In: a base without weights, a Config and the tokens of a claim. Out: a `Footprint`: the blocks of memory that come and
go, each with what it holds, and the floating-point operations of a step. The step is that of `training.loop` on a model
and an optimiser that have been through one: forward, backward, clipping, AdamW, zero_grad; then a batch of an
evaluation. What torch asks for follows from shapes alone, so that nothing is guessed but what kernels take inside.
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from lorahub.config import Config
from lorahub.experiments.estimate import heap, skeleton
from lorahub.experiments.estimate.trace import Trace
from lorahub.hub import safety
from lorahub.models import methods, quantization
from lorahub.models.base import Base
from lorahub.training import optimizers
from lorahub.training.session import enable_gradient_checkpointing

WEIGHTS, CONSTANTS, ADAPTERS = "weights", "quantisation", "adapters"
GRADIENTS, OPTIMIZER, BEST = "gradients", "optimizer", "best"
HEAP, PROCESS = "heap", "process"
# What a training adds to a process besides tensors: code and libraries that are used for the first time, without and
# with bitsandbytes. Measured on a base of a million parameters: docs/estimate.md.
_PROCESS_BYTES = {False: 45_000_000, True: 60_000_000}


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """A step's blocks and floating-point operations, and the parameters: trained ones and all.

    `quantised` is whether the base is in 4 bits, `recomputed` whether layers are computed again in the backward pass.
    """

    trace: Trace
    operations: int
    trainable: int
    total: int
    quantised: bool
    recomputed: bool

    def on_gpu(self) -> dict[str, int]:
        """Bytes by component at the peak, as torch.cuda.max_memory_allocated counts them, in blocks of 512.

        (c10/cuda/CUDACachingAllocator.cpp, kMinBlockSize)
        """
        return self.trace.peak(round_to=512)

    def on_cpu(self) -> dict[str, int]:
        """Bytes by component at the peak, as the process's resident size shows them.

        Beside the blocks, glibc's heap holds what it cannot hand out again, and the process takes what is always there.
        """
        found = self.trace.peak()
        if platform.libc_ver()[0] == "glibc":
            found[HEAP] = max(0, self._held() - sum(found.values()))
        found[PROCESS] = _PROCESS_BYTES[self.quantised]
        return found

    def _held(self) -> int:
        held = heap.Heap(blocks_a_wall=2 if self.recomputed else 1)
        for number, event in enumerate(self.trace.events):
            match self.trace.marks.get(number):
                case "forward":
                    held.grow()
                case "backward":
                    held.collect()
            if event.size > 0:
                held.come(event.block, event.size)
            elif event.size < 0:
                held.go(event.block)
        return held.peak


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How many tokens the longest claim has, to which its batch is padded: of train, and of validation."""

    tokens: int
    scoring_tokens: int


def of(base: Base, config: Config, shape: Shape, *, device: str, bf16: bool) -> Footprint:
    """Run a step without data as it runs on `device`, cpu or cuda; `base` comes from `skeleton.load` and is used up.

    `bf16` is whether the forward pass is in bfloat16.
    """
    method = methods.TABLE[config.adapter.method]
    with skeleton.META:
        model = methods.attach(base, config.adapter)
    kernels: Any = _GpuKernels if device == "cuda" else nullcontext
    recomputed = enable_gradient_checkpointing(model, config, lambda: (nullcontext(), kernels()))
    trainable, total = methods.count_parameters(model)
    form, _ = optimizers.choose(config.train.optimizer, torch.device(device), memory_efficient=method.memory_efficient)
    autocast = torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext()
    trace = Trace(quantization.operations())
    with FakeTensorMode(), kernels():
        skeleton.materialise(model, "cpu")
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        _name_parameters(trace, model, whole=method.layout is safety.WHOLE)
        optimizer = _stepped(form, trained, config, trace)
        # The loop keeps the best weights in main memory.
        best = [parameter.detach().clone() for parameter in trained] if device == "cpu" else []
        trace.name(best, BEST)
        gold = torch.zeros(config.train.batch_size, dtype=torch.int64)
        model.train()
        with trace, _named_gradients(trace, trained):
            # Of several forward passes a step, all but the first find gradients there.
            for _ in range(passes := min(2, config.train.gradient_accumulation)):
                trace.mark("forward")
                with autocast:
                    logits = model(**_batch(config.train.batch_size, shape.tokens)).logits
                loss = F.cross_entropy(logits.float(), gold)
                del logits
                trace.mark("backward")
                loss.backward()  # type: ignore[no-untyped-call]
                del loss
            operations = trace.operations // passes * config.train.gradient_accumulation
            nn.utils.clip_grad_norm_(trained, config.train.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        with trace, torch.no_grad(), autocast:
            model(**_batch(config.eval.batch_size, shape.scoring_tokens))
    quantised = config.base.quantize != quantization.NONE
    return Footprint(
        trace=trace,
        operations=operations,
        trainable=trainable,
        total=total,
        quantised=quantised,
        recomputed=recomputed,
    )


def _name_parameters(trace: Trace, model: nn.Module, *, whole: bool) -> None:
    """Say what the model's tensors are; where it is trained `whole` there is no adapter."""
    for parameter in model.parameters():
        trace.name([parameter], ADAPTERS if parameter.requires_grad and not whole else WEIGHTS)
        trace.name(quantization.constants(parameter), CONSTANTS)
    trace.name(model.buffers(), WEIGHTS)


def _stepped(form: str, trained: list[nn.Parameter], config: Config, trace: Trace) -> Any:
    """An optimiser that already has its moments."""
    if form != optimizers.ADAMW:
        moments = [item for one in trained for item in optimizers.empty_moments(form, one)]
        trace.name(moments, OPTIMIZER)
        return _InPlace(trained, moments)
    optimizer = optimizers.build(form, trained, config.train)
    for parameter in trained:
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    trace.name([item for state in optimizer.state.values() for item in state.values()], OPTIMIZER)
    return optimizer


class _InPlace:
    """A bitsandbytes optimiser: its kernels need nothing besides gradients and moments."""

    def __init__(self, trained: list[nn.Parameter], moments: list[torch.Tensor]) -> None:
        self.trained, self.moments = trained, moments

    def step(self) -> None:
        """Allocate nothing."""

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for parameter in self.trained:
            parameter.grad = None


def _batch(claims: int, tokens: int) -> dict[str, torch.Tensor]:
    shape = claims, tokens
    return {name: torch.ones(shape, dtype=torch.int64) for name in ("input_ids", "attention_mask")}


@contextmanager
def _named_gradients(trace: Trace, trained: list[nn.Parameter]) -> Iterator[None]:
    def name(parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            trace.name([parameter.grad], GRADIENTS)

    hooks = [one.register_post_accumulate_grad_hook(name) for one in trained]  # type: ignore[no-untyped-call]
    yield
    for hook in hooks:
        hook.remove()


class _GpuKernels(TorchFunctionMode):
    """What a GPU runs where the CPU runs something else, since here every tensor is one of the CPU.

    Dropout keeps a mask of one byte a value, attention never holds its scores, and under autocast norms and softmax are
    computed in float32 (docs.pytorch.org/docs/stable/amp.html, CUDA ops that autocast to float32).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, or what stands for it on a GPU."""
        kwargs = kwargs or {}
        if func is F.dropout:
            return _dropout(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        if func in (F.layer_norm, F.softmax) and torch.is_autocast_enabled("cpu"):
            args = tuple(item.float() if _is_floating(item) else item for item in args)
        return func(*args, **kwargs)


def _dropout(values: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """The fused kernel; `inplace` is for torch's signature."""
    found: torch.Tensor = torch.native_dropout(values, p, training)[0] if training and p else values
    return found


def _is_floating(item: Any) -> bool:
    return isinstance(item, torch.Tensor) and item.is_floating_point()


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """The memory-efficient kernel that torch takes on a GPU where there is a mask; (B, heads, T, size)."""
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (item.to(torch.bfloat16) for item in (query, key, value))
    if enable_gqa:
        key, value = (item.repeat_interleave(query.shape[1] // item.shape[1], dim=1) for item in (key, value))
    if attn_mask is not None:
        mask = torch.empty_like(attn_mask, dtype=query.dtype)
        attn_mask = mask.expand(*query.shape[:-1], key.shape[-2])
    found: torch.Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, query.requires_grad, dropout_p, is_causal, scale=scale
    )[0]
    return found
