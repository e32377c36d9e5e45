"""The tab *Train*: data, method and preset in, a live curve, and a run that opens in the other tabs."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import gradio as gr
import pandas as pd

from lorahub import records
from lorahub.app import Json, adapter_choice, errors, html
from lorahub.app.tabs import runs
from lorahub.app.training_process import PRESETS, RECIPE, TRAINING, Trainer, TrainingRequest, TrainingState
from lorahub.app.visitor_access import VisitorAccess
from lorahub.data.named import NAMED
from lorahub.errors import LorahubError
from lorahub.method_names import METHODS
from lorahub.reports import tables
from lorahub.serving.engine.engine import Engine

_SECONDS_BETWEEN_UPDATES = 1.0


def build(
    engine: Engine,
    trainer: Trainer,
    tab: gr.Tab,
    tabs: gr.Tabs,
    opens: Mapping[str, gr.CheckboxGroup],
    visitors: VisitorAccess,
) -> None:
    """Lay out the tab inside the current gr.Blocks; every visitor who opens it sees the same training.

    `opens` maps the ids of the tabs in which a trained adapter can be opened to their fields of adapters. `visitors`
    tells which data sets on the Hub can be trained on.
    """
    gr.HTML(
        html.note(
            f"Trains on {trainer.base}, on this machine, into {trainer.root}/. One training at a time. "
            "Data is a named set, a file or folder of this machine, or USER/NAME on the Hub."
        )
    )
    with gr.Row():
        data = gr.Dropdown(list(NAMED), value="starter-wording", label="Data", allow_custom_value=True)
        method = gr.Dropdown(list(METHODS), value="lora", label="Method")
        preset = gr.Dropdown(list(PRESETS), value=RECIPE, label="Preset")
    with gr.Row():
        name = gr.Textbox(label="Name of the run (optional)", max_lines=1)
        seed = gr.Number(0, label="Seed", precision=0, minimum=0)
    with gr.Row():
        start = gr.Button("Start", variant="primary", elem_classes="lh-check")
        stop = gr.Button("Stop, and keep the best so far", elem_classes="lh-check", interactive=False)
    # Not a status that is read out: it changes every second.
    status = gr.HTML("", label="Training", html_template='<div role="region" aria-label="Training">${value}</div>')
    with gr.Row(visible=False) as curves:
        loss = gr.LinePlot(x="step", y="loss", title="Training loss (nats a claim)", height=260)
        # Dots, because the first point is visible before a second one makes a line.
        quality = gr.ScatterPlot(x="step", y="macro F1", title="Macro F1 on validation", height=260, y_lim=[0, 1.05])
    result = gr.HTML("", label="Result", html_template=html.region("Result"))
    with gr.Row():
        buttons = {title: gr.Button(f"Open in {title}", visible=False, elem_classes="lh-check") for title in opens}
    timer = gr.Timer(_SECONDS_BETWEEN_UPDATES, active=False)
    outputs = [status, curves, loss, quality, result, start, stop, timer, *buttons.values()]

    @errors.shown()
    def refresh() -> list[Any]:
        """Return the training as it is now, in the order of `outputs`."""
        state = trainer.state
        running = state is not None and state.running
        steps: list[float | None] = [0, state.total if state else 1]
        return [
            _progress(state),
            gr.Row(visible=state is not None and state.step > 0),
            gr.LinePlot(_frame(state.losses if state else (), "loss"), x_lim=steps),
            gr.ScatterPlot(_frame(state.validations if state else (), "macro F1"), x_lim=steps),
            _result(trainer, state) if state and not running else "",
            gr.Button(interactive=not running),
            gr.Button(interactive=state is not None and state.stoppable),
            gr.Timer(active=running),
            *[gr.Button(visible=state is not None and state.answers_as is not None)] * len(buttons),
        ]

    @errors.shown()
    def begin(data: str, method: str, preset: str, name: str, seed: int) -> list[Any]:
        try:
            visitors.check_data(data or "")
            trainer.start(
                TrainingRequest(data=data or "", method=method, preset=preset, name=name or "", seed=int(seed or 0))
            )
        except LorahubError as error:
            return [html.problem(str(error)), *refresh()[1:]]
        return refresh()

    @errors.shown()
    def end() -> list[Any]:
        if trainer.state is not None and trainer.state.running:
            trainer.stop()
        return refresh()

    def open_in(title: str, chosen: list[str]) -> tuple[Any, Any]:
        trained = trainer.state.answers_as if trainer.state else None
        return gr.Tabs(selected=title), adapter_choice.ticked(engine.names, [*chosen, *([trained] if trained else [])])

    private = {"show_progress": "hidden", "api_visibility": "private"}
    start.click(begin, [data, method, preset, name, seed], outputs, **private)
    stop.click(end, None, outputs, **private)
    timer.tick(refresh, None, outputs, **private)
    tab.select(refresh, None, outputs, **private)
    for title, button in buttons.items():
        button.click(partial(open_in, title), opens[title], [tabs, opens[title]], **private)
    _endpoints(trainer, visitors)


def _endpoints(trainer: Trainer, visitors: VisitorAccess) -> None:
    @errors.endpoint
    def train(data: str, method: str = "lora", preset: str = RECIPE, name: str = "", seed: int = 0) -> Json:
        """Start training an adapter on this page's base; the endpoint training returns its progress.

        Args:
            data: a named data set, a file or folder of this machine, or USER/NAME on the Hub
            method: how the base is adapted, for example lora
            preset: quick look, the method's recipe, or twice as long
            name: the name of the run; chosen where empty
            seed: the training seed

        Returns:
            The state of the training, as the endpoint training returns it.

        """
        visitors.check_data(data)
        return asdict(trainer.start(TrainingRequest(data=data, method=method, preset=preset, name=name, seed=seed)))

    @errors.endpoint
    def training() -> Json | None:
        """Return the state of the current or last training, and at the end the name under which the adapter answers."""
        return asdict(trainer.state) if trainer.state else None

    @errors.endpoint
    def stop_training() -> Json:
        """Stop the current training; its best state so far is kept as a finished run."""
        return asdict(trainer.stop())

    for endpoint in (train, training, stop_training):
        gr.api(endpoint, api_name=endpoint.__name__)


def _frame(points: tuple[tuple[int, float], ...], column: str) -> pd.DataFrame:
    # Numbers also while it is empty: a plot keeps the kind of axis that it starts with.
    return pd.DataFrame(points, columns=["step", column], dtype=float)


def _progress(state: TrainingState | None) -> str:
    if state is None:
        return ""
    if state.error is not None:
        return html.problem(state.error)
    if not state.running:
        return html.text(f"{state.name} is trained.")
    sentences = [f"{state.name}: {state.progress}."]
    if state.stage == TRAINING and state.loss is not None and state.samples_per_second is not None:
        sentences.append(f"Loss {state.loss:.3f}, {state.samples_per_second:,.0f} claims a second.")
    if state.validations:
        sentences.append(f"Macro F1 on validation {state.validations[-1][1]:.3f}.")
    return html.progress(" ".join(sentences), state.step / state.total if state.total else 0.0)


def _result(trainer: Trainer, state: TrainingState) -> str:
    """Return the finished run's verdict and figures, as in the tab *Runs*, and whether the engine has it."""
    if state.error is not None:
        return ""
    record = records.load(trainer.root / state.name)
    loaded = f"It answers as {state.answers_as}." if state.answers_as else f"It is not loaded here: {state.note}"
    return html.title(state.name, tables.verdict(record)) + html.text(loaded) + runs.results(record)
