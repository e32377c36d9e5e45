"""Run a function on a borrowed GPU where the machine lends one: a ZeroGPU Space. Elsewhere it runs as it is.

In: a function, and how many rows a call of it classifies. Out: a function to call in its place, which declares seconds
that follow from the rows and the speed of earlier calls. On ZeroGPU it runs in a forked process: arguments and result
are pickled, and everything else that the function uses has to be loaded before the page is served.
"""

import math
import os
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

try:
    # Not `import spaces`: any folder of that name could be imported by it.
    from spaces import GPU
except ImportError:
    GPU = None

from lorahub.errors import LorahubError

# Seconds. A visitor's quota pays for what is declared, and short calls are served first; a worker starts in about 4.
_STARTUP_SECONDS = 5
_MAX_SECONDS = 60
# Rows per second, before a call with enough rows has been measured. Few rows measure only the warm-up.
_DEFAULT_SPEED = 100
_MIN_ROWS = 64
# Factor of declared to measured time: a call that takes longer than declared is cut off.
_MARGIN = 2

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Pace:
    """The speed of calls: the seconds to declare follow from the rows per second of earlier calls."""

    def __init__(self) -> None:
        self._rows_per_second: float | None = None

    def seconds(self, rows: int) -> int:
        """Return the seconds to declare for `rows` (texts times adapters)."""
        speed = _DEFAULT_SPEED if self._rows_per_second is None else self._rows_per_second / _MARGIN
        return min(_MAX_SECONDS, _STARTUP_SECONDS + math.ceil(rows / speed))

    def saw(self, rows: int, seconds: float) -> None:
        """Update the speed. A slower call counts fully, a faster one by half: its texts may have been short."""
        if rows < _MIN_ROWS:
            return
        measured, known = rows / max(seconds, 1e-3), self._rows_per_second
        self._rows_per_second = measured if known is None or measured < known else (measured + known) / 2


def lends() -> bool:
    """Return whether this machine lends a GPU call by call: the package does so only on ZeroGPU."""
    return GPU is not None and bool(os.environ.get("SPACES_ZERO_GPU"))


def borrowed(function: Callable[Arguments, Result], rows: Callable[Arguments, int]) -> Callable[Arguments, Result]:
    """Return `function` as one that has a GPU while it runs; `rows` counts, from its arguments, the rows of a call.

    Raises what `function` raises, and gradio's error where no GPU is available.
    """
    if GPU is None:
        return function
    pace = Pace()

    def timed(*args: Arguments.args, **kwargs: Arguments.kwargs) -> tuple[Result | LorahubError, float]:
        started = time.perf_counter()
        # Of an exception only the class's name comes back from the other process; its sentence is needed.
        try:
            result: Result | LorahubError = function(*args, **kwargs)
        except LorahubError as error:
            result = error
        return result, time.perf_counter() - started

    def duration(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
        return pace.seconds(rows(*args, **kwargs))

    on_gpu: Callable[Arguments, tuple[Result | LorahubError, float]] = GPU(duration=duration)(timed)

    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        result, seconds = on_gpu(*args, **kwargs)
        if isinstance(result, LorahubError):
            raise result
        pace.saw(rows(*args, **kwargs), seconds)
        return result

    return call
