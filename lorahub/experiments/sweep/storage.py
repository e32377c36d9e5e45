"""Where a study is kept, so that several processes and machines work on it at once: optuna's storages behind one URL.

In: `sqlite:///FILE`, `postgresql://USER@HOST/NAME`, or `journal:FILE` for optuna's journal file, which also works on a
network file system. Out: an optuna storage in which a waiting trial is handed out once. What fails there becomes one
line.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import SQLAlchemyError

from lorahub.errors import ConfigError, one_line

_JOURNAL = "journal:"
# The driver that the error names; which one SQLAlchemy takes by itself depends on its version.
_POSTGRES, _WITH_DRIVER = "postgresql://", "postgresql+psycopg://"
# Seconds that a process waits for its turn to write to SQLite.
_TURN = 120
# Times, and seconds between them, that tables are looked for which another process is making.
_TRIES, _LOOK_AGAIN = 5, 0.5


def sqlite(path: Path) -> str:
    """The URL of an SQLite file."""
    return f"sqlite:///{path}"


@contextmanager
def failures(url: str) -> Iterator[None]:
    """Turn what the storage raises in this block into a ConfigError."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise ConfigError(_failure(url, error.__cause__ or error)) from error


def connect(url: str) -> BaseStorage:
    """Open the storage, made where there is none yet; raises ConfigError."""
    if url.startswith(_JOURNAL):
        path = Path(url.removeprefix(_JOURNAL))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(str(path)))
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(_failure(url, error)) from error
    if "://" not in url:
        raise ConfigError(
            f"--storage takes sqlite:///FILE, postgresql://USER@HOST/NAME or journal:FILE; found {url!r}."
        )
    try:
        storage = _relational(url)
    except ImportError as error:
        raise ConfigError(
            f"--storage {_shown(url)} needs a database driver ({one_line(error.__cause__ or error)}). For PostgreSQL "
            "run: pip install 'psycopg[binary]'"
        ) from error
    except (SQLAlchemyError, StorageInternalError, RuntimeError, OSError) as error:
        raise ConfigError(_failure(url, error)) from error
    if _is_sqlite(url):
        _write_in_turn(storage.engine)
    return storage


def _relational(url: str) -> RDBStorage:
    """A database, with its tables made where there are none; two processes may do so at once, and one then fails."""
    # A connection may have gone stale while a trial trained.
    options = {"connect_args": {"timeout": _TURN}} if _is_sqlite(url) else {"pool_pre_ping": True}
    url = url.replace(_POSTGRES, _WITH_DRIVER, 1)
    for _ in range(_TRIES):
        try:
            return RDBStorage(url, engine_kwargs=options)
        except (SQLAlchemyError, StorageInternalError) as error:
            if not re.search("already exists|unique", str(error.__cause__ or error), re.I):
                raise
            time.sleep(_LOOK_AGAIN)
    return RDBStorage(url, engine_kwargs=options)


def _is_sqlite(url: str) -> bool:
    return url.startswith("sqlite")


def _write_in_turn(engine: sqlalchemy.Engine) -> None:
    """Begin every transaction as the only writer (SQLAlchemy's documentation of its SQLite dialect has the recipe).

    optuna reads that a trial waits and then writes that it runs; by default SQLite lets two processes read before one
    of them writes, and both get the trial.
    """

    @sqlalchemy.event.listens_for(engine, "connect")
    def _connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "begin")
    def _begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _failure(url: str, error: BaseException) -> str:
    # The driver's own words, without what SQLAlchemy puts around them.
    error = getattr(error, "orig", None) or error
    return (
        f"--storage {_shown(url)} cannot be used ({one_line(error)}). See to it and give the same command again: what "
        "is finished is kept there."
    )


def _shown(url: str) -> str:
    """The URL without its password."""
    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return url
