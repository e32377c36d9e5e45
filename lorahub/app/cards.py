"""Answers, and the words that moved them, as HTML: one card per adapter.

In: `Answers`, or an `Attribution` per adapter. Out: HTML in which every value is escaped.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from urllib.parse import urlencode

from lorahub.app import html
from lorahub.app.answers import AdapterAnswer, Answers, Question
from lorahub.reports import tables
from lorahub.serving.attribution import Attribution
from lorahub.serving.predictor import Verdict


def link(question: Question) -> str:
    """Return the query of the page's address that asks a question again."""
    values: dict[str, str | Sequence[str]] = {"claim": question.claim, "adapters": question.adapters}
    if question.evidence:
        values["evidence"] = question.evidence
    if question.strength != 1:
        values["strength"] = f"{question.strength:g}"
    return f"?{urlencode(values, doseq=True)}"


def answers(result: Answers, question: Question) -> str:
    """Return a question's answers: who agrees, one card per adapter, how to read the figures, and a link."""
    count = len(result.adapters)
    notes = (
        f"{count} adapter{'s' if count > 1 else ''} answered in {result.seconds * 1000:.0f} ms on "
        f"{result.device.upper()}.",
        "With the adapter: calibrated, where the adapter came with a calibration. Base alone: a logistic "
        "regression on what the base gives without the adapter. Both classify wording, not truth.",
    )
    return _grid(
        f"“{result.claim}”",
        html.paragraphs([*([result.failed] if result.failed else []), *_strength(result.strength), *agreement(result)]),
        [_answer(name, answer, question, result.strength) for name, answer in result.adapters.items()],
        notes,
        f'<p class="lh-note"><a href="{escape(link(question))}">Link to this question</a></p>',
    )


def _strength(value: float) -> list[str]:
    """Return how to read the answers where the adapters are not as strong as they were trained."""
    if value == 1:
        return []
    meaning = "each adapter's head on the base itself" if value == 0 else f"{value:g} times each adapter's change"
    return [f"Strength {value:g}: {meaning}. Calibration and threshold were chosen for strength 1."]


def agreement(result: Answers) -> list[str]:
    """Return sentences on who agrees: adapters of the same labels with each other, and each with the base."""
    sentences = []
    for group in result.agreement:
        if len(group.answers) == 1:
            [(label, names)] = group.answers.items()
            sentences.append(f"{_listed(names)} agree: {label}.")
        else:
            sides = "; ".join(f"{_listed(names)}: {label}" for label, names in group.answers.items())
            sentences.append(f"The adapters with the same labels disagree. {sides}.")
    same = {name: one.adapter.label == one.base.label for name, one in result.adapters.items() if one.base}
    different = [name for name, agrees in same.items() if not agrees]
    if different:
        sentences.append(f"The base alone answers differently from {_listed(different)}.")
    elif same:
        others = "" if len(same) == len(result.adapters) else f" with {_listed(list(same))}"
        sentences.append(f"The base alone agrees{others}.")
    return sentences


def _answer(name: str, answer: AdapterAnswer, question: Question, strength: float) -> str:
    """Return an adapter's card: its verdict, and the one of the base alone."""
    system = "with the adapter" if strength == 1 else f"with the adapter at {strength:g}"
    parts = []
    if answer.words_read is not None:
        what = "claim and evidence" if question.evidence else "the claim"
        sentence = f"Only the first {answer.words_read:,} words of {what} were read: this adapter reads no more."
        parts.append(html.paragraphs([sentence], "lh-unsure"))
    parts.append(_verdict(system, answer.adapter, answer.adapter.calibrated, "lh-adapter"))
    if answer.base:
        parts.append(_verdict("base alone", answer.base, answer.base.probabilities, "lh-base"))
    else:
        parts.append(html.note("The base's own answer did not come with this adapter."))
    if strength != 1 and not answer.scales:
        parts.append(html.note("This adapter is a head alone and changes nothing in the base: no strength."))
    return _card(name, name, parts)


def _verdict(system: str, verdict: Verdict, shares: Mapping[str, float], css_class: str) -> str:
    """Return one system's verdict, with one bar per label, the largest share first."""
    unsure = ""
    if verdict.abstain:
        sentence = (
            f"Unsure: {tables.probability(verdict.confidence)} is below this adapter's threshold. Let a person decide."
        )
        unsure = html.paragraphs([sentence], "lh-unsure")
    bars = "".join(
        f'<div class="lh-row"><span>{escape(label)}</span><span>{tables.probability(share)}</span>'
        f"{html.bar(share)}</div>"
        for label, share in sorted(shares.items(), key=lambda item: -item[1])
    )
    return (
        f'<div class="{css_class}">{html.paragraphs([system], "lh-note")}'
        f"{html.paragraphs([verdict.label], 'lh-verdict')}{unsure}{bars}</div>"
    )


def words(claim: str, attributions: Mapping[str, Attribution]) -> str:
    """Return the claim once per adapter, with the words marked that moved its answer."""
    legend = (
        f"<p>{_marked('word', 0.12)} solid line and plus: it speaks for the answer. {_marked('word', -0.12)} dashed "
        "line and minus: it speaks against it. Unmarked: less than half a point.</p>"
    )
    notes = (
        "Leave one word out: the figure is how many percentage points less probable (calibrated) the answer is "
        "without that word alone. Words that only count together are missed.",
    )
    cards = [_card(name, f"Words for {name}", [_words(claim, one)]) for name, one in attributions.items()]
    return _grid("Which words moved the answers", legend, cards, notes)


def _words(claim: str, one: Attribution) -> str:
    text, done = "", 0
    for (start, end), effect in zip(one.spans, one.effects, strict=True):
        text, done = f"{text}{escape(claim[done:start])}{_marked(claim[start:end], effect)}", end
    verdict = html.paragraphs([f"{one.label} {tables.probability(one.probability)}"], "lh-verdict")
    return f'<div>{verdict}<p class="lh-words">{text}{escape(claim[done:])}</p></div>'


def _marked(word: str, effect: float) -> str:
    """Return a word marked by a line, a sign and a figure, so that no color is needed; plain below half a point."""
    points = round(100 * effect)
    if points == 0:
        return escape(word)
    kind, sign = ("for", "+") if points > 0 else ("against", "\u2212")
    strength = min(1.0, abs(effect)) ** 0.5  # the root, because most effects are small
    return (
        f'<mark class="lh-{kind}" style="--lh-strength:{strength:.0%}">'
        f"{escape(word)}<sub>{sign}{abs(points)}</sub></mark>"
    )


def _card(heading: str, name: str, parts: Iterable[str]) -> str:
    """Return a card; `name` distinguishes two cards of one adapter for screen readers."""
    inside = f'<h3>{escape(heading)}</h3><div class="lh-parts">{"".join(parts)}</div>'
    return f'<section class="lh-card" aria-label="{escape(name)}">{inside}</section>'


def _grid(heading: str, introduction: str, cards: Iterable[str], notes: Iterable[str], footer: str = "") -> str:
    """Return a heading, an introduction, all cards side by side (below one another on a phone), notes and a footer.

    `introduction` and `footer` are HTML.
    """
    grid = f'<div class="lh-grid">{"".join(cards)}</div>'
    return html.block(f"<h2>{escape(heading)}</h2>{introduction}{grid}{html.paragraphs(notes, 'lh-note')}{footer}")


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
