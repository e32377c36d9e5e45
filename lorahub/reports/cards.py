"""The card: README.md of a run folder, written from its record and nothing else.

In: a RunRecord. Out: Markdown with front matter, publishable as it is. Nobody types a number into a card; what a person
writes around the marked sections is kept by `sections.merge`.
"""

import json
from pathlib import Path
from string import Template

from lorahub import config
from lorahub.records import Environment, RunRecord
from lorahub.reports import metadata, tables
from lorahub.stats.results import SelectiveResult

_TEMPLATE = Path(__file__).parent.parent / "templates" / "card.md"
# A recall measured on fewer claims than this has an interval wider than about +-15 points.
_SMALL_CLASS = 50
_LOW_RECALL = 0.3
_OFTEN_MIXED_UP = 0.3
_HIGH_ECE = 0.1
# How a summary begins, by method.
_METHODS = {
    "lora": "A LoRA adapter for",
    "qlora": "A QLoRA adapter for",
    "dora": "A DoRA adapter for",
    "rslora": "A rank-stabilised LoRA adapter for",
    "prompt": "A soft prompt (prompt tuning) for",
    "prefix": "A prefix (prefix tuning) for",
    "p-tuning": "A soft prompt (P-tuning) for",
    "ia3": "An (IA)3 adapter for",
    "full": "A full fine-tuning of",
    "linear-probe": "A classification head on the frozen base",
}
EXAMPLE = "Vitamin D supplements cut the risk of respiratory infections by a third."
EXAMPLE_EVIDENCE = "A review of 25 trials found fewer infections among people who took vitamin D every day."


def render(
    record: RunRecord, *, repo: str | None = None, licence: str | None = None, language: str | None = None
) -> str:
    """Return the whole card; its snippets load the adapter from `repo`, or from the card's own folder without one.

    `licence` and `language` are Hub ids such as mit and en; without them those of a named data set stand.
    """
    found = metadata.card_data(record, licence=licence, language=language)
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        front_matter=f"{found.to_yaml(line_break=chr(10))}\n",
        name=record.name,
        summary=_summary(record, english=found.language == "en"),
        verdict=tables.verdict(record),
        labels="\n".join(f"{index}. `{name}`" for index, name in enumerate(record.labels)),
        results=tables.markdown(tables.HEADER, tables.results(record)),
        confidence=f"{record.config.eval.confidence:.0%}",
        comparisons="\n".join(f"- {tables.sentence(item)}" for item in tables.comparisons(record)),
        per_label=tables.markdown(("label", "precision", "recall", "F1", "claims"), tables.per_label(record)),
        curve="![Learning curve](plots/curve.png)" if record.progress.curve else "",
        abstaining=_abstaining(record),
        training=_training(record),
        data=_data(record),
        limits="\n".join(f"- {line}" for line in _limits(record)),
        **_use(record, repo),
    )


def _summary(record: RunRecord, *, english: bool) -> str:
    environment, names = record.environment, ", ".join(f"`{name}`" for name in record.labels)
    claims = "English claims" if english else "claims"
    method = record.config.adapter.method
    return (
        f"{_METHODS[method]} `{environment.base_id}` that sorts {claims} into "
        f"{names}. It was trained with lorahub on `{environment.data.id}`. It is for people who sort many claims "
        "before somebody reads them. It reads the wording of a claim and looks nothing up, so its answer is a reason "
        "to check, not a fact, and no ground for removing or ranking what somebody said."
    )


def _abstaining(record: RunRecord) -> str:
    """What the threshold does on test, with the curve of all others; nothing for an older record."""
    adapter, options = record.adapter(), record.config.eval
    if adapter.selective is None:
        return ""
    lines = [tables.abstaining(adapter.selective)]
    if adapter.selective.threshold is not None:
        lines.append(
            "The threshold was chosen on validation, so that on claims like those at most "
            f"{options.abstain_risk:.0%} of the answers are wrong, with certainty {options.confidence:.0%} "
            "(selection with guaranteed risk, Geifman and El-Yaniv 2017). Below it lorahub shows the label with a "
            "mark: a person should decide."
        )
    lines.append(
        f"The area under the risk-coverage curve is {adapter.selective.aurc:.3f}; a confidence that says nothing "
        f"gives the share of wrong answers, {1 - adapter.accuracy:.3f}."
    )
    return f"\n### Abstaining\n\n{' '.join(lines)}\n\n![Risk and coverage](plots/coverage.png)\n"


def _training(record: RunRecord) -> str:
    progress, settings = record.progress, record.config.train
    changed = config.differences(record.config)
    lines = [
        f"- {progress.trainable_parameters:,} of {progress.total_parameters:,} parameters trained "
        f"({progress.trainable_parameters / progress.total_parameters:.1%})",
        f"- {progress.steps:,} steps, {progress.epochs:.1f} epochs, {progress.seconds:.0f} s on "
        f"{record.environment.device}; kept step {progress.best_step:,} by validation {settings.metric}",
        *([f"- rank {progress.rank.trained} trained, kept {progress.rank.why}"] if progress.rank else []),
        f"- base `{record.environment.base_id}`, {_revision(record)}, seed {settings.seed}",
        "- settings that differ from lorahub's defaults: "
        + (", ".join(f"`{name}={value}`" for name, value in changed.items()) or "none"),
    ]
    return "\n".join(lines)


def _revision(record: RunRecord) -> str:
    revision = record.environment.base_revision
    return f"revision `{revision}`" if revision else "a folder without a revision"


