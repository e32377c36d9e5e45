"""Memory of the process and of the GPU, in bytes."""

import contextlib
import ctypes
import gc
import resource
import sys
from pathlib import Path

import psutil
import torch

_STATUS, _CLEAR_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident() -> int:
    """Return the resident size of the process."""
    return int(psutil.Process().memory_info().rss)


def gpu_allocated() -> int | None:
    """Return what is allocated on the GPU; None without one."""
    return int(torch.cuda.memory_allocated()) if torch.cuda.is_available() else None


def reset_peaks() -> None:
    """Start measuring `peak_resident` and `peak_gpu`."""
    release()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    # Only Linux lets a process reset its peak; elsewhere the peak is that of the whole process.
    with contextlib.suppress(OSError):
        _CLEAR_PEAK.write_text("5")


def peak_resident() -> int:
    """Return the largest resident size since `reset_peaks`."""
    if _STATUS.exists():
        # getrusage also counts the parent process.
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_gpu() -> int | None:
    """Return the most that was allocated on the GPU since `reset_peaks`; None without one."""
    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else None


def release() -> None:
    """Collect garbage and return freed memory to the system."""
    gc.collect()
    release_freed()


def release_freed() -> None:
    """Return freed memory to the system: glibc's heap keeps more than half of it.

    The next allocation takes it back, which is cheap between two evaluations and expensive between two steps.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # other C libraries keep nothing
            ctypes.CDLL(None).malloc_trim(0)
