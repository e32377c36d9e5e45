"""HTML that is pure and escaped, whatever the names are."""

import base64
from html.parser import HTMLParser

import pytest

from lorahub.app import present

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
        present.header(NASTY),
        present.bars({NASTY: 0.9, "b": 0.1}),
        present.part(NASTY, NASTY, {NASTY: 1.0}, base=False),
        present.card(NASTY, []),
        present.grid(NASTY, [], first=[NASTY], notes=[NASTY], link=NASTY),
        present.part(NASTY, NASTY, {NASTY: 1.0}, base=True, unsure=NASTY),
        present.words(NASTY, 0.5, NASTY, [{"word": NASTY, "start": 0, "end": 3, "effect": 0.5}]),
        present.message(NASTY),
        present.problem(NASTY),
        present.table(NASTY, [NASTY], [[NASTY, NASTY]]),
        present.facts({NASTY: NASTY}),
        present.pictures({NASTY: b"png"}),
        present.title(NASTY, NASTY),
    ],
)
def test_every_value_stays_text(made):
    read = Reader(made)
    assert "script" not in read.tags
    assert any(NASTY in text for text in [*read.texts, *read.values])


def test_the_largest_share_comes_first_and_the_bar_is_as_wide():
    made = present.bars({"a": 0.25, "b": 0.75})
    assert made.index("b</span>") < made.index("a</span>")
    assert "width:75.0%" in made
    assert "25%" in Reader(made).texts


def test_pictures_lie_in_the_page():
    made = present.pictures({"confusion": b"png"})
    assert f"data:image/png;base64,{base64.b64encode(b'png').decode()}" in made
    assert 'alt="confusion"' in made


def test_no_message_is_no_block():
    assert present.message() == ""
