"""Memory of a training: of the process, and on the GPU where there is one.

Out: sizes in bytes. The peak is that of the training itself, not of what the process did before.
"""

import contextlib
import ctypes
import gc
import resource
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

_STATUS, _CLEAR_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory of a training: the process's resident size before the base was loaded, and the peaks while it trained.

    `gpu_peak_bytes` is what was allocated on the GPU; None without one. Take `Memory.start()` before the base,
    `training()` right before the loop and `peak()` right after.
    """

    cpu_before_bytes: int
    cpu_peak_bytes: int = 0
    gpu_peak_bytes: int | None = None

    @classmethod
    def start(cls) -> "Memory":
        """The size before anything is loaded."""
        return cls(cpu_before_bytes=psutil.Process().memory_info().rss)

    def training(self) -> None:
        """Start counting peaks anew."""
        gc.collect()
        give_back()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        # Linux alone lets a process forget its peak; elsewhere it is that of all that was done so far.
        with contextlib.suppress(OSError):
            _CLEAR_PEAK.write_text("5")

    def peak(self) -> "Memory":
        """The same with the peaks since `training`."""
        gpu = int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else None
        return replace(self, cpu_peak_bytes=_peak_resident(), gpu_peak_bytes=gpu)


def give_back() -> None:
    """Return freed memory to the system where the C library keeps it: glibc's heap holds on to more than half.

    What comes after takes it again; between two evaluations that is cheap, between two steps it is not.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # a C library without it keeps nothing
            ctypes.CDLL(None).malloc_trim(0)


def now() -> dict[str, int]:
    """What the process takes at the moment, in bytes, and what is allocated on the GPU where there is one."""
    found = {"cpu_bytes": psutil.Process().memory_info().rss}
    if torch.cuda.is_available():
        found["gpu_bytes"] = int(torch.cuda.memory_allocated())
    return found


def _peak_resident() -> int:
    if _STATUS.exists():
        # getrusage also counts the process that started this one.
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
