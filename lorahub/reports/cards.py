"""The card: README.md of a run folder, written from its record alone.

Out: Markdown with front matter, ready to publish. Text that a person writes around the marked sections is kept by
`sections.merge`. `lorahub verify` compares the verdict, the tables and the comparisons of a card with a new one, so
their wording stays the same between versions.
"""

import json
from pathlib import Path
from string import Template

from lorahub import config, records
from lorahub.records import RunRecord
from lorahub.reports import metadata, tables
from lorahub.stats.results import SystemResult

_TEMPLATE = Path(__file__).parent.parent / "templates" / "card.md"
# A recall measured on fewer claims has an interval wider than about +-15 points.
_SMALL_CLASS = 50
_LOW_RECALL = 0.3
_OFTEN_CONFUSED = 0.3
_HIGH_ECE = 0.1
# The start of the summary by method.
_METHODS = {
    "lora": "A LoRA adapter for",
    "qlora": "A QLoRA adapter for",
    "dora": "A DoRA adapter for",
    "rslora": "A rank-stabilized LoRA adapter for",
    "prompt": "A soft prompt (prompt tuning) for",
    "prefix": "A prefix (prefix tuning) for",
    "p-tuning": "A soft prompt (P-tuning) for",
    "ia3": "An (IA)3 adapter for",
    "full": "A full fine-tuning of",
    "linear-probe": "A classification head on the frozen base",
}
# How choices and figures of a run are related, by the split of the figures.
_CHOSEN = {
    "test": "was made on validation",
    "validation": "was made on the same claims, since no test split was held out: the figures are too good",
}
EXAMPLE = "Vitamin D supplements cut the risk of respiratory infections by a third."
EXAMPLE_EVIDENCE = "A review of 25 trials found fewer infections among people who took vitamin D every day."


def render(
    record: RunRecord, *, repo: str | None = None, licence: str | None = None, language: str | None = None
) -> str:
    """Return the card; its snippets load the adapter from `repo`, or from the folder of the card.

    `licence` and `language` are Hub ids such as mit and en; see `metadata.card_data` for the defaults. Raises
    AdapterError if the record lacks what a card shows.
    """
    with records.shown(record):
        return _render(record, repo, licence, language)


def _render(record: RunRecord, repo: str | None, licence: str | None, language: str | None) -> str:
    front_matter = metadata.card_data(record, licence=licence, language=language)
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        front_matter=f"{front_matter.to_yaml(line_break=chr(10))}\n",
        name=record.name,
        summary=_summary(record, english=front_matter.language == "en"),
        verdict=tables.verdict(record),
        split=record.scored_split,
        chosen=_CHOSEN[record.scored_split],
        labels="\n".join(f"{index}. `{name}`" for index, name in enumerate(record.labels)),
        results=tables.markdown(tables.results_header(record), tables.results(record)),
        confidence=f"{record.config.eval.confidence:.0%}",
        calibrated=(
            "; only the adapter's probabilities are calibrated"
            if tables.results_header(record) == tables.HEADER
            else ", without and with a temperature fitted on validation"
        ),
        comparisons=_bullets(list(tables.comparisons(record).values())),
        per_label=tables.markdown(tables.LABEL_HEADER, tables.per_label(record)),
        curve="![Learning curve](plots/curve.png)" if record.progress.curve else "",
        abstaining=_abstaining(record),
        training=_bullets(_training(record)),
        data=_data(record),
        limits=_bullets(_limits(record)),
        **_snippets(record, repo),
    )


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _summary(record: RunRecord, *, english: bool) -> str:
    labels = ", ".join(f"`{name}`" for name in record.labels)
    return (
        f"{_METHODS[record.config.adapter.method]} `{record.environment.base_id}` that sorts "
        f"{'English claims' if english else 'claims'} into {labels}. It was trained with lorahub on "
        f"`{record.environment.data.id}`. It is for people who sort many claims before somebody reads them. It reads "
        "the wording of a claim and looks nothing up, so its answer is a reason to check, not a fact, and no ground "
        "for removing or ranking what somebody said."
    )


def _abstaining(record: RunRecord) -> str:
    """Return the section on the abstention threshold; empty for an older record."""
    adapter, options = record.adapter(), record.config.eval
    if adapter.selective is None:
        return ""
    lines = [tables.abstaining(adapter.selective)]
    if adapter.selective.threshold is not None:
        lines.append(
            f"The threshold was chosen on validation, so that on similar claims at most {options.abstain_risk:.0%} of "
            f"the answers are wrong, with certainty {options.confidence:.0%} (selection with guaranteed risk, Geifman "
            "and El-Yaniv 2017). Below it lorahub marks the label: a person should decide."
        )
    lines.append(
        f"The area under the risk-coverage curve is {adapter.selective.aurc:.3f}; an uninformative confidence gives "
        f"the share of wrong answers, {1 - adapter.accuracy:.3f}."
    )
    return f"\n### Abstaining\n\n{' '.join(lines)}\n\n![Risk and coverage](plots/coverage.png)\n"


def _training(record: RunRecord) -> list[str]:
    progress, environment, train = record.progress, record.environment, record.config.train
    trained, total = progress.trainable_parameters, progress.total_parameters
    revision = environment.base_revision
    changed = ", ".join(f"`{name}={value}`" for name, value in config.differences(record.config).items())
    return [
        f"{trained:,} of {total:,} parameters trained ({trained / total:.1%})",
        f"{progress.steps:,} steps, {progress.epochs:.1f} epochs, {progress.seconds:.0f} s on {environment.device}; "
        f"kept step {progress.best_step:,} by validation {train.metric}",
        *([f"rank {progress.rank.trained} trained, kept {progress.rank.why}"] if progress.rank else []),
        f"base `{environment.base_id}`, {f'revision `{revision}`' if revision else 'a folder without a revision'}, "
        f"seed {train.seed}",
        f"settings that differ from lorahub's defaults: {changed or 'none'}",
    ]


