"""The tab *Compare on a file*: a file and its columns in; every adapter's answers, figures and a download out."""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components.api_component import Api
from gradio_client.utils import python_type_to_json_schema

from lorahub.app import Json, adapter_choice, errors, file_report, html, uploads
from lorahub.app.gpu_batches import GpuBatchPredictor
from lorahub.data import columns, table_check, tables
from lorahub.data.table_check import CheckedTable
from lorahub.errors import ConfigError, LorahubError
from lorahub.experiments.compare import file as compare_file
from lorahub.experiments.compare.file import FileComparison, Step
from lorahub.serving.engine.engine import Engine

NONE = ("none", "")
_PROGRESS = gr.Progress()
_HINT = html.note("A row holds one claim. With a label column there are figures and a comparison, without one answers.")
# One file at a time, so that claims are answered meanwhile.
_ONE_AT_A_TIME: dict[str, int | str] = {"concurrency_limit": 1, "concurrency_id": "files"}


def build(engine: Engine, tab: gr.Tab, check_room: Callable[[], None]) -> gr.CheckboxGroup:
    """Lay out the tab inside the current gr.Blocks and return the field that chooses adapters.

    `check_room` raises ConfigError if no further file may be stored.
    """
    predictor, names = GpuBatchPredictor(engine), engine.names
    upload = gr.File(
        label="File (csv, tsv, json, jsonl, xlsx or parquet)", file_types=list(tables.SUFFIXES), height=130
    )
    with gr.Row():
        claim = gr.Dropdown([], label="Claim column", interactive=True)
        label = gr.Dropdown([NONE], value="", label="Label column", interactive=True)
        evidence = gr.Dropdown([NONE], value="", label="Evidence column", interactive=True)
    contents = gr.HTML(_HINT, label="File", html_template=html.region("File"))
    chosen = gr.CheckboxGroup(names, value=names, label="Adapters")
    with gr.Accordion("Label names (optional)", open=False):
        renamed = gr.Textbox(
            label="Label names",
            info="Where the file and the adapters name a label differently: one line each, FILE'S = ADAPTER'S.",
            value="",
            placeholder="1 = true\n0 = false",
            lines=3,
        )
    with gr.Row():
        start = gr.Button("Compare", variant="primary", elem_classes="lh-check")
        cancel = gr.Button("Cancel", elem_classes="lh-check", interactive=False)
    download = gr.DownloadButton("Download the classified file", visible=False, elem_classes="lh-check")
    result = gr.HTML("", label="Comparison", html_template=html.region("Comparison"), min_height=24)

    @errors.shown()
    def open_file(path: str | None) -> tuple[Any, Any, Any, str]:
        if path is None:
            return gr.Dropdown([], value=None), gr.Dropdown([NONE], value=""), gr.Dropdown([NONE], value=""), _HINT
        try:
            with _uploaded_name(path):
                names, guesses = guess(Path(path))
        except LorahubError as error:
            return gr.skip(), gr.skip(), gr.skip(), html.problem(str(error))
        others = [NONE, *((name, name) for name in names)]
        return (
            gr.Dropdown(names, value=guesses[0] or None),
            gr.Dropdown(others, value=guesses[1]),
            gr.Dropdown(others, value=guesses[2]),
            describe(path, *guesses, ""),
        )

    @errors.in_place
    def describe(path: str | None, claim: str | None, label: str, evidence: str, renamed: str) -> str:
        with _uploaded_name(path):
            return file_report.contents(_read(path, claim, label, evidence, mapping(renamed))) if path else _HINT

    def show(
        path: str | None,
        adapters: list[str],
        claim: str | None,
        label: str,
        evidence: str,
        renamed: str,
        progress: gr.Progress = _PROGRESS,
    ) -> Iterator[tuple[Any, Any]]:
        # Remove the result of an earlier comparison.
        yield gr.DownloadButton(visible=False), ""
        started = time.perf_counter()
        with errors.shown():
            try:
                with _uploaded_name(path):
                    table = _read(path, claim, label, evidence, mapping(renamed))
                    check_room()
                    output = _output(table, download)
                    for step in _compare(predictor, table, output, adapters):
                        if isinstance(step, Step):
                            progress(step.share, desc=step.text)
                            yield gr.skip(), gr.skip()
                        else:
                            report = file_report.render(step, table, time.perf_counter() - started, engine.device)
                            yield gr.DownloadButton(value=str(output), visible=True), report
            except LorahubError as error:
                yield gr.skip(), html.problem(str(error))

    private = {"api_visibility": "private"}
    column_fields = [claim, label, evidence]
    upload.change(open_file, upload, [*column_fields, contents], **private)
    # A mapping is read when its field is left: reading the file again with each key would be slow. A visitor may change
    # a second field while the file is read; the last values count.
    changed = [*(field.input for field in column_fields), renamed.blur]
    gr.on(changed, describe, [upload, *column_fields, renamed], contents, trigger_mode="always_last", **private)
    # Not queued: a visitor who waits for another file to end can cancel.
    start.click(lambda: gr.Button(interactive=True), None, cancel, queue=False, **private)
    running = start.click(
        show,
        [upload, chosen, *column_fields, renamed],
        [download, result],
        show_progress_on=result,
        **_ONE_AT_A_TIME,
        **private,
    )
    running.then(lambda: gr.Button(interactive=False), None, cancel, queue=False, **private)
    cancel.click(
        lambda: (html.note("Cancelled: nothing was kept."), gr.Button(interactive=False)),
        None,
        [result, cancel],
        cancels=running,
        **private,
    )
    adapter_choice.refresh_on_open(engine, tab, chosen)
    _endpoint(predictor, check_room)
    return chosen


