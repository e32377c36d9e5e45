"""The lower part of the tab *Runs*: the reports that `methods`, `ranks`, `sweep` and `compare` left in their folders.

In: a folder of runs. Out: each of its folders that holds Markdown and is not a run, with its Markdown and pictures.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from lorahub import runfiles
from lorahub.app import errors, html, markdown
from lorahub.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Report:
    """The report of an experiment: Markdown, and PNG files by name."""

    markdown: str
    pictures: dict[str, bytes]


def gather(root: Path) -> dict[str, Path]:
    """Return the experiments' folders directly under `root` by name, the newest report first."""
    dates = {path.parent: path.stat().st_mtime for path in root.glob("*/*.md")}
    folders = sorted(dates, key=lambda folder: -dates[folder])
    return {folder.name: folder for folder in folders if not runfiles.is_finished(folder)}


def read(root: Path, name: str) -> Report:
    """Read the report of an experiment; raises ConfigError where no experiment has that name."""
    folders = gather(root)
    if name not in folders:
        raise ConfigError(f"there is no experiment {name!r}; there are {', '.join(folders) or 'none'}.")
    texts = [runfiles.read_text(path) for path in sorted(folders[name].glob("*.md"))]
    pictures = {path.name: runfiles.read_bytes(path) for path in sorted(folders[name].glob("*.png"))}
    return Report(markdown="\n\n".join(texts), pictures=pictures)


def render(report: Report) -> str:
    """Return the report as HTML; pictures that its text does not contain follow below it."""
    others = {name: png for name, png in report.pictures.items() if f"({name})" not in report.markdown}
    return markdown.render(report.markdown, report.pictures) + (html.pictures(others) if others else "")


def build(root: Path, tab: gr.Tab) -> None:
    """Lay out the part inside the current gr.Blocks; the folders are read when the tab is opened."""
    with gr.Column(visible=False) as part:
        gr.HTML(html.title("Experiments", "What lorahub methods, ranks, sweep and compare wrote."))
        choice = gr.Dropdown([], label="Experiment")
        text = gr.HTML("", label="Report")

    @errors.shown()
    def open_tab(chosen: str | None) -> tuple[Any, Any, str]:
        names = list(gather(root))
        name = chosen if chosen in names else next(iter(names), None)
        return gr.Column(visible=bool(names)), gr.Dropdown(names, value=name), show(name)

    @errors.shown()
    def show(name: str | None) -> str:
        return render(read(root, name)) if name is not None else ""

    tab.select(open_tab, choice, [part, choice, text], api_visibility="private")
    choice.input(show, choice, text, api_visibility="private")

    @errors.endpoint
    def experiments() -> list[str]:
        """List the experiments whose reports can be read: methods, ranks, sweeps and comparisons."""
        return list(gather(root))

    @errors.endpoint
    def experiment(name: str) -> str:
        """Read the report of an experiment.

        Args:
            name: one of what experiments lists

        Returns:
            Markdown

        """
        return read(root, name).markdown

    gr.api(experiments, api_name="experiments")
    gr.api(experiment, api_name="experiment")
