"""The tab *Runs*: finished runs as a table, and one run's facts, figures and pictures."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gradio as gr

from lorahub import records, runfiles
from lorahub.app import Json, errors, html
from lorahub.app.catalogue import Runs, finished_runs
from lorahub.errors import ConfigError, LorahubError
from lorahub.hub.fetch import Located
from lorahub.method_names import RANKED
from lorahub.records import RunRecord
from lorahub.reports import run_table, tables

# The pictures of a run folder, in reading order.
PICTURES = {
    "confusion": "confusion matrix",
    "curve": "learning curve",
    "reliability": "reliability diagram",
    "coverage": "risk-coverage curve",
}
_WITH_VIRTUAL_TOKENS = ("prompt", "prefix", "p-tuning")


def build(root: Path, tab: gr.Tab, named: Iterable[Located] = ()) -> None:
    """Lay out the tab: the runs that are `named` and those under `root`, read when the tab is opened."""
    named = list(named)
    no_runs = html.note(f"No finished run under {root}. Train one: lorahub train")
    listed = gr.HTML(no_runs, label="Finished runs")
    choice = gr.Dropdown([], label="Run", visible=False)
    details = gr.HTML("", label="The run")

    @errors.shown()
    def open_tab(chosen: str | None) -> tuple[str, Any, str]:
        finished = finished_runs(root, named)
        name = chosen if chosen in finished else next(iter(finished), None)
        if name is None:
            return no_runs, gr.Dropdown([], visible=False), ""
        names = gr.Dropdown(list(finished), value=name, visible=True)
        return overview(finished), names, describe(name, *finished[name])

    @errors.shown()
    def show(name: str) -> str:
        return describe(name, *find(name))

    def find(name: str) -> tuple[Path, RunRecord]:
        finished = finished_runs(root, named)
        if name not in finished:
            raise ConfigError(f"there is no run {name!r}; there are {', '.join(finished) or 'none'}.")
        return finished[name]

    tab.select(open_tab, choice, [listed, choice, details], api_visibility="private")
    choice.input(show, choice, details, api_visibility="private")

    @errors.endpoint
    def runs() -> list[dict[str, str]]:
        """List the finished runs with their headline figures on test."""
        return [dict(zip(run_table.COLUMNS, row, strict=True)) for row in rows(finished_runs(root, named))]

    @errors.endpoint
    def run(name: str) -> Json:
        """Read the record of a run: its configuration, its training, its environment, and every figure.

        Args:
            name: one of what runs lists

        Returns:
            The record, as in record.json

        """
        return find(name)[1].to_dict()

    gr.api(runs, api_name="runs")
    gr.api(run, api_name="run")


def rows(runs: Runs) -> list[tuple[str, ...]]:
    """Return one table row per run, under the name by which the page knows it."""
    return [(name, *run_table.cells(record)[1:]) for name, (_, record) in runs.items()]


def overview(runs: Runs) -> str:
    """Return all runs as a table, and how to read it."""
    return (
        html.title("Finished runs")
        + html.table("Finished runs", tuple(run_table.COLUMNS), rows(runs))
        + html.note(
            "Before, best baseline and after: macro F1 on the run's test split. Difference: after less best baseline, "
            "on the same claims. Square brackets: 95 % intervals, which allow for errors that few claims do not show; "
            "with 0 inside, a difference is noise."
        )
    )


def _picture(path: Path, folder: Path) -> bytes | None:
    try:
        return runfiles.read_bytes(path, folder=folder)
    except OSError:
        return None


def describe(name: str, folder: Path, record: RunRecord) -> str:
    """Return one run: its verdict, facts, warnings, figures, pictures and labels; or that its record lacks them."""
    try:
        with records.shown(record):
            return _describe(name, folder, record)
    except LorahubError as error:
        return html.title(name) + html.problem(str(error))


def _describe(name: str, folder: Path, record: RunRecord) -> str:
    files = {f"{name}: {caption}": folder / runfiles.PLOTS / f"{stem}.png" for stem, caption in PICTURES.items()}
    pngs = {caption: png for caption, path in files.items() if (png := _picture(path, folder)) is not None}
    return (
        html.title(name, tables.verdict(record))
        + html.facts(facts(record))
        + results(record)
        + (html.pictures(pngs) if pngs else html.note("This run has no pictures in its folder plots/."))
        + html.table("Labels", tables.LABEL_HEADER, tables.per_label(record))
    )


def results(record: RunRecord) -> str:
    """Return a run's warnings and its figures on test."""
    warnings = (f"Reported while training: {text}" for text in record.progress.warnings)
    return html.note(*warnings) + html.table("Results on test", tables.results_header(record), tables.results(record))


def facts(record: RunRecord) -> dict[str, str]:
    """Return what was trained, on which data and base, and how long it took."""
    progress, environment = record.progress, record.environment
    claims = environment.data.rows
    return {
        "data": f"{environment.data.id}: " + ", ".join(f"{claims[split]:,} {split}" for split in claims),
        "base": environment.base_id,
        "method": _method(record),
        "trained": f"{progress.trainable_parameters:,} of {progress.total_parameters:,} parameters "
        f"({progress.trainable_parameters / progress.total_parameters:.1%})",
        "took": f"{progress.steps:,} steps, {progress.epochs:.1f} epochs, {progress.seconds:,.0f} s "
        f"on {environment.device}; kept step {progress.best_step:,}",
        "seed": str(environment.seed),
        "created": record.created.replace("T", " ").replace("+00:00", " UTC"),
    }


def _method(record: RunRecord) -> str:
    adapter, selected = record.config.adapter, record.progress.rank
    method = adapter.method
    if method in RANKED:
        rank = f"{selected.kept} of {selected.trained}" if selected else adapter.rank
        layers = "" if adapter.last_layers is None else f", layers {adapter.layers}"
        return f"{method}, rank {rank}, alpha {adapter.alpha:g}{layers}"
    return f"{method}, {adapter.prompt_tokens} virtual tokens" if method in _WITH_VIRTUAL_TOKENS else method
