"""A report: one result as tables, sentences and figures, and as JSON.

Every experiment builds a `Report` from its result. The command line prints it, `save` writes it as Markdown, PNG and
JSON, and the app shows the saved Markdown.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lorahub import atomic
from lorahub.reports import tables
from lorahub.reports.result import Result


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text cells, with an optional heading. `note` is a sentence that belongs to this table."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    heading: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture: its file name, its alternative text, and a function that writes it as PNG to a path."""

    file_name: str
    caption: str
    draw: Callable[[Path], None]


@dataclass(frozen=True, kw_only=True)
class Report:
    """A result in the forms in which it is shown.

    `sentences` are the conclusions, `explanation` says how to read the figures, `notes` are restrictions. `data` is
    what `--json` prints. `attachments` are further files by name, each with a function that writes it to a path.
    """

    name: str
    title: str
    tables: Sequence[Table]
    sentences: Sequence[str]
    explanation: str
    data: Result
    notes: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    attachments: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)

    def to_markdown(self, *, figures: bool = True) -> str:
        """Return the report as Markdown; `figures` includes references to the picture files."""
        parts = [f"# {self.title}", "\n".join(f"- {line}" for line in self.sentences)]
        for table in self.tables:
            parts += [f"## {table.heading}" if table.heading else "", table.note]
            parts.append(tables.markdown(table.header, table.rows) if table.rows else "")
        if figures:
            parts += [f"![{figure.caption}]({figure.file_name})" for figure in self.figures]
        parts += [self.explanation, *(f"Note: {note}" for note in self.notes)]
        return "\n\n".join(part for part in parts if part) + "\n"

    def save(self, folder: Path) -> list[Path]:
        """Write `NAME.md`, `NAME.json`, the figures and the attachments into `folder`; return their paths."""
        files = {figure.file_name: figure.draw for figure in self.figures} | dict(self.attachments)
        for file_name, write in files.items():
            with atomic.replacing(folder / file_name) as partial:
                write(partial)
        atomic.write_text(folder / f"{self.name}.md", self.to_markdown())
        atomic.write_json(folder / f"{self.name}.json", self.data.to_dict())
        return [folder / name for name in (f"{self.name}.md", *files, f"{self.name}.json")]
