"""The query API's `timespan`: an ISO 8601 duration, or an interval of two times or of a time and a duration, to a range of UTC times."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from local.sentinel.rules import parse_datetime

_DURATION: Final = re.compile(
    r"P(?:(?P<weeks>\d+(?:\.\d+)?)W)?(?:(?P<days>\d+(?:\.\d+)?)D)?"
    r"(?:T(?:(?P<hours>\d+(?:\.\d+)?)H)?(?:(?P<minutes>\d+(?:\.\d+)?)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Interval:
    """Naive UTC times, both included."""

    start: datetime
    end: datetime

    def sql(self, column: str) -> str:
        """The condition on a column, as DuckDB reads it."""
        return f"\"{column}\" BETWEEN TIMESTAMP '{self.start}' AND TIMESTAMP '{self.end}'"


def parse_duration(text: str) -> timedelta:
    """An ISO 8601 duration of weeks, days, hours, minutes and seconds; raises ValueError for anything else (months have no length)."""
    match = _DURATION.fullmatch(text)
    if match is None or not any(match.groups()):
        raise ValueError(f"no ISO 8601 duration: {text!r}")
    return timedelta(**{unit: float(amount) for unit, amount in match.groupdict().items() if amount})


def parse_timespan(text: str, now: datetime) -> Interval:
    """`PT1H` ends now; `start/end`, `start/duration` and `duration/end` are as they say. Raises ValueError."""
    first, slash, second = text.partition("/")
    if not slash:
        return Interval(now - parse_duration(first), now)
    if first.startswith("P"):
        end = _moment(second)
        return Interval(end - parse_duration(first), end)
    start = _moment(first)
    return Interval(start, start + parse_duration(second) if second.startswith("P") else _moment(second))


def _moment(text: str) -> datetime:
    moment = parse_datetime(text)
    if moment is None:
        raise ValueError(f"no ISO 8601 time: {text!r}")
    return moment
