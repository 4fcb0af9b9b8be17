"""Row identity: what a row is about (its key) and whether it says anything new (its hash).

Invariant: both are the same on every machine, for every version of the libraries, and for any order of the columns: they are BLAKE2b digests of a text
that is written here, value by value, and not of anything that a library serialises. Every text in it says how long it is, so that no value can pass for
a separator. The hash covers the columns that the contract marks as
meaningful and that have a value, so a new column that is empty changes no hash, and last-seen moving is no change.
"""

from __future__ import annotations

from hashlib import blake2b

import polars as pl

from sentinel.tables import Table

KEYS_SCHEMA: dict[str, pl.DataType] = {"key": pl.String(), "part": pl.UInt64(), "hash": pl.UInt64()}
"""A keys segment: per row of a rows segment, in its order, the key, the key's hash (it spreads keys over parts), the row's hash."""

_EXACT_BELOW = 1e12
"""Reals below it have millionths that a 64-bit integer holds; what is larger is told apart by its bits."""


def keys(rows: pl.DataFrame, table: Table) -> pl.DataFrame:
    """Key, part and hash of each row, in the order of the rows."""
    key = rows[table.key]
    texts = rows.lazy().select(_canonical(rows, table)).collect().to_series()
    return pl.DataFrame(
        {
            "key": key,
            "part": pl.Series([_digest(text) for text in key.to_list()], dtype=pl.UInt64),
            "hash": pl.Series([_digest(text) for text in texts.to_list()], dtype=pl.UInt64),
        },
        schema=KEYS_SCHEMA,
    )


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def _canonical(rows: pl.DataFrame, table: Table) -> pl.Expr:
    """One text a row: name=value of every meaningful column that has a value, in the order of the names."""
    hashed = sorted(column.name for column in table.columns if column.hashed and column.name in rows.columns)
    parts = [
        pl.concat_str(pl.lit(f"{name}="), _text(pl.col(name), rows.schema[name]), pl.lit(";")).fill_null("")
        for name in hashed
        if rows[name].null_count() < rows.height
    ]
    return pl.concat_str(parts) if parts else pl.lit("").repeat_by(pl.len()).explode()


def _text(column: pl.Expr, kind: pl.DataType) -> pl.Expr:
    """A value as text that no library's taste can change: times as microseconds, reals as millionths, texts behind their length in bytes."""
    if isinstance(kind, pl.Datetime):
        return column.dt.timestamp("us").cast(pl.String)
    if kind == pl.Float64:
        millionths = (column * 1_000_000).round(mode="half_away_from_zero").cast(pl.Int64, strict=False).cast(pl.String)
        bits = pl.concat_str(pl.lit("bits"), column.reinterpret(dtype=pl.UInt64).cast(pl.String))
        return pl.when(column.abs() < _EXACT_BELOW).then(millionths).otherwise(bits)
    if kind == pl.Boolean:
        return pl.when(column).then(pl.lit("1")).when(~column).then(pl.lit("0"))
    if isinstance(kind, pl.List):
        return pl.concat_str(column.list.len(), pl.lit("*"), column.list.eval(_sized(pl.element())).list.join(""))
    return _sized(column) if kind == pl.String else column.cast(pl.String)


def _sized(text: pl.Expr) -> pl.Expr:
    return pl.concat_str(text.str.len_bytes(), pl.lit(":"), text)
