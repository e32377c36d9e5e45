"""The run record: what was asked, what happened, where, and what came out of it, as one JSON file.

`record.json` is written last and atomically, so a folder without it is unfinished. Older schemas are upgraded on
reading. Nothing in it is a path of the machine that it was written on.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lorahub import atomic
from lorahub.errors import AdapterError

FILE_NAME = "record.json"
SCHEMA = 1

# The systems of a results table, in the order in which people read it: what costs nothing first.
SYSTEMS = ("majority", "tfidf", "linear_probe", "untrained", "adapter")

_BLOCKS = ("asked", "happened", "environment", "results")

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
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        atomic.write_text(folder / FILE_NAME, text + "\n")

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
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AdapterError(f"{path} is not valid JSON ({error}). Restore it or train again.") from None
    schema = values.get("schema") if isinstance(values, dict) else None
    if not isinstance(schema, int) or schema < 1:
        raise AdapterError(f"{path} is no run record: its schema is {schema!r}. Restore it or train again.")
    if values["schema"] > SCHEMA:
        raise AdapterError(
            f"{path} has schema {values['schema']}, this lorahub reads up to {SCHEMA}. Upgrade hf-lorahub."
        )
    while values["schema"] < SCHEMA:
        values = UPGRADES[values["schema"]](values)
    known = {item.name for item in fields(RunRecord)}
    missing = {"name", "created", "asked", "results"} - set(values)
    if missing:
        raise AdapterError(f"{path} lacks {', '.join(sorted(missing))}. Restore it or train again.")
    blocks = {name: values.get(name, {}) for name in _BLOCKS}
    if isinstance(blocks["asked"], dict):
        blocks |= {f"asked.{section}": fields for section, fields in blocks["asked"].items()}
    for name, block in blocks.items():
        if not isinstance(block, dict):
            raise AdapterError(f"{path}: {name} holds no names and values. Restore it or train again.")
    return RunRecord(**{key: value for key, value in values.items() if key in known})


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
    """The finished runs directly under `root`, newest first; folders without a record are passed over."""
    runs = [(path.parent, load(path.parent)) for path in root.glob(f"*/{FILE_NAME}")]
    return sorted(runs, key=lambda run: run[1].created, reverse=True)
