"""Adapters of every kind side by side: those that can share a base in one pass, each of the others apart.

In: run folders of any method. Out: verdicts by adapter name, as an `Engine` gives them. What runs apart is said when it
is opened (`answering`).
"""

from collections.abc import Sequence
from pathlib import Path

from lorahub.config import BaseConfig
from lorahub.hub.fetch import Located
from lorahub.serving.engine.engine import Verdict, verdicts
from lorahub.serving.single import answering
from lorahub.stats.verdicts import Calibration


class Together:
    """What can be asked with `classify` and for a file, whatever the adapters' methods; see `answering`."""

    def __init__(
        self,
        adapters: Sequence[str | Path | Located],
        base: str | None = None,
        *,
        settings: BaseConfig | None = None,
        token: str | None = None,
    ) -> None:
        self._answering = answering(adapters, base, settings=settings, token=token)

    @property
    def names(self) -> list[str]:
        """The adapters, those that run apart last."""
        return [name for answers in self._answering for name in answers.adapters]

    def classify(
        self,
        texts: Sequence[str],
        adapters: Sequence[str] | None = None,
        *,
        evidence: Sequence[str] | None = None,
        adjust: bool = True,
    ) -> dict[str, list[Verdict]]:
        """Adapter name -> one Verdict per text, for all or the named adapters; see `Engine.classify`."""
        wanted = self.names if adapters is None else adapters
        found: dict[str, list[Verdict]] = {}
        for answers in self._answering:
            here = [name for name in answers.adapters if name in wanted]
            for name, logits in answers.logits(texts, here, evidence=evidence).items() if here else ():
                known = answers.adapters[name]
                found[name] = verdicts(logits, known.labels.names, known.calibration if adjust else Calibration())
        return found
