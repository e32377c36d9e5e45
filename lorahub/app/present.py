"""Verdicts and records as HTML: pure functions from values to text, with every value escaped.

Knows nothing of gradio or of models. Colours follow the page's theme, light or dark.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import starmap
from typing import Any

CSS = """
.gradio-container { --lh-adapter: #0f766e; --lh-base: #64748b; --lh-against-it: #b45309;
  --lh-line: var(--border-color-primary); --lh-soft: color-mix(in srgb, var(--body-text-color) 74%, transparent); }
.dark .gradio-container { --lh-adapter: #2dd4bf; --lh-base: #94a3b8; --lh-against-it: #f59e0b;
  --color-accent: #2dd4bf; }
.gradio-container .html-container { padding: 0; }
.lh { color: var(--body-text-color); line-height: 1.45; }
.lh + .lh { margin-top: 1rem; }
.gradio-container footer button { color: var(--lh-soft); }
.gradio-container footer .divider { display: none; }
.gradio-container input[role=combobox] { padding-right: 2.2rem; text-overflow: ellipsis; }
.gradio-container .wrap:not(:focus-within) > .options { display: none; }
.lh-check { max-width: 22rem; }
.lh-problem { border-left: 4px solid #dc2626; padding-left: 0.8rem; }
.lh h1 { font-size: 1.5rem; font-weight: 700; margin: 0; }
.lh h2 { font-size: 1.05rem; font-weight: 600; margin: 0 0 0.7rem; overflow-wrap: anywhere; display: -webkit-box;
  -webkit-box-orient: vertical; -webkit-line-clamp: 4; overflow: hidden; }
.lh h3 { font-size: 0.95rem; font-weight: 650; margin: 0 0 0.6rem; overflow-wrap: anywhere; }
.lh:has(> h3) + .lh, .lh figcaption + div { margin-top: 0.4rem; }
.lh p { margin: 0.25rem 0; overflow-wrap: anywhere; }
.lh-note { font-size: 0.85rem; color: var(--lh-soft); }
.lh code { font-size: 0.9em; overflow-wrap: anywhere; }
.lh-grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: 0.9rem;
  margin: 0.7rem 0; }
.lh-card { border: 1px solid var(--lh-line); border-radius: 10px; padding: 0.9rem 1rem; min-width: 0;
  background: var(--background-fill-secondary); }
.lh-parts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); gap: 0.9rem 1.6rem; }
.lh-verdict { font-size: 1.25rem; font-weight: 650; line-height: 1.25; }
.lh-unsure { font-size: 0.85rem; border: 1px dashed currentColor; border-radius: 6px; padding: 0.25rem 0.5rem; }
.lh a { color: var(--lh-adapter); padding: 0; text-decoration: underline; }
.lh-words { line-height: 2.1; }
.lh mark { color: inherit; border-radius: 3px; padding: 0.1rem 0.15rem;
  background: color-mix(in srgb, var(--lh-mark) calc(var(--lh-strength) * 0.45), transparent);
  border-bottom: 3px solid var(--lh-mark); }
.lh mark sub { font-size: 0.68rem; font-variant-numeric: tabular-nums; margin-left: 0.15rem; }
.lh-for { --lh-mark: var(--lh-adapter); }
.lh mark.lh-against { --lh-mark: var(--lh-against-it); border-bottom-style: dashed; }
.lh-row { display: grid; grid-template-columns: 1fr auto; column-gap: 0.6rem; font-size: 0.85rem; margin-top: 0.4rem; }
.lh-row span { overflow-wrap: anywhere; min-width: 0; }
.lh-row span + span { font-variant-numeric: tabular-nums; align-self: end; }
.lh-track { grid-column: 1 / -1; background: var(--lh-line); border-radius: 4px; height: 0.5rem; overflow: hidden; }
.lh-fill { background: var(--lh-adapter); height: 100%; }
.lh-base .lh-fill { background: var(--lh-base); }
.lh-scroll { overflow-x: auto; border: 1px solid var(--lh-line); border-radius: 10px; }
.lh-scroll:focus-visible { outline: 2px solid var(--lh-adapter); }
.lh table { border-collapse: collapse; width: 100%; font-size: 0.85rem; font-variant-numeric: tabular-nums; margin: 0; }
.lh table, .lh tr, .lh th, .lh td { border: 0; }
.lh th, .lh td { border-bottom: 1px solid var(--lh-line); padding: 0.4rem 0.7rem; text-align: right;
  white-space: nowrap; font-weight: 400; }
