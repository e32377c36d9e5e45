"""docs/record.md names every field of a record, and no other."""

import json
import re
from pathlib import Path

DOCUMENT = (Path(__file__).parents[2] / "docs" / "record.md").read_text(encoding="utf-8")


def documented():
    """The fields of the tables, as tuples; a part in capitals stands for any key."""
    fields = [tuple(name.replace("[]", ".[]").split(".")) for name in re.findall(r"^\| `(.+?)`", DOCUMENT, re.M)]
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


def assert_documented(record):
    for path, value in leaves(record):
        known = any(matches(field, path) or (value == {} and matches(field[:-1], path)) for field in documented())
        assert known, f"docs/record.md does not name {'.'.join(path)}"


def test_every_field_of_a_record_is_documented(tiny_run):
    assert_documented(tiny_run.record.to_dict())


def test_every_documented_field_exists(tiny_run):
    found = list(leaves(tiny_run.record.to_dict()))
    for field in documented():
        exists = any(matches(field, path) or (value == {} and matches(field[:-1], path)) for path, value in found)
        assert exists, f"docs/record.md names {'.'.join(field)}, which no record has"


def test_the_example_is_a_record_of_today():
    example = json.loads(re.search(r"```json\n(.*?)\n```", DOCUMENT, re.S).group(1))
    assert_documented(example)
    paths = [path for path, _ in leaves(example)]
    for field in documented():
        shortened = "dropped_rows" in field
        assert shortened or any(matches(field, path) for path in paths), f"the example lacks {'.'.join(field)}"
