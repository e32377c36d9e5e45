"""The report on a comparison: tables, sentences and a forest plot.

A difference that is not detectable is called that, with the number of claims that would detect the observed one.
"""

from pathlib import Path

from lorahub import atomic
from lorahub.data.tables import Writer
from lorahub.experiments.compare.pairs import METRICS, Pair
from lorahub.experiments.compare.result import Comparison, Disagreement
from lorahub.reports import plots, tables
from lorahub.reports.report import Figure, Report, Table
from lorahub.stats.equivalence import EQUIVALENT, UNDECIDED, Equivalence, answer
from lorahub.stats.paired import ALPHA, POWER
from lorahub.stats.results import LOWER_IS_BETTER

TITLES = {**tables.METRIC_NAMES, "ece": "calibration error"}
CLAIMS_SHOWN = 20


def build(comparison: Comparison, *, claims: int = CLAIMS_SHOWN) -> Report:
    """Build the report; `claims` is the number of claims to list on which the systems disagree."""
    runs = list(dict.fromkeys(item.run for item in comparison.systems.values()))
    return Report(
        name="comparison",
        title=" against ".join(runs) if len(runs) > 1 else f"{runs[0]} against its baselines",
        tables=[
            _systems(comparison),
            *difference_tables(comparison),
            *([] if comparison.margin is None else [_flips(comparison, claims)]),
            _disagreements(comparison, claims),
        ],
        sentences=[*verdicts(comparison), *_requirement(comparison)],
        explanation=explanation(comparison),
        notes=comparison.notes,
        figures=[
            Figure(
                file_name="comparison.png",
                caption="Differences with their intervals",
                draw=lambda path: draw(comparison, path),
            )
        ],
        attachments={"disagreements.csv": lambda path: _write_disagreements(comparison, path, ".csv")},
        data=comparison,
    )


def _systems(comparison: Comparison) -> Table:
    return Table(
        header=tables.HEADER,
        rows=[
            (item.title, *(f"{getattr(item, metric):.3f}" for metric in METRICS))
            for item in comparison.systems.values()
        ],
        heading="Systems",
        note=f"{comparison.data}, {comparison.split}: {comparison.n:,} claims.",
    )


def difference_tables(comparison: Comparison) -> list[Table]:
    """Return what the pairs show: differences by metric, McNemar's test, and differences by label."""
    by_metric, tests, by_label = [], [], []
    for pair in comparison.pairs:
        title, test = _pair_title(comparison, pair), pair.mcnemar
        for metric, row in pair.metrics.items():
            figures = (tables.signed(row.difference, row.interval), tables.p_value(row.p), tables.p_value(row.p_holm))
            by_metric.append((title, TITLES[metric], *figures, _yes(row.detectable), _count(row.claims_needed)))
        counts = (f"{test.only_ours:,}", f"{test.only_theirs:,}")
        p_values = (tables.p_value(test.p), tables.p_value(test.p_holm))
        tests.append((title, *counts, *p_values, test.test, _count(test.claims_needed)))
        for label, f1 in pair.per_label.items():
            scores = (f"{f1.support:,}", f"{f1.ours:.3f}", f"{f1.theirs:.3f}")
            difference = (tables.signed(f1.difference, f1.interval), tables.p_value(f1.p_holm), _yes(f1.detectable))
            by_label.append((title, label, *scores, *difference))
    metric_header = ("pair: ours vs theirs", "metric", "ours - theirs", "p", "p (Holm)", "detectable", "claims needed")
    test_header = ("pair", "only ours right", "only theirs right", "p", "p (Holm)", "test", "claims needed")
    label_header = ("pair", "label", "claims", "F1 ours", "F1 theirs", "ours - theirs", "p (Holm)", "detectable")
    return [
        Table(header=metric_header, rows=by_metric, heading="Differences"),
        Table(header=test_header, rows=tests, heading="McNemar's test"),
        Table(header=label_header, rows=by_label, heading="Differences by label"),
    ]


