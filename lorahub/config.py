"""The configuration: five small sections, each field its own flag, recipe key, default and help text.

In: a YAML recipe and `section.field=value` overrides. Out: one frozen `Config`. A value is converted by its field's
type alone (YAML reads `2e-4` as a string and `no` as False), and the error about an unknown key names the nearest one.
"""

import dataclasses
import difflib
import functools
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from lorahub.errors import ConfigError, one_line
from lorahub.field_types import Flag, Number, Text, Texts, Whole, no_is_text
from lorahub.method_names import METHODS, RANKED, Method

AUTO = "auto"
# Rank that adapter.rank=auto trains before truncation: four times the default rank.
AUTO_RANK = 32
_LARGEST_SEED = 2**32 - 1  # of numpy's generator
# Larger than in any published adapter; hub/safety.py rejects files beyond.
LARGEST_RANK, LARGEST_ALPHA, LARGEST_PROMPT = 512, 1024, 1024


# Values by section and field, as recipes and records hold them.
Sections = dict[str, dict[str, JsonValue]]
# The JSON schema of a field.
Schema = dict[str, Any]

Quantization = Literal["none", "nf4"]


# One field, one line.
# fmt: off
@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the claims come from and which columns matter."""

    id: Annotated[Text, Field(description="A named set, a Hub data-set id, a folder with train/validation/test files, or one csv, tsv, json, jsonl, xlsx or parquet file. `auto`: pubhealth where it can be reached, else the shipped starter-wording; the log and the record say which.")] = "auto"
    revision: Annotated[Text | None, Field(description="Branch, tag or commit of a Hub data set.")] = None
    sheet: Annotated[Text | None, Field(description="Sheet of an xlsx file; by default the first one.")] = None
    claim: Annotated[Text | None, Field(description="Column with the text to classify: its name, the dotted name of a field in it (`meta.claim`), or its position from 1 on; by default the first of `claim`, `text`, `sentence`, `statement` and other names that is there (docs/data.md).")] = None
    label: Annotated[Text | None, Field(description="Column with the label, named in the same ways; by default the first of `label`, `gold_label`, `verdict`, `rating`, `veracity` and other names that is there (docs/data.md).")] = None
    evidence: Annotated[Text | None, Field(description="Column with a second text; claim and evidence become a sentence pair, of which only the evidence is truncated.")] = None
    group: Annotated[Text | None, Field(description="Column with the source of a claim, such as its author: where lorahub splits the data, no source is in two splits.")] = None
    date: Annotated[Text | None, Field(description="Column with the date of a claim (ISO 8601, or a number such as a year): where lorahub makes the test split, it holds the newest claims.")] = None
    labels: Annotated[Texts, Field(description="Label names in id order; by default the training labels in alphabetical order.")] = ()
    label_map: Annotated[dict[Text, Text], Field(description='Value in the file to label name, as in {"0": "false"}; other values keep their name.')] = field(default_factory=dict)
    drop_labels: Annotated[Texts, Field(description='Values of the label column whose rows are left out, as in ["-1"].')] = ()
    allow_leaking: Annotated[Flag, Field(description="Accept a claim or evidence column that is known to leak the label.")] = False
    validation_fraction: Annotated[Number, Field(description="Share of the rows for validation where the data has no such split.", gt=0, le=0.5)] = 0.1
    test_fraction: Annotated[Number, Field(description="Share of the rows for test where the data has no such split; `ClaimClassifier` also accepts 0, for none.", ge=0, le=0.5)] = 0.2
    train_rows: Annotated[Whole, Field(description="Number of training claims, drawn by split_seed and stratified by label; 0 uses all of them.", ge=0)] = 0
    split_seed: Annotated[Whole, Field(description="Seed of the stratified split; not the training seed, so that seeds share a test set.", ge=0, le=_LARGEST_SEED)] = 0


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """The frozen model under the adapter."""

    id: Annotated[Text, Field(description="Hub id or folder of the base model; `minilm` is the embedded all-MiniLM-L6-v2.")] = "minilm"
    revision: Annotated[Text | None, Field(description="Branch, tag or commit of a base on the Hub.")] = None
    max_length: Annotated[Whole, Field(description="Longest input in tokens; claims beyond are truncated.", ge=8)] = 128
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"], Field(description="Precision of the frozen weights.")] = "auto"
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], Field(description="Where to run.")] = "auto"
    quantize: Annotated[Quantization, Field(description="Keep the linear layers of the frozen base in 4 bits (nf4 with double quantization); the method qlora does so.")] = "none"


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What is trained. Rank, alpha (LoRA, arXiv:2106.09685, section 4.1), dropout, layers and init are of lora, qlora,
    dora and rslora; targets of these and ia3; prompt_tokens of prompt, prefix and p-tuning.
    """

    method: Annotated[Method, Field(description="How the base is adapted; the recipe of that name holds the method's own defaults.")] = "lora"
    rank: Annotated[Annotated[Whole, Field(ge=1, le=LARGEST_RANK)] | Literal["auto"], Field(description=f"Rank r of the update B·A; `auto` trains rank {AUTO_RANK} and cuts it to the smallest rank that validation cannot tell from it.")] = 8
    alpha: Annotated[Number, Field(description="Scale: the update is multiplied by alpha / rank.", gt=0, le=LARGEST_ALPHA)] = 16.0
    dropout: Annotated[Number, Field(description="Dropout on the input of A.", ge=0, le=0.95)] = 0.1
    targets: Annotated[Texts, Field(description="Linear layers to adapt: `all-linear`, or names such as q_proj, v_proj, mapped to the architecture's own.")] = ("all-linear",)
    layers: Annotated[Text, Field(description="Transformer layers with an adapter: `all`, or `last:N`, the top N of the base. With `last:N` training and serving compute the layers below once for all.", pattern="^(all|last:[1-9][0-9]{0,3})$", examples=["all", "last:N"])] = "all"
    init: Annotated[Literal["default", "gaussian", "pissa", "olora", "loftq"], Field(description="Start of A and B: peft's own, or pissa and olora (lora, rslora) and loftq (qlora); saved as plain LoRA.")] = "default"
    prompt_tokens: Annotated[Whole, Field(description="Virtual tokens in front of every claim.", ge=1, le=LARGEST_PROMPT)] = 20

    @property
    def trained_rank(self) -> int:
        """The rank that is trained, whatever is kept of it."""
        return self.rank if isinstance(self.rank, int) else AUTO_RANK

    @property
    def last_layers(self) -> int | None:
        """The number of top layers with an adapter; None for all layers."""
        return None if self.layers == "all" else int(self.layers.removeprefix("last:"))


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The optimization."""

    seed: Annotated[Whole, Field(description="Seed of initialization, order and dropout.", ge=0, le=_LARGEST_SEED)] = 0
    epochs: Annotated[Number, Field(description="Passes over the training claims.", gt=0)] = 4.0
    min_steps: Annotated[Whole, Field(description="Minimum number of optimizer steps; small data is repeated for more epochs to reach it.", ge=0)] = 120
    batch_size: Annotated[Whole, Field(description="Claims per forward pass and device.", ge=1)] = 32
    gradient_accumulation: Annotated[Whole, Field(description="Forward passes per optimizer step.", ge=1)] = 1
    optimizer: Annotated[Literal["auto", "adamw", "paged-adamw", "adamw8bit", "paged-adamw8bit"], Field(description="`auto` is AdamW, paged for qlora on a GPU; adamw8bit keeps its moments in 8 bits (bitsandbytes).")] = "auto"
    checkpointing: Annotated[Literal["auto", "always", "never"], Field(description="Compute activations again in the backward pass, which saves memory for time; `auto` does so for qlora.")] = "auto"
    learning_rate: Annotated[Number, Field(description="Peak learning rate of AdamW.", gt=0)] = 1e-3
    schedule: Annotated[Literal["cosine", "linear", "constant"], Field(description="Decay after the warm-up.")] = ("cosine")
    warmup: Annotated[Number, Field(description="Share of the steps during which the learning rate rises from 0.", ge=0, le=0.9)] = 0.1
    weight_decay: Annotated[Number, Field(description="AdamW's decoupled weight decay.", ge=0)] = 0.01
    max_grad_norm: Annotated[Number, Field(description="Gradient norm above which gradients are scaled down.", gt=0)] = 1.0
    class_weights: Annotated[Literal["none", "sqrt", "balanced"], Field(description="Weight of a label in the loss: none, 1/sqrt(frequency), or 1/frequency, with mean 1 over the training claims.")] = "sqrt"
    label_smoothing: Annotated[Number, Field(description="Share of the target spread evenly over all labels.", ge=0, le=0.9)] = 0.0
    mixed_precision: Annotated[Literal["auto", "no", "bf16", "fp16"], BeforeValidator(no_is_text), Field(description="Auto is bf16 on a GPU that computes in it, fp16 on an older one (compute capability below 8.0), for lora and rslora bf16 on a processor with bfloat16 matrix units, else none.")] = "auto"
    length_groups: Annotated[Flag, Field(description="Batch claims of similar length, to reduce padding.")] = True
    evaluate_every: Annotated[Whole, Field(description="Optimiser steps between evaluations on validation; 0 is twice an epoch, at most 10 in a run.", ge=0)] = 0
    metric: Annotated[Literal["f1_macro", "f1_weighted", "accuracy"], Field(description="Metric that chooses the checkpoint on validation, of the labels that the run gives.")] = "f1_macro"
    patience: Annotated[Whole, Field(description="Evaluations without a better metric after which training stops; 0 never stops early.", ge=0)] = 0


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How a model is evaluated."""

    batch_size: Annotated[Whole, Field(description="Claims per forward pass when scoring.", ge=1)] = 64
    bootstrap: Annotated[Whole, Field(description="Resamples behind every interval.", ge=100)] = 2000
    confidence: Annotated[Number, Field(description="Coverage of the intervals.", gt=0.5, le=0.999)] = 0.95
    margin: Annotated[Number, Field(description="Difference in a metric below which two models are equivalent: for adapter.rank=auto, and the default of `lorahub ranks` and `lorahub methods`.", gt=0, lt=1)] = 0.02
    adjust: Annotated[Flag, Field(description="Choose a bias per label on validation (logit adjustment) and decide with it, also when checkpoints, ranks and trials are compared.")] = True
    abstain_risk: Annotated[Number, Field(description="Largest share of wrong answers wanted where the adapter answers: a threshold of confidence is chosen on half of validation that holds it with certainty `eval.confidence`, and answers below it are marked; 0: none is.", ge=0, le=0.9)] = 0.2


