"""Quality against rank told to people: a table, sentences, Markdown and a picture of both curves.

In: `RankCurves`. Out: rows and text. What is inside the noise is called so, never equal.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorahub import atomic
from lorahub.experiments.ranks.curves import SPLITS, Curve, Point, RankCurves
from lorahub.reports import plots, tables

MARKDOWN, PICTURE, JSON = "ranks.md", "ranks.png", "ranks.json"
TRUNCATED, RETRAINED = "truncated", "trained at it"


def title(found: RankCurves) -> str:
    """What was trained on what, so that no figure is taken for another's."""
    about, claims = found.about, found.about.claims
    return (
        f"{about.run}: {about.method} of rank {about.rank} on {about.data}, {claims['train']:,} training claims, "
        f"{about.epochs:g} epochs, seed {about.seed}, {about.base}; {claims['validation']:,} validation and "
        f"{claims['test']:,} test claims"
    )


def header(found: RankCurves) -> tuple[str, ...]:
    """The columns of `rows`."""
    metric = _metric(found)
    return (
        "rank", "how", "alpha", "kept", f"{metric}, validation", f"- rank {found.about.rank}", f"{metric}, test",
        f"- rank {found.about.rank}",
    )  # fmt: skip


def rows(found: RankCurves) -> list[tuple[str, ...]]:
    """One row per rank and curve; the run itself, where both begin, stands once."""
    both = [(TRUNCATED, point) for point in found.truncated.points]
    if found.retrained is not None:
        both += [(RETRAINED, point) for point in found.retrained.points if point.rank < found.about.rank]
    both.sort(key=lambda item: item[1].rank)
    return [_row(found, how, point) for how, point in both]


def _row(found: RankCurves, how: str, point: Point) -> tuple[str, ...]:
    whole = point.rank == found.about.rank
    figures = [
        cell
        for split in SPLITS
        for cell in (
            f"{point.figures[split][found.about.metric]:.3f}",
            "" if whole else tables.signed(point.gaps[split].difference, point.gaps[split].interval),
        )
    ]
    kept = "" if point.kept is None else f"{point.kept:.1%}"
    return (str(point.rank), "the run" if whole else how, f"{point.alpha:g}", kept, *figures)


def verdicts(found: RankCurves) -> list[str]:
    """The plateau of each curve, then at each rank that has both how truncation and training compare."""
    lines = [_plateau("By truncation", found.truncated, found)]
    if found.retrained is not None:
        lines.append(_plateau("By training at each rank", found.retrained, found))
    for check in found.checks:
        gap = check.gaps["validation"]
        judged = "inside the noise" if not gap.detectable else "better" if gap.difference > 0 else "worse"
        lines.append(
            f"At rank {check.rank}, truncated less trained: {_metric(found)} on validation "
            f"{tables.signed(gap.difference, gap.interval)}, {judged}."
        )
    return lines


def _plateau(how: str, curve: Curve, found: RankCurves) -> str:
    rank, why = (
        tables.selected_rank(curve.plateau, found.about.confidence),
        tables.rank_reason(curve.plateau, found.about.metric),
    )
    return f"{how}, the plateau begins at {rank}: {why}."


def explanation(found: RankCurves) -> str:
    """What the figures are, and what they are not."""
    text = (
        f"Truncated: each layer's update cut to its largest singular values, its scale unchanged; kept is the share of "
        f"the updates' squared norm. Square brackets: {tables.percent(found.about.confidence)} intervals of the paired "
        f"difference ({found.about.resamples:,} resamples of the claims). The plateau is named on validation; test is "
        "only shown."
    )
    if found.retrained is None:
        return text
    return (
        f"{text} Trained at it: the run's recipe with that adapter.rank and the same alpha and seed; another seed "
        "would move those figures too, which these intervals do not show."
    )


def markdown(found: RankCurves, *, picture: str | None = None) -> str:
    """The whole report; `picture` is the path of the picture."""
    parts = [
        f"**{title(found)}**",
        tables.markdown(header(found), rows(found)),
        explanation(found),
        "\n".join(f"- {line}" for line in verdicts(found)),
        f"![Quality against rank]({picture})" if picture else None,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def save(found: RankCurves, folder: Path) -> list[Path]:
    """Write Markdown, picture and JSON into `folder` and return their paths."""
    with atomic.replacing(folder / PICTURE) as part:
        draw(found, part)
    atomic.write_text(folder / MARKDOWN, markdown(found, picture=PICTURE))
    atomic.write_json(folder / JSON, found.to_dict())
    return [folder / name for name in (MARKDOWN, PICTURE, JSON)]


def draw(found: RankCurves, path: Path) -> None:
    """The metric against rank on both splits; bars are paired intervals of the difference to the run's own rank."""
    figure, panels = plots.canvas((11.5, 4.6), columns=2)
    curves = [(TRUNCATED, found.truncated, plots.ACCENT, "o", 0.97)]
    if found.retrained is not None:
        curves.append((RETRAINED, found.retrained, plots.INK, "s", 1.03))
    for axes, split in zip(panels, SPLITS, strict=True):
        for name, curve, colour, marker, aside in curves:
            _line(axes, curve.points, split, found.about.metric, colour, marker, aside, name)
        axes.axhline(
            found.truncated.points[-1].figures[split][found.about.metric],
            color=plots.MUTED,
            linestyle="--",
            linewidth=1,
        )
        ranks = [point.rank for point in found.truncated.points]
        axes.set_xscale("log", base=2)
        axes.set_xticks(ranks, ranks)
        axes.set(xlabel="rank", ylabel=f"{_metric(found)} on {split} ({found.about.claims[split]:,} claims)")
    for name, curve, colour, _, _ in curves:
        plateau = curve.plateau
        panels[0].axvspan(plateau.low / 1.1, plateau.high * 1.1, color=colour, alpha=0.08)
        panels[0].axvline(plateau.rank, color=colour, linestyle=":", label=f"plateau, {name}: rank {plateau.rank}")
    panels[0].legend(fontsize=8, frameon=False, loc="lower right")
    panels[1].set_title("test: nothing is chosen on it", fontsize=9, color=plots.MUTED)
    figure.suptitle(title(found), fontsize=8)
    plots.save(figure, path)


def _line(
    axes: Any, points: Sequence[Point], split: str, metric: str, colour: str, marker: str, aside: float, name: str
) -> None:
    """One curve; the bars of two curves stand a little aside from each other."""
    values = [point.figures[split][metric] for point in points]
    places = [point.rank * aside for point in points]
    for place, value, point in zip(places, values, points, strict=True):
        gap = point.gaps[split]
        ends = [value - gap.difference + end for end in gap.interval]
        axes.plot([place, place], ends, color=colour, linewidth=1.2)
    axes.plot(places, values, color=colour, marker=marker, markersize=5, linewidth=1, label=name)


def _metric(found: RankCurves) -> str:
    return tables.METRIC_NAMES[found.about.metric]
