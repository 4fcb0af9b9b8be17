"""How many records a stream has, of products that name no total: the end of a list is looked for with pages of one record, an export job is asked for its chunks.

Invariant: a few dozen of small requests whatever the size, no record is read twice, and what is answered is an estimate within some per cent or None;
nothing that a load decides depends on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from contracts import JsonDict, Stop
from sources.model import Fetch, Stream, UnreadablePageError
from sources.overlapping import Overlapping
from sources.paging import ExportJob, PageNumber
from sources.reader import Reader

PRECISION: Final = 0.01

FARTHEST: Final = 2**27
"""A product that has a record at such a position answers something else than what is asked."""


def extent(
    reader: Reader, stream: Stream, cursor: JsonDict, seen: list[int], patient: Callable[[float], bool]
) -> int | None:
    """About how many records the stream has, when its first pages held `seen` so many and end at `cursor`; None when neither its paging nor its product show it.

    `patient(seconds)` waits so long for a job, or answers that it is too late. Raises TryAgain when the source is out.
    """
    try:
        if isinstance(stream.paging, Overlapping | PageNumber):
            return _end(reader, stream, sum(seen))
        if isinstance(stream.paging, ExportJob) and not cursor.get("adopted"):
            left = _chunks_left(reader, stream.paging, cursor, patient)
            return None if left is None or not seen else sum(seen) + round(left * sum(seen) / len(seen))
    except (Stop, UnreadablePageError):
        # So deep a page is refused.
        return None
    return None


def _end(reader: Reader, stream: Stream, at_least: int) -> int | None:
    size = _held(reader, stream, 0)
    if size == 0:
        return 0
    # A server that does not give pages of one: positions count its pages.
    low = max(0, at_least // size - 1)
    high = max(1, 2 * low)
    while _held(reader, stream, high):
        low, high = high, 2 * high
        if high > FARTHEST:
            return None
    while high - low > max(1, int(PRECISION * low)):
        middle = (low + high) // 2
        low, high = (middle, high) if _held(reader, stream, middle) else (low, middle)
    return (low + high + 1) // 2 * size


def _held(reader: Reader, stream: Stream, position: int) -> int:
    """How many records the page of one at the position has."""
    paging = stream.paging.sized(1)
    cursor: JsonDict = {"at": position} if isinstance(paging, Overlapping) else {"page": position, "step": 1}
    step = paging.step(cursor)
    assert isinstance(step, Fetch)
    return len(paging.parse(cursor, step, *reader.fetch(step.request)).records)


def _chunks_left(reader: Reader, paging: ExportJob, cursor: JsonDict, patient: Callable[[float], bool]) -> int | None:
    """The chunks behind the cursor of a job, when it has listed all; None when that takes too long or they failed."""
    while cursor.get("state") in {"QUEUED", "PROCESSING"}:
        # Without what is to be fetched the next step asks for the job's state.
        asking = {**cursor, "todo": [], "polled": False}
        step = paging.step(asking)
        assert isinstance(step, Fetch)
        cursor = paging.parse(asking, step, *reader.fetch(step.request)).cursor
        if cursor.get("state") != "FINISHED" and not patient(paging.poll_s):
            return None
    return len(cursor.get("todo", [])) if cursor.get("state") == "FINISHED" else None
