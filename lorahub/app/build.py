"""The app: one engine, one page with tabs, served here or on a Space."""

import contextlib
import ctypes
import io
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import gradio as gr

from lorahub import records
from lorahub.app import feedback, present
from lorahub.app.catalogue import Catalogue
from lorahub.app.feedback import Feedback
from lorahub.app.tabs import adapters, check, compare, experiments, runs
from lorahub.app.tabs import train as tabs_train
from lorahub.app.training_process import Trainer
from lorahub.errors import AdapterError, BaseModelError, ConfigError
from lorahub.hub import fetch
from lorahub.hub.fetch import Located
from lorahub.serving.engine.engine import Engine

log = logging.getLogger(__name__)
RUNS = Path("runs")
_CHECK, _COMPARE = "Check a claim", "Compare on a file"
# A page with more adapters than this is no comparison any more.
_MOST_ADAPTERS = 12
# Adapters that visitors load push the least recently used out of memory; it comes back when it is asked.
_IN_MEMORY = 32
# malloc.h
_M_ARENA_MAX = -8
# Seconds between looks at visitors' files, and how old one gets: long enough to compare it again and to download.
_FILES_STAY = (300, 3600)


def launch(
    adapters: Sequence[str] | None = None,
    *,
    base: str | None = None,
    host: str,
    port: int,
    corrections: Path | None = None,
    training: bool | None = None,
    tell: Callable[[str], None],
) -> None:
    """Load the engine and serve the page until Ctrl-C; without names, the runs under `runs/` that share a base.

    `corrections` is the folder for what visitors say is wrong; see feedback.opened. With `training` visitors may train
    on this machine; left open, they may where only this machine can reach the page, and on a Space never. `tell` gets
    the lines that a person waits for: the address, and the end. Raises a LorahubError where the port cannot be had, no
    run is there, or a named adapter does not load.
    """
    # Before the base, which takes seconds.
    _check_free(host, port)
    kept = feedback.opened(corrections, host=host, default=RUNS / "feedback")
    engine, named, left_out = _choose(adapters, base)
    if engine.device != "cpu":
        engine.warm_up()
    what = f"{', '.join(engine.adapters)} on {engine.base_id}"
    trainer = _trainer(engine, base) if _may_train(training, host) else None
    page = build(engine, named=named, left_out=left_out, corrections=kept, trainer=trainer)
    try:
        run(page, host=host, port=port, what=what, tell=tell)
    finally:
        if trainer is not None:
            trainer.close(tell)


def _may_train(asked: bool | None, host: str) -> bool:
    """Whether the page trains: whoever reaches it could fill this machine's disk and read data by its path."""
    return "SPACE_ID" not in os.environ and (host in feedback.LOOPBACK if asked is None else asked)


def _trainer(engine: Engine, base: str | None) -> Trainer:
    return Trainer(root=RUNS, base=base or engine.base_id, load=lambda folder: engine.add(folder)[0])


def page(adapters: Sequence[str], *, base: str) -> gr.Blocks:
    """Load adapters onto one base and return their page, which nobody serves yet; raises a LorahubError.

    A Space calls this at the root of its module: what its GPU computes with has to be loaded before anything is served.
    """
    engine, named, left_out = _choose(adapters, base)
    return build(engine, named=named, left_out=left_out, corrections=feedback.opened(None), changeable=False)


def say(text: str) -> None:
    """Print a line at once, also where nobody but a log reads it."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def run(
    page: gr.Blocks,
    *,
    host: str | None = None,
    port: int | None = None,
    what: str = "the app",
    tell: Callable[[str], None] = say,
) -> None:
    """Serve a page until Ctrl-C. Host and port left out are gradio's own, which a Space sets in its environment."""
    address = serve(page, host, port)
    tell(f"lorahub: {what}: open {address} (Ctrl-C ends it)")
    try:
        while page.is_running:
            time.sleep(0.2)
    except KeyboardInterrupt:
        page.close(verbose=False)
        tell("lorahub: the app has ended.")


def _choose(adapters: Sequence[str] | None, base: str | None) -> tuple[Engine, list[Located], list[str]]:
    """The engine, where the named adapters are, and why a run was left out."""
    engine, left_out = (Engine(base, adapters, most_adapters=_IN_MEMORY), []) if adapters else load(RUNS, base)
    named = [fetch.adapter(adapter) for adapter in adapters or ()]
    for reason in left_out:
        log.warning("left out: %s", reason)
    return engine, named, left_out


