"""Marked sections: which part of a card lorahub writes anew, and which part is a person's own.

In: two texts. Out: one. A section stands between `<!-- lorahub:begin NAME -->` and `<!-- lorahub:end NAME -->`; what is
outside of all sections, and every key of the front matter that lorahub does not write, belongs to whoever wrote it.
"""

import re
from typing import Any

import yaml

_SECTION = re.compile(r"<!-- lorahub:begin (\w+) -->\n.*?<!-- lorahub:end \1 -->\n?", re.S)
_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---\r?\n", re.S)


def merge(old: str, new: str) -> str:
    """Return `old` with the sections and metadata of `new`; whatever is outside of them stays as it is in `old`.

    A section that `old` lacks follows the one it follows in `new`; a text without any section keeps all of its own and
    gets them at the end.
    """
    fresh = {match[1]: match[0] for match in _SECTION.finditer(new)}
    text = _SECTION.sub(lambda match: fresh.get(match[1], ""), body(old))
    before = None
    for name, section in fresh.items():
        if section not in text:
            place = text.index(fresh[before]) + len(fresh[before]) if before else len(text)
            gap = "" if place == 0 or text[:place].endswith("\n\n") else "\n"
            text = f"{text[:place]}{gap}{section}{text[place:]}"
        before = name
    return compose(join(front_matter(old), front_matter(new)), text)


def compose(matter: dict[str, Any], text: str) -> str:
    """A card of this metadata and this text."""
    return f"---\n{yaml.safe_dump(matter, sort_keys=False, allow_unicode=True, width=1000)}---\n{text}"


def own(card: str) -> str:
    """What a person wrote: the body without the marked sections."""
    return re.sub(r"\n{2,}", "\n\n", _SECTION.sub("", body(card))).strip()


def lines(card: str, name: str) -> list[str]:
    """The lines of a marked section; none where the card has no such section."""
    return [line for match in _SECTION.finditer(card) if match[1] == name for line in match[0].splitlines()]


def front_matter(card: str) -> dict[str, Any]:
    """The metadata at the top of a card; empty where there is none or it is no valid YAML mapping."""
    found = _MATTER.match(card)
    try:
        values = yaml.safe_load(found[1]) if found else None
    except (yaml.YAMLError, ValueError, RecursionError):  # a day that is none, lists that nest too deep
        return {}
    return values if isinstance(values, dict) else {}


def tags(card: str) -> list[str]:
    """The tags of a card; people also write one word instead of a list, or nothing after the colon."""
    found = front_matter(card).get("tags") or []
    return [str(tag) for tag in (found if isinstance(found, list) else [found])]


def body(card: str) -> str:
    """A card without its metadata."""
    return _MATTER.sub("", card, count=1)


def join(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The metadata of both: where both have a key `new` wins, but tags come together."""
    joined = {**new, **{key: value for key, value in old.items() if key not in new}}
    theirs = old.get("tags")
    if isinstance(theirs, list):
        joined["tags"] = list(dict.fromkeys([*new.get("tags", []), *map(str, theirs)]))
    return joined
