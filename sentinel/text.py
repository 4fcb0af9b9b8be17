"""Rows as the text that is sent, in an order of its own: what says nothing new when it moves, then what is meaningful.

Invariant: the text of a row is the same for any order of the columns, of the rows and of a list's elements. First stand the columns that the contract leaves out
of a row's hash (the run's own, last-seen), then those that it covers, in the order of their names; of both only those with a value. A real has the 15 digits
that every double holds, so that what a product's sum leaves behind them is no change.
"""

from __future__ import annotations

from typing import Final

import polars as pl

from sentinel.ndjson import Encoded, by_kernel, encoded
from sentinel.tables import Table

_DIGITS: Final = 15
"""Decimal digits that any double holds; what stands behind them is what arithmetic left there."""

_ROUNDED_FROM, _ROUNDED_TO = 1e-6, 1e12
"""Where a real can be rounded to so many digits exactly: the powers of ten that it takes are doubles, and so are the integers."""

_REALS: Final = (
    pl.when(pl.col(pl.Float64).abs().is_between(_ROUNDED_FROM, _ROUNDED_TO))
    .then(pl.col(pl.Float64).round_sig_figs(_DIGITS))
    # Minus zero is zero.
    .when(pl.col(pl.Float64) != 0)
    .then(pl.col(pl.Float64))
    .otherwise(pl.when(pl.col(pl.Float64).is_not_null()).then(0.0))
)


def texts(rows: pl.DataFrame, table: Table) -> Encoded:
    """The rows as they are sent."""
    heads, names = _order(table)
    given = set(rows.columns)
    first = [name for name in heads if name in given]
    said = rows[[*first, *(name for name in names if name in given)]]
    # What the kernel writes of a real has at most 15 digits, so rounding it would change nothing; nor does it write minus zero.
    return by_kernel(said, len(first), in_order=True) or encoded(said.with_columns(_REALS), len(first), in_order=True)


def _order(table: Table) -> tuple[list[str], list[str]]:
    heads = [column.name for column in table.columns if not column.hashed]
    return heads, sorted(column.name for column in table.columns if column.hashed)
