"""The tab *Runs*: finished runs as a table, and one run's facts, figures and pictures."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gradio as gr

from lorahub import records
from lorahub.app import errors, present
from lorahub.config import RANKED
from lorahub.errors import ConfigError
from lorahub.hub.fetch import Located
from lorahub.records import RunRecord
from lorahub.reports import tables

# The pictures of a run folder, in reading order.
PICTURES = {
    "confusion": "confusion matrix",
    "curve": "learning curve",
    "reliability": "reliability diagram",
    "coverage": "risk-coverage curve",
}
_NONE = "No finished run under {}. Train one: lorahub train"
Runs = dict[str, tuple[Path, RunRecord]]


def build(root: Path, tab: gr.Tab, named: Iterable[Located] = ()) -> None:
    """Lay out the tab: the runs that are `named` and those under `root`, looked up when it is opened."""
    named = list(named)
    listed = gr.HTML(present.message(_NONE.format(root)), label="Finished runs")
    choice = gr.Dropdown([], label="Run", visible=False)
    details = gr.HTML("", label="The run")

    def opened(chosen: str | None) -> tuple[str, Any, str]:
        with errors.shown():
            found = gather(root, named)
            name = chosen if chosen in found else next(iter(found), None)
            if name is None:
                return present.message(_NONE.format(root)), gr.Dropdown([], visible=False), ""
            return overview(found), gr.Dropdown(list(found), value=name, visible=True), describe(name, *found[name])

    def shown(name: str) -> str:
        with errors.shown():
            return describe(name, *find(name))

    def find(name: str) -> tuple[Path, RunRecord]:
        found = gather(root, named)
        if name not in found:
            raise ConfigError(f"there is no run {name!r}; there are {', '.join(found) or 'none'}.")
        return found[name]

    tab.select(opened, choice, [listed, choice, details], api_visibility="private")
    choice.input(shown, choice, details, api_visibility="private")

    def runs() -> list[dict[str, str]]:
        """List the finished runs with their headline figures on test."""
        with errors.shown():
            return [dict(zip(tables.RUNS_HEADER, row, strict=True)) for row in rows(gather(root, named))]

    def run(name: str) -> dict[str, Any]:
        """Read the record of a run: what was asked, what happened, where, and every figure.

        Args:
            name: one of what runs lists

        Returns:
            The record, as in record.json

        """
        with errors.shown():
            return find(name)[1].to_dict()

    gr.api(runs, api_name="runs")
    gr.api(run, api_name="run")


def overview(found: Runs) -> str:
    """All runs as a table, and how to read it."""
    return (
        present.title("Finished runs")
        + present.table("Finished runs", tables.RUNS_HEADER, rows(found))
        + present.message(
            "Before, best baseline and after: macro F1 on the run's test split. Difference: after less best baseline, "
            "on the same claims. Square brackets: 95 % bootstrap intervals; with 0 inside, a difference is noise."
        )
    )


def gather(root: Path, named: Iterable[Located]) -> Runs:
    """Folder and record by the adapter's name, the named ones first, then those under `root`, newest first."""
    names = {one.folder.resolve(): one.name for one in named if (one.folder / records.FILE_NAME).exists()}
    for folder, _ in records.find(root):
        names.setdefault(folder.resolve(), folder.name)
    found: Runs = {}
    for folder, first in names.items():
        name, number = first, 2
        while name in found:
            name, number = f"{first}-{number}", number + 1
        found[name] = (folder, records.load(folder))
    return found


def rows(found: Runs) -> list[tuple[str, ...]]:
    """The table of the runs, under the names by which the page knows them."""
    return [(name, *tables.run_row(record)[1:]) for name, (_, record) in found.items()]


def describe(name: str, folder: Path, record: RunRecord) -> str:
    """One run: its verdict, facts, warnings, figures, pictures and labels."""
    pngs = {
        f"{name}: {words}": (folder / "plots" / f"{stem}.png").read_bytes()
        for stem, words in PICTURES.items()
        if (folder / "plots" / f"{stem}.png").exists()
    }
    return "".join(
        (
            present.title(name, tables.verdict(record)),
            present.facts(facts(record)),
            present.message(*(f"Reported while training: {text}" for text in record.happened.get("warnings", []))),
            present.table("Results on test", tables.HEADER, tables.results(record)),
            present.pictures(pngs) if pngs else present.message("This run has no pictures in its folder plots/."),
            present.table("Labels", ("label", "precision", "recall", "F1", "claims"), tables.per_label(record)),
        )
    )


def _method(adapter: dict[str, Any], rank: dict[str, Any] | None) -> str:
    if adapter["method"] in RANKED:
        size = f"rank {rank['kept']} of {rank['trained']}" if rank else f"rank {adapter['rank']}"
        return f"{adapter['method']}, {size}, alpha {adapter['alpha']:g}"
    tokens = (
        f", {adapter['prompt_tokens']} virtual tokens" if adapter["method"] in ("prompt", "prefix", "p-tuning") else ""
    )
    return f"{adapter['method']}{tokens}"


def facts(record: RunRecord) -> dict[str, str]:
    """What was asked and what it took, in words."""
    happened, environment, adapter = record.happened, record.environment, record.asked["adapter"]
    claims = environment["data"]["rows"]
    return {
        "data": f"{environment['data']['id']}: " + ", ".join(f"{claims[split]:,} {split}" for split in claims),
        "base": str(environment["base_id"]),
        "method": _method(adapter, happened.get("rank")),
        "trained": f"{happened['trainable_parameters']:,} of {happened['total_parameters']:,} parameters "
        f"({happened['trainable_parameters'] / happened['total_parameters']:.1%})",
        "took": f"{happened['steps']:,} steps, {happened['epochs']:.1f} epochs, {happened['seconds']:,.0f} s "
        f"on {environment['device']}; kept step {happened['best_step']:,}",
        "seed": str(environment["seed"]),
        "created": record.created.replace("T", " ").replace("+00:00", " UTC"),
    }
