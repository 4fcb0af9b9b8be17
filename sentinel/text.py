"""Rows as the text that is sent, in an order of its own: what says nothing new when it moves, then what is meaningful.

Invariant: the text of a row is the same for any order of the columns, of the rows and of a list's elements. First stand the columns that the contract leaves out
of a row's hash (the run's own, last-seen), then those that it covers, in the order of their names; of both only those with a value. A real has the 15 digits
that every double holds, so that what a product's sum leaves behind them is no change.
"""

from __future__ import annotations

from typing import Final

import polars as pl
import pyarrow.compute as pc

from sentinel.ndjson import Encoded, encoded
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
    said = rows.select(*first, *(name for name in names if name in given))
    return encoded(in_order(said.with_columns(_REALS)), len(first))


def _order(table: Table) -> tuple[list[str], list[str]]:
    heads = [column.name for column in table.columns if not column.hashed]
    return heads, sorted(column.name for column in table.columns if column.hashed)


def in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with the elements of each list in order: products give lists in any order, and one that was only shuffled says nothing new."""
    lists = [name for name, kind in rows.schema.items() if isinstance(kind, pl.List)]
    longest = rows.select(pl.col(lists).list.len().max()).row(0, named=True) if lists else {}
    return rows.with_columns(_sorted(rows[name]) for name, most in longest.items() if (most or 0) > 1)


def _sorted(lists: pl.Series) -> pl.Series:
    # Most lists are in order, and sorting is dear.
    some = _out_of_order(lists)
    if some.is_empty():
        return lists
    place = pl.arange(len(lists), eager=True, dtype=pl.UInt32)
    place = place.scatter(some, pl.arange(len(lists), len(lists) + len(some), eager=True, dtype=pl.UInt32))
    return pl.concat([lists, lists.gather(some).list.sort()], rechunk=True).gather(place).alias(lists.name)


def _out_of_order(lists: pl.Series) -> pl.Series:
    """Which lists hold an element that is smaller than the one before it, or a null."""
    array = lists.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    of = pc.list_parent_indices(array)
    # Not flattened, which leaves out what may stand where a list is null.
    element = array.values[array.offsets[0].as_py() :][: len(of)]
    falls = pc.and_(pc.equal(of[1:], of[:-1]), pc.less(element[1:], element[:-1]).fill_null(True))
    return pl.Series(pc.unique(of[1:].filter(falls)), dtype=pl.UInt32)
