"""The files of a run that are published, and a scan of their texts.

In: a finished run folder, which is only read. Out: an `Export`: path in the repository -> content or file. Not
published are `checkpoints/`, which only resuming needs, and `predictions/`: they hold gold labels of data whose license
may not allow it, and `lorahub verify` computes them again.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from pathlib import Path

from pydantic import JsonValue

from lorahub import records, runfiles
from lorahub.errors import AdapterError, HubError, PublishError
from lorahub.hub import client, fetch, integrity
from lorahub.records import RunRecord
from lorahub.reports import plots

_CONFIG, _TOKENIZER = runfiles.PEFT.config, "tokenizer_config.json"
# The files of a run that are published, which are also those that a push may delete if a newer run lacks them. The card
# is not among them: it may hold text of the user.
PUBLISHED = frozenset(name for name in runfiles.LIMITS if "*" not in name and name != runfiles.CARD) | {
    f"{runfiles.PLOTS}/{name}" for name in (plots.CONFUSION, plots.RELIABILITY, plots.CURVE, plots.COVERAGE)
}
_REQUIRED = (_CONFIG, runfiles.PEFT.weights, runfiles.LABELS, runfiles.PROBE, _TOKENIZER)
_NOT_PUBLISHED = {"full": "a full model", "linear-probe": "only a head"}
_TEXT = (".json", ".md", ".txt", ".yaml")
# Keys in which transformers notes how it was called; on another machine `local_files_only` would be wrong.
_TOKENIZER_NOTES = ("is_local", "local_files_only", "name_or_path")
# A path under a common root folder, not inside a URL or a longer path; and a Windows path.
_PATH = re.compile(
    r"(?<![\w/.:~-])(?:/(?:home|Users|root|tmp|var|mnt|opt|srv|data|scratch|workspace|Volumes|private)/[\w.@-]+[^\s\"']*"
    r"|[A-Za-z]:\\+(?:Users|Documents)\\+[^\s\"']*)"
)
_TOKEN = re.compile(rf"{client.TOKEN}|\b(?:ghp_[A-Za-z0-9]{{20,}}|sk-[A-Za-z0-9-]{{20,}}|AKIA[A-Z0-9]{{16}})\b")


@dataclass(kw_only=True)
class Export:
    """The files to publish; `record` names the base by its Hub id and commit, and the files by their sha256."""

    record: RunRecord
    files: dict[str, bytes | Path]

    def read(self, path: str) -> bytes:
        """Return the content of a file."""
        content = self.files[path]
        return content.read_bytes() if isinstance(content, Path) else content

    def size(self, path: str) -> int:
        """Return the size of a file in bytes."""
        content = self.files[path]
        return content.stat().st_size if isinstance(content, Path) else len(content)


def collect(folder: Path, *, base_id: str | None = None, token: str | None = None, offline: bool = False) -> Export:
    """Return the files of a finished run, without the card, naming the base by Hub id and commit.

    `base_id` (USER/NAME or USER/NAME@REVISION) is the base on the Hub, for a run that was trained on a local folder.
    With `offline` the commit of that base may remain unknown. The name of a local data file is left out. Raises
    AdapterError if the run is unfinished, PublishError if the base has no Hub id, HubError if it does not exist.
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
        raise AdapterError(f"{folder} lacks {', '.join(missing)}: it is incomplete. {runfiles.RESTORE}")
    try:
        base, revision = _base(record, base_id, token)
    except HubError as error:
        if not offline or not (error.unavailable or error.status == HTTPStatus.UNAUTHORIZED):
            raise
        base, revision = str(base_id or record.environment.base_id).partition("@")[0], None
    named = _without_file_names(record)
    named.environment.base_id, named.environment.base_revision = base, revision
    if base_id is not None:
        named.environment.base_origin = "hub"
    named.config = replace(named.config, base=replace(named.config.base, id=base))
    config = runfiles.read_json(folder / _CONFIG, dict[str, JsonValue])
    tokenizer = runfiles.read_json(folder / _TOKENIZER, dict[str, JsonValue])
    files: dict[str, bytes | Path] = {
        path: _regular(folder, path) for path in sorted(PUBLISHED) if (folder / path).exists()
    }
    rewritten = {
        _CONFIG: _json(config | {"base_model_name_or_path": base, "revision": revision}),
        _TOKENIZER: _json({key: tokenizer[key] for key in tokenizer if key not in _TOKENIZER_NOTES}, sort=False),
    }
    for path, content in rewritten.items():
        # A file that was changed after the run keeps the recorded hash, which it does not match.
        if named.files.get(path) == integrity.hash_file(folder / path):
            named.files[path] = integrity.hash_bytes(content)
    files |= {**rewritten, runfiles.RECORD: _json(named.to_dict(), sort=False)}
    return Export(record=named, files=files)


