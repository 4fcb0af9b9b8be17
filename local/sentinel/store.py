"""Rows to `DIR/<table>/<sequence>.parquet`: buffered in memory up to a bound, written whole or not at all.

A file appears under its name only when it is complete (written beside it and renamed), and is never changed afterwards; so a directory can be
read at any time, by any process, whether or not somebody is writing to it. What was buffered and not flushed is lost when the process is killed.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

BUFFER_BYTES = 32 * 1024 * 1024
"""Arrow bytes that are held before they are written; while one buffer is being written at most one more fills up."""


class Store:
    """Takes batches from any thread and writes them as Parquet files under a directory."""

    def __init__(
        self, directory: Path, *, buffer_bytes: int = BUFFER_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.directory = directory
        self._limit = buffer_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._pending: dict[str, list[pa.RecordBatch]] = defaultdict(list)
        self._held = 0
        self._last_add = clock()
        self._next = self.next_number()
        for leftover in directory.glob("*/*.tmp"):
            leftover.unlink()

    def add(self, table: str, batch: pa.RecordBatch) -> None:
        """Keep the batch; when the buffer is full the caller's thread writes it, so that producers slow down to the disk's pace."""
        with self._lock:
            self._pending[table].append(batch)
            self._held += batch.nbytes
            self._last_add = self._clock()
            full = self._held >= self._limit
        if full:
            self.flush(at_least=self._limit)

    def idle_s(self) -> float | None:
        """Seconds since the last batch came, or None when nothing is buffered."""
        with self._lock:
            return self._clock() - self._last_add if self._held else None

    def flush(self, *, at_least: int = 1) -> None:
        """Write what is buffered if it has that many bytes; when this returns, everything added before the call is in files."""
        with self._writing:
            with self._lock:
                if self._held < at_least:
                    return
                taken, self._pending = self._pending, defaultdict(list)
                self._held = 0
            for table, batches in taken.items():
                self._write(table, batches)

    def _write(self, table: str, batches: list[pa.RecordBatch]) -> None:
        for alike in _by_schema(batches):
            path = self.directory / table / f"{self._next:08d}.parquet"
            self._next += 1
            _write_file(path, alike)

    def next_number(self, others: Iterable[int] = ()) -> int:
        """A number that no file has, nor any of the others."""
        return 1 + max((*others, *(int(path.stem[:8]) for path in self.directory.glob("*/*.parquet"))), default=0)

    def write(self, stem: str, received: Iterable[tuple[str, pa.RecordBatch]]) -> None:
        """Write batches with their tables' names as files whose names begin with `stem`; written again, they replace themselves."""
        tables: dict[str, list[pa.RecordBatch]] = defaultdict(list)
        for table, batch in received:
            tables[table].append(batch)
        for table, batches in tables.items():
            for number, alike in enumerate(_by_schema(batches)):
                _write_file(self.directory / table / f"{stem}-{number}.parquet", alike)


def _by_schema(batches: Iterable[pa.RecordBatch]) -> list[list[pa.RecordBatch]]:
    found: dict[tuple[str, ...], list[pa.RecordBatch]] = defaultdict(list)
    for batch in batches:
        if batch.num_rows:
            found[tuple(str(kind) for kind in batch.schema.types)].append(batch)
    return list(found.values())


def _write_file(path: Path, batches: list[pa.RecordBatch]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    # Dictionaries and statistics would cost half of the time and the queries here scan anyway.
    pq.write_table(
        pa.Table.from_batches(batches),
        unfinished,
        compression="lz4",
        use_dictionary=False,
        write_statistics=["TimeGenerated"],
    )
    unfinished.rename(path)
