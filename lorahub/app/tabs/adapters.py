"""The tab *Adapters*: what the engine has loaded, what there is here and on the Hub, and whether it is safe to load."""

from dataclasses import asdict
from typing import Any

import gradio as gr

from lorahub.app import errors, present
from lorahub.app.catalogue import HERE, HUB, Catalogue
from lorahub.errors import ConfigError, LorahubError
from lorahub.hub import search
from lorahub.hub.inspect import Inspection
from lorahub.reports import tables
from lorahub.serving.engine.engine import Engine, Status

_LOADED_HEADER = ("adapter", "memory", "state")


def build(engine: Engine, catalogue: Catalogue, tab: gr.Tab, *, changeable: bool = True) -> None:
    """Lay out the tab inside the current gr.Blocks; unless it is `changeable`, no visitor loads or drops anything."""
    status = gr.HTML(loaded(engine.status()), label="Loaded adapters")
    known = gr.Dropdown(engine.names, value=None, label="Loaded adapter", interactive=True, visible=changeable)
    drop_button = gr.Button("Drop", elem_classes="lh-check", visible=changeable)
    dropped, names = gr.HTML("", label="Drop", html_template=present.region("Drop")), gr.State(engine.names)
    gr.HTML(present.title("Find adapters"))
    with gr.Row():
        words = gr.Textbox(label="Search", placeholder="Words of a name, data set or label", max_lines=1)
        base = gr.Textbox(engine.base_id, label="Base", placeholder="Any base", max_lines=1)
        where = gr.CheckboxGroup([HERE, HUB], value=[HERE], label="Where")
    search_button = gr.Button("Search", variant="primary", elem_classes="lh-check")
    first = _search(catalogue, "", engine.base_id, [HERE])
    results = gr.HTML(first[0], label="Found adapters", html_template=present.region("Found adapters"))
    # A name that is not in the list is taken too: an adapter's id on the Hub.
    choice = gr.Dropdown(
        first[1], value=None, label="Adapter", info="One that was found, or USER/NAME.", allow_custom_value=True
    )
    with gr.Row():
        inspect_button = gr.Button("Inspect", elem_classes="lh-check")
        load_button = gr.Button("Load", elem_classes=["lh-check", "lh-load"], visible=changeable)
    answer = gr.HTML("", label="Adapter", html_template=present.region("Adapter"))

    def find(words: str, base: str, where: list[str]) -> tuple[str, gr.Dropdown]:
        with errors.shown():
            shown, ids = _search(catalogue, words, base, where)
            return shown, gr.Dropdown(ids, value=None)

    def inspect(identifier: str | None) -> str:
        with errors.shown():
            try:
                return inspected(catalogue.inspect(_given(identifier)))
            except LorahubError as error:
                return present.problem(str(error))

    def load(identifier: str | None) -> tuple[str, str, list[str]]:
        with errors.shown():
            try:
                said = present.message(f"Loaded: it answers as {catalogue.load(_given(identifier))}.")
            except LorahubError as error:
                said = present.problem(str(error))
            return (said, *now())

    def drop(name: str | None) -> tuple[str, str, list[str]]:
        with errors.shown():
            try:
                engine.drop(_given(name))
                said = present.message(f"Dropped: {name}. Requests under way finish with it.")
            except LorahubError as error:
                said = present.problem(str(error))
            return (said, *now())

    def now() -> tuple[str, list[str]]:
        return loaded(engine.status()), engine.names

    private: dict[str, Any] = {"api_visibility": "private"}
    gr.on([search_button.click, words.submit, base.submit], find, [words, base, where], [results, choice], **private)
    inspect_button.click(inspect, choice, answer, **private)
    # Through a state, which sets off nothing where it stays as it is: who chooses meanwhile is not overruled.
    tab.select(now, None, [status, names], show_progress="hidden", **private)
    names.change(lambda names: gr.Dropdown(names, value=None), names, known, show_progress="hidden", **private)
    if changeable:
        load_button.click(load, choice, [answer, status, names], **private)
        drop_button.click(drop, known, [dropped, status, names], **private)
    _endpoints(engine, catalogue, changeable=changeable)


