"""Word attribution: leave out one word, and measure how far the probability of the answer falls.

In: a claim and adapter names. Out: per adapter the effect of every word on the chosen label, as a difference of
calibrated probabilities. All versions of the claim are classified in one call.
Source: representation erasure, Li et al. 2016, arXiv:1612.08220, section 3, with probabilities instead of log odds.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lorahub.errors import ConfigError
from lorahub.serving.predictor import Predictor

# Each word is one more version of the claim to classify; the limit bounds the time of one call.
MOST_WORDS = 100
# Letters and digits with joining characters (don't, 4.1, COVID-19), or a group of other signs.
_WORD = re.compile(r"\w+(?:[-'’.,]\w+)*|[^\w\s]+")


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """The effects of a claim's words on the answer of one adapter.

    `spans` are the start and end of each word in the claim. `effects` are the differences, between -1 and 1, of the
    calibrated probability of `label` with and without each word: positive for words that support the label.
    """

    label: str
    probability: float
    spans: list[tuple[int, int]]
    effects: list[float]


def leave_one_out(
    predictor: Predictor,
    claim: str,
    adapters: Sequence[str] | None = None,
    *,
    evidence: str | None = None,
    strength: float = 1.0,
) -> dict[str, Attribution]:
    """Return adapter name -> the effect of each word of the claim; the evidence is not changed.

    Raises ConfigError for a claim with fewer than two or more than `MOST_WORDS` words, AdapterError for an unknown
    adapter.
    """
    spans = [match.span() for match in _WORD.finditer(claim)]
    if not 2 <= len(spans) <= MOST_WORDS:
        raise ConfigError(
            f"the claim has {len(spans)} words; word effects are computed for 2 to {MOST_WORDS}. "
            "Give a shorter or longer claim."
        )
    versions = [claim, *(without(claim, span) for span in spans)]
    second = None if evidence is None else [evidence] * len(versions)
    attributions = {}
    for name, (whole, *parts) in predictor.classify(versions, adapters, evidence=second, strength=strength).items():
        effects = [whole.confidence - part.calibrated[whole.label] for part in parts]
        attributions[name] = Attribution(
            label=whole.label, probability=whole.confidence, spans=spans, effects=effects
        )  # fmt: skip
    return attributions


def without(claim: str, span: tuple[int, int]) -> str:
    """Return the claim without one word and the space before it; two words that it joined stay separate."""
    before, after = claim[: span[0]], claim[span[1] :]
    joined = re.search(r"\w$", before) and re.match(r"\w", after)
    return f"{before} {after}" if joined else (before.rstrip() + after).strip()
