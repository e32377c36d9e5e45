"""Text of strangers as it may be shown: control characters are written as escapes, so that they control nothing.

In: any string, of a label, a record, a card, a file name. Out: the same string, where a terminal, or a reader, cannot
take one line for two, one color for another, or the end of a word for its beginning.
"""

import json
import re

# Control characters, signs that change the direction of text, other ends of lines, lone surrogates, and characters
# that are invisible and only mark text. Joiners are part of words in some scripts, and stay.
_UNSEEN = (
    "\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f"
)
_ESCAPED = re.compile(f"[{_UNSEEN}]")
_ESCAPED_IN_TEXT = re.compile(rf"(?!\n)[{_UNSEEN}]")


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
