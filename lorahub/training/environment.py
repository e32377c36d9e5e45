"""Where a run ran: package versions, device and commit.

In: what the run loaded. Out: the `environment` block of its record. Nothing in it is a path.
"""

import dataclasses
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from lorahub.data.claimset import ClaimData
from lorahub.models.base import Base

_PACKAGES = ("accelerate", "bitsandbytes", "datasets", "hf-lorahub", "huggingface-hub", "numpy", "peft",
             "scikit-learn", "tokenizers", "torch", "transformers")  # fmt: skip


def describe(base: Base, data: ClaimData, accelerator: Accelerator, *, seed: int) -> dict[str, Any]:
    """Return the `environment` block."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "packages": packages,
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
        "seed": seed,
        "git": _git_commit(),
    }


def identity(base: Base, data: ClaimData, accelerator: Accelerator) -> dict[str, dict[str, Any]]:
    """What a checkpoint and its training must share beside the config: claims, base and processes."""
    return {
        "claims": {split: sha256[:12] for split, sha256 in data.source.sha256.items()},
        "environment": {"base_revision": base.resolved.revision, "processes": accelerator.num_processes},
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()})"


def _git_commit() -> str | None:
    """The commit of the checkout that this package is used from, with `+` where it has changes; None elsewhere."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=here.parent, capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()

    try:
        # Installed into an environment inside somebody's repository, this file is none of that repository's.
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--abbrev=40", "--dirty=+", "--match=") or None
    except (OSError, subprocess.SubprocessError):
        return None
