"""The app: one engine, one page with tabs, served here or on a Space."""

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from lorahub import records
from lorahub.app import check, present, runs
from lorahub.serving.engine import Engine

RUNS = Path("runs")
# A page with more columns than this is no comparison any more; the rest is loaded on request.
_MOST_ADAPTERS = 12


def build(engine: Engine, *, root: Path = RUNS, folders: Sequence[Path] = ()) -> gr.Blocks:
    """Return the page for a loaded engine; nothing is started."""
    with gr.Blocks(title="lorahub", analytics_enabled=False) as page:
        gr.Markdown(
            "# lorahub\nSmall adapters that judge claims, side by side on one base: "
            f"`{engine.base_id}`. They read wording and look nothing up."
        )
        with gr.Tab("Check a claim"):
            check.build(engine)
        with gr.Tab("Runs"):
            runs.build(root, list(folders))
    return page


def launch(adapters: Sequence[str] | None = None, *, base: str | None = None, host: str, port: int) -> None:
    """Load the engine and serve the page until it is stopped; without names, every run under `runs/` is loaded."""
    folders = [Path(adapter) for adapter in adapters] if adapters else _finished(base)
    engine = Engine(base, folders)
    page = build(engine, folders=folders)
    page.queue(default_concurrency_limit=4).launch(
        server_name=host, server_port=port, css=present.CSS, theme=gr.themes.Default(primary_hue="teal")
    )


def _finished(base: str | None) -> list[Path]:
    """The newest finished runs that share one base: the wanted one, or that of the newest run."""
    found = records.find(RUNS)
    wanted = base or next((record.asked["base"]["id"] for _, record in found), None)
    return [folder for folder, record in found if record.asked["base"]["id"] == wanted][:_MOST_ADAPTERS]
