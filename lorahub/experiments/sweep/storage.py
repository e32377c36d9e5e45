"""Optuna storages by URL, shared by several processes and machines.

In: `sqlite:///FILE`, `postgresql://USER@HOST/NAME`, or `journal:FILE` for Optuna's journal file, which also works on a
network file system. Out: an Optuna storage. Databases get heartbeats: a trial whose process was killed is failed after
`_GRACE_PERIOD` and queued again.
"""

import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import SQLAlchemyError

from lorahub.errors import ConfigError, one_line

# A trial that was lost more often is not retried: it probably exhausts the memory of the machine.
MAX_RETRIES = 2
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ExperimentalWarning)
    # Queues a lost or interrupted trial again, with the same values.
    retry = RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES)
_JOURNAL = "journal:"
# Seconds between two heartbeats, and without one until a trial counts as lost.
_HEARTBEAT, _GRACE_PERIOD = 15, 120
# Seconds to wait for a lock of SQLite.
_LOCK_TIMEOUT = 120
# Two processes may create the tables at once, and one of them fails: number of attempts and seconds between them.
_ATTEMPTS, _PAUSE = 5, 0.5


def sqlite(path: Path) -> str:
    """Return the URL of an SQLite file."""
    return f"sqlite:///{path}"


def connect(url: str) -> BaseStorage:
    """Open a storage, and create it where it does not exist; raises ConfigError."""
    if "://" not in url and not url.startswith(_JOURNAL):
        raise ConfigError(
            f"--storage takes sqlite:///FILE, postgresql://USER@HOST/NAME or journal:FILE; found {url!r}."
        )
    with failures(url, ImportError, OSError, ValueError, KeyError):
        if url.startswith(_JOURNAL):
            path = Path(url.removeprefix(_JOURNAL))
            path.parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(str(path)))
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return _database(url)
            except (SQLAlchemyError, StorageInternalError) as error:
                if attempt == _ATTEMPTS or not re.search("already exists|unique", str(error.__cause__ or error), re.I):
                    raise
                time.sleep(_PAUSE)
    raise AssertionError("the last attempt returns or raises")


@contextmanager
def failures(url: str, *more: type[Exception]) -> Iterator[None]:
    """Turn storage errors, and those in `more`, that are raised in this block into a ConfigError."""
    errors: tuple[type[Exception], ...] = (SQLAlchemyError, StorageInternalError, *more)
    try:
        yield
    except errors as error:
        cause: Any = error.__cause__ or error
        # `orig` is the error of the driver, without the text that SQLAlchemy adds.
        reason = one_line(getattr(cause, "orig", None) or cause)
        fix = "Install the database driver, for PostgreSQL: pip install 'psycopg[binary]'"
        if not isinstance(error, ImportError):
            fix = "Fix it and run the same command again: finished trials are stored there"
        raise ConfigError(f"--storage {_without_password(url)} cannot be used ({reason}). {fix}.") from error


def _database(url: str) -> RDBStorage:
    # A connection may be closed by the server while a trial trains.
    is_sqlite = url.startswith("sqlite")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return RDBStorage(
            # The driver that the error message names; SQLAlchemy's default depends on its version.
            url.replace("postgresql://", "postgresql+psycopg://", 1),
            engine_kwargs={"connect_args": {"timeout": _LOCK_TIMEOUT}} if is_sqlite else {"pool_pre_ping": True},
            heartbeat_interval=_HEARTBEAT,
            grace_period=_GRACE_PERIOD,
            heartbeat_stale_trial_callback=retry,
        )


def _without_password(url: str) -> str:
    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return url
