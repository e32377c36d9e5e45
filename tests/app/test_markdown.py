"""Reports as HTML: what is Markdown is shown as such, everything else stays text, and nothing is fetched."""

import base64

import pytest

from lorahub.app import markdown


def test_headings_lie_below_the_pages_own_and_tables_are_named_regions():
    made = markdown.render("# A <b>title</b>\n\ntext\n\n| a | b |\n| --- | ---: |\n| 1 | 2 |\n", {})
    assert "<h2>A &lt;b&gt;title&lt;/b&gt;</h2>" in made
    assert 'role="region" aria-label="A &lt;b&gt;title&lt;/b&gt;" tabindex="0"><table>' in made
    assert made.count("<table>") == made.count("</table></div>") == 1


def test_a_picture_of_the_folder_lies_in_the_page():
    made = markdown.render("![a curve](curve.png)", {"curve.png": b"png"})
    assert f'<img alt="a curve" src="data:image/png;base64,{base64.b64encode(b"png").decode()}">' in made


@pytest.mark.parametrize(
    "text",
    [
        "![told](https://example.org/pixel.png)",
        "![told](../other/secret.png)",
        "<img src=https://example.org/pixel.png>",
        "<script>alert(1)</script>",
        "[told](javascript:alert(1))",
    ],
)
def test_nothing_else_is_fetched_or_run(text):
    made = markdown.render(text, {"curve.png": b"png"})
    assert "<img" not in made
    assert "<script" not in made
    assert "href" not in made
