"""The tab *Train*: data, method and preset in, a live curve, and a run that opens in the other tabs."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import gradio as gr
import pandas as pd

from lorahub import records
from lorahub.app import errors, present
from lorahub.app.training_process import PRESETS, RECIPE, TRAINING, Asked, State, Trainer, told
from lorahub.config import METHODS
from lorahub.data.named import NAMED
from lorahub.errors import LorahubError
from lorahub.reports import tables
from lorahub.serving.engine.engine import Engine

_SECONDS_BETWEEN_LOOKS = 1.0


def build(engine: Engine, trainer: Trainer, tab: gr.Tab, tabs: gr.Tabs, opens: Mapping[str, gr.CheckboxGroup]) -> None:
    """Lay out the tab inside the current gr.Blocks; who opens it sees the training that runs, whoever began it.

    What was trained opens in the tabs of the ids `opens`, ticked in their field of adapters.
    """
    gr.HTML(
        present.message(
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
    # Not read out: it changes every second.
    said = gr.HTML("", label="Training", html_template='<div role="region" aria-label="Training">${value}</div>')
    with gr.Row(visible=False) as curves:
        loss = gr.LinePlot(x="step", y="loss", title="Training loss (nats a claim)", height=260)
        # Dots: the first one is there to be seen before a second makes a line.
        quality = gr.ScatterPlot(x="step", y="macro F1", title="Macro F1 on validation", height=260, y_lim=[0, 1.05])
    result = gr.HTML("", label="Result", html_template=present.region("Result"))
    with gr.Row():
        buttons = {title: gr.Button(f"Open in {title}", visible=False, elem_classes="lh-check") for title in opens}
    timer = gr.Timer(_SECONDS_BETWEEN_LOOKS, active=False)
    shown = [said, curves, loss, quality, result, start, stop, timer, *buttons.values()]

    def look() -> list[Any]:
        """The training as it is now, in the order of `shown`."""
        with errors.shown():
            state = trainer.state
            running = state is not None and state.running
            made = state is not None and state.answers_as is not None
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
                *(gr.Button(visible=made) for _ in buttons),
            ]

    def begin(data: str, method: str, preset: str, name: str, seed: int) -> list[Any]:
        with errors.shown():
            try:
                trainer.start(
                    Asked(data=data or "", method=method, preset=preset, name=name or "", seed=int(seed or 0))
                )
            except LorahubError as error:
                return [present.problem(str(error)), *look()[1:]]
            return look()

    def end() -> list[Any]:
        with errors.shown():
            if trainer.state is not None and trainer.state.running:
                trainer.stop()
            return look()

    def opened(title: str, chosen: list[str]) -> tuple[Any, Any]:
        new = trainer.state.answers_as if trainer.state else None
        names = engine.names
        ticked = [one for one in names if one in chosen or one == new]
        return gr.Tabs(selected=title), gr.CheckboxGroup(names, value=ticked)

    quietly: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    start.click(begin, [data, method, preset, name, seed], shown, **quietly)
    stop.click(end, None, shown, **quietly)
    timer.tick(look, None, shown, **quietly)
    tab.select(look, None, shown, **quietly)
    for title, button in buttons.items():
        button.click(partial(opened, title), opens[title], [tabs, opens[title]], **quietly)
    _endpoints(trainer)


def _endpoints(trainer: Trainer) -> None:
    def train(data: str, method: str = "lora", preset: str = RECIPE, name: str = "", seed: int = 0) -> dict[str, Any]:
        """Start training an adapter on this page's base; the endpoint training tells how far it is.

        Args:
            data: a named data set, a file or folder of this machine, or USER/NAME on the Hub
            method: how the base is adapted, lora for one
            preset: quick look, the method's recipe, or twice as long
            name: the name of the run; found where empty
            seed: the training seed

        Returns:
            The state of the training, as the endpoint training tells it.

        """
        with errors.shown():
            return asdict(trainer.start(Asked(data=data, method=method, preset=preset, name=name, seed=seed)))

    def training() -> dict[str, Any] | None:
        """Tell how far the training is that runs or ran last, and at the end under which name the adapter answers."""
        return asdict(trainer.state) if trainer.state else None

    def stop_training() -> dict[str, Any]:
        """Stop the training that runs; its best so far is kept as a finished run."""
        with errors.shown():
            return asdict(trainer.stop())

    gr.api(train, api_name="train")
    gr.api(training, api_name="training")
    gr.api(stop_training, api_name="stop_training")


def _frame(points: tuple[tuple[int, float], ...], title: str) -> pd.DataFrame:
    # Of numbers also while it is empty: a plot keeps the kind of axis that it began with.
    return pd.DataFrame(points, columns=["step", title], dtype=float)


def _progress(state: State | None) -> str:
    if state is None:
        return ""
    if state.error is not None:
        return present.problem(state.error)
    if not state.running:
        return present.sentences(f"{state.name} is trained.")
    parts = [f"{state.name}: {told(state)}."]
    if state.stage == TRAINING and state.loss is not None and state.samples_per_second is not None:
        parts.append(f"Loss {state.loss:.3f}, {state.samples_per_second:,.0f} claims a second.")
    if state.validations:
        parts.append(f"Macro F1 on validation {state.validations[-1][1]:.3f}.")
    return present.progress(" ".join(parts), state.step / state.total if state.total else 0.0)


def _result(trainer: Trainer, state: State) -> str:
    """What the finished run says of itself, as in the tab *Runs*."""
    if state.error is not None:
        return ""
    record = records.load(trainer.root / state.name)
    loaded = f"It answers as {state.answers_as}." if state.answers_as else f"It is not loaded here: {state.note}"
    return (
        present.title(state.name, tables.verdict(record))
        + present.sentences(loaded)
        + present.message(*(f"Reported while training: {text}" for text in record.happened.get("warnings", [])))
        + present.table("Results on test", tables.HEADER, tables.results(record))
    )
