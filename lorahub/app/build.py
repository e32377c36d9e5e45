"""The app: one engine and its tabs as one page, served on this machine or on a Space."""

import contextlib
import ctypes
import io
import logging
import os
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import gradio as gr

from lorahub import printable, records
from lorahub.app import FOLDER, feedback, html, listening, protection, uploads
from lorahub.app.catalogue import Catalogue
from lorahub.app.feedback import Feedback
from lorahub.app.page import Page
from lorahub.app.protection import Access
from lorahub.app.tabs import adapters as adapters_tab
from lorahub.app.tabs import check, compare, experiments, runs, train
from lorahub.app.training_process import Trainer
from lorahub.app.uploads import Uploads
from lorahub.app.visitor_access import ALLOW_PRIVATE, VisitorAccess
from lorahub.errors import AdapterError, BaseModelError
from lorahub.hub import fetch
from lorahub.hub.fetch import Located
from lorahub.serving.engine.engine import Engine

log = logging.getLogger(__name__)
RUNS = Path("runs")
STYLE = Path(__file__).parent / "style.css"
_CHECK, _COMPARE = "Check a claim", "Compare on a file"
# Runs that are offered at the start: more do not fit on the page.
_MAX_RUNS = 12
# Adapters in memory. Those that visitors load evict the least recently used one, which is loaded again when needed.
_MAX_IN_MEMORY = 32
# malloc.h
_M_ARENA_MAX = -8
# Seconds between deletions of visitors' files by gradio, and their age then.
_DELETE_FILES = (60, int(uploads.KEPT_SECONDS))
# Waiting requests: more would wait for longer than a visitor does.
_MOST_WAITING = 1000


def launch(
    adapters: Sequence[str] | None = None,
    *,
    base: str | None = None,
    host: str,
    port: int,
    corrections: Path | None = None,
    training: bool | None = None,
    loading: bool | None = None,
    private: Sequence[str] = (),
    allowed_hosts: Sequence[str] = (),
    rate: int | None = None,
    file_mb: int = uploads.FILE_MB,
) -> None:
    """Load the engine and serve the page until Ctrl-C; without names, the runs under `runs/` that share a base.

    `corrections` is the folder of visitors' corrections, see `feedback.opened`. With `training` visitors can train on
    this machine, with `loading` they load and drop adapters for all; by default, they can where only this machine can
    reach the page; they never train on a Space. `private` are repositories that visitors see with the owner's token.
    `allowed_hosts` and `rate` are those of `Access`, `file_mb` is the largest upload. Raises a LorahubError where the
    port is in use, there is no run, or a named adapter does not load.
    """
    access, visitors = Access.parse(host, allowed_hosts, rate), VisitorAccess(private)
    # Before the base is loaded, which takes seconds.
    listening.check_free(host, port)
    kept = feedback.opened(corrections, host=host, default=RUNS / "feedback")
    engine, named, left_out = _load(adapters, base)
    if engine.device != "cpu":
        engine.warm_up()
    trainer = None
    if _trains(training, access):
        trainer = Trainer(root=RUNS, base=base or engine.base_id, load=lambda folder: engine.add(folder)[0])
    page = build(
        engine,
        named=named,
        left_out=left_out,
        corrections=kept,
        changeable=access.permits(loading),
        trainer=trainer,
        visitors=visitors,
    )
    try:
        what = f"{', '.join(engine.adapters)} on {engine.base_id}"
        run(page, access, port=port, file_mb=file_mb, what=what)
    finally:
        if trainer is not None:
            if trainer.state is not None and trainer.state.running:
                _say("lorahub: the training stops; it keeps its best so far.")
            trainer.close()


def _trains(asked: bool | None, access: Access) -> bool:
    """Return whether the page trains: a visitor who trains can fill the disk and read data by its path."""
    return access.permits(asked) and not protection.on_space()


def page(adapters: Sequence[str], *, base: str) -> gr.Blocks:
    """Load adapters onto one base and return their page without serving it; raises a LorahubError.

    A Space calls this at the top level of its module: its GPU can use only what is loaded before the page is served.
    """
    engine, named, left_out = _load(adapters, base)
    visitors = VisitorAccess(os.environ.get(ALLOW_PRIVATE, "").split())
    kept = feedback.opened(None)
    return build(engine, named=named, left_out=left_out, corrections=kept, changeable=False, visitors=visitors)


def run(
    page: gr.Blocks,
    access: Access | None = None,
    *,
    port: int | None = None,
    file_mb: int = uploads.FILE_MB,
    what: str = "the app",
) -> None:
    """Serve a page until Ctrl-C. Default host and port are gradio's, which a Space sets in its environment."""
    access = access or Access.parse(None)
    address = serve(page, access.host, port, access=access, file_mb=file_mb)
    _say(f"lorahub: {what}: open {address} (Ctrl-C ends it)")
    try:
        while page.is_running:
            time.sleep(0.2)
    except KeyboardInterrupt:
        page.close(verbose=False)
        _say("lorahub: the app has ended.")


def _say(text: str) -> None:
    """Print a line at once, also into a log file."""
    sys.stdout.write(f"{printable.line(text)}\n")
    sys.stdout.flush()


def _load(adapters: Sequence[str] | None, base: str | None) -> tuple[Engine, list[Located], list[str]]:
    """Return the engine, the locations of the named adapters, and a reason for each run that was left out."""
    if adapters:
        return Engine(base, adapters, most_adapters=_MAX_IN_MEMORY), [fetch.adapter(name) for name in adapters], []
    engine, left_out = load(RUNS, base)
    for reason in left_out:
        log.warning("left out: %s", reason)
    return engine, [], left_out


