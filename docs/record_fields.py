"""The tables of docs/record.md and docs/record.schema.json, from the types of the run record."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lorahub.records import RunRecord
from lorahub.reports import tables

Schema = Mapping[str, Any]

# What the keys of a mapping stand for, from the outer to the inner one.
KEYS = {
    "packages": "PACKAGE", "reasons": "CHOICE", "sha256": "SPLIT", "rows": "SPLIT", "dropped_rows": "SPLIT",
    "baselines": "SYSTEM", "results": "SPLIT.SYSTEM", "per_label": "LABEL", "interval": "METRIC",
    "paired": "OTHER.METRIC", "files": "FILE",
}  # fmt: skip
# Objects that are described in one row.
ONE_ROW = ("happened.rank",)
# Fields that other files have, and a record does not.
ABSENT = ("environment.calibration.split",)
_TYPES = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "null": "null"}
_PLURALS = {"integer": "whole numbers", "number": "numbers", "string": "texts"}


def schema() -> dict[str, Any]:
    """Return the JSON schema of a record."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **RunRecord.model_json_schema(mode="validation"),
        "title": "lorahub run record",
    }


def schema_text() -> bytes:
    """Return docs/record.schema.json."""
    return (json.dumps(schema(), indent=1, ensure_ascii=False) + "\n").encode()


def table(*sections: str) -> str:
    """Return the table of the fields below some keys of a record."""
    whole = schema()
    rows = [
        (f"`{path}`", kind, meaning)
        for name in sections
        for path, kind, meaning in _rows(name, whole["properties"][name], whole["$defs"])
    ]
    return tables.markdown(("field", "type", "meaning"), rows).replace("---:", "---")


def _rows(path: str, node: Schema, types: Schema) -> Iterator[tuple[str, str, str]]:
    if path in ABSENT:
        return
    if path == "asked":
        yield (
            "asked.SECTION.FIELD",
            "as in [configuration.md](configuration.md)",
            ("resolved configuration; a folder or file is named by its last part only"),
        )
        return
    inner, nullable = _resolve(node, types)
    if path in ONE_ROW:
        parts = "; ".join(f"`{name}`: {part['description']}" for name, part in inner["properties"].items())
        yield path, "object or null", f"{node['description']}. {parts}"
    elif "properties" in inner:
        for name, part in inner["properties"].items():
            yield from _rows(f"{path}.{name}", part, types)
    elif inner["type"] == "object":
        keys = KEYS[path.rpartition(".")[2]]
        value = inner["additionalProperties"]
        for _ in keys.split(".")[1:]:
            value = value["additionalProperties"]
        yield from _rows(f"{path}.{keys}", {"description": node.get("description", ""), **value}, types)
    elif inner["type"] == "array" and "properties" in _resolve(inner.get("items", {}), types)[0]:
        yield from _rows(f"{path}[]", inner["items"], types)
    else:
        yield path, _kind(inner) + (" or null" if nullable else ""), node["description"]


def _resolve(node: Schema, types: Schema) -> tuple[Schema, bool]:
    """Return the schema behind references, and whether null is allowed beside it."""
    options = node.get("anyOf", [node])
    node = next(option for option in options if option.get("type") != "null")
    if "$ref" in node:
        node = types[node["$ref"].rpartition("/")[2]]
    return node, len(options) > 1


def _kind(node: Schema) -> str:
    if node["type"] != "array":
        return _TYPES[node["type"]]
    if "prefixItems" in node:
        return "low, high"
    items = node["items"]
    return (
        f"list of lists of {_PLURALS[items['items']['type']]}"
        if "items" in items
        else f"list of {_PLURALS[items['type']]}"
    )