def _flips(comparison: Comparison, limit: int) -> Table:
    """Return the claims that one system of a pair has right and the other one wrong, up to `limit` of each kind."""
    claims = {item.row: item for item in comparison.disagreements}
    rows, counts = [], []
    for pair in comparison.pairs:
        title = _pair_title(comparison, pair)
        for kind, flipped in (("right to wrong", pair.right_to_wrong), ("wrong to right", pair.wrong_to_right)):
            counts.append(f"{title}, {kind}: {len(flipped):,}")
            for item in (claims[row] for row in flipped[:limit]):
                rows.append((title, kind, _claim(item), item.gold, item.answers[pair.theirs], item.answers[pair.ours]))
    return Table(
        header=("pair: ours vs theirs", "from theirs to ours", "claim", "gold", "theirs", "ours"),
        rows=rows,
        heading="Label flips",
        note=f"{'; '.join(counts)}. Up to {limit} of each are listed, all of them by --json." if limit else "",
    )


def _claim(item: Disagreement) -> str:
    return " ".join(item.claim.split()) if item.claim else f"row {item.row}"


def _disagreements(comparison: Comparison, limit: int) -> Table:
    count = len(comparison.disagreements)
    shown = f"; the first {limit}" if 0 < limit < count else ""
    rows = [(_claim(item), item.gold, *item.answers.values()) for item in comparison.disagreements[:limit]]
    note = f"The systems disagree on {count:,} of {comparison.n:,} claims{shown}{':' if rows else '.'}"
    return Table(
        header=("claim", "gold", *(item.title for item in comparison.systems.values())),
        rows=rows,
        heading="Disagreements",
        note=note if count else "The systems agree on every claim.",
    )


def verdicts(comparison: Comparison) -> list[str]:
    """Return one sentence per pair: what the metric of the comparison shows, or how many claims it would need."""
    return [_verdict(comparison, pair) for pair in comparison.pairs]


def _verdict(comparison: Comparison, pair: Pair) -> str:
    metric, row = comparison.metric, pair.metrics[comparison.metric]
    ours, theirs = (comparison.systems[name].title for name in (pair.ours, pair.theirs))
    corrected = f", corrected for {len(comparison.pairs)} comparisons" if len(comparison.pairs) > 1 else ""
    difference = tables.signed(row.difference, row.interval)
    figures = f"{TITLES[metric]} {difference}, p {tables.p_value(row.p_holm)}{corrected}"
    if pair.equivalence is not None and pair.verdict in (EQUIVALENT, UNDECIDED):
        figures = f"{TITLES[metric]} {row.difference:+.3f}, {_within(pair.equivalence)}{corrected}"
        if pair.verdict == EQUIVALENT:
            detectable = "; the difference is detectable" if row.detectable else ""
            return f"{ours} and {theirs} are equivalent: {figures}{detectable}."
        return (
            f"Undecided between {ours} and {theirs}: {figures}. If there were no difference, showing that would take "
            f"about {pair.equivalence.claims_needed:,} claims (power {POWER:.0%}); this comparison has "
            f"{comparison.n:,}."
        )
    if row.detectable:
        return f"{ours} is {pair.verdict} than {theirs}: {figures}."
    sentences = [f"No detectable difference between {ours} and {theirs}: {figures}."]
    if row.claims_needed is not None:
        sentences.append(
            f"If the true difference were the observed one, detecting it would take about {row.claims_needed:,} claims "
            f"(power {POWER:.0%}, alpha {ALPHA:g}); this comparison has {comparison.n:,}."
        )
    others = [f"{TITLES[name]} ({answer(name, other)})" for name, other in pair.metrics.items() if other.detectable]
    if others:
        sentences.append(f"There is a detectable difference in {', '.join(others)}, which does not decide.")
    return " ".join(sentences)


def _within(row: Equivalence) -> str:
    within = tables.within(row.interval, row.margin, inside=row.equivalent)
    return f"{within}, p {tables.p_value(row.p_holm)}"


