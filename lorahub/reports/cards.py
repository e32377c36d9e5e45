"""The card: README.md of a run folder, written from its record and nothing else.

In: a RunRecord. Out: Markdown with front matter. Nobody types a number into a card.
"""

from pathlib import Path
from string import Template
from typing import Any

import yaml

from lorahub import config
from lorahub.records import RunRecord
from lorahub.reports import tables

_TEMPLATE = Path(__file__).parent.parent / "templates" / "card.md"
# A recall measured on fewer claims than this has an interval wider than about +-15 points.
_SMALL_CLASS = 50
_HIGH_ECE = 0.1
EXAMPLE = "Vitamin D supplements cut the risk of respiratory infections by a third."


def render(record: RunRecord) -> str:
    """Return the whole card."""
    adapter = record.results["test"]["adapter"]
    environment = record.environment
    asked = config.from_dict(record.asked)
    revision = environment.get("base_revision")
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        front_matter=yaml.safe_dump(_front_matter(record), sort_keys=False, allow_unicode=True),
        name=record.name,
        summary=_summary(record),
        verdict=tables.verdict(record),
        labels="\n".join(f"{index}. `{name}`" for index, name in enumerate(record.labels)),
        results=tables.markdown(tables.HEADER, tables.results(record)),
        confidence=f"{asked.eval.confidence:.0%}",
        comparisons="\n".join(f"- {tables.sentence(item)}" for item in tables.comparisons(record)),
        per_label=tables.markdown(("label", "precision", "recall", "F1", "claims"), tables.per_label(record)),
        curve="![Learning curve](plots/curve.png)" if record.happened.get("curve") else "",
        training=_training(record, asked),
        data=_data(environment["data"]),
        limits="\n".join(f"- {line}" for line in _limits(record, adapter)),
        example=EXAMPLE,
        base_id=environment["base_id"],
        base_revision=repr(revision) if revision else "None",
        bias_note=_bias_note(environment),
    )


def _front_matter(record: RunRecord) -> dict[str, Any]:
    data = record.environment["data"]
    matter: dict[str, Any] = {
        "library_name": "peft",
        "base_model": record.environment["base_id"],
        "base_model_relation": "adapter",
        "pipeline_tag": "text-classification",
        "language": "en",
        "metrics": ["accuracy", "f1"],
        "tags": ["lora", "lorahub", "text-classification"],
    }
    if data["kind"] == "hub":
        matter["datasets"] = [data["id"]]
    return matter


def _summary(record: RunRecord) -> str:
    environment, names = record.environment, ", ".join(record.labels)
    return (
        f"A {record.asked['adapter']['method']} adapter for `{environment['base_id']}` that sorts English claims into "
        f"{names}. It was trained with lorahub on `{environment['data']['id']}`; it reads the wording of a claim and "
        "looks nothing up, so its answer is a reason to check, not a fact."
    )


def _training(record: RunRecord, asked: config.Config) -> str:
    happened = record.happened
    changed = config.differences(asked)
    lines = [
        f"- {happened['trainable_parameters']:,} of {happened['total_parameters']:,} parameters trained "
        f"({happened['trainable_parameters'] / happened['total_parameters']:.1%})",
        f"- {happened['steps']:,} steps, {happened['epochs']:.1f} epochs, {happened['seconds']:.0f} s on "
        f"{record.environment['device']}; kept step {happened['best_step']:,} by validation {asked.train.metric}",
        f"- base revision `{record.environment.get('base_revision')}`, seed {asked.train.seed}",
        "- settings that differ from lorahub's defaults: "
        + (", ".join(f"`{name}={value}`" for name, value in changed.items()) or "none"),
    ]
    return "\n".join(lines)


def _data(data: dict[str, Any]) -> str:
    rows = [(name, f"{data['rows'][name]:,}", f"`{digest}`") for name, digest in data["sha256"].items()]
    revision = f", revision `{data['revision']}`" if data["revision"] else ""
    table = tables.markdown(("split", "claims", "sha256"), rows)
    return f"`{data['id']}` ({data['kind']}{revision}).\n\n{table}"


def _limits(record: RunRecord, adapter: dict[str, Any]) -> list[str]:
    lines = []
    for name, row in adapter["per_label"].items():
        if row["support"] < _SMALL_CLASS:
            lines.append(f"`{name}` has {row['support']} test claims: its recall of {row['recall']:.2f} is uncertain.")
        if row["recall"] < 0.3:
            lines.append(f"It finds {row['recall']:.0%} of the `{name}` claims: absence of that answer means little.")
    if adapter["ece"] > _HIGH_ECE:
        lines.append(f"Confidence is off by {adapter['ece']:.2f} on average: do not read it as a probability.")
    lines += [f"Reported while training: {text}" for text in record.happened.get("warnings", [])]
    lines.append("It judges wording, not truth; other topics, years and languages than the training data are untested.")
    return lines


def _bias_note(environment: dict[str, Any]) -> str:
    if not environment.get("calibration", {}).get("bias"):
        return ""
    return "\nThe table's labels add the bias in `calibration.json` to these logits before the arg max.\n"
