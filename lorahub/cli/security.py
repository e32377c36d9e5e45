"""`lorahub doctor --security`: settings of this machine that weaken what SECURITY.md promises.

In: the environment, files and folders of this machine, and installed packages. Out: checks, each with what was found
and the fix. No token is read, and no request is sent.
"""

import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_HUB = "huggingface.co"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Variables that undo a protection, with what they do.
_UNSAFE = {
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "torch.load runs code that pickled files contain",
    "TRUST_REMOTE_CODE": "transformers loads pickled indexes, which can run code",
    "GRADIO_ALLOWED_PATHS": "every visitor of the app can download these files of this machine",
    "GRADIO_VIBE_MODE": "visitors of the app can change its code",
}
_FALSE = ("", "0", "false", "no", "n", "off")
# Packages that read files, texts or requests of strangers. Their minimum is that of this distribution.
_PARSERS = (
    "datasets", "gradio", "huggingface-hub", "peft", "pyarrow", "pydantic", "pyyaml", "safetensors", "torch",
    "transformers",
)  # fmt: skip
_MINIMUM = re.compile(r"([\w.-]+)(?:\[[^\]]*\])?>=([\d.]+)")


@dataclass(frozen=True, kw_only=True)
class SecurityCheck:
    """One setting. `ok` is None if it is safe only under a condition that the user knows; `fix` then gives it."""

    name: str
    found: str
    ok: bool | None
    fix: str = ""


def checks() -> list[SecurityCheck]:
    """Return all checks."""
    return [*_token(), _endpoint(), _offline(), *_variables(), *_app(), *_folders(), *_versions()]


def _token() -> Iterator[SecurityCheck]:
    from huggingface_hub import constants

    file, others = Path(constants.HF_TOKEN_PATH), Path(constants.HF_STORED_TOKENS_PATH)
    sources = [f"the environment ({name})" for name in _TOKENS if os.environ.get(name, "").strip()][:1]
    sources += [f"the file {file}"] if _mode(file) is not None else []
    yield SecurityCheck(name="Hub token", found=", else ".join(sources) or "none", ok=True)
    for path in (file, others):
        mode = _mode(path)
        if mode is None or os.name == "nt":
            continue
        private = not mode & 0o077
        found = f"{path} has mode {mode & 0o777:03o}" + ("" if private else ": others can read or write it")
        fix = "" if private else f"chmod 600 {path}"
        yield SecurityCheck(name=f"permissions of {path.name}", found=found, ok=private, fix=fix)


def _endpoint() -> SecurityCheck:
    url = os.environ.get("HF_ENDPOINT", "")
    if not url:
        return SecurityCheck(name="Hub endpoint", found=f"https://{_HUB}", ok=True)
    parts = urlsplit(url)
    host = parts.hostname or ""
    # Without a password in the address.
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    if host in _LOOPBACK or (parts.scheme == "https" and (host == _HUB or host.endswith(f".{_HUB}"))):
        return SecurityCheck(name="Hub endpoint", found=shown, ok=True)
    if parts.scheme != "https":
        found = f"{shown}: requests, and the token with them, are not encrypted"
        return SecurityCheck(name="Hub endpoint", found=found, ok=False, fix="set HF_ENDPOINT to an https address")
    return SecurityCheck(
        name="Hub endpoint",
        found=f"{shown}: this host gets your token and sends what you load",
        ok=None,
        fix="unset HF_ENDPOINT unless you trust this host",
    )


def _offline() -> SecurityCheck:
    offline = next((name for name in _OFFLINE if _is_set(name)), None)
    return SecurityCheck(name="offline mode", found=f"on ({offline})" if offline else "off: the Hub is asked", ok=True)


def _variables() -> Iterator[SecurityCheck]:
    for name, effect in _UNSAFE.items():
        # Gradio takes any text for yes, "0" among it.
        unsafe = bool(os.environ.get(name)) if name.startswith("GRADIO_") else _is_set(name)
        found, fix = (f"set: {effect}", f"unset {name}") if unsafe else ("not set", "")
        yield SecurityCheck(name=name, found=found, ok=not unsafe, fix=fix)


