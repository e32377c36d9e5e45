"""Which words moved an answer: leave one word out, and look how far the answer's probability falls.

In: a claim and adapter names. Out: per adapter the effect of every word on the label that it chose, as a difference of
calibrated probabilities. All versions of the claim go to the engine in one call.
Source: representation erasure, Li et al. 2016, arXiv:1612.08220, section 3, on probabilities in place of log odds.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lorahub.errors import ConfigError
from lorahub.serving.engine.engine import Engine

# A version of the claim for each word: with more, one question would keep everybody waiting.
MOST_WORDS = 100
# Letters and digits with what joins them (don't, 4.1, COVID-19), or signs that stand together.
_WORD = re.compile(r"\w+(?:[-'’.,]\w+)*|[^\w\s]+")


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """The effects of a claim's words on one adapter's answer.

    `spans` are the words' places in the claim, start and end; `effects` how much less probable `label` is without each
    word (calibrated, between -1 and 1). A positive effect speaks for the label, a negative one against it.
    """

    label: str
    probability: float
    spans: list[tuple[int, int]]
    effects: list[float]


def leave_one_out(
    engine: Engine,
    claim: str,
    adapters: Sequence[str] | None = None,
    *,
    evidence: str | None = None,
    strength: float = 1.0,
) -> dict[str, Attribution]:
    """Return adapter name -> the effect of each word of the claim; the evidence stays whole, the adapters as strong.

    Raises ConfigError where the claim has fewer than two or more than `MOST_WORDS` words, AdapterError where an adapter
    is not loaded.
    """
    spans = [found.span() for found in _WORD.finditer(claim)]
    if not 2 <= len(spans) <= MOST_WORDS:
        raise ConfigError(
            f"the claim has {len(spans)} words; which of them moved an answer is told for 2 to {MOST_WORDS}. "
            "Give a shorter or longer one."
        )
    versions = [claim, *(without(claim, span) for span in spans)]
    beside = None if evidence is None else [evidence] * len(versions)
    answers = engine.classify(versions, adapters, evidence=beside, strength=strength)
    found = {}
    for name, (whole, *parts) in answers.items():
        label, probability = whole.label, whole.confidence
        effects = [probability - part.calibrated[label] for part in parts]
        found[name] = Attribution(label=label, probability=probability, spans=spans, effects=effects)
    return found


def without(claim: str, span: tuple[int, int]) -> str:
    """The claim without one word and the space before it; two words that it joined stay two."""
    before, after = claim[: span[0]], claim[span[1] :]
    joined = re.search(r"\w$", before) and re.match(r"\w", after)
    return f"{before} {after}" if joined else (before.rstrip() + after).strip()
