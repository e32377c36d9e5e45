"""Plots of a record as PNG files: confusion matrix, learning curve, reliability diagram, risk-coverage curve.

They use matplotlib's Agg canvas, without a window or global state.
"""

from pathlib import Path
from typing import Any

from lorahub.errors import need
from lorahub.records import RunRecord

CONFUSION, RELIABILITY, CURVE, COVERAGE = "confusion.png", "reliability.png", "curve.png", "coverage.png"
_SIZE = (5.2, 4.2)  # inches
_DPI = 130
INK, ACCENT, MUTED = "#1f2937", "#0f766e", "#9ca3af"


def draw(record: RunRecord, folder: Path) -> None:
    """Write the plots of a record into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    confusion(record, folder / CONFUSION)
    reliability(record, folder / RELIABILITY)
    if record.progress.curve:
        curve(record, folder / CURVE)
    if record.adapter().selective is not None:
        coverage(record, folder / COVERAGE)


def confusion(record: RunRecord, path: Path) -> None:
    """Plot the confusion matrix on the scored split, with gold labels in rows.

    Shades are shares of the row, numbers are claims.
    """
    counts, names = record.adapter().confusion, record.labels
    figure, axes = canvas((max(_SIZE[0], 0.8 * len(names) + 2), max(_SIZE[1], 0.7 * len(names) + 1.6)))
    shares = [[cell / max(1, sum(row)) for cell in row] for row in counts]
    axes.imshow(shares, cmap="BuGn", vmin=0, vmax=1)
    for row, cells in enumerate(counts):
        for column, cell in enumerate(cells):
            color = "white" if shares[row][column] > 0.55 else INK
            axes.text(column, row, f"{cell:,}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("answer")
    axes.set_ylabel("gold label")
    axes.set_title(f"{record.name}: {record.scored_split}, {sum(map(sum, counts)):,} claims", fontsize=10)
    save(figure, path)


def reliability(record: RunRecord, path: Path) -> None:
    """Plot accuracy against confidence on the scored split; a calibrated system is on the diagonal."""
    result = record.adapter()
    figure, axes = canvas(_SIZE)
    most = max(row.n for row in result.reliability)
    axes.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1, label="perfectly calibrated")
    axes.scatter(
        [row.confidence for row in result.reliability],
        [row.accuracy for row in result.reliability],
        s=[20 + 180 * row.n / most for row in result.reliability],
        color=ACCENT,
        alpha=0.8,
        label="claims (area: their number)",
    )
    # Margins for the circles at both ends.
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="confidence", ylabel="accuracy")
    axes.set_title(f"{record.name}: calibration error {result.ece:.3f} on {record.scored_split}", fontsize=10)
    axes.legend(loc="upper left", fontsize=8, frameon=False)
    save(figure, path)


def curve(record: RunRecord, path: Path) -> None:
    """Plot training loss and validation macro F1 against steps; a line marks the kept checkpoint."""
    rows = record.progress.curve
    steps = [row.step for row in rows]
    figure, axes = canvas(_SIZE)
    axes.plot(steps, [row.loss for row in rows], color=MUTED, marker=".", label="training loss")
    axes.plot(steps, [row.loss_validation for row in rows], color=INK, marker=".", label="validation loss")
    axes.set(xlabel="optimizer step", ylabel="loss (nats per claim)")
    right = axes.twinx()
    right.plot(steps, [row.f1_macro for row in rows], color=ACCENT, marker="o", label="validation macro F1")
    right.axvline(record.progress.best_step, color=ACCENT, linestyle=":", linewidth=1)
    right.set_ylabel("macro F1", color=ACCENT)
    lines = [*axes.get_lines(), right.get_lines()[0]]
    axes.legend(lines, [line.get_label() for line in lines], fontsize=8, frameon=False, loc="center right")
    axes.set_title(f"{record.name}: kept step {record.progress.best_step}", fontsize=10)
    save(figure, path)


def coverage(record: RunRecord, path: Path) -> None:
    """Plot the risk-coverage curve (Geifman and El-Yaniv 2017, arXiv:1705.08500); points mark the threshold.

    Risk is the share of wrong answers among the claims that are answered, by falling confidence.
    """
    figure, axes = canvas(_SIZE)
    dots = ""
    for split, color in (("validation", MUTED), ("test", ACCENT)):
        selective = record.adapter(split).selective if split in record.results else None
        if selective is None:
            continue
        line = [(row.coverage, row.risk) for row in selective.curve]
        axes.plot(*zip(*line, strict=True), color=color, label=f"{split} (area {selective.aurc:.3f})")
        if selective.threshold is not None and selective.accuracy is not None:
            axes.plot(selective.coverage, 1 - selective.accuracy, "o", color=color)
            dots = f" (dots: confidence {selective.threshold:.2f})"
    limit = record.config.eval.abstain_risk
    if limit:
        axes.axhline(limit, color=INK, linestyle=":", linewidth=1, label=f"limit on validation: {limit:.0%}")
    axes.set(xlim=(0, 1.02), ylim=(0, None), xlabel="coverage: claims answered", ylabel="risk: wrong answers")
    axes.set_title(f"{record.name}: risk and coverage{dots}", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    save(figure, path)


def canvas(size: tuple[float, float], columns: int = 1, rows: int = 1) -> tuple[Any, Any]:
    """Return a figure with its axes, or with a list of panels, row by row."""
    need("matplotlib", extra="train")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panels = [figure.add_subplot(rows, columns, place + 1) for place in range(rows * columns)]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels if len(panels) > 1 else panels[0]


def save(figure: Any, path: Path) -> None:
    """Write the figure as PNG."""
    # `savefig` would compute the layout twice and draw twice.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    # Without software version or date, so that the same record gives the same bytes.
    figure.canvas.print_png(path, metadata={"Software": None})
