"""Markdown as HTML of the page: tables that scroll, headings below the page's own, pictures from bytes. Pure.

Markup inside the Markdown stays text, and a picture that is not given is its description: nothing else is fetched.
"""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

# The page has the first level, its tabs the second.
_DEEPER = 1


def html(text: str, pictures: Mapping[str, bytes]) -> str:
    """Render CommonMark with tables; `pictures` are PNG files by the name under which the text has them."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("table_open", _table_open)
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    parser.add_render_rule("image", _image)
    tokens = parser.parse(text)
    above = ""
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1:]) + _DEEPER)}"
        if token.type == "heading_open" and following is not None:
            above = following.content
        token.meta = {"above": above}
    return f'<div class="lh lh-report">{parser.renderer.render(tokens, parser.options, {"pictures": pictures})}</div>'


def _table_open(renderer: Any, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    # A region that scrolls must be reachable with the keyboard, and then it needs a name.
    name = escape(tokens[place].meta["above"] or "Table")
    return f'<div class="lh-scroll" role="region" aria-label="{name}" tabindex="0"><table>'


def _image(renderer: Any, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    words = escape(tokens[place].content)
    png = env["pictures"].get(tokens[place].attrs["src"])
    if png is None:
        return words
    return f'<img alt="{words}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