.lh tbody tr:last-child > * { border-bottom: 0; }
.lh thead th { font-weight: 600; background: var(--background-fill-secondary); }
.lh tr > :first-child { text-align: left; }
.lh .lh-claims tr > :nth-child(2) { white-space: normal; text-align: left; min-width: 15rem; overflow-wrap: anywhere; }
.lh-scroll:has(.lh-claims) { max-height: 40rem; overflow-y: auto; }
.lh .lh-claims thead th { position: sticky; top: 0; }
.lh-confusion tbody td { background: color-mix(in srgb, var(--lh-adapter) calc(var(--lh-share) * 0.6), transparent); }
.lh dl { display: grid; grid-template-columns: fit-content(45%) minmax(0, 1fr); gap: 0.15rem 1rem; font-size: 0.9rem;
  margin: 0.6rem 0; }
.lh dt { color: var(--lh-soft); }
.lh dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
.lh figure { margin: 0; }
.lh-report > * { margin-bottom: 0.8rem; }
.lh-report li { margin-left: 1.2rem; list-style: disc; }
.lh figure img, .lh-report img { max-width: 100%; height: auto; background: white; border: 1px solid var(--lh-line);
  border-radius: 10px; }
"""


def header(base_id: str) -> str:
    """The top of the page: what this is, and what it cannot do."""
    return _block(
        "<h1>lorahub</h1><p>Small adapters that judge claims, side by side on one base model, "
        f"<code>{escape(base_id)}</code>. They read the wording of a claim and look nothing up.</p>"
    )


def bars(shares: Mapping[str, float]) -> str:
    """One labelled bar per label, the largest share first."""
    return "".join(
        f'<div class="lh-row"><span>{escape(label)}</span><span>{share:.0%}</span>'
        f'<div class="lh-track" aria-hidden="true"><div class="lh-fill" style="width:{share:.1%}"></div></div></div>'
        for label, share in sorted(shares.items(), key=lambda item: -item[1])
    )


def part(title: str, label: str, shares: Mapping[str, float], *, base: bool, unsure: str = "") -> str:
    """One system's answer: who answers, its verdict, why that is not to be relied on, and its bars."""
    mark = f'<p class="lh-unsure">{escape(unsure)}</p>' if unsure else ""
    return (
        f'<div class="{"lh-base" if base else "lh-adapter"}"><p class="lh-note">{escape(title)}</p>'
        f'<p class="lh-verdict">{escape(label)}</p>{mark}{bars(shares)}</div>'
    )


def words(label: str, probability: float, claim: str, effects: Sequence[Mapping[str, Any]]) -> str:
    """A label and the claim in which each word that moved it is marked with its effect in percentage points."""
    pieces, end = [], 0
    for effect in effects:
        pieces += [escape(claim[end : effect["start"]]), _marked(effect["word"], effect["effect"])]
        end = effect["end"]
    text = "".join([*pieces, escape(claim[end:])])
    return f'<div><p class="lh-verdict">{escape(label)} {probability:.0%}</p><p class="lh-words">{text}</p></div>'


def _marked(word: str, effect: float) -> str:
    """One word; marked by a line, a sign and a figure, so that no colour is needed. Below half a point it is plain."""
    points = round(100 * effect)
    if points == 0:
        return escape(word)
    kind, sign = ("for", "+") if points > 0 else ("against", "\u2212")
    # The root, because most effects are small.
    strength = min(1.0, abs(effect)) ** 0.5
    return (
        f'<mark class="lh-{kind}" style="--lh-strength:{strength:.0%}">'
        f"{escape(word)}<sub>{sign}{abs(points)}</sub></mark>"
    )


_LEGEND = (
    f"<p>{_marked('word', 0.12)} solid line and plus: it speaks for the answer. {_marked('word', -0.12)} dashed line "
    "and minus: it speaks against it. Unmarked: less than half a point.</p>"
)


def card(name: str, parts: Sequence[str], *, kind: str = "") -> str:
    """One adapter's card, its parts side by side, or below one another where there is no room.

    `kind` tells a screen reader apart two cards of one adapter.
    """
    inside = f'<h3>{escape(name)}</h3><div class="lh-parts">{"".join(parts)}</div>'
    return f'<section class="lh-card" aria-label="{escape(f"{kind} {name}".strip())}">{inside}</section>'


