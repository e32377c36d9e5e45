"""Writes the parts of README.md and docs/ that the code already knows, between their markers, and spaces/.

A block starts with `<!-- generated: NAME -->` and ends with `<!-- end: NAME -->`; everything outside is written by
hand.

    python docs/generate.py            # bring every block up to date
    python docs/generate.py --check    # change nothing; exit 1 and name the files that are stale
    python docs/generate.py --example runs/example    # also put that run's record, shortened, into docs/record.md
"""

import argparse
import inspect
import io
import json
import os
import re
import runpy
import sys
import textwrap
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The documentation describes this checkout, whatever is installed.
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]
# Help texts are wrapped at the width of the terminal.
os.environ["COLUMNS"] = "80"

import record_fields  # noqa: E402
from pydantic import TypeAdapter  # noqa: E402
from typer.main import get_command  # noqa: E402

from lorahub import __version__, config, records  # noqa: E402
from lorahub.cli import main as cli  # noqa: E402
from lorahub.data import named  # noqa: E402
from lorahub.experiments.estimate import costs  # noqa: E402
from lorahub.experiments.methods import report as method_report  # noqa: E402
from lorahub.experiments.methods.result import MethodComparison  # noqa: E402
from lorahub.experiments.ranks import report as rank_report  # noqa: E402
from lorahub.experiments.ranks.result import RankCurves  # noqa: E402
from lorahub.hub import fetch  # noqa: E402
from lorahub.publish import deployment, space_files  # noqa: E402
from lorahub.publish.deployment import Package  # noqa: E402
from lorahub.publish.space_files import Pinned  # noqa: E402
from lorahub.reports import tables  # noqa: E402
from lorahub.reports.report import Report  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
_NO_RESULT = "No result yet."
_NOT_ON_HUB = {True: "shipped with lorahub", False: "a folder of yours"}
_TYPES = {
    "integer": "whole number", "number": "number", "boolean": "true or false", "string": "text",
    "array": "list of texts", "object": "mapping of texts",
}  # fmt: skip
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤"}


def config_fields() -> str:
    """A table per section of the configuration."""
    parts = []
    for section, kind in config.SECTIONS.items():
        rows = [
            (f"`{section}.{name}`", _accepted(schema), _default(schema), schema["description"])
            for name, schema in config.field_schemas(section).items()
        ]
        parts.append(
            f"## {section}\n\n{textwrap.fill(inspect.cleandoc(kind.__doc__), 100)}\n\n"
            + _left_aligned(("field", "takes", "default", "meaning"), rows)
        )
    return "\n\n".join(parts)


def _accepted(schema: dict) -> str:
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    first, *others = config.alternatives(schema)
    bounds = [f"{sign} {first[key]}" for key, sign in _BOUNDS.items() if key in first]
    return ", ".join([_TYPES[first["type"]], *bounds, *(f"or `{other['const']}`" for other in others)])


def _default(schema: dict) -> str:
    value = schema.get("default")
    if value in (None, [], ()):
        return "not set"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _left_aligned(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return tables.markdown(header, rows).replace("---:", "---")


def command_help() -> str:
    """Every command's `--help`, as a terminal of 80 columns shows it."""
    commands = get_command(cli.command_line()).commands
    return "\n\n".join([_page([]), *(_page([name]) for name, command in commands.items() if not command.hidden)])


def _page(command: list[str]) -> str:
    shown, before = io.StringIO(), sys.argv
    sys.argv = ["lorahub", *command, "--help"]
    try:
        with redirect_stdout(shown):
            cli.main()
    except SystemExit:
        pass
    finally:
        sys.argv = before
    lines = "\n".join(line.rstrip() for line in shown.getvalue().strip().splitlines())
    return f"## {' '.join(['lorahub', *command])}\n\n```text\n{lines}\n```"


def named_sets() -> str:
    """The data sets that `--data` knows by name."""
    rows = [
        (
            f"`{item.name}`",
            f"`{item.hub_id}`" if item.hub_id else _NOT_ON_HUB[bool(item.folder)],
            ", ".join(item.labels),
        )
        for item in named.NAMED.values()
    ]
    return _left_aligned(("name", "comes from", "labels"), rows)


def gpus() -> str:
    """The table of GPUs, with sources."""
    rows = [
        (
            gpu.name, f"{gpu.bytes / 1e9:g}", f"{gpu.float32:g}",
            f"{gpu.half:g}", gpu.source,
        )
        for gpu in costs.GPUS.values()
    ]  # fmt: skip
    return _left_aligned(("name", "GB", "float32 TFLOP/s", "16-bit TFLOP/s", "source"), rows)


def results() -> str:
    """The results table, from the cells of benchmarks/results/ alone."""
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "defaults.py"))
    if not benchmark["load_cells"]():
        return _NO_RESULT
    return benchmark["table_text"]()


def results_summary() -> str:
    """One row per data set: adapter, best baseline and paired difference, from the same cells."""
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "defaults.py"))
    return benchmark["summary_text"]() if benchmark["load_cells"]() else _NO_RESULT


def ranks() -> str:
    """The reports of benchmarks/ranks.py: the first in full, of the others title and sentences."""
    parts = []
    for report, folder in _reports("ranks", RankCurves, rank_report.build):
        parts.append(f"**{report.title}**\n\n{_bullets(report.sentences)}" if parts else _in_docs(report, folder))
    return "\n\n".join(parts) or _NO_RESULT


def method_reports() -> str:
    """The reports of benchmarks/methods.py, one per data set."""
    reports = _reports("methods", MethodComparison, method_report.build)
    return "\n\n".join(_in_docs(report, folder) for report, folder in reports) or _NO_RESULT


