"""Borrowing a GPU for one question, where the machine lends one: a ZeroGPU Space. Elsewhere nothing changes.

In: a function, and how many rows a call of it judges. Out: the function to call in its place, which declares seconds
that follow from the rows and from how fast earlier calls were. On ZeroGPU it runs in a forked process: arguments and
answer are pickled, so they are plain values, and what the function reads besides has to be loaded before the page is
served.
"""

import math
import os
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

try:
    # Never `import spaces`: any folder of that name would do for it.
    from spaces import GPU
except ImportError:
    GPU = None

from lorahub.errors import LorahubError

# Seconds. A visitor's quota pays for what is declared, and short calls are served first; a worker starts in about 4.
_TO_START = 5
_MOST_SECONDS = 60
# Rows a second: what is assumed until the first call of enough rows was seen. A call of few is all warm-up.
_ASSUMED = 100
_ENOUGH_ROWS = 64
# What is declared is so much longer than what was seen: a call that takes longer than declared is cut off.
_MARGIN = 2

Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")


class Pace:
    """How long calls take: the seconds to declare follow from the rows that earlier ones judged in a second."""

    def __init__(self) -> None:
        self._rows_a_second: float | None = None

    def seconds(self, rows: int) -> int:
        """How long judging `rows` (texts times adapters) may take: a few seconds, and more with the work."""
        pace = _ASSUMED if self._rows_a_second is None else self._rows_a_second / _MARGIN
        return min(_MOST_SECONDS, _TO_START + math.ceil(rows / pace))

    def saw(self, rows: int, seconds: float) -> None:
        """Learn from a call. A slower one counts at once, a faster one by half: it may have been of short texts."""
        if rows < _ENOUGH_ROWS:
            return
        seen, known = rows / max(seconds, 1e-3), self._rows_a_second
        self._rows_a_second = seen if known is None or seen < known else (seen + known) / 2


def lends() -> bool:
    """Whether this machine lends a GPU call by call: the package does so on ZeroGPU alone."""
    return GPU is not None and bool(os.environ.get("SPACES_ZERO_GPU"))


def borrowed(function: Callable[Asked, Answer], rows: Callable[Asked, int]) -> Callable[Asked, Answer]:
    """Return `function` as one that has a GPU while it runs; `rows` tells of its arguments how many it will judge.

    Raises what `function` raises, and gradio's error where no GPU can be had.
    """
    if GPU is None:
        return function
    pace = Pace()

    def carried(*args: Asked.args, **kwargs: Asked.kwargs) -> tuple[Answer | LorahubError, float]:
        started = time.perf_counter()
        # Of an exception only the class's name comes back from the other process; a person needs its sentence.
        try:
            answer: Answer | LorahubError = function(*args, **kwargs)
        except LorahubError as error:
            answer = error
        return answer, time.perf_counter() - started

    def duration(*args: Asked.args, **kwargs: Asked.kwargs) -> int:
        return pace.seconds(rows(*args, **kwargs))

    lent: Callable[Asked, tuple[Answer | LorahubError, float]] = GPU(duration=duration)(carried)

    def call(*args: Asked.args, **kwargs: Asked.kwargs) -> Answer:
        answer, seconds = lent(*args, **kwargs)
        if isinstance(answer, LorahubError):
            raise answer
        pace.saw(rows(*args, **kwargs), seconds)
        return answer

    return call
