"""The search space: config fields by name, each with a range of numbers or a list of choices.

In: `--range` texts such as `adapter.rank=2..64:log` or `train.class_weights=none,sqrt`, and the config that the search
starts from. Out: `Numbers` and `Choices`. Values are read and checked by their field, as with `--set`. Fields that
would make trials incomparable, or that the method does not use, are refused.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorahub import config as configs
from lorahub.config import Config, Sections
from lorahub.errors import ConfigError
from lorahub.method_names import RANKED

# The `--range` text for the default space.
DEFAULT = "default"
# The methods that use a field; all methods use the other fields.
_USED_BY = {
    "adapter.rank": RANKED,
    "adapter.alpha": RANKED,
    "adapter.dropout": RANKED,
    "adapter.init": RANKED,
    "adapter.layers": RANKED,
    "adapter.targets": (*RANKED, "ia3"),
    "adapter.prompt_tokens": ("prompt", "prefix", "p-tuning"),
}
_NOT_SEARCHED = {
    "data": "trials are compared on the same claims",
    "eval": "trials are compared by the same metric",
    "train.metric": "trials are compared by the same metric",
    "train.mixed_precision": "a process trains with one precision",
    "train.seed": "the best of several seeds is luck, and `lorahub methods --seeds` measures it",
}
# A value of a trial. A list of names is one text, joined by `+`.
Value = bool | int | float | str


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Numbers from `low` to `high`, both included, on a linear or logarithmic scale; whole if both ends are."""

    field: str
    low: int | float
    high: int | float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether the numbers are whole."""
        return isinstance(self.low, int)

    def holds(self, value: Value) -> bool:
        """Return whether a value is in the range."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    def values(self) -> Sequence[Value] | None:
        """Return all values, or None if there are infinitely many."""
        return range(int(self.low), int(self.high) + 1) if self.whole else None

    def __str__(self) -> str:
        return f"{self.field}={plain(self.low)}..{plain(self.high)}{':log' if self.log else ''}"


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Two or more values without an order."""

    field: str
    choices: tuple[Value, ...]

    def holds(self, value: Value) -> bool:
        """Return whether a value is one of the choices."""
        return value in self.choices

    def values(self) -> Sequence[Value]:
        """Return all values."""
        return self.choices

    def __str__(self) -> str:
        return f"{self.field}={','.join(map(plain, self.choices))}"


Range = Numbers | Choices


def parse(texts: Sequence[str], config: Config, *, projections: bool) -> tuple[Range, ...]:
    """Read `--range` texts; without any, and for the text `default`, use the default space around `config`.

    `projections` says whether the names of the base's attention projections are known. Raises ConfigError.
    """
    ranges = [_parse(text) for text in texts if text.strip() != DEFAULT]
    space = default(config, projections=projections) if not ranges or len(ranges) < len(texts) else []
    fields = [item.field for item in ranges]
    for field in fields:
        if fields.count(field) > 1:
            raise ConfigError(f"--range {field} is given twice. Keep one of them.")
        methods = _USED_BY.get(field, (config.adapter.method,))
        if config.adapter.method not in methods and "adapter.method" not in fields:
            raise ConfigError(
                f"--range {field} has no effect for {config.adapter.method}; only {', '.join(methods)} use it. Remove "
                "it, or choose another adapter.method."
            )
    return tuple({item.field: item for item in (*space, *ranges)}.values())


def default(config: Config, *, projections: bool) -> list[Range]:
    """Return the default space for the method of `config`: its size, its learning rate and the class weights.

    The learning rate ranges from a tenth to ten times that of `config`.
    """
    rate, method = config.train.learning_rate, config.adapter.method
    space: list[Range] = [
        Numbers(field="adapter.rank", low=2, high=64, log=True),
        Numbers(field="adapter.alpha", low=4.0, high=128.0, log=True),
        Numbers(field="adapter.dropout", low=0.0, high=0.3),
        Choices(field="adapter.targets", choices=("all-linear", "q_proj+v_proj", "q_proj+k_proj+v_proj+o_proj")),
        Numbers(field="adapter.prompt_tokens", low=5, high=100, log=True),
        Numbers(field="train.learning_rate", low=float(f"{rate / 10:g}"), high=float(f"{rate * 10:g}"), log=True),
        Choices(field="train.class_weights", choices=("none", "sqrt", "balanced")),
    ]
    used = [item for item in space if method in _USED_BY.get(item.field, (method,))]
    return [item for item in used if projections or item.field != "adapter.targets"]


def grid(ranges: Sequence[Range]) -> dict[str, list[Value]]:
    """Return the values of each field; raises ConfigError where they are infinitely many."""
    values = {}
    for item in ranges:
        listed = item.values()
        if listed is None:
            raise ConfigError(
                f"--sampler grid: {item} holds infinitely many values. List some, as in --range {item.field}=a,b,c, or "
                "use --sampler tpe."
            )
        values[item.field] = list(listed)
    return values


def recipe_with(recipe: Sections, values: Mapping[str, Value]) -> Sections:
    """Return a recipe with the values of a trial."""
    merged = {section: dict(fields) for section, fields in recipe.items()}
    for field, value in values.items():
        section, _, name = field.partition(".")
        several = _is_list(field) and isinstance(value, str)
        merged.setdefault(section, {})[name] = [*str(value).split("+")] if several else value
    return merged


def own_values(ranges: Sequence[Range], config: Config) -> dict[str, Value] | None:
    """Return the values of `config` in the searched fields; None if one is outside of the space."""
    values = {item.field: _own(item.field, config) for item in ranges}
    return values if all(item.holds(values[item.field]) for item in ranges) else None


def plain(value: Value, *, digits: int = 12) -> str:
    """Return a value as text."""
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    return value if isinstance(value, str) else json.dumps(value)


def _parse(text: str) -> Range:
    field, _, values = (part.strip() for part in text.partition("="))
    if not values:
        raise ConfigError(
            "--range takes section.field=low..high, section.field=low..high:log or section.field=a,b,c, or the word "
            f"{DEFAULT}; found {text!r}."
        )
    kind = configs.field_type(field)
    for key, why in _NOT_SEARCHED.items():
        if key in (field, field.partition(".")[0]):
            raise ConfigError(f"--range {field}: this field is not searched: {why}. Set it with --set.")
    low, dots, rest = values.partition("..")
    if not dots:
        choices = tuple(dict.fromkeys(_value(field, item.strip()) for item in values.split(",")))
        if len(choices) < 2:
            raise ConfigError(f"--range {text} holds one value. Give two or more, or fix it with --set {text}.")
        return Choices(field=field, choices=choices)
    high, _, scale = rest.partition(":")
    ends = [_value(field, low), _value(field, high)]
    if kind not in (int, float) or any(isinstance(end, str) for end in ends):
        raise ConfigError(f"--range {text} is not between two numbers. List the choices, as in {field}=a,b.")
    if scale not in ("", "log"):
        raise ConfigError(f"--range {text}: only log may follow the colon; found {scale!r}.")
    numbers = Numbers(field=field, low=ends[0], high=ends[1], log=scale == "log")
    if numbers.low >= numbers.high:
        raise ConfigError(
            f"--range {text} ends at {plain(numbers.high)}, which is not above {plain(numbers.low)}. Write the smaller "
            "number first, or use --set for a single value."
        )
    if numbers.log and numbers.low <= 0:
        raise ConfigError(f"--range {text}: 0 has no logarithm. Start above 0, or remove :log.")
    return numbers


def _value(field: str, text: str) -> Any:
    """Read and check a value by its field; raises ConfigError."""
    if not text:
        raise ConfigError(f"--range {field} has an empty value. Write low..high, or values with commas between them.")
    return _own(field, configs.load(None, [f"{field}={text.replace('+', ',') if _is_list(field) else text}"]))


def _own(field: str, config: Config) -> Any:
    section, _, name = field.partition(".")
    value = getattr(getattr(config, section), name)
    return "+".join(value) if isinstance(value, tuple) else value


def _is_list(field: str) -> bool:
    return bool(configs.field_type(field) == tuple[str, ...])