def grid(
    heading: str,
    cards: Sequence[str],
    *,
    first: Iterable[str] = (),
    legend: bool = False,
    notes: Iterable[str] = (),
    link: str = "",
) -> str:
    """A heading, what is to be said first, all cards side by side (below one another on a phone), notes and a link.

    With `legend` it is told how to read marked words.
    """
    shared = f'<p class="lh-note"><a href="{escape(link)}">Link to this question</a></p>' if link else ""
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in first) + (_LEGEND if legend else "")
    return _block(
        f'<h2>{escape(heading)}</h2>{sentences}<div class="lh-grid">{"".join(cards)}</div>{_notes(notes)}{shared}'
    )


def message(*sentences: str) -> str:
    """Plain sentences, in the place of results or under a field."""
    return _block(_notes(sentences)) if sentences else ""


def sentences(*texts: str) -> str:
    """Sentences that matter, a paragraph each."""
    return _block("".join(f"<p>{escape(text)}</p>" for text in texts))


def progress(sentence: str, share: float) -> str:
    """How far something is, in words and as a bar."""
    return _block(
        f'<p>{escape(sentence)}</p><div class="lh-track" aria-hidden="true">'
        f'<div class="lh-fill" style="width:{share:.1%}"></div></div>'
    )


def problem(sentence: str) -> str:
    """What went wrong and what to do, in the place of results."""
    return _block(f'<p class="lh-problem">{escape(sentence)}</p>')


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a row header, which scrolls by itself where the page is narrow."""
    titles = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    inside = f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"
    # A region that scrolls must be reachable with the keyboard, and then it needs a name.
    return _block(f'<div class="lh-scroll" role="region" aria-label="{escape(caption)}" tabindex="0">{inside}</div>')


def claims_table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose second column is text that breaks into lines."""
    return table(caption, head, rows).replace("<table>", '<table class="lh-claims">', 1)


def confusions(matrices: Mapping[str, tuple[Sequence[str], Sequence[Sequence[int]]]]) -> str:
    """A confusion matrix by name: gold labels in rows, answers in columns, shaded by the share of the row."""
    return _block('<div class="lh-grid">' + "".join(starmap(_confusion, matrices.items())) + "</div>")


def _confusion(name: str, matrix: tuple[Sequence[str], Sequence[Sequence[int]]]) -> str:
    labels, counts = matrix
    head = "".join(f'<th scope="col">{escape(label)}</th>' for label in labels)
    body = "".join(
        f'<tr><th scope="row">{escape(label)}</th>'
        + "".join(f'<td style="--lh-share:{cell / max(1, sum(row)):.0%}">{cell:,}</td>' for cell in row)
        + "</tr>"
        for label, row in zip(labels, counts, strict=True)
    )
    caption = f"Confusion matrix of {name}"
    return (
        f'<figure class="lh-confusion"><figcaption><h3>{escape(name)}</h3></figcaption>'
        f'<div class="lh-scroll" role="region" aria-label="{escape(caption)}" tabindex="0"><table>'
        f'<thead><tr><th scope="col">label ↓ answer →</th>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div></figure>"
    )


def facts(pairs: Mapping[str, str]) -> str:
    """Names and values, a line each."""
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs.items())
    return _block(f"<dl>{lines}</dl>")


def pictures(pngs: Mapping[str, bytes]) -> str:
    """Pictures by their description, inside the page: a run folder need not be served for them to be seen."""
    figures = "".join(
        f'<figure><img alt="{escape(name)}" src="data:image/png;base64,{base64.b64encode(png).decode()}"></figure>'
        for name, png in pngs.items()
    )
    return _block(f'<div class="lh-grid">{figures}</div>')


def region(name: str) -> str:
    """The template of a gr.HTML whose changes are read out: the region stays while its content changes."""
    return f'<div role="status" aria-label="{name}">${{value}}</div>'


def title(text: str, sentence: str = "") -> str:
    """A heading inside a tab, and what is to be said first under it."""
    return _block(f"<h2>{escape(text)}</h2>" + (f"<p>{escape(sentence)}</p>" if sentence else ""))


def subtitle(text: str) -> str:
    """A heading under a title."""
    return _block(f"<h3>{escape(text)}</h3>")


def _block(inside: str) -> str:
    return f'<div class="lh">{inside}</div>'


def _notes(sentences: Iterable[str]) -> str:
    return "".join(f'<p class="lh-note">{escape(sentence)}</p>' for sentence in sentences)