def load(root: Path, base: str | None = None) -> tuple[Engine, list[str]]:
    """Return an engine with the newest finished runs under `root`, and a sentence for each run that is left out.

    The base is the given one, else that of the newest run that was trained here and whose base is available, else
    MiniLM. A run is left out where it does not fit this base or is damaged. Raises AdapterError where no run is left,
    BaseModelError where no base is available.
    """
    finished = records.find(root)
    if not finished:
        raise AdapterError(
            f"there is no finished run under {root}/ to show. Train one first: lorahub train --data starter-wording"
        )
    # An adapter that was pulled does not choose the base.
    own = [record.environment.base_id for folder, record in finished if fetch.adapter(folder).repo is None]
    engine = Engine(base, most_adapters=_MAX_IN_MEMORY) if base else _first_available([*own, fetch.MINILM])
    left_out = []
    for folder, _ in finished:
        if len(engine.adapters) == _MAX_RUNS:
            left_out.append(f"{folder.name} is older than the {_MAX_RUNS} runs shown; load it in the tab Adapters.")
            continue
        try:
            engine.add(folder)
        except AdapterError as error:
            left_out.append(str(error))
    if not engine.adapters:
        raise AdapterError(f"no run under {root}/ can be shown. {left_out[0]}")
    return engine, left_out


def _first_available(bases: Iterable[str]) -> Engine:
    for base in dict.fromkeys(bases):
        try:
            return Engine(base, most_adapters=_MAX_IN_MEMORY)
        except BaseModelError as error:
            log.warning("%s", error)
    raise BaseModelError("none of the runs' bases is available. Name one with --base.")


def build(
    engine: Engine,
    *,
    root: Path = RUNS,
    named: Iterable[Located] = (),
    left_out: Sequence[str] = (),
    corrections: Feedback | None = None,
    changeable: bool = True,
    trainer: Trainer | None = None,
    visitors: VisitorAccess | None = None,
) -> gr.Blocks:
    """Return the page for a loaded engine without serving it.

    Visitors can leave corrections where `corrections` is given, load and drop adapters where the page is `changeable`,
    and train where there is a `trainer`. `visitors` tells which repositories of the Hub they can name.
    """
    visitors = visitors or VisitorAccess()
    with Page(title="lorahub", analytics_enabled=False, delete_cache=_DELETE_FILES) as page:
        gr.HTML(html.header(engine.base_id))
        with gr.Tabs() as tabs:
            with gr.Tab(_CHECK, id=_CHECK) as tab:
                checked = check.build(engine, page, tab, left_out=left_out, corrections=corrections)
            with gr.Tab(_COMPARE, id=_COMPARE) as tab:
                compared = compare.build(engine, tab, page.check_room)
            with gr.Tab("Adapters") as tab:
                adapters_tab.build(engine, Catalogue(engine, root, named, visitors), tab, changeable=changeable)
            with gr.Tab("Runs") as tab:
                runs.build(root, tab, named)
                experiments.build(root, tab)
            if trainer is not None:
                with gr.Tab("Train") as tab:
                    train.build(engine, trainer, tab, tabs, {_CHECK: checked, _COMPARE: compared}, visitors)
    return page


def serve(
    page: gr.Blocks,
    host: str | None,
    port: int | None,
    *,
    access: Access | None = None,
    file_mb: int = uploads.FILE_MB,
    stall_seconds: float = uploads.STALL_SECONDS,
) -> str:
    """Start serving in the background and return the address; `page.close()` ends it.

    Nothing of a visitor is kept: no analytics, no history of claims in the browser. Requests are checked as in
    app/protection.py; files have at most `file_mb` megabytes, and a request that stalls for `stall_seconds` is dropped.
    """
    access = access or Access.parse(host)
    files = Uploads(folder=Path(FOLDER), file_mb=file_mb, stall_seconds=stall_seconds)
    if isinstance(page, Page):
        page.fetches, page.files = not access.shared, files
    if sys.platform == "linux":
        # One heap for all threads, where the C library is glibc: each of gradio's forty threads would keep the memory
        # that it once needed, and the process would grow for minutes (benchmarks/app_users.py).
        with contextlib.suppress(AttributeError):
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    # Even with `quiet`, gradio prints the address of the MCP server; standard output is the caller's.
    with contextlib.redirect_stdout(io.StringIO()):
        _, address, _ = page.queue(default_concurrency_limit=4, max_size=_MOST_WAITING, api_open=False).launch(
            server_name=host,
            server_port=port,
            css_paths=STYLE,
            theme=_theme(),
            footer_links=["api"],
            mcp_server=find_spec("mcp") is not None,
            run_history=False,
            enable_monitoring=False,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=file_mb * uploads.MB,
            ssr_mode=False,
            app_kwargs={
                "middleware": [*protection.middleware(access), *files.middleware()],
                "lifespan": uploads.lifespan(page, files),
            },
        )
    # Each upload gets a folder of its own.
    page.app.uploaded_file_dir = files
    return str(address)


def _theme() -> gr.themes.Base:
    """Return gradio's theme with the system's fonts, so that none is fetched, and with darker text and buttons.

    The theme's white on teal, its placeholders and its explanations have too little contrast.
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
