"""Three-way merge of the lines of a text that was edited in two places.

In: the common origin and both edited versions. Out: the merged lines, and the places that both changed in different
ways. The algorithm is diff3 (Khanna, Kunal and Pierce 2007, A Formal Investigation of Diff3) on the matching blocks of
difflib: the maintained package, merge3, is GPL, and `git merge-file` is not on every machine.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """Lines of the origin that both versions changed, in different ways."""

    mine: tuple[str, ...]
    theirs: tuple[str, ...]


def merge(origin: Sequence[str], mine: Sequence[str], theirs: Sequence[str]) -> tuple[list[str], list[Conflict]]:
    """Return the merged lines and the conflicts; of a conflict the merged lines hold both versions, `mine` first.

    Lines that both versions insert at the same place are not a conflict: both are kept.
    """
    merged: list[str] = []
    conflicts = []
    at = (0, 0, 0)
    for start, length in _common(origin, mine, theirs):
        before, ours, others = (
            tuple(text[first:last]) for text, first, last in zip((origin, mine, theirs), at, start, strict=True)
        )
        if ours == others or others == before:
            merged += ours
        elif ours == before:
            merged += others
        else:
            merged += (*ours, *others)
            if before:
                conflicts.append(Conflict(mine=ours, theirs=others))
        merged += origin[start[0] : start[0] + length]
        at = (start[0] + length, start[1] + length, start[2] + length)
    return merged, conflicts


def _common(
    origin: Sequence[str], mine: Sequence[str], theirs: Sequence[str]
) -> Iterator[tuple[tuple[int, int, int], int]]:
    """Yield the runs of lines that all three texts share: where they start in each, and their length.

    The last run has length 0 and starts at the three ends.
    """
    ours, others = (
        SequenceMatcher(None, origin, text, autojunk=False).get_matching_blocks() for text in (mine, theirs)
    )
    first = second = 0
    while first < len(ours) and second < len(others):
        one, two = ours[first], others[second]
        start, end = max(one.a, two.a), min(one.a + one.size, two.a + two.size)
        if start < end:
            yield (start, start - one.a + one.b, start - two.a + two.b), end - start
        if one.a + one.size < two.a + two.size:
            first += 1
        else:
            second += 1
    yield (len(origin), len(mine), len(theirs)), 0
