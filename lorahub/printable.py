"""Escape control characters in text from files, before it is printed.

In: a label, a field of a record, a card or a file name. Out: the same text with control characters, directional marks
and line separators as escape sequences, so that they have no effect on a terminal.
"""

import json
import re

# Control characters, directional marks, line separators, lone surrogates and invisible format characters. Joiners are
# part of words in some scripts and are kept.
_UNSEEN = (
    "\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED = re.compile(f"[{_UNSEEN}]")
_ESCAPED_IN_TEXT = re.compile(rf"(?!\n)[{_UNSEEN}]")


def has_surrogate(text: str) -> bool:
    """Return whether the text has a lone surrogate, which UTF-8 cannot encode."""
    return not text.isascii() and _SURROGATE.search(text) is not None


def line(text: str) -> str:
    """Return the text in one line; line breaks and tabs are escaped too."""
    return _ESCAPED.sub(_escape, text)


def lines(text: str) -> str:
    """Return the text with its line breaks."""
    return _ESCAPED_IN_TEXT.sub(_escape, text.replace("\r\n", "\n").replace("\t", "    "))


def in_json(text: str) -> str:
    """Return a JSON text, which has the same content, with all these characters as escapes of JSON."""
    return _ESCAPED_IN_TEXT.sub(lambda match: json.dumps(match[0])[1:-1], text)


def _escape(match: re.Match[str]) -> str:
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(match[0])
    code = ord(match[0])
    return short or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
