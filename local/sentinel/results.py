"""A query's result in the shape of the Log Analytics query API: one PrimaryResult, values as the service writes them in JSON."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from local.sentinel.query import QueryResult


def as_response(result: QueryResult) -> dict[str, Any]:
    """`{"tables": [{"name", "columns": [{"name", "type"}], "rows"}]}`; dynamic values are JSON text, times end in Z, as in the service."""
    columns = [{"name": column.name, "type": column.type} for column in result.columns]
    writers = [_WRITERS.get(column.type, _plain) for column in result.columns]
    rows = [[write(value) for write, value in zip(writers, row, strict=True)] for row in result.rows]
    return {"tables": [{"name": "PrimaryResult", "columns": columns, "rows": rows}]}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Decimal) else value


def _moment(value: Any) -> Any:
    if not isinstance(value, datetime):
        return None if value is None else str(value)
    return value.replace(tzinfo=None).isoformat() + "Z"


def _duration(value: Any) -> Any:
    """.NET's TimeSpan: `[-][d.]hh:mm:ss[.fffffff]`."""
    if not isinstance(value, timedelta):
        return None if value is None else str(value)
    sign, rest = ("-", -value) if value < timedelta(0) else ("", value)
    minutes, seconds = divmod(rest.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days = f"{rest.days}." if rest.days else ""
    fraction = f".{rest.microseconds:06d}0" if rest.microseconds else ""
    return f"{sign}{days}{hours:02d}:{minutes:02d}:{seconds:02d}{fraction}"


def _real(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _document(value: Any) -> Any:
    return None if value is None else json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)


_WRITERS: Final = {"datetime": _moment, "timespan": _duration, "real": _real, "dynamic": _document}
