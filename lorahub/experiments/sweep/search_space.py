"""The search space: config fields by name, each with a range of numbers or a list of choices.

In: `--range` texts such as `adapter.rank=2..64:log` or `train.class_weights=none,sqrt`, and the config that is searched
around. Out: `Numbers` and `Choices`. A value is read by its field's own type and checked by its own limits, as with
`--set`. Fields are refused that change what trials are compared on, or that do nothing for the method.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lorahub import config as configs
from lorahub.config import Config
from lorahub.errors import ConfigError
from lorahub.method_names import RANKED

# Among `--range` texts, the word that stands for the default space.
DEFAULT = "default"
# Methods that look at a field; all look at those that are not here.
_METHODS = {
    "adapter.rank": RANKED,
    "adapter.alpha": RANKED,
    "adapter.dropout": RANKED,
    "adapter.init": RANKED,
    "adapter.targets": (*RANKED, "ia3"),
    "adapter.prompt_tokens": ("prompt", "prefix", "p-tuning"),
}
_NOT_SEARCHED = {
    "data": "trials are compared on the same claims",
    "eval": "trials are compared by the same measure",
    "train.metric": "trials are compared by the same measure",
    "train.mixed_precision": "a process trains with one precision",
    "train.seed": "the best of several seeds is luck, and `lorahub methods --seeds` tells how much",
}
# What a trial may set; a list of names is one text, joined by `+`.
Value = bool | int | float | str


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Numbers from `low` to `high`, both included, evenly or by the logarithm; whole ones where both ends are."""

    field: str
    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether only whole numbers count."""
        return isinstance(self.low, int)

    def holds(self, value: Value) -> bool:
        """Whether a value lies between the ends."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    def values(self) -> Sequence[Value] | None:
        """All values; None where they are infinitely many."""
        return range(int(self.low), int(self.high) + 1) if self.whole else None

    def __str__(self) -> str:
        return f"{self.field}={plain(self.low)}..{plain(self.high)}{':log' if self.log else ''}"


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Two or more values, in no order."""

    field: str
    choices: tuple[Value, ...]

    def holds(self, value: Value) -> bool:
        """Whether a value is one of them."""
        return value in self.choices

    def values(self) -> Sequence[Value]:
        """All values."""
        return self.choices

    def __str__(self) -> str:
        return f"{self.field}={','.join(map(plain, self.choices))}"


Range = Numbers | Choices


def parse(texts: Sequence[str], config: Config, *, projections: bool) -> tuple[Range, ...]:
    """Read `--range` texts. None of them is the default space around `config`; so is `default`, with others beside it.

    `projections`: whether the base's attention projections are known by name. Raises ConfigError.
    """
    given = [_parse(text) for text in texts if text.strip() != DEFAULT]
    space = default(config, projections=projections) if len(given) == 0 or len(given) < len(texts) else []
    for place, item in enumerate(given):
        if item.field in {other.field for other in given[:place]}:
            raise ConfigError(f"--range {item.field} is given twice. Keep one of them.")
        able = _METHODS.get(item.field, (config.adapter.method,))
        if config.adapter.method not in able and "adapter.method" not in {other.field for other in given}:
            raise ConfigError(
                f"--range {item.field} does nothing for {config.adapter.method}: it is of {', '.join(able)}. Leave it "
                "out, or choose another adapter.method."
            )
    return tuple({item.field: item for item in (*space, *given)}.values())


def default(config: Config, *, projections: bool) -> list[Range]:
    """What is worth searching for the method of `config`: its size, its learning rate, the weights of the labels.

    The rate is searched a decade to both sides of the config's own, which is the method's unless a recipe says another.
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
    used = [item for item in space if method in _METHODS.get(item.field, (method,))]
    return [item for item in used if projections or item.field != "adapter.targets"]


