"""A comparison told to people: tables, sentences, Markdown and a forest plot.

In: a `Comparison`. Out: rows and text. What is not detectable is called that, with the number of claims that would show
a difference as large as the observed one.
"""

from pathlib import Path

from lorahub import atomic
from lorahub.data.tables import Writer
from lorahub.experiments.compare.pairs import METRICS, Pair
from lorahub.experiments.compare.result import Comparison
from lorahub.records import LOWER_IS_BETTER
from lorahub.reports import plots, tables
from lorahub.stats.paired import ALPHA, POWER

TITLES = {**tables.METRIC_NAMES, "ece": "calibration error"}
MARKDOWN, PICTURE, JSON = "comparison.md", "comparison.png", "comparison.json"
DISAGREEMENTS = "disagreements.csv"
SYSTEMS_HEADER = tables.HEADER
DIFFERENCES_HEADER = ("pair: ours vs theirs", "metric", "ours - theirs", "p", "p (Holm)", "detectable", "claims needed")
MCNEMAR_HEADER = ("pair", "only ours right", "only theirs right", "p", "p (Holm)", "test", "claims needed")
LABELS_HEADER = ("pair", "label", "claims", "F1 ours", "F1 theirs", "ours - theirs", "p (Holm)", "detectable")


def systems(comparison: Comparison) -> list[tuple[str, ...]]:
    """One row per system: its own figures."""
    return [
        (item.title, *(f"{getattr(item, metric):.3f}" for metric in METRICS)) for item in comparison.systems.values()
    ]


def differences(comparison: Comparison) -> list[tuple[str, ...]]:
    """One row per pair and metric."""
    return [
        (
            title(comparison, pair),
            TITLES[metric],
            tables.signed(row.difference, row.interval),
            p_text(row.p),
            p_text(row.p_holm),
            _yes(row.detectable),
            _count(row.claims_needed),
        )
        for pair in comparison.pairs
        for metric, row in pair.metrics.items()
    ]


def mcnemar(comparison: Comparison) -> list[tuple[str, ...]]:
    """One row per pair: the claims that one system alone has right, and McNemar's test."""
    return [
        (
            title(comparison, pair),
            f"{pair.mcnemar.only_ours:,}",
            f"{pair.mcnemar.only_theirs:,}",
            p_text(pair.mcnemar.p),
            p_text(pair.mcnemar.p_holm),
            pair.mcnemar.test,
            _count(pair.mcnemar.claims_needed),
        )
        for pair in comparison.pairs
    ]


def per_label(comparison: Comparison) -> list[tuple[str, ...]]:
    """One row per pair and label: F1 of both, and the difference."""
    return [
        (
            title(comparison, pair),
            name,
            f"{row.support:,}",
            f"{row.ours:.3f}",
            f"{row.theirs:.3f}",
            tables.signed(row.difference, row.interval),
            p_text(row.p_holm),
            _yes(row.detectable),
        )
        for pair in comparison.pairs
        for name, row in pair.per_label.items()
    ]


def disagreements_header(comparison: Comparison) -> tuple[str, ...]:
    """The columns of `disagreements`: the claim, its gold label, and a column a system."""
    return ("claim", "gold", *(item.title for item in comparison.systems.values()))


def disagreements(comparison: Comparison, limit: int) -> list[tuple[str, ...]]:
    """The first claims on which the systems disagree; without its text a claim is a row number."""
    return [
        (" ".join(item.claim.split()) if item.claim else f"row {item.row}", item.gold, *item.answers.values())
        for item in comparison.disagreements[:limit]
    ]


def verdicts(comparison: Comparison) -> list[str]:
    """One sentence per pair, by the metric of the comparison."""
    return [sentence(comparison, pair) for pair in comparison.pairs]


def sentence(comparison: Comparison, pair: Pair) -> str:
    """What can be said of a pair, and where nothing can, how many claims it would take."""
    metric, found = comparison.metric, pair.metrics[comparison.metric]
    ours, theirs = (comparison.systems[name].title for name in (pair.ours, pair.theirs))
    many = f", corrected for {len(comparison.pairs)} comparisons" if len(comparison.pairs) > 1 else ""
    figures = f"{TITLES[metric]} {tables.signed(found.difference, found.interval)}, p {p_text(found.p_holm)}{many}"
    if found.detectable:
        return f"{ours} is {pair.verdict(metric)} than {theirs}: {figures}."
    parts = [f"No detectable difference between {ours} and {theirs}: {figures}."]
    if found.claims_needed is not None:
        parts.append(
            f"If the true difference were the observed one, it would take about {found.claims_needed:,} claims to "
            f"detect it (power {POWER:.0%}, alpha {ALPHA:g}); here are {comparison.n:,}."
        )
    others = [f"{TITLES[name]} ({pair.verdict(name)})" for name, row in pair.metrics.items() if row.detectable]
    if others:
        parts.append(f"There is one by {', '.join(others)}, which was not what decides.")
    return " ".join(parts)


def requirement(comparison: Comparison) -> str | None:
    """Whether what was demanded holds, in one sentence; None where nothing was."""
    required = comparison.required
    if required is None:
        return None
    if required.met:
        return f"Required: better than {required.baseline} by {TITLES[required.metric]}. It is."
    failed = ", ".join(comparison.systems[name].title for name in required.failed)
    return f"Required: better than {required.baseline} by {TITLES[required.metric]}. Not shown for {failed}."


