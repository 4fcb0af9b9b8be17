"""Rows segments: rows as the bodies that carry them to the service, cut and compressed where they are made.

Invariant: the rows of a segment's bodies, one after the other, are its NDJSON, and each body but the last is as full as whole rows allow, so an upload sends what it reads.
Beside a body stand the length of each of its rows and the place of their records in the raw segment (for dead letters).
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, TypeVar

import polars as pl
import pyarrow as pa

from activities import parquet
from contracts import Stop
from sentinel import packing
from sentinel.ndjson import Encoded
from sentinel.packing import StagingPress
from sentinel.tables import Table
from sentinel.text import texts
from transforms.decode import RECORD
from transforms.identity import keys

SCHEMA: Final = pa.schema(
    [
        ("body", pa.binary()),
        ("full", pa.bool_()),
        ("digest", pa.string()),
        ("lengths", pa.list_(pa.int32())),
        ("records", pa.list_(pa.int32())),
    ]
)
"""A rows segment, an Arrow stream with a batch for each body: a JSON array of rows, gzipped; whether no row would have fitted besides (or it is one row that is too long for any body); the digest of its rows
(`packing.digest`); of each row the bytes of its text, a newline included, and the position of its record in the raw segment."""

_END: Final = struct.pack("<Ii", 0xFFFFFFFF, 0)
"""What ends an Arrow stream (columnar format, IPC streaming format)."""

_NEWLINE: Final = ord("\n")

_ASSET: Final = "AssetId"

ROWS_AT_ONCE, BYTES_AT_ONCE = 4096, 2 * 1024 * 1024
"""About as many rows are encoded at once, and so much memory may their frame take: what encoding takes beside it is several times that."""

_Place = TypeVar("_Place")


class Rows:
    """The rows and the keys of a segment in the making: what is encoded is hashed, cut and compressed beside what is encoded next.

    `limit`: the longest body, in bytes.
    """

    def __init__(self, table: Table, limit: int) -> None:
        self._table = table
        self._pending: list[pl.DataFrame] = []
        self._writer = ThreadPoolExecutor(1, "write")
        self._writing: Future[None] | None = None
        self._bodies, self._keys = _Bodies(limit), parquet.Frames()
        self.json_bytes = 0

    def add(self, rows: pl.DataFrame) -> None:
        """More rows: columns of the table, and `_record`."""
        self._pending.append(rows)
        # From half of it on: what comes next may be as much again.
        if 2 * sum(map(len, self._pending)) >= ROWS_AT_ONCE or 2 * sum(map(_size, self._pending)) >= BYTES_AT_ONCE:
            self._encode()

    def _encode(self) -> None:
        for some in portions(pl.concat(self._pending)):
            sent = texts(some, self._table)
            self.json_bytes += sent.content.size
            self._written()
            self._writing = self._writer.submit(self._write, some, sent)
        self._pending.clear()

    def _write(self, rows: pl.DataFrame, sent: Encoded) -> None:
        self._bodies.add(rows[RECORD], sent)
        about = rows[_ASSET] if _ASSET in self._table.names and self._table.key != _ASSET else None
        self._keys.add(keys(rows[self._table.key], sent.tails(), about))

    def _written(self) -> None:
        """What was encoded before is in the blobs."""
        if self._writing is not None:
            self._writing.result()

    def contents(self) -> tuple[bytes, bytes]:
        """The blobs of the rows and of their keys, with `json_bytes` then; there must have been some, if none. Nothing can be added afterwards."""
        if self._pending:
            self._encode()
        with self._writer:
            self._written()
        return self._bodies.content(), self._keys.content()


class _Bodies:
    """The bodies of a segment in the making, with what stands beside them."""

    def __init__(self, limit: int) -> None:
        self._press = StagingPress(limit)
        self._lengths: list[pl.Series] = []
        self._records: list[pl.Series] = []

    def add(self, records: pl.Series, sent: Encoded) -> None:
        """Rows, and the places of their records."""
        ends = sent.ends.cast(pl.Int64)
        _, newlines = (ends[1:] - 1).to_arrow().buffers()
        self._press.add(memoryview(sent.content), memoryview(newlines).cast("q")[: len(records)])
        self._lengths.append(ends.diff()[1:].cast(pl.Int32))
        self._records.append(records.cast(pl.Int32))

    def content(self) -> bytes:
        """The blob; nothing can be added afterwards."""
        press = self._press
        press.finish()
        numbers = [pl.concat(parts).to_arrow() for parts in (self._lengths, self._records)]
        # Message by message: in one batch, or as Parquet, the bodies would be copied more often, through buffers so large that the system fetches them each time.
        messages, row = [SCHEMA.serialize()], 0
        for at, (chunk, digest) in enumerate(zip(press.chunks, press.identity, strict=True), 1):
            columns = [
                _one(pa.binary(), pa.py_buffer(press.wires[chunk.start][1])),
                pa.array([at < len(press.chunks) or not press.open]),
                pa.array([digest]),
                *(_list(of.slice(row, chunk.rows)) for of in numbers),
            ]
            messages.append(pa.RecordBatch.from_arrays(columns, schema=SCHEMA).serialize())
            row += chunk.rows
        return b"".join([*messages, _END])


def _one(kind: pa.DataType, value: pa.Buffer) -> pa.Array:
    """The array of that value alone, not copied."""
    return pa.Array.from_buffers(kind, 1, [None, pa.py_buffer(array("i", (0, value.size))), value])


def _list(values: pa.Array) -> pa.Array:
    """The array of the list of those values."""
    return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)


def portions(rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The rows, as many at a time as are encoded at once; of none an empty frame."""
    parts = max(1, -(-rows.height // ROWS_AT_ONCE), -(-_size(rows) // BYTES_AT_ONCE))
    at_once = -(-rows.height // parts) or 1
    return (rows.slice(low, at_once) for low in range(0, max(1, rows.height), at_once))


def _size(rows: pl.DataFrame) -> int:
    return int(rows.estimated_size())


@dataclass(frozen=True, slots=True)
class Staged:
    """Rows as they were staged, in a body of their own: those at the places `wanted`, or all. See SCHEMA."""

    body: bytes
    full: bool
    digest: str
    lengths: list[int]
    records: pl.Series
    wanted: Sequence[int] | None = None

    @property
    def size(self) -> int:
        """Bytes of the NDJSON of all that the body has."""
        return sum(self.lengths)

    def lines(self) -> tuple[memoryview, list[int]]:
        """The NDJSON, and where in it the newline of each row is."""
        behind = [*accumulate(self.lengths, initial=0)]
        # One byte in front, the bracket; what ends a row is a comma, or the bracket.
        content = bytearray(packing.decompress(self.body, self.size + 1))
        ends = behind[1:]
        for end in ends:
            content[end] = _NEWLINE
        lines = memoryview(content)[1:]
        if self.wanted is None:
            return lines, [end - 1 for end in ends]
        some = b"".join(lines[behind[row] : behind[row + 1]] for row in self.wanted)
        return memoryview(some), [*accumulate((self.lengths[row] for row in self.wanted), initial=-1)][1:]


def of_older_version(what: str) -> Stop:
    """What is raised for a segment that this version cannot read."""
    return Stop(
        f"the run was begun by an older version of the app, which staged {what} in another form",
        'deploy the version that began it, or start the load again with "fresh": true',
    )


def read_rows(content: bytes, wanted: Sequence[int] | None = None) -> Iterator[Staged]:
    """The bodies of a rows segment; `wanted`: only those rows, in order, of bodies that have any.

    Raises Stop when the segment is of an older version of the app, or not whole.
    """
    if not content.endswith(_END):
        # An Arrow stream may end behind any batch.
        raise Stop("a rows segment breaks off", 'was the blob changed? start the load again with "fresh": true')
    stream = pa.ipc.open_stream(content)
    if not stream.schema.equals(SCHEMA):
        raise of_older_version("rows")
    low = 0
    for batch in stream:
        body, full, digest = (column[0].as_py() for column in batch.columns[:3])
        lengths, records = (column.flatten() for column in batch.columns[3:])
        places, here = pl.Series(records), None
        if wanted is not None:
            here = [row - low for row in wanted[bisect_left(wanted, low) : bisect_left(wanted, low + len(lengths))]]
            places = places[here]
        low += len(lengths)
        if len(places):
            yield Staged(body, full, digest, lengths.to_pylist(), places, here)


def in_order(staged: Iterable[tuple[_Place, Staged]], ready_bytes: int) -> Iterator[tuple[_Place, Staged, bool]]:
    """Rows in the order that a pack has them, and whether they are sent as they are: those in full bodies of up to `ready_bytes` first, behind them what is cut again."""
    rest = []
    for place, one in staged:
        if one.full and one.size + 1 <= ready_bytes:
            yield place, one, True
        elif ready_bytes:
            # The ends of segments.
            rest.append((place, one))
        else:
            yield place, one, False
    for place, one in rest:
        yield place, one, False
