"""Rows as NDJSON: what stands in a line, how it is written, and where its parts are said to be."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from native import kernel, lines
from sentinel.ndjson import encode, encoded


@pytest.fixture(params=["by the kernel", "by the libraries"], scope="module", autouse=True)
def _way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything here holds for both ways."""
    with pytest.MonkeyPatch.context() as patched:
        if request.param == "by the libraries":
            patched.setattr(lines, "encode", lambda *_, **__: None)
        elif kernel() is None:
            pytest.skip("the kernel is not built")
        yield


TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            'a","Name":null',
            ',"Name":null',
            '\\","B":null',
            "\n",
            '"',
            "\\",
            ",",
            '","',
            "null",
            ':null,"',
            "\u2028",
            "\N{PILE OF POO}",
        ]
    ),
)
SCHEMA: dict[str, Any] = {
    "TimeGenerated": pl.Datetime("us", "UTC"),
    "Name": pl.String,
    "B": pl.String,
    "Count": pl.Int64,
    "Risk": pl.Float64,
    "IsOn": pl.Boolean,
    "Tags": pl.List(pl.String),
    "SeenAt": pl.Datetime("us", "UTC"),
}
INSTANTS = st.datetimes(timezones=st.just(UTC))
FRAMES = st.lists(
    st.fixed_dictionaries(
        {
            "TimeGenerated": INSTANTS,
            "Name": st.none() | TEXTS,
            "B": st.none() | TEXTS,
            "Count": st.none() | st.integers(-(2**53), 2**53),
            "Risk": st.none() | st.floats(-1e9, 1e9),
            "IsOn": st.none() | st.booleans(),
            "Tags": st.none() | st.lists(TEXTS, max_size=4),
            "SeenAt": st.none() | INSTANTS,
        }
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(rows=FRAMES)
@example(
    rows=[
        {
            **dict.fromkeys(SCHEMA),
            "TimeGenerated": datetime(2026, 1, 1, tzinfo=UTC),
            "Name": 'x","B":null,"Name":null',
            "B": None,
        }
    ]
)
def test_encoding_leaves_out_nulls_and_nothing_else(rows: list[dict[str, Any]]) -> None:
    """Each line is the row without its null fields; texts that look like null fields stay, times have six decimals and a Z."""
    lines = encode(pl.DataFrame(rows, SCHEMA)).split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        wanted = {
            name: value.isoformat(timespec="microseconds")[:26] + "Z" if isinstance(value, datetime) else value
            for name, value in ((name, row[name]) for name in SCHEMA)
            if value is not None
        }
        assert json.loads(line) == wanted
        if row["Risk"] is None:
            # As Python's own library writes it, to the byte; reals have their golden texts elsewhere.
            assert line.decode() == json.dumps(wanted, ensure_ascii=False, separators=(",", ":"))


@settings(max_examples=100, deadline=None)
@given(rows=FRAMES, at=st.integers(0, 12), first=st.integers(1, len(SCHEMA)))
def test_parts_of_a_row_are_where_they_are_said_to_be(rows: list[dict[str, Any]], at: int, first: int) -> None:
    """Of a frame in pieces as of a whole one: lines end where it says, and what follows the first columns is what the others are by themselves."""
    whole = pl.DataFrame(rows, SCHEMA)
    found = encoded(pl.concat([whole[:at], whole[at:]], rechunk=False), first)
    content = bytes(found.content)
    assert content == encode(whole) == encode(whole[:at]) + encode(whole[at:])
    ends = found.ends.to_list()
    lines = [content[begin:end] for begin, end in itertools.pairwise(ends)]
    assert lines == content.splitlines(keepends=True)
    heads = encode(whole.select(whole.columns[:first])).splitlines()
    for line, head, tail in zip(lines, heads, found.tails().to_list(), strict=True):
        assert line == head[:-1] + (b"," + tail if tail else b"") + b"}\n"


def test_years_of_more_than_four_digits_are_written_all_the_same() -> None:
    """No product sends one; one that does loses no row."""
    times = pl.Series([0, 253_402_300_800_000_000, -62_135_596_800_000_001]).cast(pl.Datetime("us", "UTC"))
    lines = encode(pl.DataFrame({"Id": ["a", "b", "c"], "At": times})).splitlines()
    assert [json.loads(line)["At"] for line in lines] == [
        "1970-01-01T00:00:00.000000Z",
        "+10000-01-01T00:00:00.000000Z",
        "0000-12-31T23:59:59.999999Z",
    ]


def test_lists_with_nothing_and_with_nulls_in_them_are_lists_all_the_same() -> None:
    """Where one is empty, holds a null or a quote, or is null although there are texts where it stands."""
    lists = pl.Series([["a"], [], [None, "b"], ['"'], ["hidden"], None], dtype=pl.List(pl.String))
    shown = pl.select(pl.when(pl.Series([True, True, True, True, False, True])).then(lists)).to_series()
    for column in (shown, shown[[0, 4]], lists[:1]):
        rows = pl.DataFrame({"Id": ["x"] * len(column), "L": column})
        found = [json.loads(line).get("L") for line in encode(rows).splitlines()]
        assert found == column.to_list()


@given(count=st.integers(1, 5))
def test_equal_rows_are_all_encoded(count: int) -> None:
    """Rows that are the same in every column are as many lines as rows."""
    frame = pl.DataFrame([{"TimeGenerated": datetime(2026, 1, 1, tzinfo=UTC), "Name": "x"}] * count, SCHEMA)
    assert encode(frame).count(b"\n") == count


def test_an_empty_frame_is_no_bytes() -> None:
    """No rows, no lines."""
    lines = encode(pl.DataFrame([], SCHEMA))
    assert lines == b""
    assert encoded(pl.DataFrame([], SCHEMA)).tails().to_list() == []


def test_a_column_that_is_null_throughout_leaves_no_trace() -> None:
    """Most tables are sparse: names without values take no bytes."""
    frame = pl.DataFrame([{"TimeGenerated": datetime(2026, 1, 1, tzinfo=UTC), "Count": 1}] * 3, SCHEMA)
    assert encode(frame) == b'{"TimeGenerated":"2026-01-01T00:00:00.000000Z","Count":1}\n' * 3


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=["nan", "inf", "minus inf"])
def test_what_is_no_number_is_valid_json(value: float) -> None:
    """NaN and infinities are not JSON: the row is read by a strict parser all the same."""
    frame = pl.DataFrame({"TimeGenerated": [datetime(2026, 1, 1, tzinfo=UTC)], "Risk": [value]})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads(encode(frame), parse_constant=refuse)
    assert found.get("Risk") is None


def test_dates_are_not_cut_as_datetimes() -> None:
    """A date column, if there ever is one, is ISO 8601."""
    frame = pl.DataFrame({"TimeGenerated": [datetime(2026, 1, 1, tzinfo=UTC)], "Day": [date(2026, 2, 3)]})
    assert json.loads(encode(frame))["Day"] == "2026-02-03"
