"""The tab *Compare on a file*: a file in, its columns chosen, every adapter's answers, figures and a download out."""

import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components.api_component import Api
from gradio_client.utils import python_type_to_json_schema

from lorahub.app import errors, file_report, present
from lorahub.app.gpu_batches import GpuBatchPredictor
from lorahub.data import columns, table_check, tables
from lorahub.data.table_check import CheckedTable
from lorahub.errors import ConfigError, LorahubError
from lorahub.experiments.compare import file as compare_file
from lorahub.experiments.compare.file import FileComparison, Step
from lorahub.serving.engine.engine import Engine

NONE = ("none", "")
_PROGRESS = gr.Progress()
_HINT = present.message(
    "A row holds one claim. With a label column there are figures and a comparison, without one answers."
)


def build(engine: Engine, tab: gr.Tab) -> gr.CheckboxGroup:
    """Lay out the tab inside the current gr.Blocks; returns the field that chooses adapters.

    Whoever opens the tab is offered the adapters that are loaded then.
    """
    asked, names = GpuBatchPredictor(engine), engine.names
    offered = gr.State(names)
    upload = gr.File(label="File (csv, tsv, jsonl or parquet)", file_types=list(tables.SUFFIXES), height=130)
    with gr.Row():
        claim = gr.Dropdown([], label="Claim column", interactive=True)
        label = gr.Dropdown([NONE], value="", label="Label column", interactive=True)
        evidence = gr.Dropdown([NONE], value="", label="Evidence column", interactive=True)
    told = gr.HTML(_HINT, label="File", html_template=present.region("File"))
    chosen = gr.CheckboxGroup(names, value=names, label="Adapters")
    with gr.Accordion("Label names (optional)", open=False):
        renamed = gr.Textbox(
            label="Label names",
            info="Where the file calls a label otherwise than the adapters do: a line each, FILE'S = ADAPTER'S.",
            value="",
            placeholder="1 = true\n0 = false",
            lines=3,
        )
    with gr.Row():
        start = gr.Button("Compare", variant="primary", elem_classes="lh-check")
        cancel = gr.Button("Cancel", elem_classes="lh-check", interactive=False)
    download = gr.DownloadButton("Download the judged file", visible=False, elem_classes="lh-check")
    result = gr.HTML("", label="Comparison", html_template=present.region("Comparison"), min_height=24)

    def open_file(path: str | None) -> tuple[Any, Any, Any, str]:
        if path is None:
            return gr.Dropdown([], value=None), gr.Dropdown([NONE], value=""), gr.Dropdown([NONE], value=""), _HINT
        with errors.shown():
            try:
                present_columns, guesses = guess(Path(path))
            except LorahubError as error:
                return gr.skip(), gr.skip(), gr.skip(), present.problem(_without_folder(error, path))
            others = [NONE, *((column, column) for column in present_columns)]
            return (
                gr.Dropdown(present_columns, value=guesses[0] or None),
                *(gr.Dropdown(others, value=column) for column in guesses[1:]),
                tell(path, *guesses, ""),
            )

    def tell(path: str | None, claim: str | None, label: str, evidence: str, renamed: str) -> str:
        with errors.shown():
            try:
                return file_report.told(_read(path, claim, label, evidence, mapping(renamed))) if path else _HINT
            except LorahubError as error:
                return present.problem(_without_folder(error, path))

    def show(
        path: str | None,
        adapters: list[str],
        claim: str | None,
        label: str,
        evidence: str,
        renamed: str,
        progress: gr.Progress = _PROGRESS,
    ) -> Iterator[tuple[Any, Any]]:
        # What stands there belongs to another question.
        yield gr.DownloadButton(visible=False), ""
        started = time.perf_counter()
        with errors.shown():
            try:
                table = _read(path, claim, label, evidence, mapping(renamed))
                output = _output(table, download)
                rows = asked.chunk_rows(len(adapters))
                for found in compare_file.compare(asked, table, output, adapters, chunk_rows=rows):
                    if isinstance(found, Step):
                        progress(found.share, desc=found.text)
                        yield gr.skip(), gr.skip()
                    else:
                        made = file_report.render(found, table, time.perf_counter() - started, engine.device)
                        yield gr.DownloadButton(value=str(output), visible=True), made
            except LorahubError as error:
                yield gr.skip(), present.problem(_without_folder(error, path))

    def offer(loaded: list[str], chosen: list[str]) -> gr.CheckboxGroup:
        """The adapters that are loaded now; what was ticked stays ticked where it still is there."""
        return gr.CheckboxGroup(loaded, value=[name for name in chosen if name in loaded])

    columns_of = [claim, label, evidence]
    # Typing a mapping ends with leaving its field; with each key the file would be read again.
    told_again = [*(box.input for box in columns_of), renamed.blur]
    upload.change(open_file, upload, [*columns_of, told], api_visibility="private")
    # Whoever is quick changes a second field while the first is looked at; what stands at the end counts.
    gr.on(
        told_again,
        tell,
        [upload, *columns_of, renamed],
        told,
        trigger_mode="always_last",
        api_visibility="private",
    )
    # Before its turn comes: who waits can give it up.
    start.click(lambda: gr.Button(interactive=True), None, cancel, queue=False, api_visibility="private")
    running = start.click(
        show,
        [upload, chosen, *columns_of, renamed],
        [download, result],
        # One file at a time, so that files leave room for claims.
        concurrency_limit=1,
        concurrency_id="files",
        show_progress_on=result,
        api_visibility="private",
    )
    running.then(lambda: gr.Button(interactive=False), None, cancel, queue=False, api_visibility="private")
    cancel.click(
        lambda: (present.message("Cancelled: nothing was kept."), gr.Button(interactive=False)),
        None,
        [result, cancel],
        cancels=running,
        api_visibility="private",
    )
    # In two steps, so that who ticks meanwhile is not overruled: a state that stays as it is sets off nothing.
    tab.select(lambda: engine.names, None, offered, show_progress="hidden", api_visibility="private")
    offered.change(offer, [offered, chosen], chosen, show_progress="hidden", api_visibility="private")
    _endpoint(asked)
    return chosen


