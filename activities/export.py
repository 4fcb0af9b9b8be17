"""Exports one segment of a lane: pages until a budget is reached, staged as Parquet of one fixed schema.

Invariant: a segment's blob is written once and carries in its summary what this activity answers, so that a second copy, a retry or a resumed
run fetches nothing again and goes on from the same cursor. Every page is either staged whole or set aside with its reason.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import msgspec
import pyarrow as pa

from activities import parquet
from activities.deps import CancelWatch, Deps
from contracts import Cancelled, ExportRequest, ExportResult, JsonDict, Run, Stop, TryAgain
from native import pages
from sources.paging import resting, unasked
from sources.reader import Ended, Page, Paused

RAW_SCHEMA = pa.schema([("page", pa.int64()), ("ordinal", pa.int32()), ("record", pa.binary())])
"""Every source's raw segment: the page's number, the record's place in it, the record's JSON as received."""

PAGES_SCHEMA = pa.schema([("page", pa.int64()), ("reason", pa.string()), ("body", pa.binary())])
"""Pages that could not be read: at most the first MB of what came instead."""

KEPT_BODY_BYTES = 1_048_576

GROUP_BYTES, GROUP_RECORDS = 8 * 1024 * 1024, 10_000
"""Records that make a row group: what an export holds as they came, and what a transform works on at once. Less costs CPU (a query of polars has a price, whatever
its frame); small records give more rows than bytes, the relations of a domain's ten times as many as they have."""


class _Group:
    """The records of the next row group, as the columns that they become: their texts one behind the other, in a buffer that the group after it uses again."""

    def __init__(self) -> None:
        self._texts = pa.allocate_buffer(0)
        self._begin()

    def _begin(self) -> None:
        self.bytes = 0
        self._pages, self._ordinals, self._starts = array("q"), array("i"), array("i", (0,))

    def take(self, number: int, first: int, records: Sequence[msgspec.Raw], size: int) -> None:
        """Take records of the page of that number, of so many bytes together; `first` is the place of the first of them in the page."""
        self._make_room(size)
        self._starts.extend(pages.write(records, memoryview(self._texts).cast("B"), self.bytes))
        self._pages.extend(array("q", (number,)) * len(records))
        self._ordinals.extend(_ordinals(first, first + len(records)))
        self.bytes += size

    def _make_room(self, size: int) -> None:
        if self.bytes + size > self._texts.size:
            # A new one: the other may be somebody's. What is never written takes no memory.
            texts = pa.allocate_buffer(GROUP_BYTES + 2 * size)
            memoryview(texts)[: self.bytes] = memoryview(self._texts)[: self.bytes]
            self._texts = texts

    def full(self) -> bool:
        """Whether it is to be written."""
        return self.bytes >= GROUP_BYTES or len(self._ordinals) >= GROUP_RECORDS

    def write(self, blob: parquet.Blob) -> None:
        """Add the row group to the blob, unless there are no records; the next one begins."""
        count = len(self._ordinals)
        if not count:
            return
        buffers = [[self._pages], [self._ordinals], [self._starts, self._texts]]
        columns = [
            pa.Array.from_buffers(of.type, count, [None, *map(pa.py_buffer, some)])
            for of, some in zip(RAW_SCHEMA, buffers, strict=True)
        ]
        blob.add(pa.Table.from_arrays(columns, schema=RAW_SCHEMA))
        self._begin()
        if self._texts.size > 3 * GROUP_BYTES:
            # A record larger than a row group was in it.
            self._texts = pa.allocate_buffer(0)


@cache
def _first_ordinals() -> array[int]:
    return array("i", range(GROUP_RECORDS))


def _ordinals(first: int, end: int) -> array[int]:
    """The numbers from `first` to before `end`."""
    return _first_ordinals()[first:end] if end <= GROUP_RECORDS else array("i", range(first, end))


@dataclass(slots=True)
class _Segment:
    """What has been read so far; records are copied out of their page at once, not kept as Python objects, and are Parquet as soon as they fill a row group."""

    cursor: JsonDict
    group: _Group = field(default_factory=_Group)
    blob: parquet.Blob = field(default_factory=lambda: parquet.Blob(RAW_SCHEMA))
    failed: list[Page] = field(default_factory=list)
    bytes: int = 0
    records: int = 0
    read: int = 0
    total: int | None = None

    def add(self, page: Page) -> None:
        self.cursor = page.cursor
        self.read += 1
        self.total = page.total if page.total is not None else self.total
        if page.problem:
            self.failed.append(page)
            return
        self.records += len(page.records)
        for first, records, size in _parts(page.records):
            self.group.take(page.number, first, records, size)
            self.bytes += size
            if self.group.full():
                self.group.write(self.blob)

    def finish(self) -> parquet.Blob:
        """The blob, with all records in it."""
        self.group.write(self.blob)
        # Its buffer is not held while the blob is on its way.
        self.group = _Group()
        return self.blob


