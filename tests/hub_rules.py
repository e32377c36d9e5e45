"""What the Hub refuses in the front matter of a model's or a Space's card, as its documentation says it.

Sources: huggingface.co/docs/hub/model-cards, hub/repositories-licenses, huggingface.co/tasks and the model-index
specification (github.com/huggingface/hub-docs, modelcard.md), for Spaces hub/spaces-config-reference. Shortened to
what the tests publish.
"""

import re

import yaml

LICENCES = {"apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "openrail", "gemma",
            "llama3.2", "bsd-3-clause", "gpl-3.0", "unknown", "other"}  # fmt: skip
TASKS = {"text-classification", "zero-shot-classification", "text-generation", "fill-mask", "sentence-similarity"}


def metadata_errors(card, kind="model"):
    """What the Hub refuses in the front matter of a card; that of a data set is not looked at."""
    matter = front_matter(card)
    if kind == "space":
        matter = dict.fromkeys(REQUIRED_OF_SPACES) | matter
    rules = SPACE_RULES if kind == "space" else MODEL_RULES if kind == "model" else {}
    return [
        f'"{key}" is not valid: {matter[key]!r}' for key, ok in rules.items() if key in matter and not ok(matter[key])
    ]


MODEL_RULES = {
    "license": lambda value: value in LICENCES,
    "pipeline_tag": lambda value: value in TASKS,
    "base_model": lambda value: all(re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) for name in listed(value)),
    "base_model_relation": lambda value: value in ("adapter", "finetune", "merge", "quantized"),
    "language": lambda value: all(re.fullmatch(r"[a-z]{2,3}", name) for name in listed(value)),
    "datasets": lambda value: all(re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) for name in listed(value)),
    "tags": lambda value: isinstance(value, list) and all(isinstance(tag, str) for tag in value),
    "model-index": lambda value: valid_index(value),
}
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
REQUIRED_OF_SPACES = ("title", "sdk", "emoji")
SPACE_RULES = {
    "title": lambda value: isinstance(value, str) and value,
    "emoji": lambda value: isinstance(value, str) and not value.isascii(),
    "colorFrom": lambda value: value in COLOURS,
    "colorTo": lambda value: value in COLOURS,
    "sdk": lambda value: value in ("gradio", "docker", "static"),
    "sdk_version": lambda value: isinstance(value, str) and re.fullmatch(r"\d+\.\d+\.\d+", value),
    "python_version": lambda value: isinstance(value, str) and re.fullmatch(r"3\.\d+(\.\d+)?", value),
    "short_description": lambda value: isinstance(value, str) and len(value) <= 60,
    "license": lambda value: value in LICENCES,
    "models": lambda value: all(re.fullmatch(r"[\w.-]+/[\w.-]+", name) for name in value),
    "tags": lambda value: isinstance(value, list) and all(isinstance(tag, str) for tag in value),
    # A repository, files by comma, a whole commit.
    "preload_from_hub": lambda value: all(re.fullmatch(r"\S+/\S+( \S+( [0-9a-f]{40})?)?", line) for line in value),
}


def valid_index(index):
    try:
        results = [result for model in index for result in model["results"] if model["name"]]
        return all(
            result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"]
            and all(metric["type"] and "value" in metric for metric in result["metrics"])
            for result in results
        )  # fmt: skip
    except (KeyError, TypeError):
        return False


def listed(value):
    return value if isinstance(value, list) else [value]


def front_matter(card):
    found = re.match(r"---\r?\n(.*?)\r?\n---(\r?\n|$)", card, re.S)
    return (yaml.safe_load(found.group(1)) if found else None) or {}
