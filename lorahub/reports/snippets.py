"""The code in a card: how to load the adapter with transformers and peft alone, and with lorahub.

In: a record, a claim of the probe and the repository. Out: the values of the card's template. Tests run the code.
"""

import json
import shlex

import numpy as np

from lorahub.records import RunRecord
from lorahub.reports import tables
from lorahub.runfiles import ProbeRow

EXAMPLE = "Vitamin D supplements cut the risk of respiratory infections by a third."
EXAMPLE_EVIDENCE = "A review of 25 trials found fewer infections among people who took vitamin D every day."


def values(record: RunRecord, row: ProbeRow | None, repo: str | None) -> dict[str, str]:
    """Return the values of the template's code snippets."""
    environment, settings = record.environment, record.config
    has_evidence = settings.data.evidence is not None
    packages, package_imports, load = _load_model(record, repo or ".")
    imports = ["import json", "", "import torch", *(["from huggingface_hub import hf_hub_download"] if repo else [])]
    imports += [*package_imports, "from transformers import AutoModelForSequenceClassification, AutoTokenizer"]
    labels_file = f'hf_hub_download("{repo}", "labels.json")' if repo else '"labels.json"'
    notes = []
    calibration = environment.calibration
    if calibration.temperature != 1:
        notes.append(
            "`logits.softmax(-1)` gives other probabilities than lorahub, which divides by a temperature that was "
            f"fitted on validation: `(logits / {calibration.temperature:.4g}).softmax(-1)`."
        )
    if environment.calibration.bias:
        notes.append("The labels in the table add the bias in `calibration.json` to these logits before the arg max.")
    if settings.base.quantize != "none":
        reason = environment.reasons["quantize"]
        notes.append(f"It was trained on a 4-bit base ({reason}). On the unquantized base, as above, answers differ.")
    if environment.base_origin == "folder" and not environment.base_revision:
        notes.append(f"`{environment.base_id}` was a folder on the training machine: replace it by its path.")
    claim = row.claim if row else EXAMPLE
    evidence = (row.evidence if row else None) or EXAMPLE_EVIDENCE
    at = f"@{environment.base_revision}" if environment.base_revision else ""
    answer = json.dumps(record.labels[int(np.argmax(row.logits))], ensure_ascii=False) if row else ""
    return {
        "example": json.dumps(claim, ensure_ascii=False),
        "shell_example": shlex.quote(claim),
        "answer": f"  # [{answer}]" if answer else "",
        "elsewhere": _elsewhere(record, repo or "."),
        "second_flag": f" --evidence {shlex.quote(evidence)}" if has_evidence else "",
        "second_text": f"[{json.dumps(evidence, ensure_ascii=False)}], " if has_evidence else "",
        "truncation": 'truncation="only_second"' if has_evidence else "truncation=True",
        # The reason starts with the resolved length, which the base may limit.
        "max_length": environment.reasons.get("max_length", str(settings.base.max_length)).split()[0],
        "adapter": repo or ".",
        "where": "" if repo else ", from this folder",
        "base_flag": f" --base {environment.base_id}{at}" if repo else "",
        "imports": "\n".join(imports),
        "read_labels": f'with open({labels_file}, encoding="utf-8") as file:\n    labels = json.load(file)',
        "alone": packages,
        "load": load,
        "notes": "".join(f"\n{note}\n" for note in notes),
    }


def _elsewhere(record: RunRecord, adapter: str) -> str:
    """Return which standard calls need the number and names of the labels, and the calls; empty without such."""
    if record.config.adapter.method in ("full", "linear-probe"):
        return ""
    pairs = (f"{index}: {json.dumps(name, ensure_ascii=False)}" for index, name in enumerate(record.labels))
    names = f"{{{', '.join(pairs)}}}"
    text = (
        "An adapter has no `config.json`, so calls that create its base themselves need `num_labels` and `id2label`; "
        "without them the head has two labels or the wrong names. They load the base's newest commit.\n\n"
        "```python\n"
        "from peft import AutoPeftModelForSequenceClassification\n"
        "from transformers import pipeline\n\n"
        f"id2label = {names}\n"
        'names = {"num_labels": len(id2label), "id2label": id2label, '
        '"label2id": {name: index for index, name in id2label.items()}}\n'
        f'model = AutoPeftModelForSequenceClassification.from_pretrained("{adapter}", **names)\n'
        f'classify = pipeline("text-classification", model="{adapter}", model_kwargs=names)\n'
        "```\n\n"
        "`PeftModel.from_pretrained` on a base with that many labels, as above, needs nothing else."
    )
    return tables.folded("Other calls of peft and transformers", text)


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
        head = '"head.safetensors"' if adapter == "." else f'hf_hub_download("{adapter}", "head.safetensors")'
        lines += [f"base.load_state_dict(load_file({head}), strict=False)", "model = base.eval()"]
        return "transformers and safetensors", ["from safetensors.torch import load_file"], "\n".join(lines)
    lines.append(f'model = PeftModel.from_pretrained(base, "{adapter}").eval()')
    return "transformers and peft", ["from peft import PeftModel"], "\n".join(lines)
