"""The environment of a run for its record: package versions, device, base, data and commit. It holds no path."""

import dataclasses
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from lorahub.training.session import TrainingSession

_PACKAGES = ("accelerate", "bitsandbytes", "datasets", "hf-lorahub", "huggingface-hub", "numpy", "peft",
             "scikit-learn", "tokenizers", "torch", "transformers")  # fmt: skip


def describe(session: TrainingSession) -> dict[str, Any]:
    """Return the `environment` block."""
    base, accelerator, data = session.base, session.accelerator, session.data
    return {
        "packages": _versions(),
        "python": platform.python_version(),
        "device": _device_name(base.device),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "mixed_precision": accelerator.mixed_precision,
        "base_id": base.resolved.id,
        "base_revision": base.resolved.revision,
        "base_origin": base.resolved.origin,
        "reasons": base.reasons,
        "labels": list(data.labels.names),
        "data": dataclasses.asdict(data.source),
        "seed": session.config.train.seed,
        "git": _git_commit(),
    }


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()})"


def _git_commit() -> str | None:
    """Return the commit of the checkout that this package runs from, with `+` if it has changes; None elsewhere."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        result = subprocess.run(command, cwd=here.parent, capture_output=True, text=True, timeout=5, check=True)
        return result.stdout.strip()

    try:
        # Fails for a package that is installed inside another project's repository.
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--abbrev=40", "--dirty=+", "--match=") or None
    except (OSError, subprocess.SubprocessError):
        return None
