"""The front matter of a card: metadata for search on the Hub, and the figures in the Hub's format.

Out: `ModelCardData` with one `EvalResult` per metric. The keys are documented at
https://huggingface.co/docs/hub/model-cards and https://huggingface.co/docs/hub/model-cards#evaluation-results.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lorahub.data import named as known
from lorahub.data.named import NamedSet
from lorahub.records import RunRecord

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

_TASK = "text-classification"
# By key in the record: the Hub's metric (https://hf.co/metrics), its name, and its arguments.
METRICS: dict[str, tuple[str, str, dict[str, str] | None]] = {
    "accuracy": ("accuracy", "Accuracy", None),
    "f1_macro": ("f1", "Macro F1", {"average": "macro"}),
    "f1_weighted": ("f1", "Weighted F1", {"average": "weighted"}),
    "ece": ("ece", "Expected calibration error", None),
}

# Keys that follow from the record alone; license, language, tags and other keys of the author are kept.
WRITTEN = ("library_name", "base_model", "base_model_relation", "pipeline_tag", "datasets", "metrics", "label_names",
           "model-index")  # fmt: skip


_LORA = ("lora", "qlora", "dora", "rslora")


def card_data(
    record: RunRecord, *, licence: str | None = None, language: str | None = None, examples: Sequence[str] = ()
) -> "ModelCardData":
    """Return the front matter; `examples` are claims to try on the page of the Hub.

    The default of `language` is that of the named data set. `licence` has none: the license of data is not that of a
    model that was trained on it.
    """
    from huggingface_hub import ModelCardData

    data, named, method = record.environment.data, named_set(record), record.config.adapter.method
    return ModelCardData(
        model_name=record.name,
        library_name="transformers" if method == "full" else "peft",
        base_model=record.environment.base_id,
        base_model_relation="finetune" if method == "full" else "adapter",
        pipeline_tag=_TASK,
        datasets=[data_id(record)] if data.kind == "hub" or (named and named.hub_id) else None,
        language=language or (named.language if named else None),
        license=licence,
        metrics=["accuracy", "f1"],
        tags=[*dict.fromkeys([*(["lora"] if method in _LORA else []), method]), "lorahub", _TASK],
        label_names=record.labels,
        widget=[{"text": text} for text in examples] or None,
        eval_results=[result for split in record.results for result in _results(record, split)],
    )


def named_set(record: RunRecord) -> NamedSet | None:
    """Return the named data set of the record, by name or Hub id, or None."""
    return known.named_set(record.environment.data.id)


def data_id(record: RunRecord) -> str:
    """Return the Hub id of the data if it has one, else the recorded name."""
    named = named_set(record)
    return named.hub_id if named and named.hub_id else record.environment.data.id


def _results(record: RunRecord, split: str) -> list["EvalResult"]:
    from huggingface_hub import EvalResult

    data, adapter = record.environment.data, record.results[split].get("adapter")
    if adapter is None:
        return []
    return [
        EvalResult(
            task_type=_TASK,
            dataset_type=data_id(record),
            dataset_name=data.id,
            dataset_split=split,
            dataset_revision=data.revision,
            metric_type=kind,
            metric_name=name,
            metric_args=arguments,
            metric_value=round(adapter.metric(key), 6),
        )
        for key, (kind, name, arguments) in METRICS.items()
    ]
