"""Three-way merge of texts and cards: nothing that only one author changed is lost, and what both changed is named."""

from hypothesis import given
from hypothesis import strategies as st

from lorahub.reports import card_edits, three_way

LINES = st.lists(st.sampled_from("abcdef"), max_size=12)


def both(origin, mine, theirs):
    merged, conflicts = three_way.merge(origin.split(), mine.split(), theirs.split())
    return " ".join(merged), conflicts


def test_edits_at_different_places_are_joined_and_the_same_edit_is_made_once():
    assert both("a b c d", "a B c d", "a b c D e") == ("a B c D e", [])
    assert both("a b c", "a c", "a b c d") == ("a c d", [])
    assert both("a b c", "a X c", "a X c") == ("a X c", [])
    assert both("a b", "a x b", "a y b") == ("a x y b", []), (
        "two additions at one place contradict each other in nothing"
    )


def test_what_both_changed_is_a_conflict_and_both_versions_are_kept():
    merged, conflicts = both("a b c", "a mine c", "a theirs c")
    assert merged == "a mine theirs c"
    assert conflicts == [three_way.Conflict(mine=("mine",), theirs=("theirs",))]
    merged, (conflict,) = both("a b c", "a c", "a theirs c")
    assert merged == "a theirs c"
    assert conflict.mine == ()


@given(origin=LINES, mine=LINES, theirs=LINES)
def test_the_laws_of_a_three_way_merge(origin, mine, theirs):
    assert three_way.merge(origin, mine, origin) == (mine, [])
    assert three_way.merge(origin, origin, theirs) == (theirs, [])
    assert three_way.merge(origin, mine, mine) == (mine, [])
    merged, _ = three_way.merge(origin, mine, theirs)
    # Every line that an author added is there, as often as in the version that has it most often, or more.
    for line in {*mine, *theirs} - {*origin}:
        assert merged.count(line) >= max(mine.count(line), theirs.count(line))


def test_metadata_of_both_authors_is_merged_by_key_and_lists_by_entry():
    def card(**values):
        return "---\n" + "".join(f"{key}: {value}\n" for key, value in values.items()) + "---\ntext\n"

    merged = card_edits.merge(
        card(tags="[a, b]", license="mit", language="en"),
        card(tags="[a, b, mine]", license="mit", language="de", base_model="x/y"),
        card(tags="[b, theirs]", license="cc0-1.0", thumbnail="x.png"),
    )
    assert merged.conflicts == ()
    assert card_edits.sections.front_matter(merged.card) == {
        "tags": ["b", "mine", "theirs"], "license": "cc0-1.0", "language": "de", "thumbnail": "x.png"
    }  # fmt: skip
    merged = card_edits.merge(card(license="mit"), card(license="cc0-1.0"), card(license="gpl-3.0"))
    assert merged.conflicts == ("the key license of its metadata",)
    assert card_edits.sections.front_matter(merged.card) == {"license": "cc0-1.0"}


def test_a_card_with_broken_or_repeated_marks_keeps_its_text():
    section = "<!-- lorahub:begin use -->\n## Use\n<!-- lorahub:end use -->\n"
    origin = f"---\n---\n{section}"
    theirs = f"---\n---\nFirst.\n<!-- lorahub:begin odd -->\n{section}Then.\n{section}"
    merged = card_edits.merge(origin, origin, theirs).card
    assert merged.endswith(f"First.\n<!-- lorahub:begin odd -->\n{section}Then.\n")
