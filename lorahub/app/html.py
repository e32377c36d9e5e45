"""HTML blocks of the page: text, tables, facts and pictures. Every value is escaped.

In: plain values. Out: HTML, styled by `style.css`. Independent of gradio and of models.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape


def header(base_id: str) -> str:
    """Return the top of the page: what the app does, and what it does not do."""
    return block(
        "<h1>lorahub</h1><p>Small adapters that classify claims, side by side on one base model, "
        f"<code>{escape(base_id)}</code>. They read the wording of a claim and look nothing up.</p>"
    )


def block(inside: str) -> str:
    """Wrap trusted HTML in a block of the page."""
    return f'<div class="lh">{inside}</div>'


def paragraphs(sentences: Iterable[str], css_class: str = "") -> str:
    """Return one paragraph per sentence, without a block around them."""
    opening = f'<p class="{css_class}">' if css_class else "<p>"
    return "".join(f"{opening}{escape(sentence)}</p>" for sentence in sentences)


def text(*sentences: str) -> str:
    """Return sentences as a block."""
    return block(paragraphs(sentences))


def note(*sentences: str) -> str:
    """Return sentences in small print: a hint in the place of results, or an explanation below them."""
    return block(paragraphs(sentences, "lh-note")) if sentences else ""


def problem(sentence: str) -> str:
    """Return an error message in the place of results."""
    return block(paragraphs([sentence], "lh-problem"))


def title(heading: str, sentence: str = "") -> str:
    """Return a heading inside a tab, with an optional sentence below it."""
    return block(f"<h2>{escape(heading)}</h2>" + paragraphs([sentence] if sentence else []))


def subtitle(heading: str) -> str:
    """Return a heading below a title."""
    return block(f"<h3>{escape(heading)}</h3>")


def progress(sentence: str, share: float) -> str:
    """Return a progress bar with its sentence; `share` is between 0 and 1."""
    return block(paragraphs([sentence]) + bar(share))


def bar(share: float) -> str:
    """Return a horizontal bar; screen readers skip it, since the text has its figure."""
    return f'<div class="lh-track" aria-hidden="true"><div class="lh-fill" style="width:{share:.1%}"></div></div>'


def open_scroll(name: str) -> str:
    """Return the opening tag of a scrolling region: reachable with the keyboard, and therefore named."""
    return f'<div class="lh-scroll" role="region" aria-label="{escape(name)}" tabindex="0">'


def table(
    caption: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    css_class: str = "",
    shares: Sequence[Sequence[float]] = (),
) -> str:
    """Return a table with row headers that scrolls by itself on a narrow page.

    With the class `lh-claims`, the second column is text that breaks into lines. `shares` shades the cells: one number
    between 0 and 1 per row and cell.
    """
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = ""
    for number, (first, *cells) in enumerate(rows):
        styles = [f' style="--lh-share:{share:.0%}"' for share in shares[number]] if shares else [""] * len(cells)
        data = "".join(f"<td{style}>{escape(cell)}</td>" for style, cell in zip(styles, cells, strict=True))
        body += f'<tr><th scope="row">{escape(first)}</th>{data}</tr>'
    opening = f'<table class="{css_class}">' if css_class else "<table>"
    return block(f"{open_scroll(caption)}{opening}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>")


def facts(pairs: Mapping[str, str]) -> str:
    """Return names and values, one line each."""
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs.items())
    return block(f"<dl>{lines}</dl>")


def image(description: str, png: bytes) -> str:
    """Return a picture embedded in the page, so that no folder is served."""
    return f'<img alt="{escape(description)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def pictures(pngs: Mapping[str, bytes]) -> str:
    """Return pictures, by their description, side by side."""
    figures = "".join(f"<figure>{image(description, png)}</figure>" for description, png in pngs.items())
    return block(f'<div class="lh-grid">{figures}</div>')


def region(name: str) -> str:
    """Return the template of a gr.HTML whose changes are read out: the region stays while its content changes."""
    return f'<div role="status" aria-label="{name}">${{value}}</div>'
