"""From a question to plain values: what the page shows and what the endpoints return.

In: a claim, evidence and adapter names. Out: dicts ready for JSON. The engine is asked on a borrowed GPU where one is
lent; knows nothing of the page.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lorahub.app import gpu
from lorahub.errors import ConfigError
from lorahub.serving import attribution
from lorahub.serving.attribution import Attribution
from lorahub.serving.engine import Engine, Verdict

# No base reads as many; its tokenizer would have to all the same.
_MOST_CHARACTERS = 20_000


@dataclass(frozen=True, kw_only=True)
class Question:
    """One claim for some adapters; empty evidence is none."""

    claim: str
    adapters: tuple[str, ...]
    evidence: str = ""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What one question gave, as plain values: adapter name -> a verdict per text, with it and by the base alone."""

    verdicts: dict[str, list[Verdict]]
    base: dict[str, list[Verdict]]
    seconds: float
    device: str


Judge = Callable[[list[str], list[str], list[str] | None], Judged]
Attribute = Callable[[Question], dict[str, Attribution]]


def question(claim: str | None, adapters: Iterable[str] | None, evidence: str | None = "") -> Question:
    """A question as a visitor put it; raises ConfigError where the claim or the adapters are missing."""
    claim, evidence = (claim or "").strip(), (evidence or "").strip()
    if not claim:
        raise ConfigError("Type a claim first.")
    if not adapters:
        raise ConfigError("Choose at least one adapter.")
    for what, text in (("claim", claim), ("evidence", evidence)):
        if len(text) > _MOST_CHARACTERS:
            raise ConfigError(f"The {what} has {len(text):,} characters. Give at most {_MOST_CHARACTERS:,}.")
    return Question(claim=claim, adapters=tuple(dict.fromkeys(adapters)), evidence=evidence)


def judge(engine: Engine) -> Judge:
    """The function that puts texts, adapter names and evidence to the engine, on a borrowed GPU where one is lent.

    It raises AdapterError where an adapter is not loaded.
    """

    def ask(texts: list[str], adapters: list[str], evidence: list[str] | None) -> Judged:
        started = time.perf_counter()
        verdicts = engine.classify(texts, adapters, evidence=evidence)
        seconds = time.perf_counter() - started
        base = engine.classify_base(texts, adapters, evidence=evidence)
        return Judged(verdicts=verdicts, base=base, seconds=seconds, device=engine.device)

    # The engine is not among the arguments: it stays in the process that was forked with it.
    return gpu.borrowed(ask, lambda texts, adapters, evidence: gpu.seconds(len(texts), len(adapters)))


def attribute(engine: Engine) -> Attribute:
    """The function that finds which words moved the answers to a question, on a borrowed GPU where one is lent.

    It raises ConfigError where the claim has too few or too many words, AdapterError where an adapter is not loaded.
    """

    def ask(asked: Question) -> dict[str, Attribution]:
        return attribution.leave_one_out(engine, asked.claim, asked.adapters, evidence=asked.evidence or None)

    return gpu.borrowed(ask, lambda asked: gpu.seconds(attribution.MOST_WORDS, len(asked.adapters)))


def classified(ask: Judge, asked: Question) -> dict[str, Any]:
    """Per adapter its verdict and the base's, and which adapters with the same labels agree."""
    judged = ask([asked.claim], list(asked.adapters), [asked.evidence] if asked.evidence else None)
    return {
        "claim": asked.claim,
        "seconds": round(judged.seconds, 4),
        "device": judged.device,
        "adapters": {
            name: {
                "adapter": asdict(found[0]),
                "base": asdict(judged.base[name][0]) if name in judged.base else None,
            }
            for name, found in judged.verdicts.items()
        },
        "agreement": agreement({name: found[0] for name, found in judged.verdicts.items()}),
    }


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
