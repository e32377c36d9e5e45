"""From a question to its answers: plain objects that the page renders and the endpoints return as JSON.

In: a claim, evidence and adapter names. Out: `Answers`, or an `Attribution` per adapter. The engine runs on a borrowed
GPU where the machine lends one. Independent of the page.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from lorahub.app import Json, zerogpu
from lorahub.errors import ConfigError
from lorahub.serving import attribution
from lorahub.serving.attribution import Attribution
from lorahub.serving.engine.engine import Engine
from lorahub.serving.predictor import NotFiniteError, Verdict

MAX_STRENGTH = 2
# More than any base reads, but its tokenizer would have to.
_MAX_CHARACTERS = 20_000
# For word effects, a claim with its evidence is read once per word, and classified once per word and adapter.
_MAX_CHARACTERS_EXPLAINED = 5_000
_MAX_ADAPTERS_EXPLAINED = 8


@dataclass(frozen=True, kw_only=True)
class Question:
    """One claim for some adapters, with optional evidence; `strength` multiplies the adapters' change of the base."""

    claim: str
    adapters: tuple[str, ...]
    evidence: str = ""
    strength: float = 1.0

    @classmethod
    def parse(
        cls, claim: str | None, adapters: Iterable[str] | None, evidence: str | None = "", strength: float | None = 1.0
    ) -> "Question":
        """Return the question that a visitor typed.

        Raises ConfigError where the claim or the adapters are missing, a text is too long, or the strength is not
        between 0 and `MAX_STRENGTH`.
        """
        claim, evidence = (claim or "").strip(), (evidence or "").strip()
        if not claim:
            raise ConfigError("Type a claim first.")
        if not adapters:
            raise ConfigError("Choose at least one adapter.")
        for name, text in (("claim", claim), ("evidence", evidence)):
            if len(text) > _MAX_CHARACTERS:
                raise ConfigError(f"The {name} has {len(text):,} characters. Give at most {_MAX_CHARACTERS:,}.")
            try:
                text.encode()
            except UnicodeEncodeError:
                raise ConfigError(f"The {name} is not valid Unicode: it contains half of a surrogate pair.") from None
        if strength is None or not 0 <= strength <= MAX_STRENGTH:
            raise ConfigError(f"The strength is {strength}. Give 0 (the base) to {MAX_STRENGTH}; 1 is as trained.")
        return cls(claim=claim, adapters=tuple(dict.fromkeys(adapters)), evidence=evidence, strength=strength)


@dataclass(frozen=True, kw_only=True)
class AdapterAnswer:
    """An adapter's verdict and the one of the base alone; `scales` is False where strength changes nothing.

    `words_read` is how many words of claim and evidence the adapter has read; None where it has read all of them.
    """

    adapter: Verdict
    base: Verdict | None
    scales: bool
    words_read: int | None = None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Adapters with the same label names: these, and label -> the adapters that gave it."""

    labels: list[str]
    answers: dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers to one question by adapter, the seconds they took, and which adapters agree.

    `failed` says which of the asked adapters have no answer, and why; it is empty if all have.
    """

    claim: str
    strength: float
    seconds: float
    device: str
    adapters: dict[str, AdapterAnswer]
    agreement: list[Agreement]
    failed: str = ""

    def labels(self, adapter: str) -> list[str]:
        """Return the labels of an adapter, in id order."""
        return list(self.adapters[adapter].adapter.probabilities)


Classify = Callable[[Question], Answers]
Explain = Callable[[Question], dict[str, Attribution]]


def classifier(engine: Engine) -> Classify:
    """Return the function that answers a question; it raises AdapterError where an adapter is not loaded."""

    def classify(question: Question) -> Answers:
        texts, names, strength = [question.claim], question.adapters, question.strength
        evidence = [question.evidence] if question.evidence else None
        started = time.perf_counter()
        failed = ""
        try:
            verdicts = engine.classify(texts, names, evidence=evidence, strength=strength)
        except NotFiniteError as error:
            if not error.answered:
                raise
            verdicts, failed = {name: one.verdicts() for name, one in error.answered.items()}, str(error)
        seconds = time.perf_counter() - started
        base = engine.classify_base(texts, list(verdicts), evidence=evidence)
        heads = {name for name, adapter in engine.adapters.items() if not adapter.lora}
        return Answers(
            claim=question.claim,
            strength=strength,
            seconds=round(seconds, 4),
            device=engine.device,
            failed=failed,
            adapters={
                name: AdapterAnswer(
                    adapter=verdict,
                    base=base[name][0] if name in base else None,
                    scales=name not in heads,
                    words_read=engine.words_read(name, question.claim, evidence=question.evidence or None)
                    if verdict.truncated
                    else None,
                )
                for name, [verdict] in verdicts.items()
            },
            agreement=agreement({name: verdict for name, [verdict] in verdicts.items()}),
        )

    # The engine is not among the arguments: it stays in the process that was forked with it.
    return zerogpu.borrowed(classify, lambda question: len(question.adapters))


def explainer(engine: Engine) -> Explain:
    """Return the function that finds, by adapter, which words moved the answers to a question.

    It raises ConfigError where the claim has too few or too many words, or there are too many characters or adapters;
    AdapterError where an adapter is not loaded.
    """

    def explain(question: Question) -> dict[str, Attribution]:
        _check_explained(question)
        evidence, strength = question.evidence or None, question.strength
        return attribution.leave_one_out(
            engine, question.claim, question.adapters, evidence=evidence, strength=strength
        )

    return zerogpu.borrowed(explain, lambda question: attribution.MOST_WORDS * len(question.adapters))


def _check_explained(question: Question) -> None:
    """Raise ConfigError where the effects of the words would cost too much."""
    characters = len(question.claim) + len(question.evidence)
    if characters > _MAX_CHARACTERS_EXPLAINED:
        raise ConfigError(
            f"Claim and evidence have {characters:,} characters; word effects are computed for at most "
            f"{_MAX_CHARACTERS_EXPLAINED:,}."
        )
    if len(question.adapters) > _MAX_ADAPTERS_EXPLAINED:
        raise ConfigError(
            f"Word effects are computed for at most {_MAX_ADAPTERS_EXPLAINED} adapters at once; choose some of the "
            f"{len(question.adapters)}."
        )


def explanation(claim: str, attributions: Mapping[str, Attribution]) -> Json:
    """Return what the endpoint `explain` answers."""
    return {
        "claim": claim,
        "method": "leave one word out: how far the label's calibrated probability falls without the word",
        "adapters": {
            name: {
                "label": one.label,
                "probability": one.probability,
                "words": [
                    {"word": claim[start:end], "start": start, "end": end, "effect": effect}
                    for (start, end), effect in zip(one.spans, one.effects, strict=True)
                ],
            }
            for name, one in attributions.items()
        },
    }


def agreement(verdicts: Mapping[str, Verdict]) -> list[Agreement]:
    """Group the adapters that have the same label names; an adapter alone in its group is left out.

    Adapters with different labels answer different questions: they neither agree nor disagree.
    """
    groups: dict[frozenset[str], dict[str, list[str]]] = {}
    for name, verdict in verdicts.items():
        groups.setdefault(frozenset(verdict.probabilities), {}).setdefault(verdict.label, []).append(name)
    return [
        Agreement(labels=sorted(labels), answers=answers)
        for labels, answers in groups.items()
        if sum(map(len, answers.values())) > 1
    ]
