"""The text of a row: what the order of a list's elements does to it, which is nothing."""

from __future__ import annotations

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.ndjson import with_lists_in_order

LISTS = st.lists(st.none() | st.lists(st.none() | st.text("abé\n", max_size=14), max_size=5), max_size=20)


@settings(max_examples=200, deadline=None)
@given(lists=LISTS, shown=st.randoms(use_true_random=False), at=st.integers(0, 20))
def test_lists_are_in_order_whatever_they_hold_and_however_they_lie(lists, shown, at) -> None:
    """As polars sorts them: also in pieces, in slices, and where a list is null although there are texts where it stands."""
    whole = pl.Series("L", lists, dtype=pl.List(pl.String))
    mask = pl.Series([shown.random() < 0.7 for _ in lists], dtype=pl.Boolean)
    hidden = pl.select(pl.when(mask).then(whole)).to_series().alias("L")
    for column in (whole, hidden, hidden[at:], hidden[:at], pl.concat([whole[at:], hidden[:at]], rechunk=False)):
        assert with_lists_in_order(column.to_frame())["L"].to_list() == column.list.sort().to_list()
