"""`Table`: rows on demand, as files and the Hub give them to the rest of lorahub."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows on demand, their columns, and the name of the table in error messages.

    `unread` are columns of files (images, sounds, …), which the rows do not have. `notes` are sentences for the user
    without a full stop: what was assumed to read the table. `schema` returns the types of the columns where the file
    says them. Where the first row of a file looks like data, `headerless` is the same table with that row, and with
    columns that are named by position from 1 on.
    """

    title: str
    columns: tuple[str, ...]
    rows: Callable[[], Iterator[Row]]
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    schema: Callable[[], pa.Schema] | None = None
    headerless: "Table | None" = None
