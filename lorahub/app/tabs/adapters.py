"""The tab *Adapters*: which adapters are loaded, which there are on this machine and the Hub, and which are safe."""

from dataclasses import asdict

import gradio as gr

from lorahub.app import Json, errors, html
from lorahub.app.catalogue import HERE, HUB, Catalogue, Listing
from lorahub.errors import ConfigError, LorahubError
from lorahub.hub import search
from lorahub.hub.search import Inspection
from lorahub.reports import tables
from lorahub.serving import load_checks
from lorahub.serving.engine.engine import Engine, Status


def build(engine: Engine, catalogue: Catalogue, tab: gr.Tab, *, changeable: bool = True) -> None:
    """Lay out the tab inside the current gr.Blocks; unless it is `changeable`, no visitor loads or drops anything."""
    status = gr.HTML(loaded(engine.status()), label="Loaded adapters")
    known = gr.Dropdown(engine.names, value=None, label="Loaded adapter", interactive=True, visible=changeable)
    drop_button = gr.Button("Drop", elem_classes="lh-check", visible=changeable)
    check_button = gr.Button("Run checks", elem_classes="lh-check", visible=changeable)
    checks = gr.HTML("", label="Checks", html_template=html.region("Checks"))
    dropped, names = gr.HTML("", label="Drop", html_template=html.region("Drop")), gr.State(engine.names)
    gr.HTML(html.title("Find adapters"))
    with gr.Row():
        words = gr.Textbox(label="Search", placeholder="Words of a name, data set or label", max_lines=1)
        base = gr.Textbox(engine.base_id, label="Base", placeholder="Any base", max_lines=1)
        where = gr.CheckboxGroup([HERE, HUB], value=[HERE], label="Where")
    search_button = gr.Button("Search", variant="primary", elem_classes="lh-check")
    # Without what was pulled from the Hub: the Hub is asked only when a visitor searches.
    listing, ids = _table(catalogue.runs(engine.base_id))
    results = gr.HTML(listing, label="Found adapters", html_template=html.region("Found adapters"))
    # A name that is not in the list is accepted too: an adapter's id on the Hub.
    choice = gr.Dropdown(
        ids, value=None, label="Adapter", info="One of the list, or USER/NAME.", allow_custom_value=True
    )
    with gr.Row():
        inspect_button = gr.Button("Inspect", elem_classes="lh-check")
        load_button = gr.Button("Load", elem_classes=["lh-check", "lh-load"], visible=changeable)
    answer = gr.HTML("", label="Adapter", html_template=html.region("Adapter"))

    @errors.shown()
    def find(words: str, base: str, where: list[str]) -> tuple[str, gr.Dropdown]:
        listing, ids = _search(catalogue, words, base, where)
        return listing, gr.Dropdown(ids, value=None)

    @errors.in_place
    def inspect(identifier: str | None) -> str:
        return inspected(catalogue.inspect(_required(identifier)))

    @errors.in_place
    def check(name: str | None) -> str:
        return checked(engine, _required(name))

    @errors.in_place
    def load(identifier: str | None) -> str:
        name = catalogue.load(_required(identifier))
        # Its own errors: if the engine is busy, the adapter is loaded nevertheless.
        return html.note(f"Loaded: it answers as {name}.") + check(name)

    @errors.in_place
    def drop(name: str | None) -> str:
        engine.drop(_required(name))
        return html.note(f"Dropped: {name}. Requests under way finish with it.")

    def refresh() -> tuple[str, list[str]]:
        return loaded(engine.status()), engine.names

    private = {"api_visibility": "private"}
    gr.on([search_button.click, words.submit, base.submit], find, [words, base, where], [results, choice], **private)
    inspect_button.click(inspect, choice, answer, **private)
    # In two steps, as in adapter_choice: an adapter that a visitor chooses meanwhile stays chosen.
    tab.select(refresh, None, [status, names], show_progress="hidden", **private)
    names.change(lambda names: gr.Dropdown(names, value=None), names, known, show_progress="hidden", **private)
    if changeable:
        load_button.click(lambda one: (load(one), *refresh()), choice, [answer, status, names], **private)
        check_button.click(check, known, checks, **private)
        drop_button.click(lambda one: (drop(one), *refresh()), known, [dropped, status, names], **private)
    _endpoints(engine, catalogue, changeable=changeable)