def loaded(status: Status) -> str:
    """The engine's cache as a table: which adapters are in memory, what they take, and the limits."""
    rows = [(held.name, tables.size(held.bytes), _state(held)) for held in status.adapters]
    limits = [f"{status.most_adapters} adapters"] if status.most_adapters is not None else []
    limits += [tables.size(status.most_bytes)] if status.most_bytes is not None else []
    room = f"At most {' and '.join(limits)} stay in memory." if limits else "There is no limit."
    count = sum(held.loaded for held in status.adapters)
    return present.title("Loaded adapters", f"{count} in memory, {tables.size(status.bytes)}. {room}") + present.table(
        "Loaded adapters", _LOADED_HEADER, rows
    )


def _state(held: Any) -> str:
    words = ["in memory" if held.loaded else "left memory; loaded again when it is asked"]
    words += ["pinned"] if held.pinned else []
    words += ["answering"] if held.in_use else []
    return ", ".join(words)


def inspected(found: Inspection) -> str:
    """One adapter: whether it may be loaded, with every finding, and what it is."""
    verdict = "Refused: it is not loaded." if found.report.refused else "Nothing speaks against loading it."
    refused = "".join(present.problem(f"{finding.text}.") for finding in found.report.findings if finding.refused)
    notes = [f"Note: {finding.text}." for finding in found.report.findings if not finding.refused]
    return present.title(found.id, verdict) + refused + present.message(*notes) + present.facts(dict(found.lines()))


def _search(catalogue: Catalogue, words: str, base: str, where: list[str]) -> tuple[str, list[str]]:
    try:
        listing = catalogue.listing(words=words, base=base.strip(), where=where)
    except LorahubError as error:
        return present.problem(str(error)), []
    said = present.problem(listing.missing) if listing.missing else ""
    if not listing.found:
        return said + present.message("No adapter fits these words and this base."), []
    rows = [search.row(item) for item in listing.found]
    return said + present.table("Found adapters", search.HEADER, rows), [item.id for item in listing.found]


def _given(name: str | None) -> str:
    if not name or not name.strip():
        raise ConfigError("Choose an adapter first.")
    return name.strip()


def _endpoints(engine: Engine, catalogue: Catalogue, *, changeable: bool) -> None:
    def adapters(words: str = "", base: str = "", where: list[str] = [HERE]) -> dict[str, Any]:  # noqa: B006
        """List adapters: the runs here and what was pulled ("this machine"), and those on "the Hub".

        `missing` says why the Hub's are not listed.

        Args:
            words: words of the id, data set or labels; all adapters where empty
            base: the base that they must be of; any where empty
            where: "this machine", "the Hub", or both

        """
        with errors.shown():
            return asdict(catalogue.listing(words=words, base=base, where=where))

    def inspect_adapter(adapter: str) -> dict[str, Any]:
        """Look at one adapter before it is loaded: what it is, its figures, and whether it is safe to load.

        Args:
            adapter: a run of this machine, or USER/NAME[@REVISION] on the Hub

        """
        with errors.shown():
            return catalogue.inspect(_given(adapter)).to_dict()

    def loaded_adapters() -> dict[str, Any]:
        """Tell which adapters the engine has, which of them are in memory, and the bytes that they take."""
        return asdict(engine.status())

    def load_adapter(adapter: str) -> str:
        """Load an adapter; returns the name under which it answers.

        Args:
            adapter: a run of this machine, or USER/NAME[@REVISION] on the Hub

        """
        with errors.shown():
            return catalogue.load(_given(adapter))

    def drop_adapter(name: str) -> str:
        """Unload an adapter; requests under way finish with it. Returns its name.

        Args:
            name: the name under which it answers

        """
        with errors.shown():
            engine.drop(_given(name))
            return name

    for endpoint in (adapters, inspect_adapter, loaded_adapters, *((load_adapter, drop_adapter) if changeable else ())):
        gr.api(endpoint, api_name=endpoint.__name__)
