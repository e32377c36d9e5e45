"""Marked sections of a card: text written by lorahub inside text written by a person.

A section is the text between `<!-- lorahub:begin NAME -->` and `<!-- lorahub:end NAME -->`. All other text, and every
metadata key that lorahub does not write, belongs to the author of the card.
"""

import re
from typing import Any

import yaml

Metadata = dict[str, Any]
# A section ends before the next one begins, so that a text of many beginnings is read in linear time.
_SECTION = re.compile(
    r"<!-- lorahub:begin (\w{1,40}) -->\n(?:(?!<!-- lorahub:begin ).)*?<!-- lorahub:end \1 -->\n?", re.S
)
_OPENED = re.compile(r"<!-- lorahub:begin (\w{1,40}) -->")
# Real ones have some kilobytes, and the parser is slow.
_LONGEST_METADATA, _DEEPEST_METADATA = 2**16, 30
_FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---\r?\n", re.S)


class _Loader(yaml.SafeLoader):
    """Loads YAML without aliases, with which a few lines can stand for gigabytes, and without deep nesting."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent) or self._depth > _DEEPEST_METADATA:
            raise yaml.YAMLError("aliases and deep nesting are not read")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def merge(old: str, new: str) -> str:
    """Return `old` with the sections and metadata of `new`, and all other text unchanged.

    A section missing in `old` follows the section that it follows in `new`; in a text without sections it goes to the
    end. Without text of an author the order is that of `new`.
    """
    if own(old) == own(new):
        return compose(join(front_matter(old), front_matter(new)), body(new))
    sections = {match[1]: match[0] for match in _SECTION.finditer(new)}
    text = _SECTION.sub(lambda match: sections.get(match[1], ""), body(old))
    previous = None
    for name, section in sections.items():
        if section not in text:
            place = text.index(sections[previous]) + len(sections[previous]) if previous else len(text)
            gap = "" if place == 0 or text[:place].endswith("\n\n") else "\n"
            text = f"{text[:place]}{gap}{section}{text[place:]}"
        previous = name
    return compose(join(front_matter(old), front_matter(new)), text)


def compose(metadata: Metadata, text: str) -> str:
    """Return a card with this metadata and text."""
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=1000)}---\n{text}"


def own(card: str) -> str:
    """Return the text of the author: the body without the marked sections."""
    return re.sub(r"\n{2,}", "\n\n", _SECTION.sub("", body(card))).strip()


def lines(card: str, name: str) -> list[str]:
    """Return the lines of a marked section; empty if the card does not have it."""
    return [line for match in _SECTION.finditer(card) if match[1] == name for line in match[0].splitlines()]


def by_name(card: str) -> dict[str, str]:
    """Return the marked sections of a card, with their marks; of sections with the same name the first."""
    found: dict[str, str] = {}
    for match in _SECTION.finditer(body(card)):
        found.setdefault(match[1], match[0] if match[0].endswith("\n") else f"{match[0]}\n")
    return found


def outline(card: str) -> list[str]:
    """Return the lines of the body with each marked section as one line, which `opened` recognizes."""
    return _SECTION.sub(lambda match: f"<!-- lorahub:begin {match[1]} -->\n", body(card)).splitlines()


def opened(line: str) -> str | None:
    """Return the name of the section that a line of an outline stands for, or None."""
    match = _OPENED.fullmatch(line)
    return match[1] if match else None


def front_matter(card: str) -> Metadata:
    """Return the metadata at the top of a card; empty if there is none or it is not a valid YAML mapping."""
    match = _FRONT_MATTER.match(card)
    try:
        metadata = yaml.load(match[1], _Loader) if match and len(match[1]) <= _LONGEST_METADATA else None
    except (yaml.YAMLError, ValueError, RecursionError):  # invalid dates, lists that are nested too deep
        return {}
    return metadata if isinstance(metadata, dict) else {}


def tags(card: str) -> list[str]:
    """Return the tags of a card; a single word instead of a list, and no value, are accepted too."""
    value = front_matter(card).get("tags") or []
    return [str(tag) for tag in (value if isinstance(value, list) else [value])]


def body(card: str) -> str:
    """Return a card without its metadata."""
    return _FRONT_MATTER.sub("", card, count=1)


def join(old: Metadata, new: Metadata) -> Metadata:
    """Return the metadata of both: `new` replaces keys of `old`, but tags are combined, and a widget is kept."""
    joined = {**new, **{key: value for key, value in old.items() if key not in new or key == "widget"}}
    old_tags = old.get("tags")
    if isinstance(old_tags, list):
        joined["tags"] = list(dict.fromkeys([*new.get("tags", []), *map(str, old_tags)]))
    return joined
