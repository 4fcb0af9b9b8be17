"""Rows segments: what is staged is the NDJSON that is sent, however the rows came and however they are read."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activities import rows as module
from activities.rows import Rows, read_rows
from contracts import Stop
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


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(0, 40), min_size=1, max_size=6), pad=st.sampled_from([0, 300]))
def test_what_is_read_is_what_was_encoded_however_it_came(counts: list[int], pad: int) -> None:
    """In one piece or in many: the same text, keys in the order of the rows, records beside them, newlines where they are said to be."""
    whole = pl.concat([frame(0, 0), frame(0, sum(counts), pad)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS_AT_ONCE", 16)
        patch.setattr(module, "ROWS_READ_AT_ONCE", 11)
        staged = Rows(ASSETS)
        first = 0
        for count in counts:
            staged.add(whole[first : first + count])
            first += count
        content, keys = staged.contents()
        parts = [*read_rows(content)]
    expected = texts(whole, ASSETS).content
    assert b"".join(part.lines for part in parts) == expected
    assert staged.json_bytes == len(expected)
    assert [n for part in parts for n in part.records] == whole["_record"].to_list()
    for part in parts:
        assert part.ends == [at for at, byte in enumerate(part.lines) if byte == 0x0A]
    assert pl.read_parquet(io.BytesIO(keys))["key"].to_list() == whole["AssetId"].to_list()


@settings(max_examples=25, deadline=None)
@given(wanted=st.sets(st.integers(0, 59)).map(sorted))
def test_only_the_wanted_rows_are_read(wanted: list[int]) -> None:
    """Of every row group those that are asked for, in order, with their records."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS_AT_ONCE", 16)
        patch.setattr(module, "ROWS_READ_AT_ONCE", 11)
        staged = Rows(ASSETS)
        staged.add(frame(0, 60))
        parts = [*read_rows(staged.contents()[0], wanted)]
    lines = b"".join(part.lines for part in parts).splitlines()
    assert [json.loads(line)["AssetId"] for line in lines] == [f"x:{n}" for n in wanted]
    assert [n for part in parts for n in part.records] == wanted
    assert [part.lines[end] for part in parts for end in part.ends] == [0x0A] * len(wanted)


def test_a_table_without_assets_has_rows_all_the_same() -> None:
    """The ledger's rows are about no asset."""
    row = dict.fromkeys(RUNS.names) | {"TimeGenerated": TIME, RUNS.key: "x"}
    staged = Rows(RUNS)
    staged.add(pl.DataFrame([row], schema=schema(RUNS)).with_columns(_record=pl.lit(0, pl.Int32)))
    content, keys = staged.contents()
    assert pl.read_parquet(io.BytesIO(keys)).columns == ["key", "key_hash", "hash"]
    assert len([*read_rows(content)]) == 1


def test_a_segment_of_an_older_version_is_refused_with_a_remedy() -> None:
    """It had a column for each of the table's: a run that was begun then cannot be ended now."""
    content = io.BytesIO()
    frame(0, 3).write_parquet(content)
    with pytest.raises(Stop, match="older version") as stopped:
        next(read_rows(content.getvalue()))
    assert '"fresh": true' in stopped.value.remedy


def test_findings_name_their_asset_by_the_hash_of_its_key() -> None:
    """So that orphans are found without a text; one that names no asset has none."""
    findings = [
        dict.fromkeys(FINDINGS.names) | {"TimeGenerated": TIME, "FindingId": f"f:{n}"} | about
        for n, about in enumerate([{"AssetId": "x:1"}, {}, {"AssetId": "x:0"}])
    ]
    found, assets = Rows(FINDINGS), Rows(ASSETS)
    found.add(pl.DataFrame(findings, schema=schema(FINDINGS)).with_columns(_record=pl.int_range(3, dtype=pl.Int32)))
    assets.add(frame(0, 2))
    part = pl.read_parquet(io.BytesIO(assets.contents()[1]))["key_hash"].to_list()
    assert pl.read_parquet(io.BytesIO(found.contents()[1]))["asset_hash"].to_list() == [part[1], None, part[0]]
