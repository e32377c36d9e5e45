"""The run record: what was asked, what happened, where, and what came out of it, as one JSON file.

`record.json` is written last and atomically, so a folder without it is unfinished. Older schemas are upgraded on
reading. Nothing in it is a path of the machine that it was written on.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lorahub import atomic
from lorahub.errors import AdapterError, one_line

log = logging.getLogger(__name__)

FILE_NAME = "record.json"
SCHEMA = 1

# The systems of a results table, in the order in which people read it: what costs nothing first.
SYSTEMS = ("majority", "tfidf", "linear_probe", "untrained", "adapter")
# The headline figures of a system on a split.
METRICS = ("accuracy", "f1_macro", "f1_weighted", "ece")
LOWER_IS_BETTER = ("ece",)

# What others read of a record without asking whether it is there; everything else is read with care.
_READ: dict[str, type | tuple[type, ...]] = {
    "name": str, "created": str, "asked": dict, "happened": dict, "environment": dict, "results": dict,
    "environment.base_id": str, "environment.labels": list, "environment.data": dict, "environment.data.id": str,
    "environment.data.kind": str, "environment.data.rows": dict, "environment.data.sha256": dict,
    "environment.base_revision": (str, type(None)), "environment.data.revision": (str, type(None)),
}  # fmt: skip
_KINDS: dict[Any, str] = {dict: "names and values", list: "list"}

# UPGRADES[n] turns a record of schema n into one of schema n + 1.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


@dataclass(kw_only=True)
class RunRecord:
    """One run. The shapes of the four blocks are documented in docs/record.md."""

    name: str
    created: str
    asked: dict[str, Any]
    happened: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    schema: int = SCHEMA

    def save(self, folder: Path) -> None:
        """Write `record.json` into `folder`, atomically."""
        atomic.write_json(folder / FILE_NAME, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The plain form, schema first."""
        values = asdict(self)
        return {"schema": values.pop("schema"), **values}

    @property
    def labels(self) -> list[str]:
        """The label names in id order, as the results' confusion matrices use them."""
        return list(self.environment["labels"])


def load(folder: Path) -> RunRecord:
    """Read the record of a finished run.

    Raises AdapterError where the folder is no finished run, the file is damaged, or a newer lorahub wrote it.
    """
    path = folder / FILE_NAME
    if not folder.is_dir():
        raise AdapterError(f"there is no run folder {folder}. `lorahub runs` lists those that exist.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AdapterError(f"{folder} has no {FILE_NAME}: the run did not finish. Train it again.") from None
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number too long, lists too deep
        raise AdapterError(f"{path} is not valid JSON ({one_line(error)}). Restore it or train again.") from None
    schema = values.get("schema") if isinstance(values, dict) else None
    if not isinstance(schema, int) or schema < 1:
        raise AdapterError(f"{path} is no run record: its schema is {schema!r}. Restore it or train again.")
    if values["schema"] > SCHEMA:
        raise AdapterError(
            f"{path} has schema {values['schema']}, this lorahub reads up to {SCHEMA}. Upgrade hf-lorahub."
        )
    while values["schema"] < SCHEMA:
        values = UPGRADES[values["schema"]](values)
    missing = {"name", "created", "asked", "results"} - set(values)
    if missing:
        raise AdapterError(f"{path} lacks {', '.join(sorted(missing))}. Restore it or train again.")
    values = {"happened": {}, "environment": {}, **values}
    wrong = _wrong(values)
    if wrong:
        raise AdapterError(f"{path}: {wrong}. Restore it or train again.")
    known = {item.name for item in fields(RunRecord)}
    return RunRecord(**{key: value for key, value in values.items() if key in known})


def _wrong(values: dict[str, Any]) -> str | None:
    """The first part of a record that is not what others take it for, as the beginning of a sentence."""
    for name, kind in _READ.items():
        found: Any = values
        for key in name.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        if not isinstance(found, kind):
            return f"{name} holds no {_KINDS.get(kind, 'text')}"
    if not all(isinstance(label, str) for label in values["environment"]["labels"]):
        return "environment.labels holds what is no text"
    blocks = {f"asked.{section}": block for section, block in values["asked"].items()}
    blocks |= {f"results.{split}": block for split, block in values["results"].items()}
    systems = {
        f"results.{split}.{system}": block
        for split, found in values["results"].items()
        if isinstance(found, dict)
        for system, block in found.items()
    }
    for name, block in (blocks | systems).items():
        if not isinstance(block, dict):
            return f"{name} holds no {_KINDS[dict]}"
    for name, block in systems.items():
        for metric in METRICS:
            if type(block.get(metric, 0.0)) not in (int, float):
                return f"{name}.{metric} holds no number"
    return None


def differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first value that two blocks like `asked` do not share: its dotted name, then, now; None where all agree."""
    for section, fields_now in now.items():
        for name, value in fields_now.items():
            old = then.get(section, {}).get(name)
            if old != value:
                return f"{section}.{name}", old, value
    return None


def locate(identifier: str | Path) -> Path:
    """The folder of a run on this machine: a path, or the name of a run under `runs/`; raises AdapterError."""
    folder = Path(identifier)
    if folder.is_dir():
        return folder
    under_runs = Path("runs") / folder
    if len(folder.parts) == 1 and under_runs.is_dir():
        return under_runs
    raise AdapterError(f"there is no adapter folder {str(identifier)!r}. `lorahub runs` lists the runs that exist.")


def find(root: Path) -> list[tuple[Path, RunRecord]]:
    """The finished runs directly under `root`, newest first.

    Folders without a record are passed over; one whose record is damaged is left out, and the log says why.
    """
    runs = []
    for path in root.glob(f"*/{FILE_NAME}"):
        try:
            runs.append((path.parent, load(path.parent)))
        except AdapterError as error:
            log.warning("%s is left out: %s", path.parent, error)
    return sorted(runs, key=lambda run: run[1].created, reverse=True)