def _data(record: RunRecord) -> str:
    data, named = record.environment.data, metadata.named_set(record)
    rows = [(split, f"{data.rows[split]:,}", f"`{digest}`") for split, digest in data.sha256.items()]
    revision = f", revision `{data.revision}`" if data.revision else ""
    origin = f" On the Hub: [{named.hub_id}](https://hf.co/datasets/{named.hub_id})." if named and named.hub_id else ""
    return (
        f"`{data.id}` ({data.kind}{revision}).{origin} The sha256 of a split covers its texts and label names in order "
        f"and does not depend on the file format.\n\n{tables.markdown(('split', 'claims', 'sha256'), rows)}"
    )


def _limits(record: RunRecord) -> list[str]:
    """Return sentences that follow from the figures on test."""
    adapter = record.adapter()
    lines = []
    for index, name in enumerate(record.labels):
        row = adapter.per_label[name]
        if row.support < _SMALL_CLASS:
            lines.append(f"`{name}` has {row.support} test claims: its recall of {row.recall:.2f} is uncertain.")
        if row.recall < _LOW_RECALL:
            lines.append(f"It finds {row.recall:.0%} of the `{name}` claims: absence of that answer means little.")
        lines += _confused(record.labels, index, adapter)
    if adapter.ece > _HIGH_ECE:
        lines.append(f"Confidence is off by {adapter.ece:.2f} on average: do not read it as a probability.")
    if adapter.truncated:
        lines.append(f"On test: {tables.truncation(adapter.truncated)}")
    selective, risk = adapter.selective, record.config.eval.abstain_risk
    if selective and selective.threshold is not None and selective.accuracy is not None:
        wrong = 1 - selective.accuracy
        if wrong > risk:
            lines.append(f"Where it does not abstain, {wrong:.0%} of test answers are wrong; the limit was {risk:.0%}.")
    lines += [f"Reported during training: {text}" for text in record.progress.warnings]
    return [
        *lines,
        "It classifies wording, not truth; it is untested on topics, years and languages other than those of its "
        "training data.",
    ]


def _confused(labels: list[str], index: int, adapter: SystemResult) -> list[str]:
    """Return a sentence if a large share of a label's claims gets the same wrong label."""
    answers = adapter.confusion[index]
    wrong = max((other for other in range(len(labels)) if other != index), key=lambda other: answers[other])
    if not sum(answers) or answers[wrong] / sum(answers) < _OFTEN_CONFUSED:
        return []
    return [f"It calls {answers[wrong]} of {sum(answers)} `{labels[index]}` claims `{labels[wrong]}`."]


def _snippets(record: RunRecord, repo: str | None) -> dict[str, str]:
    """Return the values of the template's code snippets."""
    environment, settings = record.environment, record.config
    has_evidence = settings.data.evidence is not None
    packages, package_imports, load = _load_model(record, repo or ".")
    imports = ["import json", "", "import torch", *(["from huggingface_hub import hf_hub_download"] if repo else [])]
    imports += [*package_imports, "from transformers import AutoModelForSequenceClassification, AutoTokenizer"]
    labels_file = f'hf_hub_download("{repo}", "labels.json")' if repo else '"labels.json"'
    notes = []
    if environment.calibration.bias:
        notes.append("The labels in the table add the bias in `calibration.json` to these logits before the arg max.")
    if settings.base.quantize != "none":
        reason = environment.reasons["quantize"]
        notes.append(f"It was trained on a 4-bit base ({reason}). On the unquantized base, as above, answers differ.")
    if environment.base_origin == "folder" and not environment.base_revision:
        notes.append(f"`{environment.base_id}` was a folder on the training machine: replace it by its path.")
    return {
        "example": EXAMPLE,
        "second_flag": f' --evidence "{EXAMPLE_EVIDENCE}"' if has_evidence else "",
        "second_text": f'["{EXAMPLE_EVIDENCE}"], ' if has_evidence else "",
        "truncation": 'truncation="only_second"' if has_evidence else "truncation=True",
        # The reason starts with the resolved length, which the base may limit.
        "max_length": environment.reasons.get("max_length", str(settings.base.max_length)).split()[0],
        "adapter": repo or ".",
        "where": "" if repo else ", from this folder",
        "base_flag": f" --base {environment.base_id}" if repo else "",
        "imports": "\n".join(imports),
        "read_labels": f'with open({labels_file}, encoding="utf-8") as file:\n    labels = json.load(file)',
        "alone": packages,
        "load": load,
        "notes": "".join(f"\n{note}\n" for note in notes).rstrip("\n"),
    }


def _load_model(record: RunRecord, adapter: str) -> tuple[str, list[str], str]:
    """Return the packages that the snippet needs, their imports, and the lines that create `model`."""
    method, revision = record.config.adapter.method, record.environment.base_revision
    if method == "full":
        return "transformers", [], f'model = AutoModelForSequenceClassification.from_pretrained("{adapter}").eval()'
    lines = [
        "base = AutoModelForSequenceClassification.from_pretrained(",
        f'    "{record.environment.base_id}",',
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
    lines.append(f'model = PeftModel.from_pretrained(base, "{adapter}").eval()')
    return "transformers and peft", ["from peft import PeftModel"], "\n".join(lines)
