"""Uploads the rows of consecutive segments of a lane as one pack: exact chunks, receipts, dead letters.

Invariant: which rows make which chunk is written before the first request and never changes afterwards; a chunk that has a receipt is not sent
again, whatever crashed in between; every row ends up accepted or in a dead letter, and what may be in the table twice is counted.
"""

from __future__ import annotations

import io
import json
import threading
import uuid
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from operator import attrgetter

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from activities import parquet
from activities.deps import Deps, Destination, source_of
from activities.rows import Staged, in_order, of_older_version, read_rows
from contracts import TOMBSTONE_LANE, CaasmError, JsonDict, Run, Stop, TryAgain, UploadRequest, UploadResult
from sentinel import packing, receipts
from sentinel.ingestion import Part, Sender, Sent
from sentinel.packing import Anew, Chunk, Lines, Press, Range, StandingPress, WirePress, Wires
from sentinel.receipts import Line, Receipts

DEAD_SCHEMA = pa.schema(
    [
        ("destination", pa.string()),
        ("segment", pa.int32()),
        ("status", pa.int32()),
        ("reason", pa.string()),
        ("row", pa.binary()),
        ("record", pa.binary()),
    ]
)
"""A dead letter: where it was to go, why it is not there, the row as JSON, and the raw record that it came from."""

FLUSH_LINES = 8
REFUSED_BEFORE_STOP = 20


@dataclass(frozen=True, slots=True)
class _Pack:
    """The rows of the pack, cut and compressed, and per segment the offset where its rows begin and the records that they came from."""

    lines: Anew
    press: Press
    rows: int
    unchanged: int
    last: int
    starts: list[int]
    segments: list[int]
    records: list[pl.Series]

    @property
    def chunks(self) -> list[Chunk]:
        """What is sent, a request each."""
        return self.press.chunks

    @property
    def oversize(self) -> list[Chunk]:
        """Rows that fit into no request."""
        return self.press.oversize

    def rows_in(self, part: Range) -> int:
        """How many rows a byte range holds; whole chunks need no counting."""
        rows, at = 0, part[0]
        for chunk in self.chunks[bisect_left(self.chunks, at, key=attrgetter("start")) :]:
            if chunk.start != at or chunk.end > part[1]:
                break
            rows, at = rows + chunk.rows, chunk.end + 1
        return rows if at > part[1] else rows + receipts.rows_in(self.lines, (at, part[1]))

    def origin(self, part: Range) -> tuple[int, int]:
        """Segment of a single row, and the position of its record in the raw segment."""
        at = bisect_right(self.starts, part[0]) - 1
        row = self.lines.count(b"\n", self.starts[at], part[0])
        return self.segments[at], int(self.records[at][row] or 0)


def upload(request: UploadRequest, deps: Deps) -> UploadResult:
    """Send what of the pack has no receipt yet to every destination.

    Raises TryAgain when a destination cannot take it now, Stop when somebody has to change something, Cancelled when the run is to stop.
    """
    run = Run.from_wire(request.run)
    names = deps.names(run)
    frozen_last = _frozen_last(request, deps)
    request = request if frozen_last is None else replace(request, last=frozen_last)
    where = (request.stream, request.lane, request.first, request.last)
    done = deps.staging.summary(names.receipts(*where))
    if done:
        return UploadResult.from_wire(done)
    with deps.desks:
        pack = _frozen(request, deps) if frozen_last is not None else _freeze(request, deps)
    table = source_of(run.source).tables[request.stream]
    outcomes = {d.name: _deliver(request, deps, d, table, pack) for d in deps.destinations}
    result = _result(pack, outcomes)
    dead = _dead_letters(request, deps, pack, outcomes)
    if dead is not None:
        deps.staging.create(names.dead_letters(*where), parquet.of_table(dead), {"dead_lettered": dead.num_rows})
    deps.staging.describe(names.receipts(*where), result.to_wire() | {"reasons": _reasons(dead)})
    return result


def _pack(request: UploadRequest, deps: Deps, press: Press, ready_bytes: int) -> _Pack:
    """The rows of the pack through the press: of what is cut only the compressed body is kept."""
    starts: list[int] = []
    segments: list[int] = []
    records: list[pl.Series] = []
    wanted, unchanged = _segments(request, deps)
    for segment, staged, ready in in_order(_staged(wanted, deps), ready_bytes):
        starts.append(press.taken)
        segments.append(segment)
        records.append(staged.records)
        if ready:
            press.take(staged.body, staged.size, len(staged.lengths), staged.digest)
        else:
            press.add(*staged.lines())
    press.finish()
    rows = sum(map(len, records))
    again = Anew(lambda: _lines(request, deps, ready_bytes))
    return _Pack(again, press, rows, unchanged(rows), request.last, starts, segments, records)


