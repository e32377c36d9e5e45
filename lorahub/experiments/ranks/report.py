"""The report on quality against rank: a table, sentences and a picture of both curves.

A difference that is not detectable is called inside the noise, never equal.
"""

from pathlib import Path
from typing import Any

from lorahub.experiments.ranks.result import SPLITS, Check, Curve, Point, RankCurves
from lorahub.reports import plots, tables
from lorahub.reports.report import Figure, Report, Table

TRUNCATED, RETRAINED = "truncated", "trained at it"


def build(curves: RankCurves) -> Report:
    """Build the report."""
    return Report(
        name="ranks",
        title=_title(curves),
        tables=[_table(curves)],
        sentences=_sentences(curves),
        explanation=_explanation(curves),
        figures=[Figure(file_name="ranks.png", caption="Quality against rank", draw=lambda path: _draw(curves, path))],
        data=curves,
    )


def _title(curves: RankCurves) -> str:
    about, claims = curves.about, curves.about.claims
    return (
        f"{about.run}: {about.method} of rank {about.rank} on {about.data}, {claims['train']:,} training claims, "
        f"{about.epochs:g} epochs, seed {about.seed}, {about.base}; {claims['validation']:,} validation and "
        f"{claims['test']:,} test claims"
    )


def _table(curves: RankCurves) -> Table:
    """Return one row per rank and curve; the run itself, which belongs to both curves, has a single row."""
    metric, difference = _metric(curves), f"- rank {curves.about.rank}"
    points = [(TRUNCATED, point) for point in curves.truncated.points]
    if curves.retrained is not None:
        points += [(RETRAINED, point) for point in curves.retrained.points if point.rank < curves.about.rank]
    points.sort(key=lambda item: item[1].rank)
    return Table(
        header=(
            "rank", "how", "alpha", "kept", f"{metric}, validation", difference, f"{metric}, test", difference
        ),
        rows=[_row(curves, how, point) for how, point in points],
    )  # fmt: skip


def _row(curves: RankCurves, how: str, point: Point) -> tuple[str, ...]:
    is_run = point.rank == curves.about.rank
    figures = [
        cell
        for split in SPLITS
        for cell in (
            f"{point.figures[split][curves.about.metric]:.3f}",
            "" if is_run else tables.signed(point.gaps[split].difference, point.gaps[split].interval),
        )
    ]
    kept = "" if point.kept is None else f"{point.kept:.1%}"
    return (str(point.rank), "the run" if is_run else how, f"{point.alpha:g}", kept, *figures)


def _sentences(curves: RankCurves) -> list[str]:
    """State the plateau of each curve, then the comparison of both at each rank that was trained."""
    sentences = [_plateau("By truncation", curves.truncated, curves)]
    if curves.retrained is not None:
        sentences.append(_plateau("By training at each rank", curves.retrained, curves))
    return [*sentences, *(_check(check, curves) for check in curves.checks)]


def _plateau(how: str, curve: Curve, curves: RankCurves) -> str:
    rank = tables.selected_rank(curve.plateau, curves.about.confidence)
    return f"{how}, the plateau begins at {rank}: {tables.rank_reason(curve.plateau, curves.about.metric)}."


def _check(check: Check, curves: RankCurves) -> str:
    gap = check.gaps["validation"]
    verdict = "inside the noise" if not gap.detectable else "better" if gap.difference > 0 else "worse"
    return (
        f"At rank {check.rank}, truncated minus trained: {_metric(curves)} on validation "
        f"{tables.signed(gap.difference, gap.interval)}, {verdict}."
    )


def _explanation(curves: RankCurves) -> str:
    text = (
        "Truncated: the update of each layer reduced to its largest singular values, with an unchanged scale; kept is "
        f"the share of the updates' squared norm. Square brackets: {tables.percent(curves.about.confidence)} intervals "
        f"of the paired difference ({curves.about.resamples:,} resamples of the claims). The plateau is selected on "
        "validation, and nothing on test."
    )
    if curves.retrained is None:
        return text
    return (
        f"{text} Trained at it: the run's recipe with that adapter.rank and the same alpha and seed; another seed "
        "would change those figures too, which these intervals do not show."
    )


def _draw(curves: RankCurves, path: Path) -> None:
    """Draw the metric against rank on both splits, with paired intervals of the difference to the run's own rank."""
    figure, panels = plots.canvas((11.5, 4.6), columns=2)
    lines = [(TRUNCATED, curves.truncated, plots.ACCENT, "o", 0.97)]
    if curves.retrained is not None:
        lines.append((RETRAINED, curves.retrained, plots.INK, "s", 1.03))
    metric, ranks = curves.about.metric, [point.rank for point in curves.truncated.points]
    for axes, split in zip(panels, SPLITS, strict=True):
        for name, curve, color, marker, shift in lines:
            _draw_points(axes, curve, split, metric, shift=shift, color=color, marker=marker, label=name)
        own = curves.truncated.points[-1].figures[split][metric]
        axes.axhline(own, color=plots.MUTED, linestyle="--", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ranks, ranks)
        axes.set(xlabel="rank", ylabel=f"{_metric(curves)} on {split} ({curves.about.claims[split]:,} claims)")
    for name, curve, color, _, _ in lines:
        plateau = curve.plateau
        panels[0].axvspan(plateau.low / 1.1, plateau.high * 1.1, color=color, alpha=0.08)
        panels[0].axvline(plateau.rank, color=color, linestyle=":", label=f"plateau, {name}: rank {plateau.rank}")
    panels[0].legend(fontsize=8, frameon=False, loc="lower right")
    panels[1].set_title("test: nothing is selected on it", fontsize=9, color=plots.MUTED)
    figure.suptitle(_title(curves), fontsize=8)
    plots.save(figure, path)


def _draw_points(axes: Any, curve: Curve, split: str, metric: str, *, shift: float, color: str, **style: str) -> None:
    """Draw one curve, shifted sideways so that the intervals of two curves do not overlap."""
    for point in curve.points:
        gap = point.gaps[split]
        ends = [point.figures[split][metric] - gap.difference + end for end in gap.interval]
        axes.plot([point.rank * shift] * 2, ends, color=color, linewidth=1.2)
    values = [point.figures[split][metric] for point in curve.points]
    axes.plot([point.rank * shift for point in curve.points], values, color=color, markersize=5, linewidth=1, **style)


def _metric(curves: RankCurves) -> str:
    return tables.METRIC_NAMES[curves.about.metric]
