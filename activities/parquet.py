"""Parquet blobs, a row group at a time.

Invariant: whoever writes holds what is compressed and one row group, whoever reads what is compressed and one row group, however long the blob is.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

PAGE_ROWS, PAGE_BYTES = 64, 128 * 1024
"""A page ends with the first so many rows that reach so many bytes: each of the buffers that it goes through then is small enough to be there already. At 256 rows and
a MiB a load of small records took 3 % more CPU time and 25 MB more (ADR 0026)."""


class Blob:
    """A blob in the making, of tables of one schema. LZ4: see docs/adr/0012-memory.md."""

    def __init__(self, schema: pa.Schema) -> None:
        # Not Arrow's own stream, nor BytesIO: they are copied as they grow, into memory that the system fetches each time.
        self._sink = _Pieces()
        self._writer = pq.ParquetWriter(
            self._sink,
            schema,
            compression="lz4",
            # Records and keys repeat nothing as a whole.
            use_dictionary=False,
            write_statistics=False,
            write_batch_size=PAGE_ROWS,
            data_page_size=PAGE_BYTES,
        )

    def add(self, table: pa.Table) -> None:
        """One more row group."""
        self._writer.write_table(table)

    def content(self) -> bytes:
        """The whole of it; nothing can be added afterwards."""
        self._writer.close()
        return b"".join(self._sink.pieces)


class _Pieces:
    """A file in memory: what is written, as it comes."""

    closed = False

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, piece: bytes) -> int:
        """One more piece."""
        # Which copies nothing, unless Arrow should give a buffer that it writes to again.
        self.pieces.append(bytes(piece))
        return len(piece)

    def flush(self) -> None:
        """It is there."""

    def close(self) -> None:
        """It stays there."""
        self.closed = True


class Frames:
    """A blob in the making, of frames of one schema."""

    def __init__(self) -> None:
        self._blob: Blob | None = None

    def add(self, frame: pl.DataFrame) -> None:
        """One more row group."""
        table = frame.to_arrow(compat_level=pl.CompatLevel.newest())
        if self._blob is None:
            self._blob = Blob(table.schema)
        self._blob.add(table)

    def content(self) -> bytes:
        """The whole of it; there must have been a frame, if an empty one."""
        assert self._blob is not None
        return self._blob.content()


def of_table(table: pa.Table) -> bytes:
    """The table as a blob of one row group."""
    blob = Blob(table.schema)
    blob.add(table)
    return blob.content()


def of_frame(frame: pl.DataFrame) -> bytes:
    """The frame as a blob, of as many row groups as polars thinks fit: for those that are read whole."""
    content = io.BytesIO()
    frame.write_parquet(content, compression="lz4", statistics=False)
    return content.getvalue()


def groups(content: bytes) -> Iterator[tuple[int, int, pl.LazyFrame]]:
    """The row groups of a blob: the first row of each, how many they are, and how to read them; of a blob without rows an empty one."""
    footer = pq.read_metadata(pa.BufferReader(content))
    # Polars reads long texts in half the time that pyarrow takes (measured), and copies none.
    whole = pl.scan_parquet(io.BytesIO(content))
    low = 0
    if not footer.num_row_groups:
        yield 0, 0, whole
    for group in range(footer.num_row_groups):
        count = footer.row_group(group).num_rows
        yield low, count, whole.slice(low, count)
        low += count
