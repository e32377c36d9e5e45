"""An engine for files: many rows a loan, where a GPU is lent, and patient where the engine is full.

In: an engine. Out: what `serving.files` asks for verdicts.
"""

import time
from collections.abc import Sequence

from lorahub.app import zerogpu
from lorahub.errors import EngineBusyError
from lorahub.serving.engine.engine import Engine, Verdict
from lorahub.serving.files import ROWS_AT_ONCE

# A borrowed GPU is given back after each call, and the next one has to start a worker; what takes longer than a loan
# may last is cut off. Texts times adapters.
_ANSWERS_A_LOAN = 4096
# Seconds before the engine is asked again where it takes no more requests.
_WAITS = (0.5, 1, 2, 4, 8, 15)


class Borrowing:
    """An engine whose questions go to a borrowed GPU where one is lent, and are answered here elsewhere."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # The engine is not among the arguments: it stays in the process that was forked with it.
        self._ask = zerogpu.borrowed(self._answer, lambda texts, names, *_: len(texts) * len(names))

    @property
    def names(self) -> list[str]:
        """As the engine's."""
        return self._engine.names

    def rows_at_once(self, adapters: int) -> int:
        """How many rows of a file to ask that many adapters about in one call."""
        return max(1, _ANSWERS_A_LOAN // max(1, adapters)) if zerogpu.lends() else ROWS_AT_ONCE

    def classify(
        self,
        texts: Sequence[str],
        adapters: Sequence[str] | None = None,
        *,
        evidence: Sequence[str] | None = None,
        adjust: bool = True,
    ) -> dict[str, list[Verdict]]:
        """As the engine's."""
        second = None if evidence is None else list(evidence)
        asked = list(texts), list(self.names if adapters is None else adapters), second, adjust
        for seconds in _WAITS:
            try:
                return self._ask(*asked)
            except EngineBusyError:
                # A file has time; what was judged of it would be lost.
                time.sleep(seconds)
        return self._ask(*asked)

    def _answer(
        self, texts: list[str], adapters: list[str], evidence: list[str] | None, adjust: bool
    ) -> dict[str, list[Verdict]]:
        return self._engine.classify(texts, adapters, evidence=evidence, adjust=adjust)