def _segments(
    request: UploadRequest, deps: Deps
) -> tuple[dict[int, tuple[str, list[int] | None]], Callable[[int], int]]:
    """Name and wanted rows of each segment of the pack that has any (None: all), and how many rows are left out when so many are sent."""
    names = deps.names(Run.from_wire(request.run))
    wanted = _verdicts(request, deps) if request.verdicts else None
    places = {
        segment: names.rows(request.stream, request.lane, segment) for segment in range(request.first, request.last + 1)
    }
    if wanted is None:
        return {segment: (name, None) for segment, name in places.items()}, lambda _: 0
    summaries = {segment: deps.staging.summary(name) for segment, name in places.items()}
    staged = sum(summary["rows"] for summary in summaries.values() if summary is not None)
    # A segment that is not there is asked for all the same: whoever reads it says so.
    kept = {segment for segment, summary in summaries.items() if segment in wanted or summary is None}
    return {segment: (places[segment], wanted[segment]) for segment in sorted(kept)}, lambda rows: staged - rows


def _staged(wanted: dict[int, tuple[str, list[int] | None]], deps: Deps) -> Iterator[tuple[int, Staged]]:
    """The rows that are wanted, a body at a time, with their segment."""
    for segment, (name, rows) in wanted.items():
        for staged in read_rows(_content(name, deps), rows):
            yield segment, staged


def _content(name: str, deps: Deps) -> bytes:
    try:
        return deps.staging.read(name)
    except Stop:
        if deps.staging.exists(name.removesuffix("arrows") + "parquet"):
            raise of_older_version("rows") from None
        raise


def _lines(request: UploadRequest, deps: Deps, ready_bytes: int) -> bytearray:
    """The NDJSON of the pack, whole."""
    lines = bytearray()
    for _, staged, _ in in_order(_staged(_segments(request, deps)[0], deps), ready_bytes):
        lines += staged.lines()[0]
    return lines


def _freeze(request: UploadRequest, deps: Deps) -> _Pack:
    """The pack, cut, and its membership written; or as a copy of this activity froze it, that was faster."""
    limit = deps.budgets.body_limit_bytes
    wire = deps.budgets.compressed
    ready_bytes = 0 if wire or request.verdicts else limit
    pack = _pack(request, deps, WirePress(limit) if wire else Press(limit), ready_bytes)
    membership: JsonDict = {
        "rows": pack.rows,
        "ready_bytes": ready_bytes,
        "digests": pack.press.identity,
        "limit": limit,
        "chunks": _offsets(pack.chunks),
        "oversize": _offsets(pack.oversize),
    }
    content = json.dumps(membership).encode()
    written = {"rows": pack.rows, "membership": packing.digest(content)}
    name = deps.names(Run.from_wire(request.run)).pack(request.stream, request.lane, request.first, request.last)
    return pack if deps.staging.create(name, content, written) == written else _frozen(request, deps)


def _frozen(request: UploadRequest, deps: Deps) -> _Pack:
    """The pack as it was frozen. A compressed body's length depends on the compressor, so what was cut once is never cut again. Raises Stop when the rows are other ones."""
    name = deps.names(Run.from_wire(request.run)).pack(request.stream, request.lane, request.first, request.last)
    standing: JsonDict = json.loads(deps.staging.read(name))
    limit = deps.budgets.body_limit_bytes
    chunks, oversize = _chunks(standing["chunks"]), _chunks(standing["oversize"])
    press = StandingPress(limit, standing=chunks, set_aside=oversize)
    # An older version cut all rows in their order.
    pack = _pack(request, deps, press, standing.get("ready_bytes", 0))
    if standing["rows"] != pack.rows or standing.get("digests") != pack.press.identity:
        raise Stop(
            f"pack {request.first}-{request.last} of {request.stream} was frozen with other bytes than the same rows give now",
            'the app was changed while the run was going on: deploy the version that began it, or start the load again with "fresh": true',
        )
    return pack


def _offsets(chunks: list[Chunk]) -> list[list[int]]:
    return [[chunk.start, chunk.end, chunk.rows] for chunk in chunks]


def _chunks(offsets: list[list[int]]) -> list[Chunk]:
    return [Chunk(*chunk) for chunk in offsets]