def _data(record: RunRecord) -> str:
    data, named = record.environment.data, metadata.named_set(record)
    rows = [(name, f"{data.rows[name]:,}", f"`{digest}`") for name, digest in data.sha256.items()]
    revision = f", revision `{data.revision}`" if data.revision else ""
    hub_id = named.hub_id if named else None
    origin = f" The Hub has it as [{hub_id}](https://hf.co/datasets/{hub_id})." if hub_id else ""
    table = tables.markdown(("split", "claims", "sha256"), rows)
    return (
        f"`{data.id}` ({data.kind}{revision}).{origin} A split's sha256 covers its texts and label names in "
        f"order, whatever the file's format.\n\n{table}"
    )


def _limits(record: RunRecord) -> list[str]:
    """Return sentences that follow from the figures."""
    lines, adapter = [], record.adapter()
    for place, (name, row) in enumerate(adapter.per_label.items()):
        if row.support < _SMALL_CLASS:
            lines.append(f"`{name}` has {row.support} test claims: its recall of {row.recall:.2f} is uncertain.")
        if row.recall < _LOW_RECALL:
            lines.append(f"It finds {row.recall:.0%} of the `{name}` claims: absence of that answer means little.")
        lines += _mixed_up(record.labels, place, adapter.confusion[place])
    if adapter.ece > _HIGH_ECE:
        lines.append(f"Confidence is off by {adapter.ece:.2f} on average: do not read it as a probability.")
    lines += _too_many_wrong(record, adapter.selective)
    lines += [f"Reported while training: {text}" for text in record.progress.warnings]
    lines.append("It judges wording, not truth; other topics, years and languages than the training data are untested.")
    return lines


def _mixed_up(labels: list[str], place: int, answers: list[int]) -> list[str]:
    """A sentence where one wrong label takes a large share of a label's claims."""
    wrong = max((other for other in range(len(labels)) if other != place), key=lambda other: answers[other])
    if not sum(answers) or answers[wrong] / sum(answers) < _OFTEN_MIXED_UP:
        return []
    return [f"It calls {answers[wrong]} of {sum(answers)} `{labels[place]}` claims `{labels[wrong]}`."]


def _too_many_wrong(record: RunRecord, selective: SelectiveResult | None) -> list[str]:
    """A sentence where the threshold keeps on test what it was chosen for less well than asked."""
    if selective is None or selective.threshold is None or selective.accuracy is None:
        return []
    wrong, limit = 1 - selective.accuracy, record.config.eval.abstain_risk
    if wrong <= limit:
        return []
    return [f"Where it does not abstain, {wrong:.0%} of its test answers are wrong; {limit:.0%} was asked for."]


def _load(method: str, environment: Environment, place: str) -> tuple[str, list[str], str]:
    """What the snippet needs beside transformers, in words and as imports, and its lines that make `model`."""
    if method == "full":
        return "transformers", [], f'model = AutoModelForSequenceClassification.from_pretrained("{place}").eval()'
    revision = environment.base_revision
    lines = [
        "base = AutoModelForSequenceClassification.from_pretrained(",
        f'    "{environment.base_id}",',
        f"    revision={json.dumps(revision) if revision else None},",
        "    num_labels=len(labels),",
        "    id2label=dict(enumerate(labels)),",
        "    label2id={name: place for place, name in enumerate(labels)},",
        ")",
        "base.config.pad_token_id = tokenizer.pad_token_id",
    ]
    if method == "linear-probe":
        lines += ['base.load_state_dict(load_file("head.safetensors"), strict=False)', "model = base.eval()"]
        return "transformers and safetensors", ["from safetensors.torch import load_file"], "\n".join(lines)
    lines.append(f'model = PeftModel.from_pretrained(base, "{place}").eval()')
    return "transformers and peft", ["from peft import PeftModel"], "\n".join(lines)


def _use(record: RunRecord, repo: str | None) -> dict[str, str]:
    """What the snippets are filled with."""
    environment, settings = record.environment, record.config
    pair = settings.data.evidence is not None
    libraries = ["import json", "", "import torch"]
    libraries += ["from huggingface_hub import hf_hub_download"] if repo else []
    packages, modules, load = _load(settings.adapter.method, environment, repo or ".")
    libraries += [*modules, "from transformers import AutoModelForSequenceClassification, AutoTokenizer"]
    labels_file = f'hf_hub_download("{repo}", "labels.json")' if repo else '"labels.json"'
    notes = []
    if environment.calibration.bias:
        notes.append("The table's labels add the bias in `calibration.json` to these logits before the arg max.")
    if settings.base.quantize != "none":
        how = environment.reasons["quantize"]
        notes.append(f"It was trained on its base in 4 bits ({how}). On the whole base, as above, its answers differ.")
    if environment.base_origin == "folder" and not environment.base_revision:
        notes.append(f"`{environment.base_id}` was a folder on the machine that trained: give its path in its place.")
    return {
        "example": EXAMPLE,
        "second_flag": f' --evidence "{EXAMPLE_EVIDENCE}"' if pair else "",
        "second_text": f'["{EXAMPLE_EVIDENCE}"], ' if pair else "",
        "truncation": 'truncation="only_second"' if pair else "truncation=True",
        # The resolved length stands first in its reason; the base may take less than was asked for.
        "max_length": environment.reasons.get("max_length", str(settings.base.max_length)).split()[0],
        "adapter": repo or ".",
        "where": "" if repo else ", from this folder",
        "base_flag": f" --base {environment.base_id}" if repo else "",
        "imports": "\n".join(libraries),
        "read_labels": f'with open({labels_file}, encoding="utf-8") as file:\n    labels = json.load(file)',
        "alone": packages,
        "load": load,
        "notes": "".join(f"\n{note}\n" for note in notes).rstrip("\n"),
    }
