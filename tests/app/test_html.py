"""HTML that is pure and escaped, whatever the names are."""

import base64
from html.parser import HTMLParser

import pytest

from lorahub.app import html

NASTY = """<script>alert(1)</script>"' onload=x &amp;"""


class Reader(HTMLParser):
    """Tags, attribute values and text, and whether every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.values, self.texts = [], set(), [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.values += [value for _, value in attrs]
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize(
    "made",
    [
        html.header(NASTY),
        html.text(NASTY),
        html.note(NASTY),
        html.problem(NASTY),
        html.title(NASTY, NASTY),
        html.progress(NASTY, 0.5),
        html.table(NASTY, [NASTY], [[NASTY, NASTY]]),
        html.facts({NASTY: NASTY}),
        html.pictures({NASTY: b"png"}),
    ],
)
def test_every_value_stays_text(made):
    read = Reader(made)
    assert "script" not in read.tags
    assert any(NASTY in text for text in [*read.texts, *read.values])


def test_pictures_lie_in_the_page():
    made = html.pictures({"confusion": b"png"})
    assert f"data:image/png;base64,{base64.b64encode(b'png').decode()}" in made
    assert 'alt="confusion"' in made


def test_no_message_is_no_block():
    assert html.note() == ""
