"""An estimate told to people: tables, sentences and the tutorial's picture of memory by component.

In: an `Estimate`. Out: rows and text, and stacked bars for each method with each device's memory as a line.
"""

from pathlib import Path
from typing import Any

from lorahub import atomic
from lorahub.experiments.estimate.costs import COMPONENTS, CONTEXT_BYTES, CPU, UTILISATION, Cost, Estimate
from lorahub.reports import plots

_GB = 1e9
_TALLEST = 2.5  # a line this many times above the highest bar is still drawn
_COLOURS = {
    "weights": "#334155", "quantisation": "#94a3b8", "adapters": "#0f766e", "gradients": "#d97706",
    "optimizer": "#b91c1c", "activations": "#60a5fa", "best": "#a78bfa", "heap": "#d1d5db",
    "process": "#6b7280",
}  # fmt: skip


def title(estimate: Estimate) -> str:
    """What was counted for what."""
    claims = "" if estimate.claims is None else f", {estimate.claims:,} claims"
    return (
        f"{estimate.base}: {estimate.parameters / 1e6:,.1f}M parameters; batches of {estimate.batch_size} claims of up "
        f"to {estimate.tokens} tokens{claims}"
    )


def fits_header(estimate: Estimate) -> tuple[str, ...]:
    """The columns of `fits`."""
    return ("device", "memory", *methods(estimate))


def fits(estimate: Estimate) -> list[tuple[str, ...]]:
    """One row a device: what each method takes there, and whether that fits."""
    rows = []
    for device in devices(estimate):
        here = [cost for cost in estimate.costs if cost.device == device]
        rows.append((device, _size(here[0].capacity_bytes), *(_verdict(cost) for cost in here)))
    return rows


def _verdict(cost: Cost) -> str:
    took = cost.seconds_per_step if cost.seconds is None else cost.seconds
    return f"{_size(cost.peak_bytes)} {'fits' if cost.fits else 'NO'}, {_time(took)}"


def parts_header(estimate: Estimate, device: str) -> tuple[str, ...]:
    """The columns of `parts`."""
    return (f"peak on {device}", *methods(estimate))


def parts(estimate: Estimate, device: str) -> list[tuple[str, ...]]:
    """One row a component, then the sum and the trained parameters."""
    here = [cost for cost in estimate.costs if cost.device == device]
    rows = [
        (words, *(_size(cost.components[name]) for cost in here))
        for name, words in COMPONENTS.items()
        if any(cost.components[name] for cost in here)
    ]
    return [
        *rows,
        ("all", *(_size(cost.peak_bytes) for cost in here)),
        ("trained parameters", *(f"{cost.trainable_parameters:,}" for cost in here)),
        ("TFLOP a step", *(f"{cost.operations / 1e12:,.2f}" for cost in here)),
    ]


def sentences(estimate: Estimate) -> list[str]:
    """For each method the smallest device that holds it."""
    found = []
    for method in methods(estimate):
        able = [cost for cost in estimate.costs if cost.method == method and cost.fits]
        if not able:
            least = min(cost.peak_bytes for cost in estimate.costs if cost.method == method)
            found.append(f"{method} fits on none of these: it takes {_size(least)} or more.")
            continue
        smallest = min(able, key=lambda cost: cost.capacity_bytes)
        found.append(
            f"{method} fits on {', '.join(cost.device for cost in able)}; the smallest is {smallest.device}, with "
            f"{_size(smallest.peak_bytes)} of {_size(smallest.capacity_bytes)}."
        )
    return found


def explanation(estimate: Estimate) -> str:
    """What the figures are."""
    span = "the training" if estimate.steps is not None else "one step"
    return (
        f"Peak memory while training, and the time of {span}, which is rough: floating-point operations at "
        f"{UTILISATION:.0%} of the peak rate. On a GPU a method fits where {_size(CONTEXT_BYTES)} are left for its own "
        "libraries."
    )