def _endpoint(asked: GpuBatchPredictor) -> None:
    """The same for programs: `gr.api` takes no files, so its fields are components that nobody sees."""

    def compare(
        file: str | None,
        adapters: list[str] | None,
        claim: str,
        label: str,
        evidence: str,
        label_map: dict[str, str] | None,
    ) -> tuple[dict[str, Any], str]:
        """Judge a csv, tsv, jsonl or parquet file with adapters; with labels, score and compare them.

        Args:
            file: the file; each row holds a claim
            adapters: a list of loaded adapters by name; all of them where left out
            claim: the column with the claims; guessed where empty
            label: the column with the labels; without one there are answers and no figures
            evidence: a column with a second text
            label_map: an object, label in the file -> its name in the adapters
        Returns:
            Figures, comparisons and the first 200 rows, disagreements first.
            The file with the answers as columns.

        """
        with errors.shown():
            try:
                table = _read(file, claim or (guess(Path(file))[1][0] if file else None), label, evidence, label_map)
                output = _output(table, judged)
                chosen = adapters or asked.names
                rows = asked.chunk_rows(len(chosen))
                *_, found = compare_file.compare(asked, table, output, chosen, chunk_rows=rows)
            except LorahubError as error:
                raise ConfigError(_without_folder(error, file)) from error
            assert isinstance(found, FileComparison)
            return found.to_dict(), str(output)

    with gr.Column(visible=False):
        inputs = [
            gr.File(label="file"),
            Api(None, python_type_to_json_schema(list[str] | None), "adapters"),
            *(gr.Textbox("", label=name) for name in ("claim", "label", "evidence")),
            Api(None, python_type_to_json_schema(dict[str, str] | None), "label_map"),
        ]
        figures, judged = gr.JSON(label="comparison"), gr.File(label="judged file")
        gr.Button("compare").click(
            compare, inputs, [figures, judged], api_name="compare", concurrency_limit=1, concurrency_id="files"
        )


def guess(path: Path) -> tuple[list[str], tuple[str, str, str]]:
    """The columns of a file, and which of them hold claim, label and evidence; "" where none looks like it."""
    found = tables.columns(path)
    candidates = (columns.CLAIMS, columns.LABELS, columns.EVIDENCE)
    claim, label, evidence = (columns.guess(found, names) or "" for names in candidates)
    return found, (claim, label, evidence)


def mapping(text: str) -> dict[str, str]:
    """What was typed as label names, a line each; raises ConfigError."""
    found = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, equals, meant = (part.strip() for part in line.partition("="))
        if not (name and equals and meant):
            raise ConfigError(f"Label names: {line!r} is not FILE'S = ADAPTER'S, as in 1 = true.")
        found[name] = meant
    return found


def _read(
    path: str | None, claim: str | None, label: str | None, evidence: str | None, label_map: dict[str, str] | None
) -> CheckedTable:
    if not path:
        raise ConfigError("Choose a file first.")
    if not claim:
        raise ConfigError("Choose the column that holds the claims.")
    return table_check.read(
        Path(path), claim=claim, label=label or None, evidence=evidence or None, label_map=label_map
    )


def _output(table: CheckedTable, block: gr.components.Component) -> Path:
    """Where the judged file goes: into gradio's cache, which it clears, under a name that nobody can guess."""
    source = table.source
    return Path(block.GRADIO_CACHE) / secrets.token_hex(16) / f"{source.stem}.judged{source.suffix.lower()}"


def _without_folder(error: LorahubError, path: str | None) -> str:
    """An error as a visitor may read it, who knows the file and not where it lies here."""
    return str(error).replace(path, Path(path).name) if path else str(error)
