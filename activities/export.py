"""Exports one segment of a lane: pages until a budget is reached, staged as Parquet of one fixed schema.

Invariant: a segment's blob is written once and carries in its summary what this activity answers, so that a second copy, a retry or a resumed
run fetches nothing again and goes on from the same cursor. Every page is either staged whole or set aside with its reason.
"""

from __future__ import annotations

import itertools
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from activities.deps import CancelWatch, Deps
from contracts import Cancelled, ExportRequest, ExportResult, JsonDict, Run, Stop, TryAgain
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


class Blob:
    """A Parquet blob in the making, a row group at a time: only what is compressed is held. LZ4: see docs/adr/0012-memory.md."""

    def __init__(self, schema: pa.Schema, *, dictionary: bool = False) -> None:
        self._sink = pa.BufferOutputStream()
        self._writer = pq.ParquetWriter(
            self._sink, schema, compression="lz4", use_dictionary=dictionary, write_statistics=False
        )

    def add(self, table: pa.Table) -> None:
        """One more row group."""
        self._writer.write_table(table)

    def content(self) -> bytes:
        """The whole of it; nothing can be added afterwards."""
        self._writer.close()
        content: bytes = self._sink.getvalue().to_pybytes()
        return content


@dataclass(slots=True)
class _Segment:
    """What has been read so far; records are kept as Arrow arrays per page, not as Python objects, and as Parquet as soon as they fill a row group."""

    cursor: JsonDict
    pages: list[pa.RecordBatch] = field(default_factory=list)
    blob: Blob = field(default_factory=lambda: Blob(RAW_SCHEMA))
    failed: list[Page] = field(default_factory=list)
    bytes: int = 0
    pending: int = 0
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
        if page.records:
            batch, size = _batch(page.number, page.records)
            self.pages.append(batch)
            self.records += batch.num_rows
            self.bytes += size
            self.pending += size
            if self.pending >= GROUP_BYTES or sum(page.num_rows for page in self.pages) >= GROUP_RECORDS:
                self._press()

    def _press(self) -> None:
        self.blob.add(pa.Table.from_batches(self.pages, RAW_SCHEMA))
        self.pages.clear()
        self.pending = 0

    def finish(self) -> Blob:
        """The blob, with all records in it."""
        if self.pages:
            self._press()
        return self.blob


def _batch(number: int, records: Sequence[msgspec.Raw]) -> tuple[pa.RecordBatch, int]:
    """A page's records as a batch, and their bytes."""
    count = len(records)
    # The buffers of an Arrow array: the records one after the other, and where each begins. No object is made for a record.
    content = b"".join(records)
    starts = array("i", itertools.accumulate(map(len, records), initial=0))
    texts = pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(starts), pa.py_buffer(content)])
    columns = [pa.repeat(pa.scalar(number, pa.int64()), count), pa.array(range(count), pa.int32()), texts]
    return pa.RecordBatch.from_arrays(columns, schema=RAW_SCHEMA), len(content)


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
        deps.staging.create(kept, parquet(pa.Table.from_pylist(pages, PAGES_SCHEMA)), {"failed_pages": len(pages)})
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
    return ExportResult.from_wire(deps.staging.create(name, segment.finish().content(), summary))


def parquet(table: pa.Table) -> bytes:
    """The table as Parquet."""
    blob = Blob(table.schema)
    blob.add(table)
    return blob.content()
