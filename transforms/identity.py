"""Row identity: what a row is about (its key) and whether it says anything new (its hash).

Invariant: both are the same on every machine, for every version of the libraries, and for any order of the columns, of the rows and of a list's
elements. The hash covers the columns that the contract marks as meaningful and that have a value, so a new column that is empty changes no hash, and
last-seen moving is no change. It is, modulo 2^64, the sum of

1. the XXH3 digest of the row's texts, one after the other in the order of their columns' names (a list: its sorted elements with U+001F between);
2. per column with a value, a number of the column's own times one more than what the value is as a number: a text its length in bytes, so that no
   text passes for a part of its neighbour; a list its elements as well; a time its microseconds, a real its millionths, a truth 1 or 0.

So a row's texts are touched once, and never made into Python's: of a row there are views of the bytes where they lie, and digests.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from hashlib import blake2b
from typing import Final

import polars as pl
import pyarrow as pa
from xxhash import xxh3_64_intdigest

from sentinel.tables import Table

KEYS_SCHEMA: dict[str, pl.DataType] = {"key": pl.String(), "part": pl.UInt64(), "hash": pl.UInt64()}
"""A keys segment: per row of a rows segment, in its order, the key, the key's hash (it spreads keys over parts), the row's hash."""

_EXACT_BELOW: Final = 1e12
"""Reals below it have millionths that a 64-bit integer holds; what is larger is told apart by its bits."""

_BETWEEN: Final = "\x1f"


def keys(rows: pl.DataFrame, table: Table) -> pl.DataFrame:
    """Key, part and hash of each row, in the order of the rows."""
    names = sorted(column.name for column in table.columns if column.hashed and column.name in rows.columns)
    said = rows.select(name for name in names if rows[name].null_count() < rows.height)
    numbers = [_times(name, _number(pl.col(name), kind)) for name, kind in said.schema.items() if not _worded(kind)]
    texts = said.select(_text(said[name]) for name, kind in said.schema.items() if _worded(kind))
    lengths = [_times(name, pl.col(name).str.len_bytes()) for name in texts.columns]
    elements = [
        _times(f"{name}[]", pl.col(name).list.len()) for name, kind in said.schema.items() if isinstance(kind, pl.List)
    ]
    sums = [
        frame.lazy().select(pl.sum_horizontal(of)).collect().to_series()
        for frame, of in ((said, numbers + elements), (texts, lengths))
        if of
    ]
    joined = (
        texts.lazy().select(pl.concat_str(texts.columns, ignore_nulls=True)).collect().to_series() if lengths else None
    )
    digests = [xxh3_64_intdigest(text) for text in _contents(joined)] if joined is not None else [0] * rows.height
    key = rows[table.key]
    part = struct.unpack(
        f">{rows.height}Q", b"".join([blake2b(text, digest_size=8).digest() for text in _contents(key)])
    )
    hashes = sum(sums, pl.Series(digests, dtype=pl.UInt64))
    return pl.DataFrame({"key": key, "part": part, "hash": hashes}, schema=KEYS_SCHEMA)


def _worded(kind: pl.DataType) -> bool:
    return kind == pl.String or isinstance(kind, pl.List)


def _text(values: pl.Series) -> pl.Series:
    """A column's values as texts; null where there is none."""
    if values.dtype == pl.String:
        return values
    texts = values.list.join(_BETWEEN)
    # Products give lists in any order: one that was only shuffled says nothing new. Most have one element, and sorting is dear.
    several = (values.list.len() > 1).fill_null(value=False).arg_true()
    return texts.scatter(several, _in_order(values.gather(several))) if len(several) else texts


def _in_order(lists: pl.Series) -> pl.Series:
    """Lists of more than one element as texts, whatever the order of the elements."""
    lists = lists.list.sort()
    texts = lists.list.join(_BETWEEN)
    if not texts.str.count_matches(_BETWEEN, literal=True).eq(lists.list.len() - 1).all():
        # An element that has the separator in it must not pass for two: such a list says how long its elements are.
        torn = texts.str.count_matches(_BETWEEN, literal=True) != lists.list.len() - 1
        sizes = lists.list.eval(pl.element().str.len_bytes().cast(pl.String)).list.join(_BETWEEN)
        texts = pl.select(pl.when(torn).then(pl.concat_str(texts, sizes)).otherwise(texts)).to_series()
    return texts


def _number(column: pl.Expr, kind: pl.DataType) -> pl.Expr:
    """A value as an integer that no library's taste can change."""
    if isinstance(kind, pl.Datetime):
        return column.dt.timestamp("us")
    if kind == pl.Float64:
        millionths = (column * 1_000_000).round(mode="half_away_from_zero").cast(pl.Int64, strict=False)
        return pl.when(column.abs() < _EXACT_BELOW).then(millionths).otherwise(column.reinterpret(dtype=pl.Int64))
    return column


def _times(name: str, number: pl.Expr) -> pl.Expr:
    """One more than the number, times the number that is the column's own; null for null, which a horizontal sum leaves out. Unsigned, so that it wraps."""
    own = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") | 1
    unsigned = number.cast(pl.Int64).reinterpret(dtype=pl.UInt64)
    return (unsigned + 1) * pl.lit(own, pl.UInt64)


def _contents(texts: pl.Series) -> Iterator[memoryview]:
    """The bytes of each text, straight from the buffer in which they lie."""
    array = texts.rechunk().to_arrow().cast(pa.large_string())
    _, offsets, data = array.buffers()
    ends = memoryview(offsets).cast("q")[array.offset : array.offset + len(array) + 1].tolist() if len(array) else []
    content = memoryview(data if data is not None else b"")
    return (content[low:high] for low, high in itertools.pairwise(ends))
