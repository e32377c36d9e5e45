"""What the Hub refuses in the front matter of a model's or a Space's card, as its documentation says it.

Sources: huggingface.co/docs/hub/model-cards, the specification that it links (github.com/huggingface/hub-docs,
modelcard.md), and the lists of identifiers in `hub_lists.yaml`. The Hub only warns of an unknown pipeline tag; here it
is refused too, so that a test sees it.
"""

import functools
import json
import re
from pathlib import Path

import yaml

_LISTS = yaml.safe_load((Path(__file__).parent / "hub_lists.yaml").read_text("utf-8"))
LICENCES, TASKS, LANGUAGES = (frozenset(_LISTS[key].split()) for key in ("licences", "tasks", "languages"))
_ID = r"[\w.-]+(/[\w.-]+)?"
# key -> what each of its values must be
RULES = {
    "license": lambda value: value in LICENCES,
    "language": lambda value: value in LANGUAGES,
    "pipeline_tag": lambda value: value in TASKS,
    "base_model": lambda value: re.fullmatch(_ID, value),
    "base_model_relation": lambda value: value in ("adapter", "finetune", "merge", "quantized"),
    "datasets": lambda value: re.fullmatch(_ID, value),
    "metrics": lambda value: re.fullmatch(_ID, value),
    "library_name": lambda value: re.fullmatch(r"[\w.-]+", value),
    "tags": lambda value: bool(value),
}
MOST_VALUES = 1_000_000
LISTS = ("datasets", "metrics", "tags", "models", "preload_from_hub")
# Of a result in model-index: where its required values stand.
REQUIRED = (("task", "type"), ("dataset", "type"), ("dataset", "name"))


COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
REQUIRED_OF_SPACES = ("title", "sdk", "emoji")
SPACE_RULES = {
    "title": lambda value: bool(value),
    "emoji": lambda value: not value.isascii(),
    "colorFrom": lambda value: value in COLOURS,
    "colorTo": lambda value: value in COLOURS,
    "sdk": lambda value: value in ("gradio", "docker", "static"),
    "sdk_version": lambda value: re.fullmatch(r"\d+\.\d+\.\d+", value),
    "python_version": lambda value: re.fullmatch(r"3\.\d+(\.\d+)?", value),
    "short_description": lambda value: len(value) <= 60,
    "license": lambda value: value in LICENCES,
    "models": lambda value: re.fullmatch(r"[\w.-]+/[\w.-]+", value),
    "tags": lambda value: bool(value),
    # A repository, files by comma, a whole commit.
    "preload_from_hub": lambda value: re.fullmatch(r"\S+/\S+( \S+( [0-9a-f]{40})?)?", value),
}


def metadata_errors(card, kind="model"):
    """What the Hub refuses in the front matter of a card, one sentence each; a data set's is not looked at."""
    try:
        matter = front_matter(card)
    except yaml.YAMLError as error:
        return [f"Invalid YAML metadata: {str(error).splitlines()[0]}"]
    if not isinstance(matter, dict):
        return ["Invalid YAML metadata: it must be a mapping"]
    errors = [f'"{key}" is required' for key in REQUIRED_OF_SPACES if kind == "space" and key not in matter]
    for key, rule in {"model": RULES, "space": SPACE_RULES}.get(kind, {}).items():
        if key in matter and (key not in LISTS or isinstance(matter[key], list)):
            wrong = [value for value in listed(matter[key]) if not isinstance(value, str) or not rule(value)]
            errors += [f'"{key}" with value {value!r} is not valid' for value in wrong]
        elif key in matter:
            errors.append(f'"{key}" must be an array')
    return errors + (index_errors(matter["model-index"]) if kind == "model" and "model-index" in matter else [])


def index_errors(index):
    """What the specification of model-index refuses."""
    if not isinstance(index, list) or not all(isinstance(model, dict) for model in index):
        return ['"model-index" must be an array of models']
    errors = []
    for place, model in enumerate(index):
        at = f"model-index[{place}]"
        if not model.get("name"):
            errors.append(f'"{at}.name" is required')
        if not isinstance(model.get("results"), list):
            errors.append(f'"{at}.results" must be an array')
            continue
        for number, result in enumerate(model["results"]):
            where = f"{at}.results[{number}]"
            errors += [
                f'"{where}.{part}.{key}" is required' for part, key in REQUIRED if not (result.get(part) or {}).get(key)
            ]
            metrics = result.get("metrics") or [{}]
            errors += [
                f'"{where}.metrics[{order}].{key}" is required'
                for order, metric in enumerate(metrics)
                for key in ("type", "value")
                if metric.get(key) is None
            ]
            kind = (result.get("dataset") or {}).get("type")
            if kind and not re.fullmatch(_ID, str(kind)):
                errors.append(f'"{where}.dataset.type" with value {kind!r} is not valid')
    return errors


def listed(value):
    return value if isinstance(value, list) else [value]


def front_matter(card):
    found = re.match(r"---\r?\n(.*?)\r?\n---(\r?\n|$)", card, re.S)
    return (yaml.safe_load(found.group(1)) if found else None) or {}


@functools.cache
def shown_metadata(card):
    """Return the metadata that the Hub shows of a card: as JSON, and none where it is no JSON object or very large."""
    try:
        matter = front_matter(card)
        matter = (
            json.loads(json.dumps(matter, default=_text, allow_nan=False)) if _size(matter, {}) < MOST_VALUES else {}
        )
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return {}
    return matter if isinstance(matter, dict) else {}


def _text(value):
    return sorted(map(str, value)) if isinstance(value, set) else str(value)


def _size(value, known):
    """Return how many values JSON would repeat; `known` has the sizes by identity."""
    if id(value) not in known:
        items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, set)) else ()
        known[id(value)] = 1 + sum(_size(item, known) for item in items)
    return known[id(value)]