def _frozen_last(request: UploadRequest, deps: Deps) -> int | None:
    """The last segment of the pack that begins with the request's first and is frozen already; None when none is.

    A lane that lost its state, or a run that goes on after it failed, may draw the line elsewhere; the rows of a frozen pack are never packed anew.
    """
    pack = deps.names(Run.from_wire(request.run)).pack(request.stream, request.lane, request.first, request.last)
    prefix = pack[: pack.rindex("-") + 1]
    frozen = [blob.name for blob in deps.staging.list(prefix)]
    return int(frozen[0].removeprefix(prefix).removesuffix(".json")) if frozen else None


def _verdicts(request: UploadRequest, deps: Deps) -> dict[int, list[int]]:
    """Per segment of the pack the rows that the diff wants sent, in order; segments with none are left out."""
    prefix = f"{deps.names(Run.from_wire(request.run)).prefix}verdicts/{request.stream}/"
    mine = (pl.col("lane") == request.lane) & pl.col("segment").is_between(request.first, request.last)
    parts = [
        pl.read_parquet(io.BytesIO(deps.staging.read(blob.name))).filter(mine) for blob in deps.staging.list(prefix)
    ]
    if not parts:
        return {}
    grouped = pl.concat(parts).sort("segment", "row").group_by("segment", maintain_order=True).agg("row")
    return {int(segment): list(rows) for segment, rows in grouped.rows()}


def _deliver(request: UploadRequest, deps: Deps, destination: Destination, table: str, pack: _Pack) -> Receipts:
    run = Run.from_wire(request.run)
    log = deps.names(run).receipts(request.stream, request.lane, request.first, request.last)
    if destination is not deps.destinations[0]:
        log = log.removesuffix(".jsonl") + f".{destination.name}.jsonl"
    attempt = uuid.uuid4().hex[:8]
    # Before the log is read: of two copies at once, the later one then always sees the other.
    deps.staging.append(log, [receipts.opened(attempt)])
    known = Receipts.of(deps.staging.log(log), own=attempt)
    # Small packs must not all go through the first DCR.
    first_door = zlib.crc32(log.encode())
    left = [replace(part, door=first_door + part.door) for part in known.left(pack.lines, pack.chunks)]
    sender = deps.sender(destination, table, run)
    last = destination is deps.destinations[-1]
    sender.wire = lambda lines, chunk: _wire(lines, chunk, pack.press.wires, last=last)
    sender.until = deps.clock() + deps.budgets.upload_s
    writer = _Writer(deps, log, attempt, run.run_id, pack, refused_only=not known.accepted)
    doubts: list[Part] = []
    try:
        sender.send(pack.lines, left, writer.sent, doubts.append)
    except CaasmError as error:
        writer.flush([_closed(attempt, doubts, sender)])
        if isinstance(error, TryAgain):
            # A sink that is slow, or a quota that is small, is no failure, however long the pack takes.
            error.progressed = writer.settled > 0
        raise
    except BaseException:
        # What nobody foresaw told nobody what was on its way: without an end in the log all that is unsettled is in doubt.
        writer.flush([])
        raise
    writer.flush([_closed(attempt, doubts, sender)])
    return Receipts.of(deps.staging.log(log))


def _wire(lines: Lines, chunk: Chunk, ready: Wires, *, last: bool) -> bytes:
    """The gzipped body of a chunk: the one that cutting left, let go when no other destination wants it, or made now (of a half, or of a frozen chunk)."""
    left = ready.get(chunk.start)
    if left is None or left[0] != chunk.end:
        return packing.wire(lines, chunk)
    if last:
        del ready[chunk.start]
    return left[1]


def _closed(attempt: str, doubts: list[Part], sender: Sender) -> Line:
    tally = sender.tally
    return receipts.closed(attempt, doubts, tally.requests, tally.body_bytes, tally.wire_bytes)


