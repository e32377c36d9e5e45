"""The machine that we run on, as a device that trains: its main memory and its rate."""

import time

import psutil
import torch

from lorahub.experiments.estimate.costs import CPU, Device

_SIDE = 1024  # of the matrices that are multiplied


def here() -> Device:
    """The processor: its rate is that of a product of two matrices in float32, the best of three."""
    left, right = torch.ones(_SIDE, _SIDE), torch.ones(_SIDE, _SIDE)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - started)
    return Device(
        name=CPU,
        bytes=int(psutil.virtual_memory().total),
        float32=2 * _SIDE**3 / min(seconds) / 1e12,
        bfloat16=None,
        source=f"measured: two matrices of {_SIDE} x {_SIDE}",
    )
