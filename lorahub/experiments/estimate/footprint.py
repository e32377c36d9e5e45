"""The memory of a training step, counted without data: the step itself runs on tensors with shapes but no values.

In: a base without weights, a Config and the tokens of a claim. Out: a `Footprint`: the blocks of memory that the step
allocates and frees, and its floating-point operations. The step is the one of `training.loop` on a model and an
optimizer that have been through one before: forward, backward, clipping, AdamW, zero_grad; then an evaluation batch.
The allocations of torch follow from shapes alone; only temporary buffers inside kernels are not counted.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from lorahub import runfiles
from lorahub.config import Config
from lorahub.experiments.estimate import skeleton
from lorahub.experiments.estimate.trace import Trace
from lorahub.models import cpu_layers, methods, quantization
from lorahub.models.base import Base
from lorahub.training import mixed_precision, optimizers
from lorahub.training.session import enable_gradient_checkpointing

# Resident memory of a training on a CPU besides its tensors, measured with glibc (docs/estimate.md): a constant for
# libraries, without and with bitsandbytes, and the share of the memory freed by a forward pass that stays with the
# process. The share is smaller where layers keep nothing for the backward pass: checkpointed, or frozen below the head.
_PROCESS_BYTES = {False: 45_000_000, True: 60_000_000}
_KEPT_SHARE = {False: 0.7, True: 0.26}
# glibc maps blocks from this size on and returns them when they are freed (malloc.c, DEFAULT_MMAP_THRESHOLD_MAX).
_MAPPED_BYTES = 32 * 2**20


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """The blocks and floating-point operations of a step, and the number of trainable and of all parameters.

    `overhead` is what the process and the allocator add to the tensors on a CPU, in bytes.
    """

    trace: Trace
    operations: int
    trainable: int
    total: int
    overhead: int

    def on_gpu(self) -> dict[str, int]:
        """Return bytes by component at the peak, as torch.cuda.max_memory_allocated counts them, in blocks of 512.

        (c10/cuda/CUDACachingAllocator.cpp, kMinBlockSize)
        """
        return self.trace.peak(round_to=512)

    def on_cpu(self) -> dict[str, int]:
        """Return bytes by component at the peak, as the resident memory of the process."""
        return {**self.trace.peak(), "overhead": self.overhead}


def measure_step(
    base: Base, config: Config, *, train_tokens: int, eval_tokens: int, device: str, half: bool
) -> Footprint:
    """Run a step without data as it runs on `device`, cpu or cuda, with every claim padded to the same tokens.

    `base` comes from `skeleton.load` and is modified. `half` is whether the forward pass is in 16 bits.
    """
    method = methods.TABLE[config.adapter.method]
    with skeleton.META:
        model = methods.attach(base, config.adapter)
    lowers = device == "cpu" and half and mixed_precision.can_lower(config)
    if device == "cpu" and (lowers or not half):
        cpu_layers.install(model)
    kernels: Any = _GpuKernels if device == "cuda" else nullcontext
    enable_gradient_checkpointing(model, config, lambda: (nullcontext(), kernels()))
    trainable, total = methods.count_parameters(model)
    form, _ = optimizers.choose(config.train.optimizer, torch.device(device), memory_efficient=method.memory_efficient)
    autocast = torch.autocast("cpu", dtype=torch.bfloat16) if half and not lowers else nullcontext()
    trace = Trace(quantization.operations())
    with FakeTensorMode(), kernels():
        skeleton.materialize(model, "cpu")
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        _name_parameters(trace, model, full=method.layout is runfiles.FULL_MODEL)
        # The weights in float32 are kept beside those in bfloat16.
        restore = cpu_layers.lower(model) if lowers else None
        trace.name((item for item in model.parameters() if not item.requires_grad), "weights")
        optimizer, moments = _optimizer_after_a_step(form, trained, config)
        trace.name(moments, "optimizer")
        # The loop keeps the best weights in main memory.
        best = [parameter.detach().clone() for parameter in trained] if device == "cpu" else []
        trace.name(best, "best")
        gold = torch.zeros(config.train.batch_size, dtype=torch.int64)
        model.train()
        with trace, _named_gradients(trace, trained):
            # In every forward pass of a step but the first, gradients exist already.
            for _ in range(passes := min(2, config.train.gradient_accumulation)):
                start = len(trace.events)
                with autocast:
                    logits = model(**_batch(config.train.batch_size, train_tokens)).logits
                loss = F.cross_entropy(logits.float(), gold)
                del logits
                kept = _kept_by_allocator(trace.events[start:])
                loss.backward()  # type: ignore[no-untyped-call]
                del loss
            operations = trace.operations // passes * config.train.gradient_accumulation
            nn.utils.clip_grad_norm_(trained, config.train.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        with trace, torch.no_grad(), autocast:
            model(**_batch(config.eval.batch_size, eval_tokens))
    del restore
    overhead = kept + _PROCESS_BYTES[config.base.quantize != quantization.NONE]
    return Footprint(trace=trace, operations=operations, trainable=trainable, total=total, overhead=overhead)


def _kept_by_allocator(forward: Sequence[tuple[int, int]]) -> int:
    """Return the bytes freed during a forward pass that the process keeps without using them again."""
    saved = sum(size for _, size in forward)
    freed = sum(-size for _, size in forward if -_MAPPED_BYTES < size < 0)
    return int(freed * _KEPT_SHARE[saved < 0.1 * freed])


def _name_parameters(trace: Trace, model: nn.Module, *, full: bool) -> None:
    """Name the model's tensors; full fine-tuning has no adapter."""
    for parameter in model.parameters():
        trace.name([parameter], "adapters" if parameter.requires_grad and not full else "weights")
        trace.name(quantization.constants(parameter), "quantisation")
    trace.name(model.buffers(), "weights")


