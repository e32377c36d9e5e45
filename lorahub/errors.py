"""Errors for the user, and the import of optional packages.

The message of a `LorahubError` is one line: what was found, why it does not work and what to do. The command line
prints it and exits with 2. Any other exception is a bug and keeps its traceback. Wrong configuration and data are also
ValueErrors, as Python programs expect.
"""

from collections.abc import Iterable
from importlib import import_module
from types import ModuleType


class LorahubError(Exception):
    """Base of all errors that the user can fix; line breaks in its message are removed."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class ConfigError(LorahubError, ValueError):
    """A recipe, a flag or a config value is wrong."""


class DataError(LorahubError, ValueError):
    """A data file or data set cannot be used."""


class BaseModelError(LorahubError):
    """A base model cannot be found or does not fit."""


class AdapterError(LorahubError):
    """An adapter or run folder is incomplete, damaged or does not fit its base."""


class UnsafeAdapterError(AdapterError):
    """The files of an adapter could change the base, run code, or are not what they claim to be.

    `reasons` are all findings that prevent loading it.
    """

    def __init__(self, message: str, *, reasons: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.reasons = tuple(reasons)


class EngineBusyError(LorahubError):
    """The engine has reached its limit of requests or of adapters in memory; try again later."""


class HubError(LorahubError):
    """The Hub cannot be reached or refuses.

    `status` is the HTTP status if there was an answer; `reached` is False if no request reached the Hub.
    """

    def __init__(self, message: str, *, status: int | None = None, reached: bool = True) -> None:
        super().__init__(message)
        self.status, self.reached = status, reached

    @property
    def unavailable(self) -> bool:
        """Whether the Hub cannot be reached or answers 5xx, so that what is cached may be used."""
        return not self.reached or (self.status is not None and self.status >= 500)


class PublishError(LorahubError):
    """A run cannot be published, or would replace what must not be replaced."""


class TrainingError(LorahubError):
    """Training cannot continue: the loss is not a number, or nothing is trainable."""


class MissingPackageError(LorahubError):
    """An optional package is not installed."""


def need(package: str, *, extra: str) -> ModuleType:
    """Import and return an optional package.

    `extra` is the extra of hf-lorahub that installs it. Raises MissingPackageError with the command to install it.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != package.split(".")[0]:
            raise
        raise MissingPackageError(
            f"this needs the package {package!r}, which is not installed. Run: pip install 'hf-lorahub[{extra}]'"
        ) from None


def one_line(error: BaseException) -> str:
    """Return the message of any exception as one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
