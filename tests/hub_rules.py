"""What the Hub refuses in a model card's front matter, as its documentation says it.

Sources: huggingface.co/docs/hub/model-cards, hub/repositories-licenses, huggingface.co/tasks and the model-index
specification (github.com/huggingface/hub-docs, modelcard.md). Shortened to what the tests publish.
"""

import re

import yaml

LICENCES = {"apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "openrail", "gemma",
            "llama3.2", "bsd-3-clause", "gpl-3.0", "unknown", "other"}  # fmt: skip
TASKS = {"text-classification", "zero-shot-classification", "text-generation", "fill-mask", "sentence-similarity"}


def metadata_errors(card):
    """What the Hub refuses in a model card's front matter."""
    matter = front_matter(card)
    rules = {
        "license": lambda value: value in LICENCES,
        "pipeline_tag": lambda value: value in TASKS,
        "base_model": lambda value: all(re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) for name in listed(value)),
        "base_model_relation": lambda value: value in ("adapter", "finetune", "merge", "quantized"),
        "language": lambda value: all(re.fullmatch(r"[a-z]{2,3}", name) for name in listed(value)),
        "datasets": lambda value: all(re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) for name in listed(value)),
        "tags": lambda value: isinstance(value, list) and all(isinstance(tag, str) for tag in value),
        "model-index": valid_index,
    }
    return [
        f'"{key}" is not valid: {matter[key]!r}' for key, ok in rules.items() if key in matter and not ok(matter[key])
    ]


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
