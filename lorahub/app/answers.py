"""From a question to plain values: what the page shows and what the endpoints return.

In: a claim, evidence and adapter names. Out: dicts ready for JSON. The engine is asked on a borrowed GPU where one is
lent; knows nothing of the page.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lorahub.app import zerogpu
from lorahub.errors import ConfigError
from lorahub.serving import attribution
from lorahub.serving.attribution import Attribution
from lorahub.serving.engine.engine import Engine
from lorahub.serving.predictor import Verdict

STRONGEST = 2
# No base reads as many; its tokenizer would have to all the same.
_MOST_CHARACTERS = 20_000


@dataclass(frozen=True, kw_only=True)
class Question:
    """One claim for some adapters; empty evidence is none. `strength` multiplies the adapters' change of the base."""

    claim: str
    adapters: tuple[str, ...]
    evidence: str = ""
    strength: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What one question gave, as plain values: adapter name -> a verdict per text, with it and by the base alone.

    `unscaled` are adapters that change no weight of the base: their strength is always the same.
    """

    verdicts: dict[str, list[Verdict]]
    base: dict[str, list[Verdict]]
    unscaled: list[str]
    seconds: float
    device: str


Judge = Callable[[Question], Judged]
Attribute = Callable[[Question], dict[str, Attribution]]


def question(
    claim: str | None, adapters: Iterable[str] | None, evidence: str | None = "", strength: float | None = 1.0
) -> Question:
    """A question as a visitor put it.

    Raises ConfigError where the claim or the adapters are missing, a text is too long, or the strength is not between
    0 and `STRONGEST`.
    """
    claim, evidence = (claim or "").strip(), (evidence or "").strip()
    if not claim:
        raise ConfigError("Type a claim first.")
    if not adapters:
        raise ConfigError("Choose at least one adapter.")
    for what, text in (("claim", claim), ("evidence", evidence)):
        if len(text) > _MOST_CHARACTERS:
            raise ConfigError(f"The {what} has {len(text):,} characters. Give at most {_MOST_CHARACTERS:,}.")
    if strength is None or not 0 <= strength <= STRONGEST:
        raise ConfigError(f"The strength is {strength}. Give 0 (the base) to {STRONGEST}; 1 is as trained.")
    return Question(claim=claim, adapters=tuple(dict.fromkeys(adapters)), evidence=evidence, strength=strength)


def judge(engine: Engine) -> Judge:
    """The function that puts a question to the engine, on a borrowed GPU where one is lent.

    It raises AdapterError where an adapter is not loaded.
    """

    def ask(asked: Question) -> Judged:
        texts, adapters = [asked.claim], asked.adapters
        evidence = [asked.evidence] if asked.evidence else None
        started = time.perf_counter()
        verdicts = engine.classify(texts, adapters, evidence=evidence, strength=asked.strength)
        seconds = time.perf_counter() - started
        base = engine.classify_base(texts, adapters, evidence=evidence)
        unscaled = [name for name, adapter in engine.adapters.items() if name in adapters and not adapter.lora]
        return Judged(verdicts=verdicts, base=base, unscaled=unscaled, seconds=seconds, device=engine.device)

    # The engine is not among the arguments: it stays in the process that was forked with it.
    return zerogpu.borrowed(ask, lambda asked: len(asked.adapters))


def attribute(engine: Engine) -> Attribute:
    """The function that finds which words moved the answers to a question, on a borrowed GPU where one is lent.

    It raises ConfigError where the claim has too few or too many words, AdapterError where an adapter is not loaded.
    """

    def ask(asked: Question) -> dict[str, Attribution]:
        evidence = asked.evidence or None
        return attribution.leave_one_out(
            engine, asked.claim, asked.adapters, evidence=evidence, strength=asked.strength
        )

    return zerogpu.borrowed(ask, lambda asked: attribution.MOST_WORDS * len(asked.adapters))


def classified(ask: Judge, asked: Question) -> dict[str, Any]:
    """Per adapter its verdict and the base's, and which adapters with the same labels agree."""
    judged = ask(asked)
    return {
        "claim": asked.claim,
        "strength": asked.strength,
        "seconds": round(judged.seconds, 4),
        "device": judged.device,
        "adapters": {
            name: {
                "adapter": asdict(found[0]),
                "base": asdict(judged.base[name][0]) if name in judged.base else None,
                "scales": name not in judged.unscaled,
            }
            for name, found in judged.verdicts.items()
        },
        "agreement": agreement({name: found[0] for name, found in judged.verdicts.items()}),
    }


def labels(found: Mapping[str, Any], name: str) -> list[str]:
    """The labels of an adapter that has answered, in id order."""
    return list(found["adapters"][name]["adapter"]["probabilities"])


def agreement(verdicts: Mapping[str, Verdict]) -> list[dict[str, Any]]:
    """Where two or more adapters have the same label names: these, and label -> the adapters that answered it.

    Adapters with different labels answer different questions: they neither agree nor disagree.
    """
    alike: dict[frozenset[str], dict[str, list[str]]] = {}
    for name, verdict in verdicts.items():
        alike.setdefault(frozenset(verdict.probabilities), {}).setdefault(verdict.label, []).append(name)
    return [
        {"labels": sorted(labels), "answers": answers}
        for labels, answers in alike.items()
        if sum(map(len, answers.values())) > 1
    ]


def explained(ask: Attribute, asked: Question) -> dict[str, Any]:
    """Per adapter its label, the label's calibrated probability, and the effect of each word on it."""
    return {
        "claim": asked.claim,
        "method": "leave one word out: how far the label's calibrated probability falls without the word",
        "adapters": {
            name: {
                "label": found.label,
                "probability": found.probability,
                "words": [
                    {"word": asked.claim[start:end], "start": start, "end": end, "effect": effect}
                    for (start, end), effect in zip(found.spans, found.effects, strict=True)
                ],
            }
            for name, found in ask(asked).items()
        },
    }
