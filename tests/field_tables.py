"""The tables of fields in docs/, against JSON: every field is named on its page, and every name is a field."""

import re


def documented(page):
    """The fields of the tables, as tuples; a part in capitals stands for any key."""
    fields = [tuple(name.replace("[]", ".[]").split(".")) for name in re.findall(r"^\| `(.+?)`", page, re.M)]
    assert len(fields) == len(set(fields)), "a field stands in the tables twice"
    return fields


def leaves(value, path=()):
    """The paths of a record's values; a list of objects counts as its first element, an empty object as a value."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from leaves(value[0], (*path, "[]"))
    else:
        yield path, value


def matches(field, path):
    return len(field) == len(path) and all(
        part == key or (part.isalpha() and part.isupper() and part != "C")
        for part, key in zip(field, path, strict=True)
    )
