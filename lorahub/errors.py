"""The errors meant for a person's eyes, and the one door to optional packages.

A `LorahubError` is a single line that says what was found, why it does not work and what to do; the command line prints
it and exits with 2. Any other exception is a bug and keeps its traceback. Wrong configuration and data are ValueErrors
too, as Python programs expect.
"""

from importlib import import_module
from types import ModuleType


class LorahubError(Exception):
    """Base of every error that a user can mend; its message is one line, whatever file or name it repeats."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class ConfigError(LorahubError, ValueError):
    """A recipe, a flag or a config value is wrong."""


class DataError(LorahubError, ValueError):
    """A data file or data set cannot be used as it is."""


class BaseModelError(LorahubError):
    """A base model cannot be found or does not fit."""


class AdapterError(LorahubError):
    """An adapter or run folder is incomplete, damaged or does not fit its base."""


class UnsafeAdapterError(AdapterError):
    """An adapter's files could harm the base, or run code, or do not say what they are."""


class EngineBusyError(LorahubError):
    """The engine has as many requests as it takes, or no room for more adapters; a moment later it may have."""


class HubError(LorahubError):
    """The Hub cannot be reached or refuses.

    `status` is the HTTP status where there was an answer; `reached` is False where no request got through to the Hub.
    """

    def __init__(self, message: str, *, status: int | None = None, reached: bool = True) -> None:
        super().__init__(message)
        self.status, self.reached = status, reached


class PublishError(LorahubError):
    """A run cannot be published as it is, or what it would replace should not be."""


class TrainingError(LorahubError):
    """Training cannot go on: the loss is not a number, or nothing is trainable."""


class MissingPackageError(LorahubError):
    """An optional package is not installed."""


def need(package: str, *, extra: str) -> ModuleType:
    """Import and return an optional package.

    `extra` is the extra of hf-lorahub that brings it. Raises MissingPackageError with the line that installs it.
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
    """Return a foreign exception's message as one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
