"""Output of the commands: tables and JSON on stdout, notes and progress on stderr."""

import json
import math
import re
import signal
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from lorahub import printable
from lorahub.cli import terminal
from lorahub.records import RunRecord
from lorahub.reports import tables
from lorahub.reports.report import Report

if TYPE_CHECKING:
    from lorahub.hub.scan import Verdict
    from lorahub.training.progress import Callbacks, Step

# Of a verdict, whose sentences are long.
_COLUMNS = 80
# A cell of a column of numbers; `-` and `?` stand for absent ones.
_NUMBER = re.compile(r"[+\-−]?[\d.]|[-?]?$")


def print_json(value: Any) -> None:
    """Print a value as JSON; numbers that JSON does not have are null."""
    terminal.json_text(json.dumps(_of_json(value), indent=1, ensure_ascii=False))


def _of_json(value: Any) -> Any:
    """Return the value with what JSON can hold: cards have dates, and files of strangers anything."""
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(key): _of_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_of_json(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
    """Print a table, columns of numbers on the right. Without a terminal, it is wide enough that no cell wraps.

    In a terminal too narrow for the words of a row, each row is a block with one line per column.
    """
    console = _console()
    shown = Table(
        title=None if title is None else printable.line(title),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
    )
    for index, name in enumerate(header):
        numbers = index > 0 and all(_NUMBER.match(row[index]) for row in rows)
        shown.add_column(printable.line(name), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        shown.add_row(*map(printable.line, row))
    unlimited = console.options.update(max_width=10_000)
    if console.measure(shown, options=unlimited).minimum <= console.width:
        console.print(shown)
        return
    if title is not None:
        console.print(f"  {printable.line(title)}")
    for row in rows:
        block = Table.grid(padding=(0, 2), pad_edge=True)
        for name, cell in zip(header, row, strict=True):
            block.add_row(printable.line(name), printable.line(cell))
        console.print(block)
        console.print()


def notes(*groups: Sequence[str]) -> None:
    """Print each line as a note on stderr."""
    for line in (line for group in groups for line in group):
        terminal.line(f"note: {line}.", err=True)


def verdict(shown: "Verdict") -> None:
    """Print whether an adapter is safe to load, each reason, difference and note wrapped to 80 columns."""
    kinds = {"REFUSED": shown.reasons, "CHANGED after the run": shown.altered, "note": shown.notes}
    lines = [f"{kind}: {text}" for kind, texts in kinds.items() for text in texts]
    safe = "safe to load, but changed" if shown.altered else "all checks passed"
    lines.append(f"safety: {safe if shown.safe else 'not loaded'}")
    for line in lines:
        # Escaped before it is wrapped, since an escape is longer.
        wrapped = textwrap.wrap(
            printable.line(line), _COLUMNS, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
        )
        for part in wrapped:
            terminal.line(part)


def planned_upload(
    title: str,
    files: Mapping[str, tuple[int, str]],
    *,
    deleted: Sequence[str],
    changed: int,
    bytes_to_send: int,
    notes: Sequence[str],
) -> None:
    """Print what a dry run would send; `files` gives the size in bytes and the state of each path."""
    rows = [(path, tables.size(count), state) for path, (count, state) in files.items()]
    table(("file", "size", ""), [*rows, *((path, "", "would be deleted") for path in deleted)], title=title)
    terminal.line(f"  {changed} files, {tables.size(bytes_to_send)}, would be sent. Nothing was sent.")
    for line in notes:
        terminal.line(f"  note: {line}.")


def _console() -> Console:
    console = Console(highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, emoji=False, width=160)


def report(shown: Report, *, as_json: bool, as_markdown: bool = False, written: Sequence[Path] = ()) -> None:
    """Print a report as tables and sentences, as JSON or as Markdown; `written` are the files that hold it."""
    if as_json:
        print_json(shown.data.to_dict())
    elif as_markdown:
        terminal.lines(shown.to_markdown(figures=False), end="")
    else:
        terminal.line(shown.title)
        for item in shown.tables:
            if item.note:
                terminal.line(item.note)
            if item.rows:
                table(item.header, item.rows, title=item.heading or None)
        for line in (*shown.sentences, shown.explanation, *(f"note: {note}" for note in shown.notes)):
            terminal.line(f"  {line}")
    for path in written:
        terminal.line(f"  written to {path}", err=as_json or as_markdown)


def before_and_after(record: RunRecord) -> None:
    """Print the results of a run and the comparisons that matter most."""
    data = record.environment.data
    claims = f"{data.rows[record.scored_split]:,} {record.scored_split} claims"
    table(tables.results_header(record), tables.results(record), title=f"{record.name}: {data.id}, {claims}")
    console = _console()
    for system, sentence in tables.comparisons(record).items():
        if system in ("untrained", tables.best_baseline(record)):
            console.print("  " + printable.line(sentence))
    console.print(
        "  Square brackets: 95 % intervals."
        if record.config.eval.confidence == 0.95
        else "  Square brackets: intervals."
    )


@contextmanager
def training_events() -> Iterator["Callbacks"]:
    """Write each stage and each optimizer step as a line of JSON to stderr: docs/training.md."""
    from lorahub.training.progress import Callbacks

    def write(event: str, **values: object) -> None:
        terminal.json_text(json.dumps(_of_json({"event": event, **values}), ensure_ascii=False), err=True)

    # The parent program stops the training with SIGINT, which a background process ignores by default.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield Callbacks(on_stage=lambda text: write("stage", text=text), on_step=lambda step: write("step", **asdict(step)))


@contextmanager
def training_progress(*, quiet: bool) -> Iterator["Callbacks"]:
    """Show the current stage and, in training, a progress bar with loss, learning rate, claims/s and time left."""
    from lorahub.training.progress import Callbacks

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield Callbacks()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=None, figures="")

        def on_stage(text: str) -> None:
            progress.update(task, description=text, total=None, figures="")

        best: list[float] = []

        def on_step(step: "Step") -> None:
            if step.validation:
                best.append(step.validation["f1_macro"])
            shown = f" val F1 {best[-1]:.3f}" if best else ""
            figures = f"loss {step.loss:.3f} lr {step.learning_rate:.1e} {step.samples_per_second:.0f} claims/s{shown}"
            progress.update(task, total=step.total, completed=step.step, figures=figures)

        yield Callbacks(on_stage=on_stage, on_step=on_step)


def counting(description: str, *, quiet: bool) -> Progress:
    """Return a progress bar for work whose total may be unknown."""
    console = Console(stderr=True)
    return Progress(
        SpinnerColumn(),
        TextColumn(description),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
