"""`lorahub hf-register`: register the installed lorahub as the extension `hf lorahub`.

The `hf` command finds extensions only in its own folder (huggingface_hub/cli/extensions.py), not on the PATH. This
command writes there what `hf extensions install` writes for a repository.
"""

import os
import shutil
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from lorahub.cli import terminal
from lorahub.cli.options import Json
from lorahub.errors import ConfigError, one_line

NAME = "hf-lorahub"
# `hf extensions update` looks for OWNER/hf-lorahub on GitHub. GitHub account names contain no dot, so it finds nothing.
OWNER = "pip.local"


def hf_register(
    remove: Annotated[bool, typer.Option("--remove", help="Undo the registration.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace or remove an extension of that name from another source.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Register this lorahub as an extension of the hf command: hf lorahub push, and so on."""
    from lorahub import atomic
    from lorahub.cli import show

    folder = _folder()
    if folder.exists() and not _is_ours(folder) and not force:
        raise ConfigError(
            f"{folder} contains an extension from another source. Use that one, or add --force to replace it."
        )
    if remove:
        removed = folder.exists()
        if removed:
            shutil.rmtree(folder)
        text = f"{folder} is removed: hf lorahub is unavailable." if removed else "hf lorahub was not registered."
        show.print_json({"removed": removed, "folder": str(folder)}) if as_json else terminal.line(text)
        return
    manifest = _manifest()
    with atomic.replacing_folder(folder) as part:
        manifest.save(part)
    if as_json:
        show.print_json({"folder": str(folder), "runs": manifest.executable_path})
    else:
        terminal.line(f"wrote {folder / 'manifest.json'}: hf lorahub runs {manifest.executable_path}")
        terminal.line("  Next:  hf lorahub --help")


def _folder() -> Path:
    from huggingface_hub.cli.extensions import EXTENSIONS_ROOT

    return EXTENSIONS_ROOT.expanduser() / NAME


def _is_ours(folder: Path) -> bool:
    from huggingface_hub.cli.extensions import ExtensionManifest
    from huggingface_hub.errors import CLIError

    try:
        return bool(ExtensionManifest.load(folder).owner == OWNER)
    except (CLIError, ValueError, TypeError, KeyError):
        # No manifest that this `hf` can read.
        return False


def _manifest() -> Any:
    from datetime import UTC, datetime

    from huggingface_hub.cli.extensions import ExtensionManifest

    return ExtensionManifest(
        owner=OWNER,
        repo=NAME,
        repo_id=f"{OWNER}/{NAME}",
        short_name=NAME.removeprefix("hf-"),
        executable_path=str(_program()),
        type="python",
        installed_at=datetime.now(UTC),
        description=metadata.metadata(NAME)["Summary"],
    )


def _program() -> Path:
    """Return the console script that pip installed; raises ConfigError."""
    try:
        files = metadata.files(NAME) or []
    except metadata.PackageNotFoundError as error:
        raise ConfigError(
            f"lorahub is not installed with pip ({one_line(error)}), so hf cannot run it. Run: pip install {NAME}"
        ) from None
    for file in files:
        path = Path(os.path.abspath(str(file.locate())))
        if path.stem == NAME and path.is_file() and os.access(path, os.X_OK):
            return path
    raise ConfigError(f"the installed lorahub has no program {NAME}. Run: pip install --force-reinstall {NAME}")
