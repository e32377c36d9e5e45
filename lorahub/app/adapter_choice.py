"""The checkboxes that choose adapters, kept up to date with the engine."""

from collections.abc import Iterable

import gradio as gr

from lorahub.serving.engine.engine import Engine


def ticked(loaded: list[str], chosen: Iterable[str]) -> gr.CheckboxGroup:
    """Return an update that offers the loaded adapters; those of them that are in `chosen` are ticked."""
    wanted = set(chosen)
    return gr.CheckboxGroup(loaded, value=[name for name in loaded if name in wanted])


def refresh_on_open(engine: Engine, tab: gr.Tab, chosen: gr.CheckboxGroup) -> None:
    """Offer the adapters that are loaded when a visitor opens the tab; ticks stay.

    In two steps, because an event overwrites what a visitor does to its outputs while it runs: a state that does not
    change starts no second event.
    """
    loaded = gr.State(engine.names)
    tab.select(lambda: engine.names, None, loaded, show_progress="hidden", api_visibility="private")
    loaded.change(ticked, [loaded, chosen], chosen, show_progress="hidden", api_visibility="private")
