"""The tab *Runs*: finished runs as a table, and one run's card pictures and figures."""

from pathlib import Path

import gradio as gr

from lorahub import records
from lorahub.app.errors import shown
from lorahub.records import RunRecord
from lorahub.reports import tables


def build(root: Path, folders: list[Path]) -> None:
    """Lay out the tab: the runs under `root` and those in `folders`."""
    found = gather(root, folders)
    if not found:
        gr.Markdown(f"No finished run under `{root}`. Train one: `lorahub train`.")
        return
    gr.Markdown("Macro F1 on each run's test split, with 95 % intervals. *Difference* is paired, on the same claims.")
    gr.Dataframe(
        value=[list(tables.run_row(record)) for record in found.values()],
        headers=list(tables.RUNS_HEADER),
        interactive=False,
        wrap=True,
        label="Finished runs",
    )
    first = next(iter(found))
    choice = gr.Dropdown(list(found), value=first, label="Run")
    details = gr.Markdown(describe(found[first]))

    def show(name: str) -> str:
        with shown():
            return describe(found[name])

    choice.change(show, choice, details, api_visibility="private")

    def runs() -> list[dict[str, str]]:
        """List the finished runs with their headline figures on test."""
        return [dict(zip(tables.RUNS_HEADER, tables.run_row(record), strict=True)) for record in found.values()]

    gr.api(runs, api_name="runs")


def gather(root: Path, folders: list[Path]) -> dict[str, RunRecord]:
    """Records by run name, newest first; a folder given outright comes before those under `root`."""
    there = [records.load(folder) for folder in folders if (folder / records.FILE_NAME).exists()]
    listed = [record for _, record in records.find(root)]
    return {record.name: record for record in [*reversed(listed), *there]}


def describe(record: RunRecord) -> str:
    """One run in Markdown: verdict, results and per-label rows."""
    labels = tables.markdown(("label", "precision", "recall", "F1", "claims"), tables.per_label(record))
    return (
        f"### {record.name}\n\n{tables.verdict(record)}\n\n"
        f"{tables.markdown(tables.HEADER, tables.results(record))}\n\n{labels}"
    )
