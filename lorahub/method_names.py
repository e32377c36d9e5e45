"""The names of the methods; a module of its own, so that help texts name them without loading the configuration."""

from typing import Literal, get_args

# models/methods.py has a row for each, and recipes/METHOD.yaml its defaults.
Method = Literal["lora", "qlora", "dora", "rslora", "prompt", "prefix", "p-tuning", "ia3", "full", "linear-probe"]
METHODS: tuple[str, ...] = get_args(Method)
# Methods that train a low-rank update, whose rank can be chosen.
RANKED = ("lora", "qlora", "dora", "rslora")
