"""Row identity: what a row is about (its key) and whether it says anything new (its hash).

Invariant: both are the same on every machine and for any order of the columns, of the rows and of a list's elements. The hash is the XXH3 digest (64 bits) of the
meaningful part of the text that is sent (`sentinel.text`): of the columns that the contract marks as meaningful and that have a value. So a new column
that is empty changes no hash, and last-seen moving is no change. A text is never made into Python's: of a row there is a view of the bytes where they lie, and a digest.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Final

import polars as pl
import pyarrow as pa
from xxhash import xxh3_64_intdigest

KEYS_SCHEMA: dict[str, pl.DataType] = {"key": pl.String(), "part": pl.UInt64(), "hash": pl.UInt64()}
"""A keys segment: per row of a rows segment, in its order, the key, the key's hash (it spreads keys over parts), the row's hash."""

ABOUT: Final = "asset"
"""A further column where rows are about an asset that another stream exports: the key's hash that this asset's row has; null where a row names none."""


def keys(key: pl.Series, said: Iterable[memoryview], about: pl.Series | None = None) -> pl.DataFrame:
    """Key, part and hash of each row, in the order of the rows; `said`: of each row's text what is meaningful (`sentinel.text`); `about`: the keys of the assets
    that the rows are about."""
    hashes = [xxh3_64_intdigest(text) for text in said]
    frame = pl.DataFrame({"key": key, "part": _hashed(key), "hash": hashes}, schema=KEYS_SCHEMA)
    return frame if about is None else frame.with_columns(_hashed(about).alias(ABOUT))


def _hashed(texts: pl.Series) -> pl.Series:
    digests = b"".join([blake2b(text, digest_size=8).digest() for text in _contents(texts)])
    hashes = pl.Series(struct.unpack(f">{len(texts)}Q", digests), dtype=pl.UInt64)
    return hashes.set(texts.is_null(), None) if texts.null_count() else hashes


def _contents(texts: pl.Series) -> Iterator[memoryview]:
    """The bytes of each text, straight from the buffer in which they lie."""
    array = texts.rechunk().to_arrow().cast(pa.large_string())
    _, offsets, data = array.buffers()
    ends = memoryview(offsets).cast("q")[array.offset : array.offset + len(array) + 1].tolist() if len(array) else []
    content = memoryview(data if data is not None else b"")
    return (content[low:high] for low, high in itertools.pairwise(ends))
