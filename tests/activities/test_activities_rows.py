"""Rows segments: what is staged are bodies of the NDJSON that is sent, however the rows came and however they are read."""

from __future__ import annotations

import gzip
import io
import json
from datetime import UTC, datetime

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activities import rows as module
from activities.rows import Rows, in_order, read_rows
from contracts import Stop
from sentinel import packing
from sentinel.tables import ASSETS, FINDINGS, RUNS
from sentinel.text import texts
from transforms.rows import schema

TIME = datetime(2026, 11, 20, 10, tzinfo=UTC)


def frame(first: int, count: int, pad: int = 0) -> pl.DataFrame:
    """Rows of assets with consecutive numbers, as a transform makes them."""
    rows = [
        dict.fromkeys(ASSETS.names)
        | {"TimeGenerated": TIME, "AssetId": f"x:{n}", "AssetName": "é" * (n % 7) + "p" * pad, "Tags": ["b", "a"]}
        for n in range(first, first + count)
    ]
    return pl.DataFrame(rows, schema=schema(ASSETS)).with_columns(
        _record=pl.Series(range(first, first + count), dtype=pl.Int32)
    )


def staged_in(counts: list[int], whole: pl.DataFrame, limit: int) -> tuple[Rows, bytes, bytes]:
    """The rows staged, so many at a time, few of them encoded at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS_AT_ONCE", 16)
        staged = Rows(ASSETS, limit)
        first = 0
        for count in counts:
            staged.add(whole[first : first + count])
            first += count
        return staged, *staged.contents()


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    pad=st.sampled_from([0, 300]),
    limit=st.sampled_from([150, 180, 500, 5_000, 1 << 20]),
)
def test_what_is_staged_are_the_bodies_of_what_was_encoded_however_it_came(
    counts: list[int], pad: int, limit: int
) -> None:
    """In one piece or in many: the chunks that the NDJSON is cut into, and by itself what fits into none; keys in the order of the rows, records beside them."""
    whole = pl.concat([frame(0, 0), frame(0, sum(counts), pad)])
    staged, content, keys = staged_in(counts, whole, limit)
    parts = [*read_rows(content)]
    expected = bytes(texts(whole, ASSETS).content)
    lines = [part.lines() for part in parts]
    assert b"".join(text for text, _ in lines) == expected
    assert staged.json_bytes == len(expected)
    assert [n for part in parts for n in part.records] == whole["_record"].to_list()
    chunks, oversize = packing.cut(expected, limit)
    every = sorted([*chunks, *oversize], key=lambda chunk: chunk.start)
    assert [gzip.decompress(part.body) for part in parts] == [packing.body(expected, chunk) for chunk in every]
    assert [part.digest for part in parts] == [packing.digest(expected[c.start : c.end]) for c in every]
    assert [part.full for part in parts[:-1]] == [True] * (len(parts) - 1)
    assert not parts or parts[-1].full == (every[-1] in oversize)
    for part, (text, ends) in zip(parts, lines, strict=True):
        assert ends == [at for at, byte in enumerate(text) if byte == 0x0A]
        assert part.size == len(text)
    assert pl.read_parquet(io.BytesIO(keys))["key"].to_list() == whole["AssetId"].to_list()


@settings(max_examples=50, deadline=None)
@given(wanted=st.sets(st.integers(0, 59)).map(sorted), limit=st.sampled_from([150, 500, 5_000, 1 << 20]))
def test_only_the_wanted_rows_are_read(wanted: list[int], limit: int) -> None:
    """Of every body those that are asked for, in order, with their records."""
    _, content, _ = staged_in([60], frame(0, 60), limit)
    parts = [*read_rows(content, wanted)]
    texts_, ends = zip(*(part.lines() for part in parts), strict=True) if parts else ((), ())
    assert [json.loads(line)["AssetId"] for line in b"".join(texts_).splitlines()] == [f"x:{n}" for n in wanted]
    assert [n for part in parts for n in part.records] == wanted
    for text, here in zip(texts_, ends, strict=True):
        assert here == [at for at, byte in enumerate(text) if byte == 0x0A]


def test_what_is_sent_as_it_was_staged_comes_first() -> None:
    """Full bodies that are no longer than may be sent; behind them the ends of the segments, in their order. Where all is cut again, the order is that of the rows."""
    parts = [
        (segment, part)
        for segment, count in enumerate([30, 1, 20])
        for part in read_rows(staged_in([count], frame(100 * segment, count), 500)[1])
    ]
    longest = max(part.size for _, part in parts) + 1
    ends = [part for at, part in enumerate(parts, 1) if at == len(parts) or parts[at][0] != part[0]]
    ahead = [part for part in parts if part not in ends]
    assert [*in_order(parts, longest)] == [*((*part, True) for part in ahead), *((*part, False) for part in ends)]
    assert {one.size + 1 for _, one, ready in in_order(parts, longest - 1) if ready} == {
        one.size + 1 for _, one in ahead
    } - {longest}
    assert [*in_order(parts, 0)] == [(*part, False) for part in parts]


def test_a_table_without_assets_has_rows_all_the_same() -> None:
    """The ledger's rows are about no asset."""
    row = dict.fromkeys(RUNS.names) | {"TimeGenerated": TIME, RUNS.key: "x"}
    staged = Rows(RUNS, 1000)
    staged.add(pl.DataFrame([row], schema=schema(RUNS)).with_columns(_record=pl.lit(0, pl.Int32)))
    content, keys = staged.contents()
    assert pl.read_parquet(io.BytesIO(keys)).columns == ["key", "key_hash", "hash"]
    assert len([*read_rows(content)]) == 1


def test_a_segment_of_an_older_version_is_refused_with_a_remedy() -> None:
    """A run that was begun then cannot be ended now."""
    other = pa.schema([("body", pa.binary())])
    content = pa.BufferOutputStream()
    with pa.ipc.new_stream(content, other):
        pass
    with pytest.raises(Stop, match="older version") as stopped:
        next(read_rows(content.getvalue().to_pybytes()))
    assert '"fresh": true' in stopped.value.remedy


def test_a_segment_is_an_arrow_stream() -> None:
    """Whoever looks into one needs no code of ours, and knows that nothing is missing."""
    _, content, _ = staged_in([60], frame(0, 60), 500)
    found = pl.read_ipc_stream(io.BytesIO(content))
    rows = [row for body in found["body"] for row in json.loads(gzip.decompress(body))]
    assert [row["AssetId"] for row in rows] == [f"x:{n}" for n in range(60)]
    assert found["records"].explode().to_list() == [*range(60)]
    for end in (-8, -100, 0):
        with pytest.raises(Stop, match="breaks off"):
            next(read_rows(content[:end]))


def test_findings_name_their_asset_by_the_hash_of_its_key() -> None:
    """So that orphans are found without a text; one that names no asset has none."""
    findings = [
        dict.fromkeys(FINDINGS.names) | {"TimeGenerated": TIME, "FindingId": f"f:{n}"} | about
        for n, about in enumerate([{"AssetId": "x:1"}, {}, {"AssetId": "x:0"}])
    ]
    found, assets = Rows(FINDINGS, 1000), Rows(ASSETS, 1000)
    found.add(pl.DataFrame(findings, schema=schema(FINDINGS)).with_columns(_record=pl.int_range(3, dtype=pl.Int32)))
    assets.add(frame(0, 2))
    part = pl.read_parquet(io.BytesIO(assets.contents()[1]))["key_hash"].to_list()
    assert pl.read_parquet(io.BytesIO(found.contents()[1]))["asset_hash"].to_list() == [part[1], None, part[0]]