def _endpoint(predictor: GpuBatchPredictor, check_room: Callable[[], None]) -> None:
    """Add the endpoint: `gr.api` accepts no files, so its arguments are components that are not visible."""

    @errors.endpoint
    def compare(
        file: str | None,
        adapters: list[str] | None,
        claim: str = "",
        label: str = "",
        evidence: str = "",
        label_map: dict[str, str] | None = None,
    ) -> tuple[Json, str]:
        """Classify a csv, tsv, json, jsonl, xlsx or parquet file with adapters; with labels, score and compare them.

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
        with _uploaded_name(file):
            table = _read(file, claim or (guess(Path(file))[1][0] if file else None), label, evidence, label_map)
            check_room()
            output = _output(table, classified)
            *_, result = _compare(predictor, table, output, adapters or predictor.names)
        assert isinstance(result, FileComparison)
        return result.to_dict(), str(output)

    with gr.Column(visible=False):
        inputs = [
            gr.File(label="file"),
            Api(None, python_type_to_json_schema(list[str] | None), "adapters"),
            *(gr.Textbox("", label=name) for name in ("claim", "label", "evidence")),
            Api(None, python_type_to_json_schema(dict[str, str] | None), "label_map"),
        ]
        figures, classified = gr.JSON(label="comparison"), gr.File(label="classified file")
        gr.Button("compare").click(compare, inputs, [figures, classified], api_name="compare", **_ONE_AT_A_TIME)


def guess(path: Path) -> tuple[list[str], tuple[str, str, str]]:
    """Return a file's columns, and which of them hold claim, label and evidence; "" where no name looks like it.

    The columns of a file without a header are positions, from 1 on.
    """
    table = tables.open_table(path)
    claim, label, evidence = (
        columns.guess_known(table.columns, known) or "" for known in (columns.CLAIMS, columns.LABELS, columns.EVIDENCE)
    )
    if not claim and table.headerless is not None:
        return list(table.headerless.columns), ("", "", "")
    return list(table.columns), (claim, label, evidence)


def mapping(text: str) -> dict[str, str]:
    """Parse label names, one `FILE'S = ADAPTER'S` per line; raises ConfigError."""
    names = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, equals, meaning = (part.strip() for part in line.partition("="))
        if not (name and equals and meaning):
            raise ConfigError(f"Label names: {line!r} is not FILE'S = ADAPTER'S, as in 1 = true.")
        names[name] = meaning
    return names


def _read(
    path: str | None, claim: str | None, label: str | None, evidence: str | None, label_map: dict[str, str] | None
) -> CheckedTable:
    if not path:
        raise ConfigError("Choose a file first.")
    if not claim:
        raise ConfigError("Choose the column that holds the claims.")
    uploads.used(path)
    return table_check.read(
        Path(path), claim=claim, label=label or None, evidence=evidence or None, label_map=label_map
    )


def _compare(
    predictor: GpuBatchPredictor, table: CheckedTable, output: Path, adapters: list[str]
) -> Iterator[Step | FileComparison]:
    rows = predictor.chunk_rows(len(adapters))
    return compare_file.compare(predictor, table, output, adapters, chunk_rows=rows)


def _output(table: CheckedTable, component: gr.components.Component) -> Path:
    """Return where the classified file goes: into gradio's cache, which it clears, under a random name."""
    source, suffix = table.source, table.source.suffix.lower()
    suffix = suffix if suffix in tables.WRITTEN else {".json": ".jsonl"}.get(suffix, ".csv")
    return Path(component.GRADIO_CACHE) / secrets.token_hex(16) / f"{source.stem}.classified{suffix}"


@contextmanager
def _uploaded_name(path: str | None) -> Iterator[None]:
    """Replace the path of an uploaded file by its name in error messages: a visitor knows only the name."""
    try:
        yield
    except LorahubError as error:
        raise ConfigError(str(error).replace(path, Path(path).name) if path else str(error)) from error