# fmt: on


@dataclass(frozen=True, kw_only=True)
class Config:
    """The configuration of a run."""

    data: DataConfig = DataConfig()
    base: BaseConfig = BaseConfig()
    adapter: AdapterConfig = AdapterConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()


SECTIONS = {section.name: typing.cast(type, section.type) for section in dataclasses.fields(Config)}


def load(recipe: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Resolve a recipe file (or a shipped recipe's name) and `section.field=value` overrides, in that order.

    Raises ConfigError naming the recipe, the key and what was expected.
    """
    return from_dict(read(recipe, overrides))


def read(recipe: str | Path | None = None, overrides: Sequence[str] = ()) -> Sections:
    """Return what a recipe and overrides set, without defaults; see `load`."""
    values: Sections = {}
    if recipe is not None:
        path = _find_recipe(recipe)
        values = _read_recipe(path)
        try:
            from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
    for override in overrides:
        key, equals, text = override.partition("=")
        section, dot, name = key.strip().partition(".")
        if not equals or not dot:
            raise ConfigError(f"--set takes section.field=value, as in train.epochs=3; found {override!r}.")
        values.setdefault(section, {})[name] = _parse_yaml(text, f"--set {key.strip()}")
    return values


@functools.cache
def field_schemas(section: str) -> dict[str, Schema]:
    """Return the JSON schema of each field of a section: type, bounds, choices, default and description."""
    schemas: dict[str, Schema] = TypeAdapter(SECTIONS[section]).json_schema()["properties"]
    return schemas


def field_type(key: str) -> Any:
    """Return the plain type of a field by its dotted name; raises ConfigError that names the nearest field."""
    section, _, name = key.partition(".")
    _known(section, SECTIONS, "section")
    _known(name, field_schemas(section), "field", prefix=f"{section}.")
    return _TYPES[alternatives(field_schemas(section)[name])[0]["type"]][0]


def alternatives(schema: Schema) -> list[Schema]:
    """Return the schemas of what a field accepts, its main type first, without null."""
    return [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]


def flags(*, data: str | None, base: str | None, method: str | None, seed: int | None) -> list[str]:
    """Return the overrides of the short flags of the command line; flags that are not given are left out."""
    given = {"data.id": data, "base.id": base, "adapter.method": method, "train.seed": seed}
    return [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]


def from_dict(values: Mapping[str, Any]) -> Config:
    """Build a Config from nested mappings, such as a recipe or the `asked` part of a record.

    Missing fields come from the method's shipped recipe, then from the defaults.
    """
    resolved: Sections = {}
    defaults = _method_defaults(values)
    for section, given in {**dict.fromkeys(defaults, {}), **values}.items():
        _known(section, SECTIONS, "section")
        if not isinstance(given, Mapping):
            raise ConfigError(f"section {section!r} must hold field: value pairs; found {given!r}.")
        for name in given:
            _known(name, field_schemas(section), "field", prefix=f"{section}.")
        resolved[section] = {**defaults.get(section, {}), **given}
    try:
        config = _adapter().validate_python(resolved)
    except ValidationError as error:
        raise ConfigError(_problem(error.errors(include_url=False)[0])) from None
    _check_method(config.adapter)
    return config


@functools.cache
def _adapter() -> TypeAdapter[Config]:
    return TypeAdapter(Config)


def _known(key: Any, names: Mapping[str, Any], what: str, prefix: str = "") -> None:
    """Raise ConfigError with the nearest name if `key` is not among the names."""
    if key in names:
        return
    near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
    hint = f"Did you mean {prefix}{near[0]}?" if near else f"Known: {', '.join(names)}."
    raise ConfigError(f"there is no {what} {prefix}{key}. {hint}")


_BOUNDS = {"greater_than": "above", "greater_than_equal": "at least", "less_than_equal": "at most"}
# JSON type -> Python type, and its name in a message.
_TYPES: dict[str, tuple[Any, str]] = {
    "string": (str, "text (put it in quotes)"), "integer": (int, "a whole number"), "number": (float, "a number"),
    "boolean": (bool, "true or false"), "array": (tuple[str, ...], "a list"),
    "object": (dict[str, str], "a mapping, as in {a: b}"),
}  # fmt: skip


def _problem(error: ErrorDetails) -> str:
    """Return the message for a wrong value: the field, what it takes, and what was found."""
    section, name, *inner = map(str, error["loc"])
    schema, value = field_schemas(section)[name], error["input"]
    if error["type"] in _BOUNDS:
        (bound,) = error["ctx"].values()
        return f"{section}.{name} must be {_BOUNDS[error['type']]} {bound:.10g}; found {value}."
    if "enum" in schema:
        near = difflib.get_close_matches(str(value), schema["enum"], n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"{section}.{name} is one of {', '.join(schema['enum'])}; found {value!r}.{hint}"
    options = alternatives(schema)
    if inner and options[0]["type"] in ("array", "object"):
        options = [{"type": "string"}]
    types = [str(option.get("const") or _TYPES[option["type"]][1]) for option in options]
    expected = " or ".join(schema.get("examples", types))
    return f"{section}.{name} takes {expected}; found {value!r}."


def to_dict(config: Config) -> Sections:
    """Return the JSON form of a config."""
    sections: Sections = _adapter().dump_python(config, mode="json")
    return sections


def known_fields(values: Mapping[str, Any]) -> tuple[Sections, list[str]]:
    """Return the sections and fields that this version knows, and the dotted names of the others."""
    known = {name: section for name, section in values.items() if name in SECTIONS}
    unknown = [name for name in values if name not in SECTIONS]
    for name, section in known.items():
        if isinstance(section, Mapping):
            fields = {item.name for item in dataclasses.fields(SECTIONS[name])}
            known[name] = {key: value for key, value in section.items() if key in fields}
            unknown += [f"{name}.{key}" for key in section if key not in fields]
    return known, unknown


def first_difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """Return the first value on which two nested mappings differ: its dotted name, then, now; None if they agree."""
    for section, fields_now in now.items():
        for name, value in fields_now.items():
            old = then.get(section, {}).get(name)
            if old != value:
                return f"{section}.{name}", old, value
    return None


def published(config: Config, *, data_id: str, base_id: str) -> Config:
    """Return a config as run records hold it: with the ids of data and base in place of local paths."""
    return dataclasses.replace(
        config, data=dataclasses.replace(config.data, id=data_id), base=dataclasses.replace(config.base, id=base_id)
    )


def method_defaults(method: Method) -> Config:
    """Return the config of a method for which nothing else is set: its shipped recipe and the defaults."""
    return from_dict({"adapter": {"method": method}})


def differences(config: Config, defaults: Config | None = None) -> dict[str, JsonValue]:
    """Return the values that are not those of `defaults`, by dotted name; without it, of the fields' own defaults."""
    default = to_dict(defaults or Config())
    return {
        f"{section}.{name}": value
        for section, fields in to_dict(config).items()
        for name, value in fields.items()
        if value != default[section][name]
    }


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes in the package by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}


def _check_method(adapter: AdapterConfig) -> None:
    """Raise ConfigError if adapter.layers or adapter.rank=auto does not work with the method or the initialization."""
    for name, chosen in (("layers", adapter.last_layers is not None), ("rank", adapter.rank == AUTO)):
        if chosen and adapter.method not in RANKED:
            raise ConfigError(
                f"adapter.{name}={getattr(adapter, name)}: {adapter.method} has no {name} to choose. Leave it out, or "
                f"use {', '.join(RANKED)}."
            )
    if adapter.rank == AUTO and adapter.init in ("pissa", "olora"):
        raise ConfigError(
            f"adapter.rank=auto cannot truncate an adapter with adapter.init={adapter.init}: it is saved as a "
            "difference of two updates. Use another adapter.init, or give a rank."
        )


def _method_defaults(values: Mapping[str, Any]) -> Sections:
    """Return the sections of the shipped recipe of the config's method."""
    adapter = values.get("adapter")
    method = adapter.get("method") if isinstance(adapter, Mapping) else None
    return _read_recipe(shipped_recipes()[method]) if method in METHODS else {}


def _find_recipe(recipe: str | Path) -> Path:
    recipes = shipped_recipes()
    path = Path(recipe) if Path(recipe).is_file() else recipes.get(str(recipe))
    if path is None:
        raise ConfigError(f"there is no recipe {str(recipe)!r}: give a YAML file or one of {', '.join(recipes)}.")
    return path


def _read_recipe(path: Path) -> Sections:
    try:
        values = _parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text. Save the recipe as UTF-8.") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold sections ({', '.join(SECTIONS)}), each with its fields; found {values!r}.")
    return values


def _parse_yaml(text: str, where: str) -> Any:
    import yaml  # noqa: PLC0415 - 20 ms that `--help` need not pay

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or one_line(error)
        raise ConfigError(f"{where}{line} is not valid YAML: {problem}. Fix it there or just above.") from None