def method_tables() -> str:
    """Of each of these reports the table, LoRA against full fine-tuning, and the methods better than a baseline."""
    parts = []
    for report, _ in _reports("methods", MethodComparison, method_report.build):
        sentences = [
            text for text in report.sentences if re.search(r"\blora\b.* than full|between lora and full|^B", text)
        ]
        parts += [f"**{report.title}**", tables.markdown(report.tables[0].header, report.tables[0].rows)]
        parts.append(_bullets(sentences))
    return "\n\n".join(parts) or _NO_RESULT


def _reports(name: str, kind: type, build: Callable[..., Report]) -> list[tuple[Report, Path]]:
    """The reports on the results of an experiment, and their folders."""
    paths = sorted(RESULTS.glob(f"{name}-*/{name}.json"))
    return [(build(TypeAdapter(kind).validate_json(path.read_bytes())), path.parent) for path in paths]


def _in_docs(report: Report, folder: Path) -> str:
    """A report as part of a page in docs/: without a heading of its own, and with its pictures found from there."""
    text = report.to_markdown().strip().replace(f"# {report.title}", f"**{report.title}**", 1)
    return text.replace("](", f"](../{folder.relative_to(ROOT)}/")


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def benchmark(name: str) -> Callable[[], str]:
    """What a benchmark wrote for people."""
    return lambda: (ROOT / "benchmarks" / "results" / f"{name}.md").read_text(encoding="utf-8").strip()


def example(folder: Path) -> str:
    """A run's record, with one element of every long list and one system of every comparison."""
    text = json.dumps(_shortened(records.load(folder).to_dict()), indent=1, ensure_ascii=False)
    # Lists of plain values on one line.
    text = re.sub(r"\[\n\s*([^][{}]*?)\n\s*\]", lambda found: "[" + re.sub(r"\n\s*", " ", found[1]) + "]", text)
    return f"```json\n{text}\n```"


def _shortened(record: dict) -> dict:
    adapter = record["results"]["test"]["adapter"]
    adapter["paired"] = {"majority": adapter["paired"]["majority"]}
    adapter["reliability"] = adapter["reliability"][:1]
    adapter["selective"]["curve"] = adapter["selective"]["curve"][:1]
    record["results"] = {"test": {"adapter": adapter}}
    record["files"] = dict([*record["files"].items()][:1])
    record["happened"]["curve"] = record["happened"]["curve"][:1]
    return record


Blocks = dict[str, dict[str, Callable[[], str]]]


def space() -> dict[str, bytes]:
    """What `lorahub space` writes for the adapters of `make demo`, by the release of this version.

    Who publishes those has other commits; the base's is its own.
    """
    tasks = ("checkable", "topic", "wording")
    return space_files.render(
        space_files.Space(
            repo="USER/claims",
            base=Pinned(id=fetch.MINILM, revision=fetch.MINILM_REVISION),
            base_files=("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"),
            adapters=[Pinned(id=f"USER/starter-{task}", revision="0" * 40) for task in tasks],
            hardware=deployment.ZERO_GPU,
            sdk_version=re.search(r"^gradio==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)[1],
            requirement=Package(version=__version__).requirement("app"),
        )
    )


BLOCKS: Blocks = {
    "README.md": {"summary": results_summary},
    "docs/compare.md": {"equivalence": benchmark("equivalence")},
    "docs/data.md": {"data sets": named_sets},
    "docs/results.md": {"results": results, "methods": method_tables},
    "docs/configuration.md": {"fields": config_fields},
    "docs/commands.md": {"commands": command_help},
    "docs/engine.md": {
        name: benchmark(name) for name in ("side-by-side", "side-by-side-7b", "side-by-side-last", "classify-speed")
    },
    "docs/estimate.md": {"gpus": gpus},
    "docs/methods.md": {"reports": method_reports},
    "docs/measurement.md": {"abstention": benchmark("abstention"), "intervals": benchmark("intervals")},
    "docs/ranks.md": {"check": ranks},
    "docs/record.md": {
        "run": lambda: record_fields.table("schema", "name", "created", "asked"),
        "happened": lambda: record_fields.table("happened"),
        "environment": lambda: record_fields.table("environment"),
        "results": lambda: record_fields.table("results"),
        "files": lambda: record_fields.table("files"),
    },
}


def fill(text: str, name: str, content: str) -> str:
    """Return `text` with the block `name` holding `content`; a block that is not there is an error."""
    start, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"docs/generate.py: no block between {start} and {end}. Put the two markers back.")
    return f"{before}{start}\n{content}\n{end}{after}"


def main() -> None:
    """Bring the blocks up to date, or say which files are stale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when a file is stale")
    parser.add_argument("--example", type=Path, metavar="RUN", help="run folder for the example in docs/record.md")
    options = parser.parse_args()
    blocks: Blocks = dict(BLOCKS)
    if options.example:
        blocks["docs/record.md"] |= {"example": lambda: example(options.example)}
    stale = []
    for name, parts in blocks.items():
        path = ROOT / name
        before = after = path.read_text(encoding="utf-8")
        for block, content in parts.items():
            after = fill(after, block, content())
        if after != before:
            stale.append(name)
            if not options.check:
                path.write_text(after, encoding="utf-8")
    whole = {f"spaces/{name}": content for name, content in space().items()}
    for name, content in {"docs/record.schema.json": record_fields.schema_text(), **whole}.items():
        path = ROOT / name
        if not path.is_file() or path.read_bytes() != content:
            stale.append(name)
            if not options.check:
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
    if stale:
        print(f"{'stale' if options.check else 'written'}: {', '.join(stale)}")
    if stale and options.check:
        sys.exit("Run: make docs")


if __name__ == "__main__":
    main()
