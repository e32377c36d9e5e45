"""The configuration: five small sections, each field its own flag, recipe key, default and help text.

In: a YAML recipe and `section.field=value` overrides. Out: one frozen `Config`. A value is converted by its field's
type and by nothing else (YAML reads `2e-4` as a string and `no` as False), and an unknown key names its nearest
neighbour.
"""

import dataclasses
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lorahub import fields
from lorahub.errors import ConfigError, one_line
from lorahub.fields import opt

# The ways to adapt a base; models/methods.py has a row for each, and recipes/METHOD.yaml its defaults.
METHODS = ("lora", "qlora", "dora", "rslora", "prompt", "prefix", "p-tuning", "ia3", "full", "linear-probe")
# Those that train an update of low rank, whose rank can be chosen.
RANKED = ("lora", "qlora", "dora", "rslora")
AUTO = "auto"
# What adapter.rank=auto trains before it cuts: four times the default rank.
AUTO_RANK = 32
_LARGEST_SEED = 2**32 - 1  # of numpy's generator


# Beyond any adapter of the field; a file that claims more is not sound (hub/safety.py).
LARGEST_RANK, LARGEST_ALPHA, LARGEST_PROMPT = 512, 1024, 1024


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the claims come from and which columns matter."""

    id: str = opt(
        "auto",
        "A named set, a Hub data-set id, a folder with train/validation/test files, or one csv, tsv, jsonl or parquet file. `auto`: pubhealth where it can be reached, else the shipped starter-wording; the log and the record say which.",
    )
    revision: str | None = opt(None, "Branch, tag or commit of a Hub data set.")
    claim: str | None = opt(
        None, "Column with the text to judge; by default `claim`, `text`, `sentence` or `statement`."
    )
    label: str | None = opt(None, "Column with the label; by default `label`, `labels`, `verdict` or `class`.")
    evidence: str | None = opt(
        None,
        "Column with a second text; claim and evidence become a sentence pair, of which only the evidence is truncated.",
    )
    labels: tuple[str, ...] = opt((), "Label names in id order; by default the training labels in alphabetical order.")
    label_map: dict[str, str] = opt(
        dict, 'Value in the file to label name, as in {"0": "false"}; other values keep their name.'
    )
    drop_labels: tuple[str, ...] = opt((), 'Values of the label column whose rows are left out, as in ["-1"].')
    allow_leaking: bool = opt(False, "Accept a claim or evidence column that is known to give the verdict away.")
    validation_fraction: float = opt(
        0.1, "Share of the rows for validation where the data has no such split.", above=0, high=0.5
    )
    test_fraction: float = opt(0.2, "Share of the rows for test where the data has no such split.", above=0, high=0.5)
    train_rows: int = opt(
        0, "Train on so many claims only, drawn by split_seed, every label in its share; 0: on all of them.", low=0
    )
    split_seed: int = opt(
        0,
        "Seed of the stratified split; not the training seed, so that seeds share a test set.",
        low=0,
        high=_LARGEST_SEED,
    )


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """The frozen model under the adapter."""

    id: str = opt("minilm", "Hub id or folder of the base model; `minilm` is the embedded all-MiniLM-L6-v2.")
    revision: str | None = opt(None, "Branch, tag or commit of a base on the Hub.")
    max_length: int = opt(128, "Longest input in tokens; claims beyond are truncated.", low=8)
    dtype: str = opt("auto", "Precision of the frozen weights.", choices=("auto", "float32", "bfloat16", "float16"))
    device: str = opt("auto", "Where to run.", choices=("auto", "cpu", "cuda", "mps"))
    quantize: str = opt(
        "none",
        "Keep the linear layers of the frozen base in 4 bits (nf4 with double quantisation); the method qlora does so.",
        choices=("none", "nf4"),
    )


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What is trained. Rank, alpha (LoRA, arXiv:2106.09685, section 4.1), dropout and init are of lora, qlora, dora
    and rslora; targets of these and ia3; prompt_tokens of prompt, prefix and p-tuning.
    """

    method: str = opt(
        "lora", "How the base is adapted; the recipe of that name holds the method's own defaults.", choices=METHODS
    )
    rank: int | Literal["auto"] = opt(
        8,
        f"Rank r of the update B·A; `auto` trains rank {AUTO_RANK} and cuts it to the smallest rank that validation cannot tell from it.",
        low=1,
        high=LARGEST_RANK,
    )
    alpha: float = opt(16.0, "Scale: the update is multiplied by alpha / rank.", above=0, high=LARGEST_ALPHA)
    dropout: float = opt(0.1, "Dropout on the input of A.", low=0, high=0.95)
    targets: tuple[str, ...] = opt(
        ("all-linear",),
        "Linear layers to adapt: `all-linear`, or names such as q_proj, v_proj, mapped to the architecture's own.",
    )
    init: str = opt(
        "default",
        "Start of A and B: peft's own, or pissa and olora (lora, rslora) and loftq (qlora); saved as plain LoRA.",
        choices=("default", "gaussian", "pissa", "olora", "loftq"),
    )
    prompt_tokens: int = opt(20, "Virtual tokens in front of every claim.", low=1, high=LARGEST_PROMPT)

    @property
    def trained_rank(self) -> int:
        """The rank that is trained, whatever is kept of it."""
        return self.rank if isinstance(self.rank, int) else AUTO_RANK


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The optimisation."""

    seed: int = opt(0, "Seed of initialisation, order and dropout.", low=0, high=_LARGEST_SEED)
    epochs: float = opt(4.0, "Passes over the training claims.", above=0)
    min_steps: int = opt(120, "Fewest optimiser steps: small data gets more epochs to reach them.", low=0)
    batch_size: int = opt(32, "Claims per forward pass and device.", low=1)
    gradient_accumulation: int = opt(1, "Forward passes per optimiser step.", low=1)
    optimizer: str = opt(
        "auto",
        "`auto` is AdamW, paged for qlora on a GPU; adamw8bit keeps its moments in 8 bits (bitsandbytes).",
        choices=("auto", "adamw", "paged-adamw", "adamw8bit", "paged-adamw8bit"),
    )
    checkpointing: str = opt(
        "auto",
        "Compute activations again in the backward pass, which saves memory for time; `auto` does so for qlora.",
        choices=("auto", "always", "never"),
    )
    learning_rate: float = opt(1e-3, "Peak learning rate of AdamW.", above=0)
    schedule: str = opt("cosine", "Decay after the warm-up.", choices=("cosine", "linear", "constant"))
    warmup: float = opt(0.1, "Share of the steps over which the learning rate rises from 0.", low=0, high=0.9)
    weight_decay: float = opt(0.01, "AdamW's decoupled weight decay.", low=0)
    max_grad_norm: float = opt(1.0, "Gradient norm above which gradients are scaled down.", above=0)
    class_weights: str = opt(
        "sqrt",
        "Weight of a label in the loss: none, 1/sqrt(frequency), or 1/frequency; relative to the other claims of the batch, so that a batch of one feels none.",
        choices=("none", "sqrt", "balanced"),
    )
    label_smoothing: float = opt(0.0, "Share of the target spread evenly over all labels.", low=0, high=0.9)
    mixed_precision: str = opt(
        "auto", "Autocast: auto is bf16 on a GPU that has it, else none.", choices=("auto", "no", "bf16", "fp16")
    )
    length_groups: bool = opt(True, "Batch claims of similar length, so that little is padding.")
    evaluate_every: int = opt(
        0, "Optimiser steps between evaluations on validation; 0 is twice an epoch, at most 10 in a run.", low=0
    )
    metric: str = opt(
        "f1_macro", "Validation metric that chooses the checkpoint.", choices=("f1_macro", "f1_weighted", "accuracy")
    )
    patience: int = opt(
        0, "Evaluations without a better metric after which training stops; 0 never stops early.", low=0
    )


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How a model is judged."""

    batch_size: int = opt(64, "Claims per forward pass when scoring.", low=1)
    bootstrap: int = opt(2000, "Resamples behind every interval.", low=100)
    confidence: float = opt(0.95, "Coverage of the intervals.", above=0.5, high=0.999)
    adjust: bool = opt(True, "Choose a bias per label on validation (logit adjustment) and decide with it.")
    abstain_risk: float = opt(
        0.2,
        "Largest share of wrong answers wanted where the adapter answers: a threshold of confidence is chosen on validation that holds it with certainty `eval.confidence`, and answers below it are marked; 0: none is.",
        low=0,
        high=0.9,
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything a run was asked to do."""

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


def read(recipe: str | Path | None = None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a recipe and overrides say by section and field, and nothing of what they leave open; see `load`."""
    values: dict[str, Any] = {}
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


def field_type(key: str) -> Any:
    """The type of a field by its dotted name; raises ConfigError naming the nearest there is."""
    section, _, name = key.partition(".")
    fields.known(section, SECTIONS, "section")
    hints = typing.get_type_hints(SECTIONS[section])
    fields.known(name, hints, "field", prefix=f"{section}.")
    return fields.alternatives(hints[name])[0]


def flags(*, data: str | None, base: str | None, method: str | None, seed: int | None) -> list[str]:
    """The overrides that stand for the command line's short flags; those that are not given are left out."""
    given = {"data.id": data, "base.id": base, "adapter.method": method, "train.seed": seed}
    return [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]


def from_dict(values: Mapping[str, Any]) -> Config:
    """Build a Config from nested mappings, as a recipe or a record's `asked` block holds them.

    What they leave open comes from the method's shipped recipe, then from the defaults.
    """
    sections = {}
    own = _method_defaults(values)
    for name, asked in {**dict.fromkeys(own, {}), **values}.items():
        fields.known(name, SECTIONS, "section")
        if not isinstance(asked, Mapping):
            raise ConfigError(f"section {name!r} must hold field: value pairs; found {asked!r}.")
        given = {**own.get(name, {}), **asked}
        kind = SECTIONS[name]
        known = {item.name: item for item in dataclasses.fields(kind)}
        hints = typing.get_type_hints(kind)
        converted = {}
        for key, value in given.items():
            fields.known(key, known, "field", prefix=f"{name}.")
            if value is False and "no" in known[key].metadata["choices"]:
                value = "no"
            where = f"{name}.{key}"
            converted[key] = fields.check(known[key], fields.convert(value, hints[key], where), where)
        sections[name] = kind(**converted)
    config = Config(**sections)
    _check_rank(config.adapter)
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """The plain form of a config or a section, ready for JSON."""
    plain: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            plain[item.name] = to_dict(value)
        elif isinstance(value, tuple):
            plain[item.name] = list(value)
        elif isinstance(value, Mapping):
            plain[item.name] = dict(value)
        else:
            plain[item.name] = value
    return plain


def known_fields(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
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


def differences(config: Config) -> dict[str, Any]:
    """The fields whose value is not the default, by dotted name: what a reader needs to know about a run."""
    default = to_dict(Config())
    return {
        f"{section}.{name}": value
        for section, fields in to_dict(config).items()
        for name, value in fields.items()
        if value != default[section][name]
    }


def shipped_recipes() -> dict[str, Path]:
    """The recipes in the package by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}


def _check_rank(adapter: AdapterConfig) -> None:
    """Raise ConfigError where adapter.rank=auto has nothing to choose from, or nothing that can be cut."""
    if adapter.rank != AUTO:
        return
    if adapter.method not in RANKED:
        raise ConfigError(
            f"adapter.rank=auto: {adapter.method} has no rank to choose. Leave it out, or use {', '.join(RANKED)}."
        )
    if adapter.init in ("pissa", "olora"):
        raise ConfigError(
            f"adapter.rank=auto cannot cut what starts from adapter.init={adapter.init}: it is saved as a difference "
            "of two updates. Use another adapter.init, or give a rank."
        )


def _method_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of the shipped recipe of the method that is asked for."""
    adapter = values.get("adapter")
    method = adapter.get("method") if isinstance(adapter, Mapping) else None
    if not isinstance(method, str) or method not in METHODS:
        return {}
    return _read_recipe(shipped_recipes()[method])


def _find_recipe(recipe: str | Path) -> Path:
    path = Path(recipe)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if str(recipe) in shipped:
        return shipped[str(recipe)]
    raise ConfigError(f"there is no recipe {str(recipe)!r}: give a YAML file or one of {', '.join(shipped)}.")


def _read_recipe(path: Path) -> dict[str, Any]:
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
        raise ConfigError(f"{where}{line} is not valid YAML: {problem}. Mend it there or just above.") from None
