"""What a declaration of a table is made of, and the service's rules that it has to keep.

Invariant: `problems` names every documented rule of a custom table, a stream declaration and a data collection rule that a declaration breaks, so that
what `sentinel.tables` declares can be deployed as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, get_args

ColumnType = Literal["string", "int", "long", "real", "boolean", "dynamic", "datetime"]
"""The types of a DCR stream declaration (data collection rule structure); a table's are the same, but for `dateTime`."""

Example = str | int | float | bool | tuple[str, ...]

FIELD_LIMIT_BYTES: Final = 65_536
"""A field value over 64 KB is cut silently by the service (Azure Monitor limits, custom logs); we cut first, and say so."""

COLUMN_LIMIT: Final = 500
"""Columns of a table, and tables of a workspace (Azure Monitor limits, workspaces)."""

STREAM_LIMIT: Final = 10
"""Streams, and data flows, of a data collection rule (Azure Monitor limits, data collection rules)."""

RETENTION_DAYS: Final = (4, 730)
"""Fewest and most days of analytics retention (Tables API, 2025-07-01)."""

RESERVED_NAMES: Final = frozenset(
    {
        "id",
        "billedsize",
        "isbillable",
        "invalidtimegenerated",
        "tenantid",
        "title",
        "type",
        "uniqueid",
        "_itemid",
        "_resourcegroup",
        "_resourceid",
        "_subscriptionid",
        "_timereceived",
    }
)
"""Names that a custom table cannot use, lower case (Azure Monitor, create a custom table)."""

_COLUMN_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{1,44}", re.ASCII)
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its DCR type, what it holds, a value as it is sent (a time as ISO 8601 text, a dynamic as a tuple of texts), the ASIM field
    whose meaning it has (if any), whether it takes part in the row hash."""

    name: str
    type: ColumnType
    description: str
    example: Example | None = None
    asim: str = ""
    hashed: bool = True


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream that others than this app may send to: its own columns, and the table that its transformation makes rows of."""

    name: str
    table: str
    description: str
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The column names, in their order."""
        return tuple(column.name for column in self.columns)


@dataclass(frozen=True, slots=True)
class Table:
    """A custom table, the DCR stream that feeds it, and the column that identifies a row's subject within the table.

    `retention_days`: how long rows can be queried (analytics retention).
    """

    name: str
    stream: str
    key: str
    description: str
    columns: tuple[Column, ...]
    retention_days: int = 90

    @property
    def names(self) -> tuple[str, ...]:
        """The column names, in the order in which rows are written."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        """The column of that name; raises KeyError when the table has none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"{self.name} has no column {name!r}")


def problems(table: Table) -> list[str]:
    """Every rule of a custom table that the declaration breaks, in words; an empty list when it breaks none.

    Rules: Azure Monitor, create a custom table (names, reserved names), Tables API (types, retention) and workspace limits (500 columns, 45 characters).
    """
    found = []
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*_CL", table.name, re.ASCII):
        found.append(f"{table.name}: a custom table's name is letters, digits, underscores, and ends in _CL")
    low, high = RETENTION_DAYS
    if not low <= table.retention_days <= high:
        found.append(f"{table.name}: kept for {table.retention_days} days, from {low} to {high} can be")
    if table.names[:1] != ("TimeGenerated",):
        found.append(f"{table.name}: the first column is TimeGenerated")
    if table.key not in table.names:
        found.append(f"{table.name}: its key {table.key!r} is no column")
    found += _stream_problems(table.stream)
    return found + _column_problems(table.name, table.columns)


def stream_problems(stream: Stream, tables: Sequence[Table]) -> list[str]:
    """The same for a stream of others: its name, its columns, and that its table exists."""
    found = _stream_problems(stream.name) + _column_problems(stream.name, stream.columns)
    if stream.table not in {table.name for table in tables}:
        found.append(f"{stream.name}: there is no table {stream.table!r}")
    return found


def rule_problems(tables: Sequence[Table], streams: Sequence[Stream]) -> list[str]:
    """What one data collection rule with all of them would break: ten streams at most, each name once."""
    names = [*(table.stream for table in tables), *(stream.name for stream in streams)]
    found = [f"{name}: declared twice" for name in sorted({name for name in names if names.count(name) > 1})]
    if len(names) > STREAM_LIMIT:
        found.append(f"{len(names)} streams: a data collection rule has {STREAM_LIMIT} at most")
    return found


def _stream_problems(name: str) -> list[str]:
    if re.fullmatch(r"Custom-[A-Za-z][A-Za-z0-9_]*", name, re.ASCII):
        return []
    return [f"{name}: a stream declaration's name begins with Custom-, then letters, digits, underscores"]


def _column_problems(owner: str, columns: Sequence[Column]) -> list[str]:
    found = []
    if len(columns) > COLUMN_LIMIT:
        found.append(f"{owner}: {len(columns)} columns, at most {COLUMN_LIMIT}")
    lowered = [column.name.lower() for column in columns]
    for column in columns:
        place = f"{owner}.{column.name}"
        if lowered.count(column.name.lower()) > 1:
            found.append(f"{place}: twice (case does not count)")
        if not _COLUMN_NAME.fullmatch(column.name):
            found.append(f"{place}: a letter first, then letters, digits, underscores; 2 to 45 characters")
        if column.name.lower() in RESERVED_NAMES:
            found.append(f"{place}: reserved")
        if column.type not in get_args(ColumnType):
            found.append(f"{place}: {column.type!r} is no type of a stream declaration")
        if not column.description.endswith("."):
            found.append(f"{place}: needs a description that is a sentence")
        if not fits(column.example, column.type):
            found.append(f"{place}: its example {column.example!r} is no {column.type}")
    return found


def fits(value: Any, kind: str) -> bool:
    """Whether a value is as our rows carry one of that type: times with six decimals and Z, dynamic values as texts in a row."""
    match kind:
        case "string":
            fit = isinstance(value, str) and value != ""
        case "int" | "long":
            bits = 31 if kind == "int" else 63
            fit = isinstance(value, int) and not isinstance(value, bool) and -(2**bits) <= value < 2**bits
        case "real":
            fit = isinstance(value, float)
        case "boolean":
            fit = isinstance(value, bool)
        case "dynamic":
            fit = isinstance(value, tuple) and len(value) > 0 and all(isinstance(item, str) for item in value)
        case _:
            fit = isinstance(value, str) and _TIME.fullmatch(value) is not None and _is_a_time(value)
    return fit


def _is_a_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