def methods(estimate: Estimate) -> list[str]:
    """The methods in their order."""
    return list(dict.fromkeys(cost.method for cost in estimate.costs))


def devices(estimate: Estimate) -> list[str]:
    """The devices in their order."""
    return list(dict.fromkeys(cost.device for cost in estimate.costs))


def examples(estimate: Estimate) -> list[str]:
    """One CPU and one GPU to show the components of, where there are such."""
    return [name for name in devices(estimate) if name in (CPU, _drawn(estimate))]


def _size(count: float) -> str:
    """Bytes as people read them: three figures."""
    if count >= _GB:
        return f"{count / _GB:,.{max(0, 3 - len(str(int(count / _GB))))}f} GB"
    return f"{count / 1e6:,.1f} MB" if count < 1e8 else f"{count / 1e6:,.0f} MB"


def _time(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:,.1f} h"
    if seconds >= 90:
        return f"{seconds / 60:,.0f} min"
    return f"{seconds:,.1f} s" if seconds >= 0.1 else f"{seconds * 1e3:,.1f} ms"


def save(estimate: Estimate, path: Path) -> Path:
    """Write the picture as PNG and return its path."""
    with atomic.replacing(path) as part:
        draw(estimate, part)
    return path


def draw(estimate: Estimate, path: Path) -> None:
    """Stacked bars by method on the last device, whose kind the others share, and every device's memory as a line."""
    figure, axes = plots.canvas((7.2, 4.6))
    shown = _drawn(estimate)
    bars = [cost for cost in estimate.costs if cost.device == shown]
    for place, cost in enumerate(bars):
        bottom = 0.0
        for name, count in cost.components.items():
            axes.bar(place, count / _GB, bottom=bottom, width=0.55, color=_COLOURS[name])
            bottom += count / _GB
        axes.annotate(_size(cost.peak_bytes), (place, bottom), ha="center", va="bottom", fontsize=8)
    for name, words in COMPONENTS.items():
        if any(cost.components[name] for cost in bars):
            axes.bar(0, 0, color=_COLOURS[name], label=words)
    _lines(axes, estimate, highest=max(cost.peak_bytes for cost in bars))
    axes.set_xticks(range(len(bars)), [cost.method for cost in bars])
    axes.set(ylabel="peak memory while training (GB)", xlim=(-0.6, len(bars) + 0.4))
    axes.legend(fontsize=8, frameon=False, loc="center right")
    figure.suptitle(title(estimate), fontsize=9)
    plots.save(figure, path)


def _drawn(estimate: Estimate) -> str:
    """The device whose figures are drawn: the last GPU, since GPUs differ little among each other, else the CPU."""
    return next((name for name in reversed(devices(estimate)) if name != CPU), CPU)


def _lines(axes: Any, estimate: Estimate, *, highest: int) -> None:
    """A line at each memory size, named by the devices that have it.

    What lies so high that the bars would shrink under it is told in a corner.
    """
    sizes: dict[int, list[str]] = {}
    for cost in estimate.costs:
        names = sizes.setdefault(cost.capacity_bytes, [])
        if cost.device not in names:
            names.append(cost.device)
    top = max(highest, min((size for size in sizes if highest <= size <= _TALLEST * highest), default=0))
    for size in sorted(size for size in sizes if size <= top):
        axes.axhline(size / _GB, color=plots.MUTED, linestyle="--", linewidth=1)
        axes.annotate(
            f"{', '.join(sizes[size])}: {size / _GB:,.0f} GB", (1, size / _GB), xycoords=("axes fraction", "data"),
            fontsize=7, color=plots.INK, ha="right", va="bottom",
        )  # fmt: skip
    axes.set_ylim(0, 1.12 * top / _GB)
    beyond = [f"{', '.join(names)}: {size / _GB:,.0f} GB" for size, names in sorted(sizes.items()) if size > top]
    if beyond:
        axes.annotate("above: " + "; ".join(beyond), (0, 1), xycoords="axes fraction", fontsize=7, color=plots.INK,
                      va="bottom")  # fmt: skip