def grid(ranges: Sequence[Range]) -> list[dict[str, Value]]:
    """Every combination of values, the last field's changing fastest; raises ConfigError where they are infinite."""
    values = []
    for item in ranges:
        found = item.values()
        if found is None:
            raise ConfigError(
                f"--sampler grid: {item} holds infinitely many values. List those to try, as in "
                f"--range {item.field}=a,b,c, or use --sampler tpe."
            )
        values.append(found)
    return [dict(zip([item.field for item in ranges], point, strict=True)) for point in itertools.product(*values)]


def asked_with(asked: Mapping[str, Any], values: Mapping[str, Value]) -> dict[str, Any]:
    """What a recipe asks, by section and field, with the values of a trial in it."""
    merged = {section: dict(fields) for section, fields in asked.items()}
    for field, value in values.items():
        section, _, name = field.partition(".")
        several = _is_list(field) and isinstance(value, str)
        merged.setdefault(section, {})[name] = str(value).split("+") if several else value
    return merged


def own_values(ranges: Sequence[Range], config: Config) -> dict[str, Value] | None:
    """The values that `config` has in the searched fields; None where the space does not hold them."""
    values = {item.field: _own(item.field, config) for item in ranges}
    return values if all(item.holds(values[item.field]) for item in ranges) else None


def to_dict(item: Range) -> dict[str, Any]:
    """The plain form: `low`, `high` and `log`, or `choices`."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(item).items()}


def from_dict(plain: Mapping[str, Any]) -> Range:
    """The range of a plain form."""
    return Choices(field=plain["field"], choices=tuple(plain["choices"])) if "choices" in plain else Numbers(**plain)


def plain(value: Value, *, digits: int = 12) -> str:
    """A value as a person writes it."""
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    return value if isinstance(value, str) else json.dumps(value)


def _parse(text: str) -> Range:
    field, equals, given = (part.strip() for part in text.partition("="))
    if not equals or not given:
        raise ConfigError(
            "--range takes section.field=low..high, section.field=low..high:log or section.field=a,b,c, or the word "
            f"{DEFAULT}; found {text!r}."
        )
    kind = configs.field_type(field)
    for key, why in _NOT_SEARCHED.items():
        if key in (field, field.partition(".")[0]):
            raise ConfigError(f"--range {field}: this field is not searched: {why}. Choose it with --set.")
    low, dots, rest = given.partition("..")
    if not dots:
        choices = tuple(dict.fromkeys(_value(field, item.strip()) for item in given.split(",")))
        if len(choices) < 2:
            raise ConfigError(f"--range {text} holds one value. Give two or more, or fix it with --set {text}.")
        return Choices(field=field, choices=choices)
    high, _, scale = rest.partition(":")
    ends = [_value(field, low), _value(field, high)]
    if kind not in (int, float) or any(isinstance(end, str) for end in ends):
        raise ConfigError(f"--range {text} is not between two numbers. List the choices, as in {field}=a,b.")
    if scale not in ("", "log"):
        raise ConfigError(f"--range {text}: after the colon stands log or nothing; found {scale!r}.")
    found = Numbers(field=field, low=ends[0], high=ends[1], log=scale == "log")
    if found.low >= found.high:
        raise ConfigError(
            f"--range {text} ends at {plain(found.high)}, which is not above {plain(found.low)}. Write the smaller "
            "number first; a single value belongs into --set."
        )
    if found.log and found.low <= 0:
        raise ConfigError(f"--range {text}: 0 has no logarithm. Begin above 0, or leave :log out.")
    return found


def _value(field: str, text: str) -> Any:
    """One value, read and checked as its field does; raises ConfigError."""
    if not text:
        raise ConfigError(f"--range {field} has an empty value. Write low..high, or values with commas between them.")
    return _own(field, configs.load(None, [f"{field}={text.replace('+', ',') if _is_list(field) else text}"]))


def _own(field: str, config: Config) -> Any:
    section, _, name = field.partition(".")
    value = getattr(getattr(config, section), name)
    return "+".join(value) if isinstance(value, tuple) else value


def _is_list(field: str) -> bool:
    return bool(configs.field_type(field) == tuple[str, ...])