def _without_file_names(record: RunRecord) -> RunRecord:
    """Return a copy of the record in which a local file or folder of claims has no name."""
    named, data = record.model_copy(deep=True), record.environment.data
    if data.kind in ("file", "folder"):
        general = f"local-{data.kind}"
        named.environment.data = replace(data, id=general)
        named.config = replace(named.config, data=replace(named.config.data, id=general))
        named.progress.warnings = [text.replace(data.id, f"the {data.kind}") for text in record.progress.warnings]
    return named


def _regular(folder: Path, name: str) -> Path:
    """Return the file to publish; raises PublishError unless it is a regular file inside the run folder."""
    try:
        return runfiles.regular(folder / name, folder=folder)
    except OSError as error:
        raise PublishError(f"{folder / name} is not published: {error.strerror or error}. Remove it.") from None


def scan(export: Export, folder: Path) -> None:
    """Raise PublishError if a text file contains a path of a machine or something like a token."""
    for path in export.files:
        if path.endswith(_TEXT):
            text = export.read(path).decode("utf-8", errors="replace")
            for what, leak in _leaks(path, text, folder):
                # The error may land in a log, so it does not repeat the whole token.
                shown = f"{leak[:6]}…" if what == "a token" else leak
                raise PublishError(
                    f"{folder / path} holds {what}, {shown!r}: nothing is published. Remove it there and push again."
                )


def _leaks(path: str, text: str, folder: Path) -> Iterator[tuple[str, str]]:
    yield from (("a token", match[0]) for match in _TOKEN.finditer(text))
    for local in _local_folders(folder):
        match = re.search(rf"(?<![\w/.:-]){re.escape(local)}(?=[/\\\s\"']|$)", text)
        if match:
            yield "a path of this machine", match[0]
    # A vocabulary is full of pieces of paths; there only paths of this machine count.
    if path not in ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json"):
        yield from (("a path of a machine", match[0]) for match in _PATH.finditer(text))


def _local_folders(folder: Path) -> set[str]:
    """Return folders that only this machine has."""
    near = {folder.resolve(), folder.resolve().parent, Path.cwd(), Path.home(), Path(tempfile.gettempdir())}
    near |= {Path(os.environ[name]) for name in ("LORAHUB_DATA", "HF_HOME") if os.environ.get(name)}
    return {str(path) for path in near if len(path.parts) > 1}


def _base(record: RunRecord, base_id: str | None, token: str | None) -> tuple[str, str | None]:
    """Return the Hub id and the commit of the base."""
    own, revision = record.environment.base_id, record.environment.base_revision
    if base_id is None and record.environment.base_origin == "folder":
        raise PublishError(
            f"the base of {record.name} was the local folder {own!r}, which others do not have. "
            "Say where it is on the Hub with --base-id USER/NAME."
        )
    if base_id is None and revision:
        return own, revision
    parts = fetch.hub_id(base_id or own)
    if parts is None:
        raise PublishError(f"--base-id takes a Hub id, USER/NAME or USER/NAME@REVISION; found {base_id or own!r}.")
    name, wanted = parts
    show = partial(client.api(token).model_info, name, revision=wanted)
    return name, str(client.call(show, doing=f"show the base {name}").sha)


def _json(values: dict[str, JsonValue], *, sort: bool = True) -> bytes:
    text = json.dumps(values, indent=2 if sort else 1, sort_keys=sort, ensure_ascii=False)
    return f"{text}\n".encode()
