"""A comparison on a file as HTML: figures, confusion matrices, differences, and the rows to look at first."""

from collections.abc import Iterator, Sequence
from html import escape

from lorahub.app import html
from lorahub.data.table_check import CheckedTable
from lorahub.experiments.compare import report as compare_report
from lorahub.experiments.compare.file import FileComparison, ShownRow
from lorahub.experiments.compare.result import Comparison
from lorahub.reports import tables

_LABELS_SHOWN = 8


def contents(table: CheckedTable) -> str:
    """Return what a file holds, before it is classified: its rows and its labels."""
    rows = f"{table.source.name}: {table.rows:,} rows."
    if table.label is None:
        return html.note(rows, "Without a label column there are answers and no figures.", *table.notes)
    most = sorted(table.labels.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} ({count:,})" for name, count in most[:_LABELS_SHOWN])
    more = f" and {len(most) - _LABELS_SHOWN:,} more" if len(most) > _LABELS_SHOWN else ""
    return html.note(rows, f"Labels: {shown}{more}." if most else "The label column is empty.", *table.notes)


def render(result: FileComparison, table: CheckedTable, seconds: float, device: str) -> str:
    """Return the whole report."""
    count = len(result.answers)
    sentence = (
        f"{result.rows:,} rows classified by {count} adapter{'s' if count > 1 else ''} in {seconds:,.1f} s on "
        f"{device.upper()}."
    )
    return "".join(
        (
            html.title(table.source.name, sentence),
            html.note(*result.notes),
            *(_figures(result) if result.results else ()),
            *(part for comparison in result.comparisons for part in _comparison(comparison)),
            *(_confusions(result) if result.results else ()),
            *_answers(result),
            *(_agreement(result) if result.agreed else ()),
            *_rows(result),
        )
    )


def _figures(result: FileComparison) -> Iterator[str]:
    rows = [(name, *tables.figures(block), f"{block.n:,}") for name, block in result.results.items()]
    yield html.title("Figures")
    yield html.table("Figures", ("adapter", *tables.HEADER[1:], "rows"), rows)
    yield html.note(
        "Against the file's labels. Square brackets: 95% intervals. ECE: calibration error, lower is better."
    )


def _comparison(result: Comparison) -> Iterator[str]:
    yield html.title("Which adapter is better?")
    yield html.text(*compare_report.verdicts(result))
    for table in compare_report.difference_tables(result):
        yield html.subtitle(table.heading)
        yield html.table(table.heading, table.header, table.rows)
    yield html.note(compare_report.explanation(result))


def _confusions(result: FileComparison) -> Iterator[str]:
    """Yield one matrix per adapter: labels in rows, answers in columns, shaded by the share of the row."""
    figures = []
    orders: dict[frozenset[str], list[str]] = {}
    for name, block in result.results.items():
        labels = list(block.per_label)
        # Matrices of the same labels are read side by side, so all have the order of the first one.
        order = orders.setdefault(frozenset(labels), labels)
        places = [labels.index(label) for label in order]
        counts = [[block.confusion[row][column] for column in places] for row in places]
        matrix = html.table(
            f"Confusion matrix of {name}",
            ("label ↓ answer →", *order),
            [(label, *(f"{cell:,}" for cell in row)) for label, row in zip(order, counts, strict=True)],
            shares=[[cell / max(1, sum(row)) for cell in row] for row in counts],
        )
        figures.append(
            f'<figure class="lh-confusion"><figcaption><h3>{escape(name)}</h3></figcaption>{matrix}</figure>'
        )
    yield html.title("Confusion matrices")
    yield html.block(f'<div class="lh-grid">{"".join(figures)}</div>')


def _answers(result: FileComparison) -> Iterator[str]:
    rows = [
        (name, label, f"{count:,}", f"{count / result.rows:.1%}")
        for name, counts in result.answers.items()
        for label, count in counts.items()
    ]
    yield html.title("Answers")
    yield html.table("Answers", ("adapter", "label", "rows", "share"), rows)


def _agreement(result: FileComparison) -> Iterator[str]:
    rows = [(f"{ours} and {theirs}", f"{same:,}", f"{same / result.rows:.1%}") for ours, theirs, same in result.agreed]
    yield html.subtitle("Agreement")
    yield html.table("Agreement", ("adapters", "rows with the same label", "share"), rows)


def _rows(result: FileComparison) -> Iterator[str]:
    names, labeled = list(result.answers), bool(result.labels)
    rows = [
        (str(row.row), row.claim, *([row.label or "-"] if labeled else []), *_cells(row, names, result))
        for row in result.shown
    ]
    order = "first those on which adapters with the same labels differ"
    if result.results:
        order += ", then those that one has wrong"
    sentence = f"{len(rows):,} of {result.rows:,} rows: {order}."
    if result.agreed:
        sentence = f"The adapters disagree on {result.disagreements:,} of {result.rows:,} rows. Shown are {sentence}"
    header = ("row", "claim", *(["label"] if labeled else []), *names)
    yield html.title("Rows", sentence)
    yield html.table("Rows", header, rows, css_class="lh-claims")


def _cells(row: ShownRow, names: Sequence[str], result: FileComparison) -> Iterator[str]:
    for name in names:
        answer, mark = row.answers[name], ""
        if row.label is not None and name in result.results:
            mark = "✓ " if row.label.strip().casefold() == answer.label.casefold() else "✗ "
        yield f"{mark}{answer.label} {tables.probability(answer.confidence)}{', unsure' if answer.abstain else ''}"
