"""Durations as text: `90`, `30s`, `10m`, `1.5h`, `2d`."""

import re

from lorahub.errors import ConfigError

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str, *, option: str) -> float:
    """Return the seconds of a duration; a number without a unit is seconds.

    `option` begins the error message, as in `--timeout takes`. Raises ConfigError.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if match is None:
        raise ConfigError(f"{option} a duration, such as 30s, 10m, 1.5h or 2d; found {text!r}.")
    return float(match[1]) * _SECONDS[match[2]]
