"""The part of the tab *Runs* that shows experiments: what `methods`, `ranks`, `sweep` and `compare` left in a folder.

In: a folder of runs. Out: its folders that are no run and hold Markdown, each with its Markdown and its pictures, as
they are. Knows nothing of what is in them.
"""

from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from lorahub import records
from lorahub.app import errors, markdown, present
from lorahub.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an experiment says: Markdown, and PNG files by name."""

    markdown: str
    pictures: dict[str, bytes]


def gather(root: Path) -> dict[str, Path]:
    """The experiments' folders directly under `root` by name, the newest report first."""
    reports = {path.parent: path.stat().st_mtime for path in root.glob("*/*.md")}
    folders = sorted(reports, key=lambda folder: -reports[folder])
    return {folder.name: folder for folder in folders if not (folder / records.FILE_NAME).exists()}


def read(root: Path, name: str) -> Report:
    """The report of an experiment; raises ConfigError where there is none of that name."""
    found = gather(root)
    if name not in found:
        raise ConfigError(f"there is no experiment {name!r}; there are {', '.join(found) or 'none'}.")
    folder = found[name]
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))]
    pictures = {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}
    return Report(markdown="\n\n".join(texts), pictures=pictures)


def render(report: Report) -> str:
    """The report as HTML; pictures that its text does not show stand below it."""
    others = {name: png for name, png in report.pictures.items() if f"({name})" not in report.markdown}
    return markdown.html(report.markdown, report.pictures) + (present.pictures(others) if others else "")


def build(root: Path, tab: gr.Tab) -> None:
    """Lay out the part inside the current gr.Blocks; what is there is looked up when the tab is opened."""
    with gr.Column(visible=False) as part:
        gr.HTML(present.title("Experiments", "What lorahub methods, ranks, sweep and compare wrote."))
        choice = gr.Dropdown([], label="Experiment")
        text = gr.HTML("", label="Report")

    def opened(chosen: str | None) -> tuple[object, object, str]:
        names = list(gather(root))
        name = chosen if chosen in names else next(iter(names), None)
        return gr.Column(visible=bool(names)), gr.Dropdown(names, value=name), shown(name)

    def shown(name: str | None) -> str:
        with errors.shown():
            return render(read(root, name)) if name is not None else ""

    tab.select(opened, choice, [part, choice, text], api_visibility="private")
    choice.input(shown, choice, text, api_visibility="private")

    def experiments() -> list[str]:
        """List the experiments whose reports can be read: methods, ranks, sweeps and comparisons."""
        return list(gather(root))

    def experiment(name: str) -> str:
        """Read the report of an experiment.

        Args:
            name: one of what experiments lists

        Returns:
            Markdown

        """
        with errors.shown():
            return read(root, name).markdown

    gr.api(experiments, api_name="experiments")
    gr.api(experiment, api_name="experiment")