def explanation(comparison: Comparison) -> str:
    """What brackets and p-values are, in two sentences."""
    return (
        f"Square brackets: {comparison.confidence:.0%} intervals of a paired bootstrap with {comparison.resamples:,} "
        "resamples. p (Holm) is corrected for the number of comparisons in its column and metric; detectable is what "
        f"has it below {1 - comparison.confidence:.3g} and 0 outside of its interval."
    )


def markdown(comparison: Comparison, *, picture: str | None = None, limit: int = 20) -> str:
    """The whole report; `picture` is the path of the forest plot, `limit` the number of disagreements shown."""
    parts = [
        f"# {_heading(comparison)}",
        f"{comparison.data}, {comparison.split}: {comparison.n:,} claims.",
        "\n".join(f"- {line}" for line in verdicts(comparison)),
        requirement(comparison),
        tables.markdown(SYSTEMS_HEADER, systems(comparison)),
        f"![Differences with their intervals]({picture})" if picture else None,
        "## Differences",
        tables.markdown(DIFFERENCES_HEADER, differences(comparison)),
        explanation(comparison),
        "## McNemar's test",
        tables.markdown(MCNEMAR_HEADER, mcnemar(comparison)),
        "## By label",
        tables.markdown(LABELS_HEADER, per_label(comparison)),
        "## Where they disagree",
        told(comparison, limit),
        tables.markdown(disagreements_header(comparison), disagreements(comparison, limit)),
        "\n".join(f"Note: {line}." for line in comparison.notes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def save(comparison: Comparison, folder: Path) -> list[Path]:
    """Write the report into `folder`: Markdown, picture, JSON, and all disagreements as csv; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic.replacing(folder / PICTURE) as part:
        draw(comparison, part)
    atomic.write_text(folder / MARKDOWN, markdown(comparison, picture=PICTURE))
    atomic.write_json(folder / JSON, comparison.to_dict())
    save_disagreements(comparison, folder / DISAGREEMENTS)
    return [folder / name for name in (MARKDOWN, PICTURE, JSON, DISAGREEMENTS)]


def save_disagreements(comparison: Comparison, path: Path) -> None:
    """Write every claim that the systems disagree on, a column a system, as csv, tsv, jsonl or parquet."""
    rows = [
        {
            **{"row": item.row, "sha256": item.sha256, "claim": item.claim or "", "gold": item.gold},
            **{f"{name}.label": answer for name, answer in item.answers.items()},
        }
        for item in comparison.disagreements
    ]
    with atomic.replacing(path) as part, Writer(part, kind=path.suffix.lower()) as writer:
        writer.write(rows)
        if not rows:
            writer.write_none(("row", "sha256", "claim", "gold", *(f"{name}.label" for name in comparison.systems)))


def _heading(comparison: Comparison) -> str:
    """The runs that were compared; a run alone was compared with what it brought along."""
    runs = list(dict.fromkeys(item.run for item in comparison.systems.values()))
    return " against ".join(runs) if len(runs) > 1 else f"{runs[0]} against its baselines"


def told(comparison: Comparison, limit: int) -> str:
    """How many claims the systems disagree on, and how many of them are shown."""
    count = len(comparison.disagreements)
    shown = f"; the first {limit}" if count > limit else ""
    return f"They disagree on {count:,} of {comparison.n:,} claims{shown}:" if count else "They agree on every claim."


def title(comparison: Comparison, pair: Pair) -> str:
    """A pair as people read it."""
    return f"{comparison.systems[pair.ours].title} vs {comparison.systems[pair.theirs].title}"


def p_text(value: float) -> str:
    """A p-value as people read it."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def draw(comparison: Comparison, path: Path) -> None:
    """A forest plot: a panel a metric, a row a pair, the difference with its interval, and a line where it is none."""
    pairs = comparison.pairs
    size = (3.0 + 2.4 * len(METRICS), 1.5 + 0.42 * len(pairs))
    figure, panels = plots.canvas(size, columns=len(METRICS))
    rows = range(len(pairs))[::-1]  # the first pair stands at the top
    for axes, metric in zip(panels, METRICS, strict=True):
        axes.axvline(0, color=plots.MUTED, linestyle="--", linewidth=1)
        for row, pair in zip(rows, pairs, strict=True):
            found = pair.metrics[metric]
            low, high = found.interval
            colour = plots.ACCENT if found.detectable else plots.INK
            axes.plot([low, high], [row, row], color=colour, linewidth=1.6, solid_capstyle="butt")
            axes.plot(found.difference, row, "o", color=colour, markerfacecolor=colour if found.detectable else "white")
        # An interval far from 0 is still seen against it, and one of no width has room around it.
        axes.margins(x=0.12)
        axes.locator_params(axis="x", nbins=4)
        axes.set(ylim=(-0.6, len(pairs) - 0.4), yticks=list(rows))
        axes.tick_params(left=axes is panels[0], labelleft=axes is panels[0], labelsize=8)
        better = "left" if metric in LOWER_IS_BETTER else "right"
        axes.set_title(f"{TITLES[metric]}\n(better: {better})", fontsize=9)
    panels[0].set_yticklabels([title(comparison, pair) for pair in pairs])
    figure.suptitle(
        f"Ours - theirs on {comparison.n:,} {comparison.split} claims, {comparison.confidence:.0%} intervals; "
        "filled: detectable after correction",
        fontsize=10,
    )
    plots.save(figure, path)
