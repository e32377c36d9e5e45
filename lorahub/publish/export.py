"""What leaves a run folder: which files, naming which base, and a scan of every text among them.

In: a finished run folder. Out: an `Export`, path in the repository -> bytes or file. The folder is only read. Left out
are `checkpoints/`, which only resuming needs, and `predictions/`: they hold the gold labels of data whose licence may
not allow to spread them, and `lorahub verify` computes them anew.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from lorahub import records, runfiles
from lorahub.errors import AdapterError, PublishError
from lorahub.hub import client, rules, safety
from lorahub.records import RunRecord
from lorahub.reports import plots

CARD_FILE = "README.md"
# The files of a run that are published, and thereby all that a push may delete again: when a newer run has one no more.
# The card is not among them: it may hold a person's own words.
PUBLISHED = frozenset(name for name in safety.LIMITS if "*" not in name and name != CARD_FILE) | {
    f"plots/{name}" for name in (plots.CONFUSION, plots.RELIABILITY, plots.CURVE, plots.COVERAGE)
}
_REQUIRED = (rules.CONFIG_FILE, rules.WEIGHTS_FILE, safety.LABELS_FILE, "probe.json", "tokenizer_config.json")
_NOT_PUBLISHED = {"full": "a whole model", "linear-probe": "a head alone"}
_TEXT = (".json", ".md", ".txt", ".yaml")
# What transformers notes about how it was called; on another machine `local_files_only` would be wrong.
_TOKENIZER_NOTES = ("is_local", "local_files_only", "name_or_path")
# A path under a folder that machines have, not one inside a URL or a longer path; and a Windows one.
_PATH = re.compile(
    r"(?<![\w/.:~-])(?:/(?:home|Users|root|tmp|var|mnt|opt|srv|data|scratch|workspace|Volumes|private)/[\w.@-]+[^\s\"']*"
    r"|[A-Za-z]:\\+(?:Users|Documents)\\+[^\s\"']*)"
)
_TOKEN = re.compile(rf"{client.TOKEN}|\b(?:ghp_[A-Za-z0-9]{{20,}}|sk-[A-Za-z0-9-]{{20,}}|AKIA[A-Z0-9]{{16}})\b")


@dataclass(frozen=True, kw_only=True)
class BaseOnHub:
    """The base that the published files name."""

    id: str
    revision: str


@dataclass(kw_only=True)
class Export:
    """What would be published; `record` names the base as the published files do."""

    record: RunRecord
    base: BaseOnHub
    files: dict[str, bytes | Path] = field(default_factory=dict)

    def read(self, path: str) -> bytes:
        """The content of a file."""
        content = self.files[path]
        return content.read_bytes() if isinstance(content, Path) else content

    def size(self, path: str) -> int:
        """Bytes of a file."""
        content = self.files[path]
        return content.stat().st_size if isinstance(content, Path) else len(content)


def collect(folder: Path, *, base_id: str | None = None, token: str | None = None) -> Export:
    """Return the files of a finished run, without the card, that name the base by Hub id and pinned revision.

    `base_id` (`user/name` or `user/name@revision`) says where on the Hub the base is, for a run that was trained on a
    local folder. Raises AdapterError where the run is unfinished, PublishError where a base has no Hub id, HubError
    where the base is not there.
    """
    record = records.load(folder)
    method = record.config.adapter.method
    if method in _NOT_PUBLISHED:
        raise PublishError(
            f"{folder} was trained with {method}: it holds {_NOT_PUBLISHED[method]}, and lorahub publishes PEFT "
            "adapters. Train with another adapter.method, or upload the folder with `hf upload`."
        )
    missing = [name for name in _REQUIRED if not (folder / name).is_file()]
    if missing:
        raise AdapterError(f"{folder} lacks {', '.join(missing)}: it is no whole run. Restore them or train again.")
    base = _base(record, base_id, token)
    named = record.model_copy(deep=True)
    named.environment.base_id, named.environment.base_revision = base.id, base.revision
    if base_id is not None:
        named.environment.base_origin = "hub"
    named.config = replace(record.config, base=replace(record.config.base, id=base.id))
    export = Export(record=named, base=base)
    export.files.update({path: folder / path for path in sorted(PUBLISHED) if (folder / path).is_file()})
    export.files[runfiles.RECORD] = _json(named.to_dict(), sort=False)
    config = _read_json(folder / rules.CONFIG_FILE)
    export.files[rules.CONFIG_FILE] = _json({**config, "base_model_name_or_path": base.id, "revision": base.revision})
    if "tokenizer_config.json" in export.files:
        notes = _read_json(folder / "tokenizer_config.json")
        kept = {key: value for key, value in notes.items() if key not in _TOKENIZER_NOTES}
        export.files["tokenizer_config.json"] = _json(kept, sort=False)
    return export


def scan(export: Export, folder: Path) -> None:
    """Raise PublishError where a text file holds a path of a machine or something like a token."""
    for path in export.files:
        if path.endswith(_TEXT):
            text = export.read(path).decode("utf-8", errors="replace")
            for what, found in _leaks(path, text, folder):
                # The end of a token is not repeated in an error that may land in a log.
                shown = f"{found[:6]}…" if what == "a token" else found
                raise PublishError(
                    f"{folder / path} holds {what}, {shown!r}: nothing is published. Remove it there and push again."
                )


def _leaks(path: str, text: str, folder: Path) -> Iterator[tuple[str, str]]:
    yield from (("a token", match[0]) for match in _TOKEN.finditer(text))
    for place in _places(folder):
        found = re.search(rf"(?<![\w/.:-]){re.escape(place)}(?=[/\\\s\"']|$)", text)
        if found:
            yield "a path of this machine", found[0]
    # A vocabulary is full of pieces of paths; there only this machine's own count.
    if path not in ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json"):
        yield from (("a path of a machine", match[0]) for match in _PATH.finditer(text))


def _places(folder: Path) -> set[str]:
    """Folders that only this machine has."""
    near = {folder.resolve(), folder.resolve().parent, Path.cwd(), Path.home(), Path(tempfile.gettempdir())}
    near |= {Path(os.environ[name]) for name in ("LORAHUB_DATA", "HF_HOME") if os.environ.get(name)}
    return {str(place) for place in near if len(place.parts) > 1}


def _base(record: RunRecord, base_id: str | None, token: str | None) -> BaseOnHub:
    environment = record.environment
    own, revision = environment.base_id, environment.base_revision
    if base_id is None and environment.base_origin == "folder":
        raise PublishError(
            f"the base of {record.name} was the local folder {own!r}, which others do not have. "
            "Say where it is on the Hub with --base-id USER/NAME."
        )
    if base_id is None and revision:
        return BaseOnHub(id=own, revision=revision)
    name, _, wanted = (base_id or own).partition("@")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise PublishError(f"--base-id takes a Hub id, user/name or user/name@revision; found {name!r}.")
    show = partial(client.api(token).model_info, name, revision=wanted or None)
    found = client.call(show, doing=f"show the base {name}")
    return BaseOnHub(id=name, revision=str(found.sha))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number too long, lists too deep
        raise AdapterError(f"{path} is not valid JSON ({error}). Restore it or train again.") from None
    if not isinstance(values, dict):
        raise AdapterError(f"{path} must hold a JSON object. Restore it or train again.")
    return values


def _json(values: dict[str, Any], *, sort: bool = True) -> bytes:
    text = json.dumps(values, indent=2 if sort else 1, sort_keys=sort, ensure_ascii=False)
    return f"{text}\n".encode()
