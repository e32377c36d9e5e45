"""Edits of a card in two places: by its author here, and on the Hub.

In: the card at the last pushed commit, the card here and the card on the Hub. Out: a card with the text and metadata of
both authors, whose marked sections are still those of one of the inputs: `sections.merge` replaces them.
"""

from dataclasses import dataclass
from typing import Any

from lorahub.reports import metadata, sections, three_way
from lorahub.reports.sections import Metadata

_MISSING = object()


@dataclass(frozen=True, kw_only=True)
class Merged:
    """A merged card.

    `conflicts` are phrases on what both authors changed in different ways: `card` has both texts, and of metadata the
    value here. `moved` are the sections behind which text stands that was added inside of them on the Hub.
    """

    card: str
    conflicts: tuple[str, ...]
    moved: tuple[str, ...]


def merge(origin: str, mine: str, theirs: str) -> Merged:
    """Merge the edits from `origin` to `mine` and to `theirs`."""
    values, keys = _merge_metadata(*map(sections.front_matter, (origin, mine, theirs)))
    lines, places = three_way.merge(*map(sections.outline, (origin, mine, theirs)))
    text, moved = _expand(lines, origin, mine, theirs)
    conflicts = [f"the key {key} of its metadata" for key in keys]
    conflicts += [f"the text {' '.join(place.theirs or place.mine).strip()[:80]!r}" for place in places]
    return Merged(card=sections.compose(values, text), conflicts=tuple(conflicts), moved=moved)


def _expand(lines: list[str], origin: str, mine: str, theirs: str) -> tuple[str, tuple[str, ...]]:
    """Return the text with whole sections in place of their marks, each once, and the sections with added lines."""
    known, others, ours = (sections.by_name(card) for card in (origin, theirs, mine))
    parts, moved = [], []
    seen: set[str] = set()
    for line in lines:
        name = sections.opened(line)
        section = (ours.get(name) or others.get(name)) if name else None
        if name is None or section is None:
            parts.append(f"{line}\n")
            continue
        if name in seen:
            continue
        seen.add(name)
        parts.append(section)
        added = _added(known.get(name), others.get(name))
        if added:
            parts.append("\n" + "".join(f"{text}\n" for text in added))
            moved.append(name)
    return "".join(parts), tuple(moved)


def _added(known: str | None, section: str | None) -> list[str]:
    """Return the lines of text in a section that lorahub did not write into it; rows of tables are not text."""
    if known is None or section is None:
        return []
    written = set(known.splitlines())
    lines = [line for line in section.splitlines() if line not in written and not line.lstrip().startswith("|")]
    return lines if any(line.strip() for line in lines) else []


def _merge_metadata(origin: Metadata, mine: Metadata, theirs: Metadata) -> tuple[Metadata, list[str]]:
    """Return the metadata of the authors, and the keys that both changed; keys that lorahub writes are left out."""
    merged: Metadata = {}
    conflicts = []
    for key in dict.fromkeys([*mine, *theirs]):
        if key in metadata.WRITTEN:
            continue
        value, conflict = _merge_value(*(part.get(key, _MISSING) for part in (origin, mine, theirs)))
        if value is not _MISSING:
            merged[key] = value
        if conflict:
            conflicts.append(key)
    return merged, conflicts


def _merge_value(origin: Any, mine: Any, theirs: Any) -> tuple[Any, bool]:
    if mine == theirs or theirs == origin:
        return mine, False
    if mine == origin:
        return theirs, False
    if isinstance(mine, list) and isinstance(theirs, list):
        before = origin if isinstance(origin, list) else []
        removed = [item for item in before if item not in mine or item not in theirs]
        return [item for place, item in enumerate([*mine, *theirs])
                if item not in removed and item not in [*mine, *theirs][:place]], False  # fmt: skip
    return (theirs, False) if mine is _MISSING else (mine, theirs is not _MISSING)
