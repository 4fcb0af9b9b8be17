"""Row identity: what a row is about (its key) and whether it says anything new (its hash).

Invariant: both are the same on every machine and for any order of the columns, of the rows and of a list's elements. The hash is the XXH3 digest (64 bits) of the
meaningful part of the text that is sent (`sentinel.text`): of the columns that the contract marks as meaningful and that have a value. So a new column
that is empty changes no hash, and last-seen moving is no change.
"""

from __future__ import annotations

from typing import Final

import polars as pl
import polars_hash

KEYS_SCHEMA: dict[str, pl.DataType] = {"key": pl.String(), "key_hash": pl.UInt64(), "hash": pl.UInt64()}
"""A keys segment: per row of a rows segment, in its order, the key, the key's hash (it spreads keys over parts), the row's hash."""

ABOUT: Final = "asset_hash"
"""A further column where rows are about an asset that another stream exports: the key's hash that this asset's row has; null where a row names none."""


def keys(key: pl.Series, said: pl.Series, about: pl.Series | None = None) -> pl.DataFrame:
    """Key, its hash and the row's hash, in the order of the rows; `said`: of each row's text what is meaningful (`sentinel.text`); `about`: the keys of the assets
    that the rows are about."""
    frame = pl.DataFrame(
        [key.alias("key"), hashed(key).alias("key_hash"), hashed(said).alias("hash")], schema=KEYS_SCHEMA
    )
    return frame if about is None else frame.with_columns(hashed(about).alias(ABOUT))


def hashed(values: pl.Series) -> pl.Series:
    """The XXH3 digest, 64 bits, of texts or bytes; null where there is none."""
    return values.to_frame("value").select(polars_hash.col("value").nchash.xxh3_64()).to_series()
