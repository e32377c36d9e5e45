"""One interface to every trained model: texts in, logits or verdicts by adapter out.

In: texts, with or without evidence, and adapter names. Out: per adapter one `Verdict` per text, in the texts' order.
`Predictor` checks the arguments and turns logits into verdicts; its subclasses compute the logits.
"""

import logging
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np

from lorahub import printable
from lorahub.errors import AdapterError, ConfigError
from lorahub.labels import LabelSet
from lorahub.models.adapters import AdapterInfo
from lorahub.stats.verdicts import (
    LARGEST_LOGIT,
    Calibration,
    Floats,
    abstains,
    calibrated,
    confidences,
    decide,
    softmax,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer of one adapter to one text.

    `probabilities` is the plain softmax by label name; `calibrated` is computed after bias and temperature. `abstain`
    marks a confidence below the adapter's threshold: a person should decide. The label stays. `truncated` marks a text,
    or its evidence, that is longer than the adapter reads: its end had no part in the answer.
    """

    label: str
    probabilities: dict[str, float]
    calibrated: dict[str, float]
    abstain: bool = False
    truncated: bool = False

    @property
    def confidence(self) -> float:
        """The calibrated probability of the label."""
        return self.calibrated[self.label]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The logits (N, C) of one adapter, with the labels and the calibration that turn them into verdicts.

    `truncated` are the rows of the texts that were not read to the end.
    """

    logits: Floats
    labels: LabelSet
    calibration: Calibration = Calibration()
    truncated: frozenset[int] = frozenset()

    @property
    def is_finite(self) -> bool:
        """Whether all logits are finite, and with them the probabilities under any valid calibration."""
        return bool((np.abs(self.logits) < LARGEST_LOGIT).all())

    def verdicts(self, *, adjust: bool = True) -> list[Verdict]:
        """Return one verdict per row; `adjust=False` ignores bias, temperature and threshold."""
        calibration, names = self.calibration if adjust else Calibration(), self.labels.names
        plain, shown = softmax(self.logits), calibrated(self.logits, calibration)
        ids = decide(self.logits, calibration)
        marks = abstains(confidences(shown, ids), calibration)
        return [
            Verdict(
                label=names[int(best)],
                probabilities=dict(zip(names, raw.tolist(), strict=True)),
                calibrated=dict(zip(names, sure.tolist(), strict=True)),
                abstain=bool(mark),
                truncated=row in self.truncated,
            )
            for row, (best, raw, sure, mark) in enumerate(zip(ids, plain, shown, marks, strict=True))
        ]


class NotFiniteError(AdapterError):
    """Adapters whose logits are not finite numbers; `answered` has the predictions of the others by name."""

    def __init__(self, message: str, answered: Mapping[str, Prediction]) -> None:
        super().__init__(message)
        self.answered = answered


@dataclass(frozen=True)
class Request:
    """The arguments of one call, checked; see `Predictor.logits`. Raises ConfigError with the argument and the fix."""

    texts: Sequence[str]
    adapters: Sequence[str] | None = None
    _: KW_ONLY
    evidence: Sequence[str] | None = None
    strength: float = 1.0
    stop: threading.Event | None = None

    def __post_init__(self) -> None:
        for name, values in (("texts", self.texts), ("adapters", self.adapters), ("evidence", self.evidence)):
            if isinstance(values, str):
                raise ConfigError(f"{name} is a single string; give a list, as in [{values!r:.60}].")
            for place, value in enumerate(() if values is None else values):
                if not isinstance(value, str):
                    raise ConfigError(f"{name}[{place}] is {value!r:.60}, not a string. Remove or convert it.")
                if printable.has_surrogate(value):
                    raise ConfigError(f"{name}[{place}] holds half a character (a lone surrogate). Remove it.")
        if self.evidence is not None and len(self.evidence) != len(self.texts):
            raise ConfigError(
                f"{len(self.texts)} texts came with {len(self.evidence)} pieces of evidence; give one per text."
            )
        if not math.isfinite(self.strength):
            raise ConfigError(f"strength is {self.strength}; give a finite number, 1 for the adapters as trained.")

    def evidence_for(self, name: str, adapter: AdapterInfo) -> Sequence[str] | None:
        """Return the evidence that an adapter reads: none for adapters trained on claims alone."""
        if adapter.reads_evidence and self.evidence is None:
            log.warning("%s was trained on claims with evidence; its answers without it are less reliable", name)
        return None if adapter.reads_evidence is False else self.evidence


class Predictor(ABC):
    """One or more adapters that classify texts."""

    @property
    @abstractmethod
    def adapters(self) -> Mapping[str, AdapterInfo]:
        """The adapters in memory, by name."""

    @property
    @abstractmethod
    def base_revision(self) -> str | None:
        """The commit of the base model on the Hub; None for a local folder."""

    @abstractmethod
    def compute(self, request: Request) -> dict[str, Prediction]:
        """Return adapter name -> logits for checked arguments, which may not be finite; only `predict` calls this."""

    def predict(self, request: Request) -> dict[str, Prediction]:
        """Return adapter name -> logits for checked arguments; `classify` and `logits` call this.

        Raises NotFiniteError with the predictions of the others if an adapter's are not finite numbers.
        """
        return finite(self.compute(request))

    @property
    def names(self) -> list[str]:
        """The names of all adapters that can be requested."""
        return list(self.adapters)

    def classify(
        self,
        texts: Sequence[str],
        adapters: Sequence[str] | None = None,
        *,
        evidence: Sequence[str] | None = None,
        adjust: bool = True,
        strength: float = 1.0,
        stop: threading.Event | None = None,
    ) -> dict[str, list[Verdict]]:
        """Return adapter name -> one Verdict per text.

        `adjust=False` ignores the bias and threshold chosen on validation. The other arguments and the errors are those
        of `logits`; calibration and threshold were chosen with `strength=1`.
        """
        predictions = self.predict(Request(texts, adapters, evidence=evidence, strength=strength, stop=stop))
        return {name: prediction.verdicts(adjust=adjust) for name, prediction in predictions.items()}

    def logits(
        self,
        texts: Sequence[str],
        adapters: Sequence[str] | None = None,
        *,
        evidence: Sequence[str] | None = None,
        strength: float = 1.0,
        stop: threading.Event | None = None,
    ) -> dict[str, Floats]:
        """Return adapter name -> raw logits (N, C), equal to those of peft.

        `adapters` defaults to all adapters in memory; `evidence` is one second text per text. `strength` multiplies the
        adapters' update of the base weights: 0 applies their heads to the unchanged base. Setting `stop` ends the call
        before its next forward pass with concurrent.futures.CancelledError.

        Raises ConfigError for invalid arguments, AdapterError for an unknown adapter, NotFiniteError for one that gives
        no finite numbers and EngineBusyError when too many requests are waiting.
        """
        predictions = self.predict(Request(texts, adapters, evidence=evidence, strength=strength, stop=stop))
        return {name: prediction.logits for name, prediction in predictions.items()}


def finite(predictions: dict[str, Prediction]) -> dict[str, Prediction]:
    """Return the predictions if all of them are finite; else raise NotFiniteError with those that are."""
    answered = {name: prediction for name, prediction in predictions.items() if prediction.is_finite}
    if len(answered) == len(predictions):
        return predictions
    names = ", ".join(name for name in predictions if name not in answered)
    raise NotFiniteError(
        f"{names}: the logits are not finite numbers. The weights are damaged: leave this adapter out, or restore it.",
        answered,
    )


def select_names(names: Iterable[str] | None, known: Iterable[str]) -> list[str]:
    """Return the requested names once each, all known ones for None; raises AdapterError for an unknown name."""
    available = list(known)
    if names is None:
        return available
    selected = list(dict.fromkeys(names))
    for name in selected:
        if name not in available:
            raise AdapterError(f"no adapter {name!r} is loaded; loaded: {', '.join(available) or 'none'}.")
    return selected