def _parts(records: Sequence[msgspec.Raw]) -> Iterator[tuple[int, Sequence[msgspec.Raw], int]]:
    """A page's records, with the place of the first and the bytes of all: of a page that is larger than a row group, as many at a time as fit into one."""
    starts = pages.offsets_of(records)
    low = 0
    while low < len(records):
        high = max(low + 1, bisect_right(starts, starts[low] + GROUP_BYTES) - 1)
        yield low, records[low:high], starts[high] - starts[low]
        low = high


def export(request: ExportRequest, deps: Deps) -> ExportResult:
    """Read pages from the request's cursor on until a budget is used up, and stage them.

    Raises TryAgain when the source gave nothing and may later, Stop when it refuses, Cancelled when the run is to stop.
    """
    run = Run.from_wire(request.run)
    name = deps.names(run).raw(request.stream, request.lane, request.segment)
    staged = deps.staging.summary(name)
    if staged is not None:
        return ExportResult.from_wire(staged)
    watch = CancelWatch(deps, run)
    reader = deps.reader(run.source)
    stream = deps.stream(run, request.stream)
    segment = _Segment(request.cursor)
    try:
        watch.check()
        return _walk(request, deps, segment, name)
    except Cancelled:
        reader.close(stream, segment.cursor)
        raise


def _walk(request: ExportRequest, deps: Deps, segment: _Segment, name: str) -> ExportResult:
    run = Run.from_wire(request.run)
    watch = CancelWatch(deps, run)
    reader, stream = deps.reader(run.source), deps.stream(run, request.stream)
    until = deps.clock() + deps.budgets.export_s
    wait_s, exhausted, problem = 0.0, False, ""
    # A job that is waited for is still the lane's first segment, hours after the first answer.
    first = request.segment == 0 and unasked(request.cursor)
    try:
        for item in reader.walk(stream, request.cursor, first_contact=first):
            if isinstance(item, Page):
                segment.add(item)
                watch.check()
                if segment.bytes >= deps.budgets.segment_bytes or deps.clock() >= until:
                    break
                # Or two pages would be held while the next one comes.
                del item
            else:
                segment.cursor = item.cursor
                exhausted = isinstance(item, Ended)
                problem = item.problem if isinstance(item, Ended) else ""
                wait_s = item.wait_s if isinstance(item, Paused) else 0.0
                break
    except (TryAgain, Stop) as error:
        # What was read is not read again: it is staged, and the next call meets the trouble.
        if isinstance(error, Cancelled) or not segment.read:
            raise
    if not segment.read and not exhausted:
        return ExportResult(segment.cursor, staged=False, exhausted=False, wait_s=wait_s, total=segment.total)
    return _stage(request, deps, segment, name, exhausted=exhausted, problem=problem, wait_s=wait_s)


def _stage(
    request: ExportRequest, deps: Deps, segment: _Segment, name: str, *, exhausted: bool, problem: str, wait_s: float
) -> ExportResult:
    run = Run.from_wire(request.run)
    reasons = Counter(f"page {page.number}: {page.problem}"[:300] for page in segment.failed)
    if problem:
        reasons[problem[:300]] += 1
    if segment.failed:
        pages = [
            {"page": page.number, "reason": page.problem, "body": page.body[:KEPT_BODY_BYTES]}
            for page in segment.failed
        ]
        kept = deps.names(run).failed_pages(request.stream, request.lane, request.segment)
        deps.staging.create(
            kept, parquet.of_table(pa.Table.from_pylist(pages, PAGES_SCHEMA)), {"failed_pages": len(pages)}
        )
    result = ExportResult(
        cursor=resting(segment.cursor),
        staged=True,
        exhausted=exhausted,
        records=segment.records,
        pages=segment.read,
        bytes=segment.bytes,
        failed_pages=len(segment.failed),
        wait_s=wait_s,
        total=segment.total,
        cut_short=bool(problem),
    )
    # Reasons are for the ledger, which reads summaries; they do not travel through the orchestration's history.
    summary = result.to_wire() | {"reasons": dict(reasons.most_common(5))}
    return ExportResult.from_wire(deps.staging.create(name, segment.finish().content(), summary, read_soon=True))