class _Writer:
    """Collects receipts from the sender's threads and appends them a few at a time: a crash leaves the latest few in doubt."""

    def __init__(self, deps: Deps, log: str, attempt: str, run_id: str, pack: _Pack, *, refused_only: bool) -> None:
        self._deps, self._log, self._attempt, self._run_id, self._pack = deps, log, attempt, run_id, pack
        self._pending: list[Line] = []
        self._lock = threading.Lock()
        self._refused_only, self._refused = refused_only, 0
        self.settled = 0

    def sent(self, sent: Sent) -> None:
        part = (sent.chunk.start, sent.chunk.end)
        digest = self._pack.press.digests.get(part) or packing.digest(self._pack.lines[part[0] : part[1]])
        line = receipts.settled(self._attempt, sent, digest, self._run_id)
        with self._lock:
            self._pending.append(line)
            self.settled += 1
            self._refused_only = self._refused_only and not sent.accepted
            self._refused += not sent.accepted
            hopeless = self._refused_only and self._refused >= REFUSED_BEFORE_STOP
            full = len(self._pending) >= FLUSH_LINES
        if full:
            self.flush([])
        if hopeless:
            # Every row alone is refused, and none was ever taken: it is not the rows.
            raise Stop(
                sent.reason, "the DCR refuses every row: compare its stream declaration with the tables' contract"
            )

    def flush(self, more: list[Line]) -> None:
        with self._lock:
            ready, self._pending = [*self._pending, *more], []
        if not ready:
            return
        try:
            self._deps.staging.append(self._log, ready)
        except CaasmError:
            # The next flush takes them along; when that fails too, the try has no end in the log and all of it is in doubt.
            with self._lock:
                self._pending = ready + self._pending
            raise


def _result(pack: _Pack, outcomes: dict[str, Receipts]) -> UploadResult:
    dead = receipts.merged(part for outcome in outcomes.values() for part in outcome.refused)
    dead_rows = sum(pack.rows_in(part) for part in dead) + len(pack.oversize)
    accepted = pack.rows - dead_rows
    for outcome in outcomes.values():
        taken = receipts.merged([*outcome.accepted, *outcome.refused, *((c.start, c.end) for c in pack.oversize)])
        # Counted from the receipts, not from what was meant to be sent.
        accepted = min(accepted, sum(pack.rows_in(part) for part in taken) - dead_rows)
    doubtful = receipts.merged(part for outcome in outcomes.values() for part in outcome.ambiguous)
    return UploadResult(
        rows=pack.rows + pack.unchanged,
        accepted=accepted,
        dead_lettered=dead_rows,
        possibly_repeated=sum(pack.rows_in(part) for part in doubtful),
        chunks=sum(outcome.chunks for outcome in outcomes.values()),
        requests=sum(outcome.requests for outcome in outcomes.values()),
        bytes_sent=sum(outcome.body_bytes for outcome in outcomes.values()),
        bytes_wire=sum(outcome.wire_bytes for outcome in outcomes.values()),
        unchanged=pack.unchanged,
        last=pack.last,
    )


def _dead_letters(request: UploadRequest, deps: Deps, pack: _Pack, outcomes: dict[str, Receipts]) -> pa.Table | None:
    limit = f"{deps.budgets.body_limit_bytes}{' compressed' if deps.budgets.compressed else ''}"
    dead = [
        ((chunk.start, chunk.end), "", 413, f"a row of {chunk.end - chunk.start} bytes fits into no request of {limit}")
        for chunk in pack.oversize
    ]
    for name, outcome in outcomes.items():
        dead += [(part, name, line["status"], line["reason"]) for part, line in outcome.refused.items()]
    if not dead:
        return None
    run = Run.from_wire(request.run)
    names = deps.names(run)
    exported = source_of(run.source).parents.get(request.stream, request.stream)
    raw: dict[int, pa.Table] = {}
    letters = []
    for part, destination, status, reason in sorted(dead):
        segment, record = pack.origin(part)
        if request.lane == TOMBSTONE_LANE:
            letters.append(_letter(pack, part, destination, segment, status, reason, b""))
            continue
        if segment not in raw:
            content = deps.staging.read(names.raw(exported, request.lane, segment))
            raw[segment] = pq.read_table(pa.BufferReader(content), columns=["record"])
        letters.append(
            _letter(pack, part, destination, segment, status, reason, raw[segment]["record"][record].as_py())
        )
    return pa.Table.from_pylist(letters, DEAD_SCHEMA)


def _letter(
    pack: _Pack, part: Range, destination: str, segment: int, status: int, reason: str, record: bytes
) -> dict[str, object]:
    row = bytes(pack.lines[part[0] : part[1]])
    return dict(zip(DEAD_SCHEMA.names, (destination, segment, status, reason, row, record), strict=True))


def _reasons(dead: pa.Table | None) -> dict[str, int]:
    if dead is None:
        return {}
    counted = pl.Series(dead["reason"].to_pylist()).str.slice(0, 200).value_counts(sort=True).head(5)
    return {str(reason): int(count) for reason, count in counted.rows()}
