"""The report on an estimate: tables, sentences and a picture of memory by component."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorahub.experiments.estimate.costs import COMPONENTS, CONTEXT_BYTES, CPU, UTILIZATION, Cost, Estimate, LoraSize
from lorahub.reports import plots
from lorahub.reports.report import Figure, Report, Table

_GB = 1e9
_TALLEST = 2.5  # memory sizes up to this many times the highest bar are drawn as lines
_COLORS = {
    "weights": "#334155", "quantisation": "#94a3b8", "adapters": "#0f766e", "gradients": "#d97706",
    "optimizer": "#b91c1c", "activations": "#60a5fa", "best": "#a78bfa", "overhead": "#d1d5db",
}  # fmt: skip


def build(estimate: Estimate) -> Report:
    """Return the report: devices by method, then the components of the peak on the CPU and on one GPU."""
    methods = tuple(_unique(cost.method for cost in estimate.costs))
    devices = _unique(cost.device for cost in estimate.costs)
    fits = [
        (device, _size(costs[0].capacity_bytes), *(_fit(cost) for cost in costs))
        for device in devices
        for costs in [_on(estimate, device)]
    ]
    parts = [
        Table(header=(f"peak on {device}", *methods), rows=_components(_on(estimate, device)))
        for device in devices
        if device in (CPU, _drawn(estimate))
    ]
    span = "the training" if estimate.steps is not None else "one step"
    return Report(
        name="estimate",
        title=_title(estimate),
        tables=[Table(header=("device", "memory", *methods), rows=fits), *parts],
        sentences=[_sentence(method, estimate) for method in methods],
        explanation=(
            f"Peak memory while training, and a rough time of {span}: floating-point operations at {UTILIZATION:.0%} "
            f"of the peak rate. A method fits on a GPU if {_size(CONTEXT_BYTES)} are left for the GPU's own libraries."
        ),
        data=estimate,
        figures=[
            Figure(file_name="estimate.png", caption="Memory by component", draw=lambda path: _draw(estimate, path))
        ],
    )


def lora_size(size: LoraSize) -> Report:
    """Return the report on the parameters of LoRA on one matrix."""
    fewer = f"{size.saving:.0%} fewer" if size.saving >= 0 else f"{-size.saving:.0%} more"
    rows = [
        ("W", f"{size.outputs} x {size.inputs}", f"{size.full:,}"),
        ("A", f"{size.rank} x {size.inputs}", f"{size.a:,}"),
        ("B", f"{size.outputs} x {size.rank}", f"{size.b:,}"),
        ("A and B", "", f"{size.parameters:,}"),
    ]
    return Report(
        name="lora-size",
        title=f"LoRA of rank {size.rank} on a {size.outputs} x {size.inputs} matrix",
        tables=[Table(header=("matrix", "shape", "parameters"), rows=rows)],
        sentences=[
            f"LoRA trains {size.parameters:,} of {size.full:,} parameters ({size.parameters / size.full:.1%}), {fewer}."
        ],
        explanation="W' = W + (alpha / r)·B·A: r·(outputs + inputs) parameters are trained, and W stays frozen.",
        data=size,
    )


def _unique(names: Any) -> list[str]:
    return list(dict.fromkeys(names))


def _on(estimate: Estimate, device: str) -> list[Cost]:
    return [cost for cost in estimate.costs if cost.device == device]


def _title(estimate: Estimate) -> str:
    claims = "" if estimate.claims is None else f", {estimate.claims:,} claims"
    return (
        f"{estimate.base}: {estimate.parameters / 1e6:,.1f}M parameters; batches of {estimate.batch_size} claims of up "
        f"to {estimate.tokens} tokens{claims}"
    )


def _fit(cost: Cost) -> str:
    seconds = cost.seconds_per_step if cost.seconds is None else cost.seconds
    return f"{_size(cost.peak_bytes)} {'fits' if cost.fits else 'NO'}, {_time(seconds)}"


def _components(costs: Sequence[Cost]) -> list[tuple[str, ...]]:
    """Return one row per component, then the sum, the trained parameters and the operations."""
    rows = [
        (title, *(_size(cost.components[name]) for cost in costs))
        for name, title in COMPONENTS.items()
        if any(cost.components[name] for cost in costs)
    ]
    return [
        *rows,
        ("all", *(_size(cost.peak_bytes) for cost in costs)),
        ("trained parameters", *(f"{cost.trainable_parameters:,}" for cost in costs)),
        ("TFLOP a step", *(f"{cost.operations / 1e12:,.2f}" for cost in costs)),
    ]


def _sentence(method: str, estimate: Estimate) -> str:
    """Name the smallest device that a method fits on."""
    costs = [cost for cost in estimate.costs if cost.method == method]
    fitting = [cost for cost in costs if cost.fits]
    if not fitting:
        return f"{method} fits on none of these: it takes {_size(min(cost.peak_bytes for cost in costs))} or more."
    smallest = min(fitting, key=lambda cost: cost.capacity_bytes)
    return (
        f"{method} fits on {', '.join(cost.device for cost in fitting)}; the smallest is {smallest.device}, with "
        f"{_size(smallest.peak_bytes)} of {_size(smallest.capacity_bytes)}."
    )


def _size(count: float) -> str:
    """Return bytes with three significant figures."""
    if count >= _GB:
        return f"{count / _GB:,.{max(0, 3 - len(str(int(count / _GB))))}f} GB"
    return f"{count / 1e6:,.1f} MB" if count < 1e8 else f"{count / 1e6:,.0f} MB"


def _time(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:,.1f} h"
    if seconds >= 90:
        return f"{seconds / 60:,.0f} min"
    return f"{seconds:,.1f} s" if seconds >= 0.1 else f"{seconds * 1e3:,.1f} ms"


def _drawn(estimate: Estimate) -> str:
    """Return the device of the picture: the last GPU, since GPUs differ little from each other, else the CPU."""
    return next((cost.device for cost in reversed(estimate.costs) if cost.device != CPU), CPU)


def _draw(estimate: Estimate, path: Path) -> None:
    """Draw stacked bars by method on one device, and the memory of every device as a line."""
    figure, axes = plots.canvas((7.2, 4.6))
    bars = _on(estimate, _drawn(estimate))
    bottoms = [0.0] * len(bars)
    for name, title in COMPONENTS.items():
        heights = [cost.components[name] / _GB for cost in bars]
        if any(heights):
            axes.bar(range(len(bars)), heights, bottom=bottoms, width=0.55, color=_COLORS[name], label=title)
            bottoms = [low + height for low, height in zip(bottoms, heights, strict=True)]
    for place, cost in enumerate(bars):
        axes.annotate(_size(cost.peak_bytes), (place, bottoms[place]), ha="center", va="bottom", fontsize=8)
    _draw_capacities(axes, estimate, highest=max(cost.peak_bytes for cost in bars))
    axes.set_xticks(range(len(bars)), [cost.method for cost in bars])
    axes.set(ylabel="peak memory while training (GB)", xlim=(-0.6, len(bars) + 0.4))
    axes.legend(fontsize=8, frameon=False, loc="center right")
    figure.suptitle(_title(estimate), fontsize=9)
    plots.save(figure, path)


def _draw_capacities(axes: Any, estimate: Estimate, *, highest: int) -> None:
    """Draw a line at each memory size; sizes far above the bars are listed at the top instead."""
    names: dict[int, list[str]] = {}
    for device, size in sorted({(cost.device, cost.capacity_bytes) for cost in estimate.costs}):
        names.setdefault(size, []).append(device)
    labels = {size: f"{', '.join(names[size])}: {size / _GB:,.0f} GB" for size in sorted(names)}
    top = max(highest, min((size for size in labels if highest <= size <= _TALLEST * highest), default=0))
    style = {"fontsize": 7, "color": plots.INK, "va": "bottom"}
    for size, label in labels.items():
        if size <= top:
            axes.axhline(size / _GB, color=plots.MUTED, linestyle="--", linewidth=1)
            axes.annotate(label, (1, size / _GB), xycoords=("axes fraction", "data"), ha="right", **style)
    above = "; ".join(label for size, label in labels.items() if size > top)
    if above:
        axes.annotate(f"above: {above}", (0, 1), xycoords="axes fraction", **style)
    axes.set_ylim(0, 1.12 * top / _GB)
