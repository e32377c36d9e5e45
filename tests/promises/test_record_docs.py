"""docs/record.md names every field of a record, and no other."""

import json
import re
from pathlib import Path

from field_tables import documented, leaves, matches

DOCUMENT = (Path(__file__).parents[2] / "docs" / "record.md").read_text(encoding="utf-8")


def assert_documented(record):
    for path, value in leaves(record):
        known = any(
            matches(field, path) or (value == {} and matches(field[:-1], path)) for field in documented(DOCUMENT)
        )
        assert known, f"docs/record.md does not name {'.'.join(path)}"


def test_every_field_of_a_record_is_documented(tiny_run):
    assert_documented(tiny_run.record.to_dict())


def test_every_documented_field_exists(tiny_run):
    found = list(leaves(tiny_run.record.to_dict()))
    for field in documented(DOCUMENT):
        exists = any(matches(field, path) or (value == {} and matches(field[:-1], path)) for path, value in found)
        assert exists, f"docs/record.md names {'.'.join(field)}, which no record has"


def test_the_example_is_a_record_of_today():
    example = json.loads(re.search(r"```json\n(.*?)\n```", DOCUMENT, re.S).group(1))
    assert_documented(example)
    paths = [path for path, _ in leaves(example)]
    for field in documented(DOCUMENT):
        shortened = "dropped_rows" in field
        assert shortened or any(matches(field, path) for path in paths), f"the example lacks {'.'.join(field)}"