def _optimizer_after_a_step(
    form: str, trained: list[nn.Parameter], config: Config
) -> tuple[torch.optim.Optimizer, list[torch.Tensor]]:
    """Return an optimizer that has been through a step, and its moments."""
    if form != optimizers.ADAMW:
        # The kernels of bitsandbytes allocate nothing in a step, and neither does plain SGD.
        moments = [item for parameter in trained for item in optimizers.empty_moments(form, parameter)]
        return torch.optim.SGD(trained, foreach=False), moments
    optimizer = optimizers.build(form, trained, config.train)
    for parameter in trained:
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer, [item for state in optimizer.state.values() for item in state.values()]


def _batch(claims: int, tokens: int) -> dict[str, torch.Tensor]:
    return {name: torch.ones(claims, tokens, dtype=torch.int64) for name in ("input_ids", "attention_mask")}


@contextmanager
def _named_gradients(trace: Trace, trained: list[nn.Parameter]) -> Iterator[None]:
    def name(parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            trace.name([parameter.grad], "gradients")

    hooks = [parameter.register_post_accumulate_grad_hook(name) for parameter in trained]  # type: ignore[no-untyped-call]
    yield
    for hook in hooks:
        hook.remove()


class _GpuKernels(TorchFunctionMode):
    """Replace CPU kernels by what a GPU runs instead, on tensors that stay on the CPU.

    Dropout keeps a mask of one byte a value, attention does not store its scores, and under autocast norms and softmax
    are computed in float32 (docs.pytorch.org/docs/stable/amp.html, CUDA ops that autocast to float32).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, or its GPU counterpart."""
        kwargs = kwargs or {}
        if func is F.dropout:
            return _dropout(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        if func in (F.layer_norm, F.softmax) and torch.is_autocast_enabled("cpu"):
            args = tuple(
                item.float() if isinstance(item, torch.Tensor) and item.is_floating_point() else item for item in args
            )
        return func(*args, **kwargs)


def _dropout(values: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """Apply the fused kernel; `inplace` only completes torch's signature."""
    dropped: torch.Tensor = torch.native_dropout(values, p, training)[0] if training and p else values
    return dropped


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
    """Apply the memory-efficient kernel, which torch takes on a GPU if there is a mask; (B, heads, T, size)."""
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (item.to(torch.bfloat16) for item in (query, key, value))
    if enable_gqa:
        key, value = (item.repeat_interleave(query.shape[1] // item.shape[1], dim=1) for item in (key, value))
    if attn_mask is not None:
        mask = torch.empty_like(attn_mask, dtype=query.dtype)
        attn_mask = mask.expand(*query.shape[:-1], key.shape[-2])
    output: torch.Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, query.requires_grad, dropout_p, is_causal, scale=scale
    )[0]
    return output
