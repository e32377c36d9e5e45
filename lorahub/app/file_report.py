"""A comparison on a file as HTML: figures, confusion matrices, differences and the rows to look at first. Pure."""

from collections.abc import Sequence
from typing import Any

from lorahub.app import present
from lorahub.data.table_check import CheckedTable
from lorahub.experiments.compare import report as compare_report
from lorahub.experiments.compare.file import FileComparison, ShownRow
from lorahub.experiments.compare.result import Comparison
from lorahub.reports import tables

_FIGURES = ("adapter", *tables.HEADER[1:], "rows")
_RIGHT, _WRONG = "✓", "✗"
_LABELS_TOLD = 8


def told(table: CheckedTable) -> str:
    """What a file holds, before it is judged: its rows and its labels."""
    rows = f"{table.source.name}: {table.rows:,} rows."
    if table.label is None:
        return present.message(rows, "Without a label column there are answers and no figures.")
    most = sorted(table.labels.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} ({count:,})" for name, count in most[:_LABELS_TOLD])
    more = f" and {len(most) - _LABELS_TOLD:,} more" if len(most) > _LABELS_TOLD else ""
    return present.message(rows, f"Labels: {shown}{more}." if most else "The label column is empty.")


def render(found: FileComparison, table: CheckedTable, seconds: float, device: str) -> str:
    """The whole answer of the page."""
    count = len(found.answers)
    parts = [
        present.title(
            table.source.name,
            f"{found.rows:,} rows judged by {count} adapter{'s' if count > 1 else ''} in {seconds:,.1f} s on "
            f"{device.upper()}.",
        ),
        present.message(*found.notes),
        _figures(found) if found.results else "",
        *(_comparison(one) for one in found.comparisons),
        _confusions(found) if found.results else "",
        _answers(found),
        _agreement(found) if found.agreed else "",
        _rows(found),
    ]
    return "".join(parts)


def _figures(found: FileComparison) -> str:
    rows = [
        (
            name,
            *(tables.with_interval(block[metric], block["interval"][metric]) for metric in tables.METRIC_NAMES),
            f"{block['ece']:.3f}",
            f"{block['n']:,}",
        )
        for name, block in found.results.items()
    ]
    return (
        present.title("Figures")
        + present.table("Figures", _FIGURES, rows)
        + present.message(
            "Against the file's labels. Square brackets: 95% bootstrap intervals. ECE: calibration error, better low."
        )
    )


def _comparison(one: Comparison) -> str:
    return "".join(
        (
            present.title("Which adapter is better?"),
            present.sentences(*compare_report.verdicts(one)),
            *(
                present.subtitle(table.heading) + present.table(table.heading, table.header, table.rows)
                for table in compare_report.difference_tables(one)
            ),
            present.message(compare_report.explanation(one)),
        )
    )


def _confusions(found: FileComparison) -> str:
    matrices = {}
    orders: dict[frozenset[str], list[str]] = {}
    for name, block in found.results.items():
        # Matrices of the same labels are read side by side: in the first one's order.
        labels = list(block["per_label"])
        order = orders.setdefault(frozenset(labels), labels)
        places = [labels.index(label) for label in order]
        matrices[name] = (order, [[block["confusion"][row][column] for column in places] for row in places])
    return present.title("Confusion matrices") + present.confusions(matrices)


def _answers(found: FileComparison) -> str:
    rows = [
        (name, label, f"{count:,}", f"{count / found.rows:.1%}")
        for name, counts in found.answers.items()
        for label, count in counts.items()
    ]
    return present.title("Answers") + present.table("Answers", ("adapter", "label", "rows", "share"), rows)


def _agreement(found: FileComparison) -> str:
    rows = [(f"{ours} and {theirs}", f"{same:,}", f"{same / found.rows:.1%}") for ours, theirs, same in found.agreed]
    return present.subtitle("Agreement") + present.table(
        "Agreement", ("adapters", "rows with the same label", "share"), rows
    )


def _rows(found: FileComparison) -> str:
    names, labelled = list(found.answers), bool(found.labels)
    head = ("row", "claim", *(["label"] if labelled else []), *names)
    rows = [
        (str(row.row), row.claim, *([row.label or "-"] if labelled else []), *_cells(row, names, found.results))
        for row in found.shown
    ]
    order = "first those on which adapters with the same labels differ"
    if found.results:
        order += ", then those that one has wrong"
    sentence = f"{len(rows):,} of {found.rows:,} rows: {order}."
    if found.agreed:
        sentence = f"The adapters disagree on {found.disagreements:,} of {found.rows:,} rows. Shown are " + sentence
    return present.title("Rows", sentence) + present.claims_table("Rows", head, rows)


def _cells(row: ShownRow, names: Sequence[str], results: dict[str, Any]) -> list[str]:
    cells = []
    for name in names:
        given = row.answers[name]
        right = row.label is not None and row.label.strip().casefold() == given.label.casefold()
        mark = f"{_RIGHT if right else _WRONG} " if name in results and row.label is not None else ""
        cells.append(f"{mark}{given.label} {given.confidence:.0%}{', unsure' if given.abstain else ''}")
    return cells
