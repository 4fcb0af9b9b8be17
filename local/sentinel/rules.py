"""What the data collection rule makes of one received object, column by column: the exact path, and the definition of what is right.

The faster path in `decode` must give the same columns and counts for every body that it takes, or leave the body to this one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

import msgspec

from sentinel.tables import FIELD_LIMIT_BYTES, Column, ColumnType, Stream, Table

INT_RANGES: Final = {"int": (-(2**31), 2**31 - 1), "long": (-(2**63), 2**63 - 1)}
"""The integers that a column of each type holds, both ends included."""

_ISO: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?(Z|[+-]\d\d(?::?\d\d)?)?)?", re.ASCII
)


@dataclass(slots=True)
class Counts:
    """What the rule changed: columns dropped, values nulled, values cut (each by column name), times replaced, rows that its transformation left out."""

    dropped: Counter[str] = field(default_factory=Counter)
    nulled: Counter[str] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)
    time_replaced: int = 0
    filtered: int = 0


@dataclass(frozen=True, slots=True)
class JsonText:
    """A dynamic value that is not an array of strings, as its JSON text."""

    text: str


def parse_datetime(text: str) -> datetime | None:
    """The UTC time that an ISO 8601 text means, naive, to the microsecond (finer digits are cut); None when it is none.

    No offset means UTC. A date alone means its midnight.
    """
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    micros = int((fraction or "0")[:6].ljust(6, "0"))
    try:
        parts = (int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), micros)
        moment = datetime(*parts, tzinfo=_zone(zone))
        return moment.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None


def _zone(text: str | None) -> timezone:
    if text is None or text == "Z":
        return UTC
    digits = text[1:].replace(":", "").ljust(4, "0")
    hours, minutes = int(digits[:2]), int(digits[2:])
    if hours > 23 or minutes > 59:
        raise ValueError(f"no UTC offset: {text!r}")
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)


def cut_text(text: str) -> str | None:
    """The text cut to 64 KB of UTF-8 at a character's edge, or None when it is within the limit."""
    if len(text) * 4 <= FIELD_LIMIT_BYTES:
        return None
    encoded = text.encode()
    if len(encoded) <= FIELD_LIMIT_BYTES:
        return None
    return encoded[:FIELD_LIMIT_BYTES].decode(errors="ignore")


def _string(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return msgspec.json.encode(value).decode() if isinstance(value, float) else str(value)


def _integer(value: Any, kind: str) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    low, high = INT_RANGES[kind]
    return int(value) if low <= value <= high else None


def _real(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _dynamic(value: Any) -> list[str | None] | JsonText:
    if isinstance(value, list) and all(item is None or isinstance(item, str) for item in value):
        return value
    return JsonText(msgspec.json.encode(value).decode())


def convert(value: Any, kind: ColumnType) -> Any:
    """The value as a column of that type keeps it, or None when it cannot be one.

    A number in a string column becomes its text and an ISO 8601 text in a datetime column a time; an integral number may stand in an
    integer column in any spelling. Nothing else is converted: the service may be kinder, but the documentation promises nothing.
    """
    match kind:
        case "string":
            return _string(value)
        case "int" | "long":
            return _integer(value, kind)
        case "real":
            return _real(value)
        case "boolean":
            return value if isinstance(value, bool) else None
        case "datetime":
            return parse_datetime(value) if isinstance(value, str) else None
        case "dynamic":
            return _dynamic(value)


def _cut(value: Any) -> Any:
    """What is left of a value over the field limit, or None when it is within. A dynamic that is cut is JSON no more, so it becomes text."""
    if isinstance(value, str):
        return cut_text(value)
    if isinstance(value, JsonText):
        text = value.text
    elif isinstance(value, list):
        if sum(len(item or "") for item in value) * 6 + len(value) * 6 <= FIELD_LIMIT_BYTES:
            return None
        text = msgspec.json.encode(value).decode()
    else:
        return None
    left = cut_text(text)
    return None if left is None else JsonText(msgspec.json.encode(left).decode())


def columns_of(objects: Sequence[Mapping[str, Any]], table: Table | Stream) -> tuple[dict[str, list[Any]], Counts]:
    """Per column of the table the values that the rule keeps, in the order of the objects, and what it changed on the way.

    Dynamic values are lists of strings or `JsonText`; times are naive UTC. TimeGenerated is not replaced here.
    """
    counts = Counts()
    known = frozenset(table.names)
    for received in objects:
        counts.dropped.update(received.keys() - known)
    return {column.name: _column(objects, column, counts) for column in table.columns}, counts


def _column(objects: Sequence[Mapping[str, Any]], column: Column, counts: Counts) -> list[Any]:
    kept: list[Any] = []
    for received in objects:
        raw = received.get(column.name)
        value = None if raw is None else convert(raw, column.type)
        if value is None and raw is not None:
            counts.nulled[column.name] += 1
        shorter = _cut(value)
        if shorter is not None:
            counts.cut[column.name] += 1
            value = shorter
        kept.append(value)
    return kept
