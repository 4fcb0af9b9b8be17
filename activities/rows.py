"""Rows segments: rows as the text that is sent, one row group of Parquet for as many as are encoded at once.

Invariant: the texts of a segment, one after the other, are its NDJSON, so an upload cuts what it reads. Beside a row's text stands the place
of its record in the raw segment (`_record`, for dead letters).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from activities import parquet
from contracts import Stop
from sentinel.ndjson import Encoded
from sentinel.tables import Table
from sentinel.text import texts
from transforms.decode import RECORD
from transforms.identity import keys

SCHEMA: Final = pa.schema([("row", pa.binary()), (RECORD, pa.int32())])
"""A rows segment: a row as JSON and a newline, the position of its record in the raw segment."""

_ASSET: Final = "AssetId"

ROWS_AT_ONCE, BYTES_AT_ONCE = 4096, 2 * 1024 * 1024
"""About as many rows are encoded at once, and so much memory may their frame take: what encoding takes beside it is several times that."""

ROWS_READ_AT_ONCE: Final = 1024
"""Rows that are read at once: their text fits into memory that is there already, where a whole row group's would be fetched from the system."""


class Rows:
    """The rows and the keys of a segment in the making: what is encoded is hashed and compressed beside what is encoded next."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._pending: list[pl.DataFrame] = []
        self._writer = ThreadPoolExecutor(1, "write")
        self._writing: Future[None] | None = None
        self._rows, self._keys = parquet.Blob(SCHEMA), parquet.Frames()
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
        self._rows.add(_table(rows, sent))
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
        return self._rows.content(), self._keys.content()


def portions(rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The rows, as many at a time as are encoded at once; of none an empty frame."""
    parts = max(1, -(-rows.height // ROWS_AT_ONCE), -(-_size(rows) // BYTES_AT_ONCE))
    at_once = -(-rows.height // parts) or 1
    return (rows.slice(low, at_once) for low in range(0, max(1, rows.height), at_once))


def _size(rows: pl.DataFrame) -> int:
    return int(rows.estimated_size())


def _table(rows: pl.DataFrame, sent: Encoded) -> pa.Table:
    ends = sent.ends.cast(pl.Int32)
    row = pa.Array.from_buffers(pa.binary(), rows.height, [None, ends.to_arrow().buffers()[1], sent.content])
    return pa.Table.from_arrays([row, rows[RECORD].cast(pl.Int32).to_arrow()], schema=SCHEMA)


@dataclass(frozen=True, slots=True)
class Staged:
    """Rows as they were staged: their NDJSON, where in it the newline of each is, the records that they came from."""

    lines: memoryview
    ends: list[int]
    records: pl.Series


def of_older_version(what: str) -> Stop:
    """What is raised for a segment that this version cannot read."""
    return Stop(
        f"the run was begun by an older version of the app, which staged {what} in another form",
        'deploy the version that began it, or start the load again with "fresh": true',
    )


def read_rows(content: bytes, wanted: Sequence[int] | None = None) -> Iterator[Staged]:
    """A rows segment, some rows at a time; `wanted`: only those rows, in order.

    Raises Stop when the segment is of an older version of the app.
    """
    file = pq.ParquetFile(pa.BufferReader(content))
    if "row" not in file.schema_arrow.names:
        raise of_older_version("rows")
    low = 0
    batches = file.iter_batches(ROWS_READ_AT_ONCE, columns=["row", RECORD], use_threads=False)
    while (batch := _next(batches)) is not None:
        high = low + len(batch)
        if wanted is None:
            yield _staged(batch)
        elif here := wanted[bisect_left(wanted, low) : bisect_left(wanted, high)]:
            yield _staged(batch.take(pa.array([row - low for row in here])))
        low = high


def _next(batches: Iterator[pa.RecordBatch]) -> pa.RecordBatch | None:
    # By itself, so that a profile (`bench/stages.py`) tells reading from what is done with it.
    return next(batches, None)


def _staged(batch: pa.RecordBatch) -> Staged:
    rows = batch.column(0)
    _, offsets, content = rows.buffers()
    ends = memoryview(offsets).cast("i")[rows.offset : rows.offset + len(rows) + 1]
    lines = memoryview(content)[ends[0] : ends[-1]]
    return Staged(lines, [*map((-ends[0] - 1).__add__, ends[1:].tolist())], pl.Series(batch.column(1)))
