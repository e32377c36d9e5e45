"""Borrowing a GPU for one question, where the machine lends one: a ZeroGPU Space. Elsewhere nothing changes.

In: a function, and how many seconds a call of it may take. Out: the function to call in its place. On ZeroGPU it runs
in a forked process: arguments and answer are pickled, so they are plain values, and what the function reads besides has
to be loaded before the page is served.
"""

import math
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
_ROWS_A_SECOND = 100
_MOST_SECONDS = 60

Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")


def lends() -> bool:
    """Whether this machine lends a GPU call by call."""
    return GPU is not None


def seconds(texts: int, adapters: int) -> int:
    """How long judging `texts` with `adapters` may take on a GPU: a few seconds, and more with the work."""
    return min(_MOST_SECONDS, _TO_START + math.ceil(texts * adapters / _ROWS_A_SECOND))


def borrowed(function: Callable[Asked, Answer], duration: Callable[Asked, int]) -> Callable[Asked, Answer]:
    """Return `function` as one that has a GPU while it runs; `duration` gets the same arguments.

    Raises what `function` raises, and gradio's error where no GPU can be had.
    """
    if GPU is None:
        return function

    def carried(*args: Asked.args, **kwargs: Asked.kwargs) -> Answer | LorahubError:
        # Of an exception only the class's name comes back from the other process; a person needs its sentence.
        try:
            return function(*args, **kwargs)
        except LorahubError as error:
            return error

    lent: Callable[Asked, Answer | LorahubError] = GPU(duration=duration)(carried)

    def call(*args: Asked.args, **kwargs: Asked.kwargs) -> Answer:
        answer = lent(*args, **kwargs)
        if isinstance(answer, LorahubError):
            raise answer
        return answer

    return call
