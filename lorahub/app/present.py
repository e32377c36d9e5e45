"""Verdicts as HTML: pure functions from values to text, with everything a visitor typed escaped.

Knows nothing of gradio or of models.
"""

from collections.abc import Mapping, Sequence
from html import escape

CSS = """
.lh-grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: 0.9rem; }
.lh-card { border: 1px solid var(--border-color-primary); border-radius: 10px; padding: 0.9rem 1rem;
  background: var(--background-fill-secondary); }
.lh-card h3 { margin: 0 0 0.2rem; font-size: 0.95rem; overflow-wrap: anywhere; color: var(--body-text-color); }
.lh-verdict { font-size: 1.25rem; font-weight: 650; margin: 0 0 0.6rem; color: var(--body-text-color);
  overflow-wrap: anywhere; }
.lh-row { display: grid; grid-template-columns: minmax(5.5rem, 9rem) 1fr 2.6rem; gap: 0.5rem; align-items: center;
  font-size: 0.85rem; margin: 0.22rem 0; color: var(--body-text-color); }
.lh-row span { overflow-wrap: anywhere; }
.lh-track { background: var(--border-color-primary); border-radius: 4px; height: 0.62rem; overflow: hidden; }
.lh-fill { background: #0f766e; height: 100%; }
.lh-base .lh-fill { background: #64748b; }
.lh-number { text-align: right; font-variant-numeric: tabular-nums; }
.lh-part + .lh-part { border-top: 1px solid var(--border-color-primary); margin-top: 0.7rem; padding-top: 0.6rem; }
.lh-note { font-size: 0.82rem; color: var(--body-text-color-subdued); margin: 0.5rem 0 0; }
"""


def bars(shares: Mapping[str, float]) -> str:
    """One labelled bar per label, the largest share first."""
    rows = []
    for label, share in sorted(shares.items(), key=lambda item: -item[1]):
        rows.append(
            f'<div class="lh-row"><span>{escape(label)}</span>'
            f'<div class="lh-track" role="img" aria-label="{escape(label)}: {share:.0%}">'
            f'<div class="lh-fill" style="width:{share:.1%}"></div></div>'
            f'<span class="lh-number">{share:.0%}</span></div>'
        )
    return "".join(rows)


def part(title: str, label: str, shares: Mapping[str, float], *, base: bool) -> str:
    """One system's answer: its name, its verdict and its bars."""
    kind = "lh-part lh-base" if base else "lh-part"
    return f'<div class="{kind}"><h3>{escape(title)}</h3><p class="lh-verdict">{escape(label)}</p>{bars(shares)}</div>'


def card(name: str, parts: Sequence[str]) -> str:
    """One adapter's card: its own answer, and under it the base's."""
    return f'<section class="lh-card" aria-label="{escape(name)}">{"".join(parts)}</section>'


def grid(cards: Sequence[str], note: str) -> str:
    """All cards side by side, one below the other on a phone."""
    return f'<div class="lh-grid" aria-live="polite">{"".join(cards)}</div><p class="lh-note">{escape(note)}</p>'


def message(text: str) -> str:
    """A plain sentence in the place of results."""
    return f'<p class="lh-note">{escape(text)}</p>'