def _requirement(comparison: Comparison) -> list[str]:
    required = comparison.required
    if required is None:
        return []
    condition = f"Required: better than {required.baseline} by {TITLES[required.metric]}."
    if required.verdict == EQUIVALENT:
        condition = f"Required: {TITLES[required.metric]} equivalent within {comparison.margin:g}."
    systems = comparison.systems
    failed = ", ".join(systems[name].title if name in systems else name for name in required.failed)
    return [f"{condition} Met." if required.met else f"{condition} Not shown for {failed}."]


def explanation(comparison: Comparison) -> str:
    """Explain intervals, p-values, "detectable" and "equivalent"."""
    equivalent = (
        ""
        if comparison.margin is None
        else " Equivalent: two one-sided tests on the bootstrap, each at "
        f"{(1 - comparison.confidence) / 2:.3g}, show that the difference is below the margin in both directions."
    )
    return (
        f"Square brackets: {comparison.confidence:.0%} intervals of a paired bootstrap with {comparison.resamples:,} "
        "resamples, widened by flips that these claims do not show. p (Holm) is corrected for the number of "
        "comparisons in its column and metric; a difference is detectable if p (Holm) is below "
        f"{1 - comparison.confidence:.3g} and its interval excludes 0.{equivalent}"
    )


def save_disagreements(comparison: Comparison, path: Path) -> None:
    """Write every claim on which the systems disagree, a column per system, as csv, tsv, jsonl or parquet."""
    with atomic.replacing(path) as partial:
        _write_disagreements(comparison, partial, path.suffix.lower())


def _write_disagreements(comparison: Comparison, path: Path, kind: str) -> None:
    rows = [
        {
            **{"row": item.row, "sha256": item.sha256, "claim": item.claim or "", "gold": item.gold},
            **{f"{name}.label": answer for name, answer in item.answers.items()},
        }
        for item in comparison.disagreements
    ]
    with Writer(path, kind=kind) as writer:
        writer.write(rows)
        if not rows:
            writer.write_none(("row", "sha256", "claim", "gold", *(f"{name}.label" for name in comparison.systems)))


def _pair_title(comparison: Comparison, pair: Pair) -> str:
    return f"{comparison.systems[pair.ours].title} vs {comparison.systems[pair.theirs].title}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def draw(comparison: Comparison, path: Path) -> None:
    """Draw a forest plot: a panel per metric, and per pair the difference with its interval."""
    pairs = comparison.pairs
    size = (3.0 + 2.4 * len(METRICS), 1.5 + 0.42 * len(pairs))
    figure, panels = plots.canvas(size, columns=len(METRICS))
    positions = range(len(pairs))[::-1]  # the first pair at the top
    for axes, metric in zip(panels, METRICS, strict=True):
        axes.axvline(0, color=plots.MUTED, linestyle="--", linewidth=1)
        for y, pair in zip(positions, pairs, strict=True):
            row = pair.metrics[metric]
            color = plots.ACCENT if row.detectable else plots.INK
            axes.plot(row.interval, [y, y], color=color, linewidth=1.6, solid_capstyle="butt")
            axes.plot(row.difference, y, "o", color=color, markerfacecolor=color if row.detectable else "white")
        # Margins, so that an interval of width 0 is visible.
        axes.margins(x=0.12)
        axes.locator_params(axis="x", nbins=4)
        axes.set(ylim=(-0.6, len(pairs) - 0.4), yticks=list(positions))
        axes.tick_params(left=axes is panels[0], labelleft=axes is panels[0], labelsize=8)
        better = "left" if metric in LOWER_IS_BETTER else "right"
        axes.set_title(f"{TITLES[metric]}\n(better: {better})", fontsize=9)
    panels[0].set_yticklabels([_pair_title(comparison, pair) for pair in pairs])
    figure.suptitle(
        f"Ours - theirs on {comparison.n:,} {comparison.split} claims, {comparison.confidence:.0%} intervals; "
        "filled: detectable after correction",
        fontsize=10,
    )
    plots.save(figure, path)
