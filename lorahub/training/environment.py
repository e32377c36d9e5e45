"""The environment of a run for its record: package versions, device, base, data and commit. It holds no path."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from lorahub.records import Environment
from lorahub.stats.results import BaselineChoice
from lorahub.stats.verdicts import Calibration
from lorahub.training.session import TrainingSession

_PACKAGES = ("accelerate", "bitsandbytes", "datasets", "hf-lorahub", "huggingface-hub", "numpy", "peft",
             "scikit-learn", "tokenizers", "torch", "transformers")  # fmt: skip


def describe(
    session: TrainingSession, *, baselines: dict[str, BaselineChoice], calibration: Calibration
) -> Environment:
    """Return the environment of a run for its record."""
    base, accelerator, data = session.base, session.accelerator, session.data
    return Environment(
        packages=_versions(),
        python=platform.python_version(),
        device=_device_name(base.device),
        processes=accelerator.num_processes,
        threads=torch.get_num_threads(),
        mixed_precision=session.mixed_precision.name,
        base_id=base.resolved.id,
        base_revision=base.resolved.revision,
        base_origin=base.resolved.origin,
        reasons=base.reasons,
        labels=list(data.labels.names),
        data=data.source,
        seed=session.config.train.seed,
        git=_git_commit(),
        baselines=baselines,
        # Without the split, which is always validation.
        calibration=Calibration(
            temperature=calibration.temperature, bias=calibration.bias, threshold=calibration.threshold
        ),
    )


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
