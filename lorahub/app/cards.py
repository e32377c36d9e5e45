"""Answers, and the words that moved them, as HTML: a card an adapter.

Pure: from the plain values of `answers` to text, in which every value is escaped.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from lorahub.app import present
from lorahub.app.answers import Question


def link(asked: Question) -> str:
    """The query of the page's address that puts a question again."""
    values: dict[str, str | Sequence[str]] = {"claim": asked.claim, "adapters": asked.adapters}
    if asked.evidence:
        values["evidence"] = asked.evidence
    if asked.strength != 1:
        values["strength"] = f"{asked.strength:g}"
    return f"?{urlencode(values, doseq=True)}"


def answers(found: Mapping[str, Any], asked: Question) -> str:
    """A question's answers: who agrees, a card an adapter, what the figures are, and the link to ask again."""
    count = len(found["adapters"])
    return present.grid(
        f"“{found['claim']}”",
        [_card(name, **systems, strength=asked.strength) for name, systems in found["adapters"].items()],
        first=[*strength(asked.strength), *agreement(found)],
        notes=(
            f"{count} adapter{'s' if count > 1 else ''} answered in {found['seconds'] * 1000:.0f} ms on "
            f"{found['device'].upper()}.",
            "With the adapter: calibrated, where the adapter came with a calibration. Base alone: a logistic "
            "regression on what the base gives without the adapter. Both judge wording, not truth.",
        ),
        link=link(asked),
    )


def strength(value: float) -> list[str]:
    """What the answers are worth where the adapters are not as strong as they were trained."""
    if value == 1:
        return []
    what = "each adapter's head on the base itself" if value == 0 else f"{value:g} times each adapter's change"
    return [f"Strength {value:g}: {what}. Calibration and threshold were chosen for strength 1."]


def _card(name: str, adapter: Mapping[str, Any], base: Mapping[str, Any] | None, scales: bool, strength: float) -> str:
    sure = adapter["calibrated"][adapter["label"]]
    unsure = f"Unsure: {sure:.0%} is below this adapter's threshold. Let a person decide." if adapter["abstain"] else ""
    how = "with the adapter" if strength == 1 else f"with the adapter at {strength:g}"
    parts = [present.part(how, adapter["label"], adapter["calibrated"], base=False, unsure=unsure)]
    if base:
        parts.append(present.part("base alone", base["label"], base["probabilities"], base=True))
    else:
        parts.append(present.message("The base's own answer did not come with this adapter."))
    if strength != 1 and not scales:
        parts.append(present.message("This adapter is a head alone and changes nothing in the base: no strength."))
    return present.card(name, parts)


def agreement(found: Mapping[str, Any]) -> list[str]:
    """Sentences on who agrees: the adapters of the same labels with each other, and each with its base."""
    sentences = []
    for group in found["agreement"]:
        by_label = group["answers"]
        if len(by_label) == 1:
            [(label, names)] = by_label.items()
            sentences.append(f"{_listed(names)} agree: {label}.")
        else:
            sides = "; ".join(f"{_listed(names)}: {label}" for label, names in by_label.items())
            sentences.append(f"The adapters with the same labels disagree. {sides}.")
    pairs = {name: systems for name, systems in found["adapters"].items() if systems["base"]}
    apart = [name for name, systems in pairs.items() if systems["adapter"]["label"] != systems["base"]["label"]]
    if apart:
        sentences.append(f"The base alone answers differently from {_listed(apart)}.")
    elif pairs:
        all_of_them = len(pairs) == len(found["adapters"])
        sentences.append(f"The base alone agrees{'' if all_of_them else f' with {_listed(list(pairs))}'}.")
    return sentences


def words(found: Mapping[str, Any]) -> str:
    """Which words moved each adapter's answer: the claim with its words marked."""
    cards = [
        present.card(
            name, [present.words(one["label"], one["probability"], found["claim"], one["words"])], kind="Words for"
        )
        for name, one in found["adapters"].items()
    ]
    return present.grid(
        "Which words moved the answers",
        cards,
        notes=(
            "Leave one word out: the figure is how many percentage points less probable (calibrated) the answer is "
            "without that word alone. Words that only count together are missed.",
        ),
        legend=True,
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
