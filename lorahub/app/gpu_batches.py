"""A predictor for files: batches sized to one GPU allocation, and retries while the engine is full.

In: an engine. Out: a `Predictor` that computes on an allocated GPU on ZeroGPU, and in this process elsewhere.
"""

import time
from collections.abc import Mapping

from lorahub.app import zerogpu
from lorahub.errors import EngineBusyError
from lorahub.models.adapters import AdapterInfo
from lorahub.serving.engine.engine import Engine
from lorahub.serving.files import CHUNK_ROWS
from lorahub.serving.predictor import Prediction, Predictor, Request

# Texts times adapters of one GPU allocation. Each allocation starts a worker, and a call beyond its declared duration
# is cut off.
_ROWS_PER_ALLOCATION = 4096
# Seconds between attempts while the engine takes no more requests.
_WAITS = (0.5, 1, 2, 4, 8, 15)


class GpuBatchPredictor(Predictor):
    """The adapters of an engine, computed on an allocated GPU if there is one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # The engine is not an argument of the function: it stays in the process that was forked with it.
        self._compute = zerogpu.borrowed(engine.compute, self._rows)

    def _rows(self, request: Request) -> int:
        return len(request.texts) * len(self.names if request.adapters is None else request.adapters)

    @property
    def adapters(self) -> Mapping[str, AdapterInfo]:
        """The adapters of the engine in memory."""
        return self._engine.adapters

    @property
    def names(self) -> list[str]:
        """The names of all adapters of the engine."""
        return self._engine.names

    @property
    def base_revision(self) -> str | None:
        """The commit of the engine's base."""
        return self._engine.base_revision

    def chunk_rows(self, adapters: int) -> int:
        """Return how many rows of a file to classify in one call with this number of adapters."""
        return max(1, _ROWS_PER_ALLOCATION // max(1, adapters)) if zerogpu.lends() else CHUNK_ROWS

    def compute(self, request: Request) -> dict[str, Prediction]:
        """Return the engine's predictions; waits and retries while the engine is full, so that no work is lost."""
        for seconds in _WAITS:
            try:
                return self._compute(request)
            except EngineBusyError:
                time.sleep(seconds)
        return self._compute(request)
