"""Markdown as HTML of the page: tables that scroll, headings below the page's own, pictures from bytes.

Markup inside the Markdown stays text, and a picture without bytes becomes its description: nothing is fetched.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

from lorahub.app import html


def render(text: str, pictures: Mapping[str, bytes]) -> str:
    """Render CommonMark with tables; `pictures` maps the names that the text uses to PNG files."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("table_open", _table_open)
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    parser.add_render_rule("image", _image)
    tokens = parser.parse(text)
    heading = ""
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1:]) + 1)}"  # the page has the only h1
        if token.type == "heading_open" and following is not None:
            heading = following.content
        token.meta = {"heading": heading}
    return f'<div class="lh lh-report">{parser.renderer.render(tokens, parser.options, {"pictures": pictures})}</div>'


def _table_open(renderer: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    return f"{html.open_scroll(tokens[index].meta['heading'] or 'Table')}<table>"


def _image(renderer: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    description, png = tokens[index].content, env["pictures"].get(tokens[index].attrs["src"])
    return escape(description) if png is None else html.image(description, png)
