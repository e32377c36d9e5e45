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
    body = _SECTION.sub(lambda match: fresh.get(match[1], ""), _body(old))
    before = None
    for name, section in fresh.items():
        if section not in body:
            place = body.index(fresh[before]) + len(fresh[before]) if before else len(body)
            gap = "" if place == 0 or body[:place].endswith("\n\n") else "\n"
            body = f"{body[:place]}{gap}{section}{body[place:]}"
        before = name
    return f"---\n{_dump(_join(front_matter(old), front_matter(new)))}---\n{body}"


def own(card: str) -> str:
    """What a person wrote: the body without the marked sections."""
    return re.sub(r"\n{2,}", "\n\n", _SECTION.sub("", _body(card))).strip()


def front_matter(card: str) -> dict[str, Any]:
    """The metadata at the top of a card; empty where there is none or it is no valid YAML mapping."""
    found = _MATTER.match(card)
    try:
        values = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return {}
    return values if isinstance(values, dict) else {}


def _body(card: str) -> str:
    return _MATTER.sub("", card, count=1)


def _join(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Our keys win, other keys stay, tags come together."""
    joined = {**new, **{key: value for key, value in old.items() if key not in new}}
    theirs = old.get("tags")
    if isinstance(theirs, list):
        joined["tags"] = list(dict.fromkeys([*new.get("tags", []), *map(str, theirs)]))
    return joined


def _dump(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)