def _app() -> Iterator[SecurityCheck]:
    host = os.environ.get("GRADIO_SERVER_NAME", "").strip() or _LOOPBACK[0]
    shared = host not in _LOOPBACK
    yield SecurityCheck(
        name="address of the app",
        found=f"{host} (GRADIO_SERVER_NAME): others reach it" if shared else f"{host}: only this machine reaches it",
        ok=None if shared else True,
        fix="unset GRADIO_SERVER_NAME, unless others shall reach the app" if shared else "",
    )
    everybody = "*" in os.environ.get("FORWARDED_ALLOW_IPS", "").split(",")
    yield SecurityCheck(
        name="trusted proxies",
        found="any (FORWARDED_ALLOW_IPS is *): visitors of the app choose the address by which they are limited"
        if everybody
        else "only those that are named",
        ok=not everybody,
        fix="set FORWARDED_ALLOW_IPS to the address of your proxy" if everybody else "",
    )
    private = os.environ.get("LORAHUB_ALLOW_PRIVATE", "").split()
    yield SecurityCheck(
        name="private repositories in the app",
        found=f"visitors use {', '.join(private)} with your token" if private else "none",
        ok=None if private else True,
        fix="unset LORAHUB_ALLOW_PRIVATE, unless everybody who reaches the app may use them" if private else "",
    )


def _folders() -> Iterator[SecurityCheck]:
    from huggingface_hub import constants

    temporary = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    named: Mapping[str, list[Path]] = {
        "current folder": [Path.cwd()],
        "runs": [Path("runs")],
        "data": [Path(folder) for folder in [os.environ.get("LORAHUB_DATA")] if folder],
        "Hub cache": [Path(constants.HF_HOME), Path(constants.HF_HUB_CACHE)],
        "Python path": [Path(entry) for entry in dict.fromkeys(sys.path) if entry],
        "temporary files": [temporary],
    }
    for name, folders in named.items():
        # In a folder with the sticky bit, others can add files but not replace yours: enough for temporary ones.
        loose = [folder for folder in folders if _others_write(folder, sticky=name == "temporary files")]
        yield SecurityCheck(
            name=f"folder: {name}",
            found=f"everybody can write to {', '.join(map(str, loose))}"
            if loose
            else "others cannot change your files",
            ok=not loose,
            fix=f"chmod o-w {' '.join(map(str, loose))}" if loose else "",
        )


def _versions() -> Iterator[SecurityCheck]:
    for name, minimum in _minimums().items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        recent = _numbers(installed) >= _numbers(minimum)
        fix = "" if recent else f"pip install '{name}>={minimum}'"
        yield SecurityCheck(name=f"package {name}", found=f"{installed}, at least {minimum}", ok=recent, fix=fix)


def _minimums() -> dict[str, str]:
    """Return the lowest supported version of each package in `_PARSERS`; empty if hf-lorahub is not installed."""
    try:
        lines = metadata.requires("hf-lorahub") or []
    except metadata.PackageNotFoundError:
        return {}
    found = {match[1]: match[2] for line in lines if (match := _MINIMUM.match(line))}
    return {name: found[name] for name in _PARSERS if name in found}


def _numbers(version: str) -> list[int]:
    """Return the release of a version, as in [2, 13, 0] for "2.13.0+cpu"."""
    return [int(number) for number in re.split(r"[^\d.]", version)[0].split(".") if number]


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").strip().casefold() not in _FALSE


def _mode(path: Path) -> int | None:
    """Return the mode of a file or folder; None if there is none, or it cannot be seen."""
    try:
        return path.stat().st_mode
    except OSError:
        return None


def _others_write(folder: Path, *, sticky: bool) -> bool:
    mode = _mode(folder)
    return bool(os.name != "nt" and mode and mode & stat.S_IWOTH and not (sticky and mode & stat.S_ISVTX))