def loaded(status: Status) -> str:
    """Return the engine's cache as a table: which adapters are in memory, their sizes, and the limits."""
    rows = []
    for adapter in status.adapters:
        state = ["in memory" if adapter.loaded else "not in memory; loaded again on the next question"]
        state += ["pinned"] if adapter.pinned else []
        state += ["answering"] if adapter.in_use else []
        rows.append((adapter.name, tables.size(adapter.bytes), ", ".join(state)))
    limits = [f"{status.most_adapters} adapters"] if status.most_adapters is not None else []
    limits += [tables.size(status.most_bytes)] if status.most_bytes is not None else []
    limit = f"At most {' and '.join(limits)} stay in memory." if limits else "There is no limit."
    count = sum(adapter.loaded for adapter in status.adapters)
    return html.title("Loaded adapters", f"{count} in memory, {tables.size(status.bytes)}. {limit}") + html.table(
        "Loaded adapters", ("adapter", "memory", "state"), rows
    )


def checked(engine: Engine, name: str) -> str:
    """Run the checks of a loaded adapter and return them as a table; raises the errors of `load_checks.check`."""
    found = load_checks.check(engine, name, load_checks.claims_for(engine.folder_of(name)))
    answers = {True: "yes", False: "NO", None: "undecided"}
    failed = ", ".join(one.name for one in found if one.ok is False)
    verdict = f"Failed: {failed}." if failed else "No check failed."
    return html.title(f"Checks of {name}", verdict) + html.table(
        f"Checks of {name}",
        ("check", "expected", "found", "holds"),
        [(one.name, one.expected, one.found, answers[one.ok]) for one in found],
    )


def inspected(inspection: Inspection) -> str:
    """Return one adapter: whether it may be loaded, with every finding, and what it is."""
    verdict = inspection.verdict
    safe = "Safe to load, but its files changed after the run." if verdict.altered else "Safe to load."
    summary = safe if verdict.safe else "Refused: it is not loaded."
    return (
        html.title(inspection.id, summary)
        + "".join(html.problem(f"{text}.") for text in verdict.reasons)
        + "".join(html.problem(f"Changed after the run: {text}.") for text in verdict.altered)
        + html.note(*(f"Note: {text}." for text in verdict.notes))
        + html.facts(dict(inspection.lines()))
    )


def _search(catalogue: Catalogue, words: str, base: str, where: list[str]) -> tuple[str, list[str]]:
    """Return the adapters that match as HTML, and their ids."""
    try:
        listing = catalogue.listing(words=words, base=base.strip(), where=where)
    except LorahubError as error:
        return html.problem(str(error)), []
    return _table(listing)


def _table(listing: Listing) -> tuple[str, list[str]]:
    missing = html.problem(listing.missing) if listing.missing else ""
    if not listing.adapters:
        return missing + html.note("No adapter matches these words and this base."), []
    rows = [search.row(adapter) for adapter in listing.adapters]
    return missing + html.table("Found adapters", search.HEADER, rows), [adapter.id for adapter in listing.adapters]


def _required(name: str | None) -> str:
    if not name or not name.strip():
        raise ConfigError("Choose an adapter first.")
    return name.strip()


def _endpoints(engine: Engine, catalogue: Catalogue, *, changeable: bool) -> None:
    @errors.endpoint
    def adapters(words: str = "", base: str = "", where: list[str] = [HERE]) -> Json:  # noqa: B006
        """List adapters: the runs here and what was pulled ("this machine"), and those on "the Hub".

        `missing` says why the Hub's are not listed.

        Args:
            words: words of the id, data set or labels; all adapters where empty
            base: the base that they must be of; any where empty
            where: "this machine", "the Hub", or both

        """
        listing = catalogue.listing(words=words, base=base, where=where)
        return {"found": [asdict(adapter) for adapter in listing.adapters], "missing": listing.missing}

    @errors.endpoint
    def inspect_adapter(adapter: str) -> Json:
        """Inspect one adapter before it is loaded: what it is, its figures, and whether it is safe to load.

        Args:
            adapter: a run of this machine, or USER/NAME[@REVISION] on the Hub

        """
        return catalogue.inspect(_required(adapter)).to_dict()

    @errors.endpoint
    def loaded_adapters() -> Json:
        """List the engine's adapters, which of them are in memory, and the bytes that they take."""
        return asdict(engine.status())

    @errors.endpoint
    def load_adapter(adapter: str) -> str:
        """Load an adapter; returns the name under which it answers.

        Args:
            adapter: a run of this machine, or USER/NAME[@REVISION] on the Hub

        """
        return catalogue.load(_required(adapter))

    @errors.endpoint
    def drop_adapter(name: str) -> str:
        """Unload an adapter; requests under way finish with it. Returns its name.

        Args:
            name: the name under which it answers

        """
        engine.drop(_required(name))
        return name

    for endpoint in (adapters, inspect_adapter, loaded_adapters, *((load_adapter, drop_adapter) if changeable else ())):
        gr.api(endpoint, api_name=endpoint.__name__)
