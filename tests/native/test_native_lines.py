"""The kernel's lines against the libraries': the same bytes, or none."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from native import kernel, lines
from sentinel import ndjson, text
from sentinel.ndjson import encoded
from sentinel.tables import BY_NAME

pytestmark = pytest.mark.skipif(kernel() is None, reason="the kernel is not built")

LEADER = pl.Datetime("us", "UTC")
# Of every length around the sixteen bytes that are looked at together, with what is escaped at every place.
TEXTS = st.one_of(
    st.text(max_size=70),
    st.text('ab"\\\n\x00\x1f \x7fé\u2028😀', max_size=40),
    st.builds("{}{}{}".format, st.text("x", max_size=40), st.sampled_from('"\\\n\t\x01é'), st.text("y", max_size=40)),
)
REALS = st.one_of(
    st.floats(),
    st.floats(0, 10).map(lambda value: round(value, 1)),
    st.decimals(0, 100_000, places=5, allow_nan=False).map(float),
    st.integers(0, 10**15).flatmap(lambda digits: st.integers(0, 20).map(lambda scale: digits / 10**scale)),
)
KINDS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (pl.String, TEXTS),
    (pl.List(pl.String), st.lists(st.none() | TEXTS, max_size=5)),
    (pl.Int32, st.integers(-(2**31), 2**31 - 1)),
    (pl.Int64, st.integers(-(2**63), 2**63 - 1)),
    (pl.Boolean, st.booleans()),
    (LEADER, st.datetimes(timezones=st.just(UTC))),
    (pl.Datetime("us"), st.datetimes()),
    (pl.Float64, REALS),
]


@st.composite
def frames(draw: st.DrawFn) -> pl.DataFrame:
    """Some rows of columns of any kind, of which the first is never null."""
    height = draw(st.integers(1, 9))
    columns = [pl.Series("T", draw(st.lists(KINDS[5][1], min_size=height, max_size=height)), LEADER)]
    for number, (kind, values) in enumerate(draw(st.lists(st.sampled_from(KINDS), max_size=6))):
        some = draw(st.lists(st.none() | values, min_size=height, max_size=height))
        columns.append(pl.Series(f"c{number}", some, kind))
    return pl.DataFrame(columns)


@settings(max_examples=600, deadline=None)
@given(rows=frames(), first=st.integers(1, 7), at=st.integers(0, 8), in_order=st.booleans())
@example(rows=pl.DataFrame({"T": [datetime(2026, 1, 1, tzinfo=UTC)], "r": [-0.0]}), first=1, at=0, in_order=False)
def test_the_kernel_writes_what_the_libraries_write(rows: pl.DataFrame, first: int, at: int, in_order: bool) -> None:
    """The same lines, cut at the same places, of a frame and of a slice of it; what the kernel leaves to the libraries holds a real."""
    for some in (rows, rows[at:], pl.concat([rows[:at], rows], rechunk=False)):
        if not some.height:
            continue
        expected = ndjson._by_libraries(ndjson.with_lists_in_order(some) if in_order else some, first)
        made = lines.encode(some, first, in_order=in_order)
        if made is None:
            assert pl.Float64 in some.dtypes
        else:
            found = ndjson.Encoded(*made)
            assert bytes(found.content) == bytes(expected.content)
            assert found.ends.to_list() == expected.ends.to_list()
            assert found.tails().to_list() == expected.tails().to_list()


@settings(max_examples=500, deadline=None)
@given(digits=st.integers(0, 10**15 - 1), scale=st.integers(0, 19), minus=st.booleans())
def test_reals_of_fifteen_digits_are_the_kernels_own(digits: int, scale: int, minus: bool) -> None:
    """From 0.00001 to 10^15, as the libraries write them: none of these is left to them."""
    value = float(f"{'-' if minus else ''}{digits}e-{scale}")
    rows = pl.DataFrame({"T": [0], "r": [value]})
    made = lines.encode(rows, 1, in_order=False)
    if made is None:
        assert str(value) == "-0.0" or (value != 0 and not 1e-5 <= abs(value) < 1e15)
    else:
        assert bytes(made[0]) == bytes(ndjson._by_libraries(rows, 1).content)


@settings(max_examples=500, deadline=None)
@given(values=st.lists(st.floats() | st.floats(-1000, 1000).map(lambda real: round(real, 3)), min_size=1, max_size=3))
def test_reals_are_sent_rounded_whoever_writes_them(values: list[float]) -> None:
    """What the kernel writes as it is, is what rounding would have left of it."""
    table = BY_NAME["CAASM_Assets_CL"]
    rows = pl.DataFrame({"TimeGenerated": [datetime(2026, 1, 1, tzinfo=UTC)] * len(values), "RiskScore": values})
    rounded = rows.with_columns(text._REALS)
    assert bytes(text.texts(rows, table).content) == bytes(ndjson._by_libraries(rounded, 1).content)


@pytest.mark.parametrize("length", [0, 1, 11, 12, 13, 15, 16, 17, 31, 32, 33, 300_000])
@pytest.mark.parametrize("filling", ["x", "\x01", "é", '"'])
def test_texts_of_every_length_have_room(length: int, filling: str) -> None:
    """Also where all of a long text is escaped, which takes six times its bytes, in rows and in lists."""
    text = filling * length
    rows = pl.DataFrame({"T": [1, 2, 3], "s": [text, None, text], "l": [[text, "a"], [], [None, text]]})
    made = lines.encode(rows, 1, in_order=True)
    assert made is not None
    found = [json.loads(line) for line in bytes(made[0]).splitlines()]
    assert [row.get("s") for row in found] == [text, None, text]
    assert [row["l"] for row in found] == [sorted([text, "a"]), [], [None, text]]


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("c", [1, 2], pl.UInt8),
        pl.Series("c", [[1], [2]]),
        pl.Series("c", [{"a": 1}, None]),
        pl.Series("c", ["a", "b"], pl.Categorical),
        pl.Series("c", ["a", "b"], pl.Enum(["a", "b"])),
        pl.Series("c", [[1, 2], [3, 4]], pl.Array(pl.Int32, 2)),
        pl.Series("c", [0, 1], pl.Datetime("ms")),
        pl.Series("c" * 62, ["a", "b"]),
        pl.Series("c", [float("nan"), 1.0]),
        pl.Series("c", [1e300, 1.0]),
        pl.Series("c", [253_402_300_800_000_000, 0]).cast(pl.Datetime("us", "UTC")),
    ],
    ids=[
        "type",
        "list of numbers",
        "object",
        "category",
        "enum",
        "array",
        "milliseconds",
        "long name",
        "not a number",
        "large real",
        "year 10000",
    ],
)
def test_what_the_kernel_does_not_know_is_left_to_the_libraries(column: pl.Series) -> None:
    """And the lines are there all the same."""
    rows = pl.DataFrame([pl.Series("T", [1, 2]), column])
    assert lines.encode(rows, 1, in_order=True) is None
    assert bytes(encoded(rows).content) == bytes(ndjson._by_libraries(rows, 1).content)


def test_memory_is_used_again_when_it_is_not_large() -> None:
    """What is let go is there for the next lines; what one enormous row took is given back."""
    rows = pl.DataFrame({"T": [1], "s": ["x"]})
    lines._rooms.clear()
    first = lines.encode(rows, 1, in_order=False)
    assert first is not None
    address = first[0].address
    assert not lines._rooms
    del first
    assert [room.address for room in lines._rooms] == [address]
    again = lines.encode(rows, 1, in_order=False)
    assert again is not None
    assert again[0].address == address
    enormous = lines.encode(pl.DataFrame({"T": [1], "s": ["x" * lines._KEPT_BYTES]}), 1, in_order=False)
    assert enormous is not None
    del enormous, again
    assert [room.address for room in lines._rooms] == [address]