def load(root: Path, base: str | None = None) -> tuple[Engine, list[str]]:
    """Return an engine with the newest finished runs under `root`, and a sentence for each run that is left out.

    The base is the given one, else that of the newest run that was trained here and whose base is still to be had,
    else MiniLM. A run is left out where it does not fit this base or is damaged, as the engine says. Raises
    AdapterError where nothing is left, BaseModelError where the given base is not to be had.
    """
    found = records.find(root)
    if not found:
        # A page on which nothing can be done would send its reader back to this line.
        raise AdapterError(
            f"there is no finished run under {root}/ to show. Train one first: lorahub train --data starter-wording"
        )
    # What was pulled names no base.
    own = [record.environment["base_id"] for folder, record in found if fetch.adapter(folder).repo is None]
    engine = Engine(base, most_adapters=_IN_MEMORY) if base else _first_engine([*own, fetch.MINILM])
    left_out = []
    for folder, _ in found:
        if len(engine.adapters) == _MOST_ADAPTERS:
            left_out.append(
                f"{folder.name} is older than the {_MOST_ADAPTERS} runs that are shown; load it in the tab Adapters."
            )
            continue
        try:
            engine.add(folder)
        except AdapterError as error:
            left_out.append(str(error))
    if not engine.adapters:
        raise AdapterError(f"no run under {root}/ can be shown. {left_out[0]}")
    return engine, left_out


def _first_engine(bases: Iterable[str]) -> Engine:
    for base in dict.fromkeys(bases):
        try:
            return Engine(base, most_adapters=_IN_MEMORY)
        except BaseModelError as error:
            log.warning("%s", error)
    raise BaseModelError("none of the runs' bases is to be had. Name one with --base.")


def build(
    engine: Engine,
    *,
    root: Path = RUNS,
    named: Iterable[Located] = (),
    left_out: Sequence[str] = (),
    corrections: Feedback | None = None,
    changeable: bool = True,
    trainer: Trainer | None = None,
) -> gr.Blocks:
    """Return the page for a loaded engine; nothing is started.

    Without `corrections` no visitor can leave any; unless it is `changeable`, none can load or drop an adapter; without
    a `trainer` none can train.
    """
    with gr.Blocks(title="lorahub", analytics_enabled=False, delete_cache=_FILES_STAY) as page:
        gr.HTML(present.header(engine.base_id))
        with gr.Tabs() as tabs:
            with gr.Tab(_CHECK, id=_CHECK) as tab:
                checked = check.build(engine, page, tab, left_out=left_out, corrections=corrections)
            with gr.Tab(_COMPARE, id=_COMPARE) as tab:
                compared = compare.build(engine, tab)
            with gr.Tab("Adapters") as tab:
                adapters.build(engine, Catalogue(engine, root, named), tab, changeable=changeable)
            with gr.Tab("Runs") as tab:
                runs.build(root, tab, named)
                experiments.build(root, tab)
            if trainer is not None:
                with gr.Tab("Train") as tab:
                    tabs_train.build(engine, trainer, tab, tabs, {_CHECK: checked, _COMPARE: compared})
    return page


def serve(page: gr.Blocks, host: str | None, port: int | None) -> str:
    """Start serving in the background and return the address; `page.close()` ends it.

    Nothing of a visitor is kept: no analytics, no history of claims in the browser.
    """
    _share_the_heap()
    # Told to be quiet, gradio still prints where the MCP server is; standard output is the caller's.
    with contextlib.redirect_stdout(io.StringIO()):
        _, address, _ = page.queue(default_concurrency_limit=4).launch(
            server_name=host,
            server_port=port,
            css=present.CSS,
            theme=_theme(),
            footer_links=["api"],
            # With the package mcp at hand, the endpoints are tools too.
            mcp_server=find_spec("mcp") is not None,
            run_history=False,
            enable_monitoring=False,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
        )
    return str(address)


def _share_the_heap() -> None:
    """Let all threads take memory from the same heap, where the C library is glibc.

    Else each of gradio's forty keeps what it once needed, and the process grows for minutes (benchmarks/app_users.py).
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # a C library without it has one heap anyway
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _theme() -> gr.themes.Base:
    """Gradio's own theme with the system's fonts, so that nothing is fetched, and with darker text and buttons.

    White on the theme's own teal, and its grey placeholders and explanations, are too faint to read.
    """
    theme = gr.themes.Default(
        primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    return theme.set(
        color_accent="*primary_700",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        checkbox_background_color_selected_dark="*primary_700",
        block_info_text_color="*neutral_500",
        body_text_color_subdued="*neutral_500",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )


def _check_free(host: str, port: int) -> None:
    """Raise ConfigError where nobody can listen at `host` and `port`."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # Gradio's own server does the same; a port that was in use a moment ago can be had again.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ConfigError(
            f"the app cannot listen on {host}, port {port} ({error.strerror or error}). "
            "Give another --port, or end what uses this one."
        ) from None
