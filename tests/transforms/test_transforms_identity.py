"""Row identity: golden keys and hashes, what they must not depend on, and what they must not miss."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from sentinel.tables import ASSETS, FINDINGS, Table
from sentinel.text import texts
from transforms.identity import KEYS_SCHEMA, keys
from transforms.rows import schema

SEEN = datetime(2026, 11, 20, 23, 59, 59, 999_999, UTC)
ASSET = {
    "TimeGenerated": SEEN,
    "EntityFeedType": "Snapshot",
    "EntitySnapshotId": "run-1",
    "EntityIsDeleted": False,
    "EntityVendor": "Device42",
    "EntityOriginalId": "17",
    "SourceStream": "devices",
    "AssetId": "device42:17",
    "AssetName": "Zürich-Büro-🖨",
    "IpAddresses": ["10.0.0.1", "fe80::1"],
    "RiskScore": 0.1 + 0.2,
    "OpenFindings": -3,
    "HasEdr": True,
    "FirstSeen": datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
    "LastSeen": SEEN,
}
FINDING = {
    "TimeGenerated": SEEN,
    "EntityIsDeleted": True,
    "FindingId": "tenable:a1/19506/0",
    "Description": "two\nlines; Severity=1:x",
    "CveIds": ["CVE-2024-1", "CVE-2024-2"],
    "CvssScore": 9.8,
    "EpssScore": 1e300,
    "Port": 443,
}
VALUES: dict[str, list[Any]] = {
    "string": ["one", "two"],
    "int": [1, 2],
    "long": [1, 2],
    "real": [1.5, 2.5],
    "boolean": [True, False],
    "dynamic": [["one"], ["two"]],
    "datetime": [SEEN, datetime(2026, 11, 21, tzinfo=UTC)],
}
HASHED = [
    (table, column)
    for table in (ASSETS, FINDINGS)
    for column in table.columns
    if column.hashed and column.name != table.key
]
"""A row always has its key; it is part of every hash."""


def frame(table: Table, *rows: dict[str, Any]) -> pl.DataFrame:
    """Rows of the table."""
    return pl.DataFrame(
        [dict.fromkeys(table.names) | {"TimeGenerated": SEEN} | row for row in rows], schema=schema(table)
    )


def identities(rows: pl.DataFrame, table: Table) -> pl.DataFrame:
    """Keys, parts and hashes of the rows."""
    return keys(rows[table.key], texts(rows, table).tails())


def hashes(table: Table, *rows: dict[str, Any]) -> list[int]:
    """The rows' hashes."""
    return identities(frame(table, *rows), table)["hash"].to_list()


def test_golden_identities() -> None:
    """Keys, parts and hashes of hand-made rows: whoever changes one makes every subject of every workspace an updated one."""
    found = [
        *identities(frame(ASSETS, ASSET, {"AssetId": "x"}), ASSETS).rows(),
        *identities(frame(FINDINGS, FINDING), FINDINGS).rows(),
    ]
    assert found == [
        ("device42:17", 4391601033196621201, 9969415972493399333),
        ("x", 16929150178197425425, 18038701558366723881),
        ("tenable:a1/19506/0", 13616135887255445482, 6032790854373022613),
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1.0"),
        (0.1 + 0.2, "0.3"),
        (-0.0, "0.0"),
        (123456.789012345, "123456.789012345"),
        (1e-300, "1e-300"),
        (-1e300, "-1e+300"),
        (1e300, "1e+300"),
        (1e-6, "1e-6"),
        (1e12, "1000000000000.0"),
        (9.8, "9.8"),
    ],
)
def test_golden_reals(value: float, text: str) -> None:
    """How a real is written: another way would make every row that has one an updated one."""
    sent = texts(frame(ASSETS, {"AssetId": "x", "RiskScore": value}), ASSETS)
    assert f'"RiskScore":{text}}}'.encode() in bytes(sent.content)


def test_reals_are_told_apart_to_the_millionth() -> None:
    """What a sum leaves behind is no change, minus zero is zero, and large ones are not all alike."""
    a, b, c, d, e, f, g = hashes(
        ASSETS,
        *({"AssetId": "x", "RiskScore": value} for value in (0.3, 0.1 + 0.2, 0.300001, -0.0, 0.0, 1e300, 2e300)),
    )
    assert a == b
    assert d == e
    assert len({a, c, d, f, g, *hashes(ASSETS, {"AssetId": "x"})}) == 6


def test_the_order_of_columns_rows_and_chunks_does_not_matter() -> None:
    """Nor do columns that are null, or not there at all."""
    rows = frame(ASSETS, ASSET, {"AssetId": "x"}, {"AssetId": "y", "Tags": ["a"]})
    expected = identities(rows, ASSETS)
    assert expected.schema == pl.Schema(KEYS_SCHEMA)
    assert identities(rows.select(reversed(rows.columns)), ASSETS).equals(expected)
    narrow = rows.select(name for name in rows.columns if rows[name].null_count() < rows.height)
    assert len(narrow.columns) < len(rows.columns)
    assert identities(narrow, ASSETS).equals(expected)
    assert identities(rows.reverse(), ASSETS).equals(expected.reverse())
    chunked = pl.concat([rows[i : i + 1] for i in range(3)], rechunk=False)
    assert chunked.n_chunks() > 1
    assert identities(chunked, ASSETS).equals(expected)
    assert pl.concat([identities(rows[i : i + 1], ASSETS) for i in range(3)]).equals(expected)
    assert identities(rows.with_columns(_record=pl.lit(7)), ASSETS).equals(expected)


def test_no_rows_have_no_identities() -> None:
    """An empty segment gives an empty frame of the same columns."""
    empty = identities(frame(ASSETS), ASSETS)
    assert (empty.height, empty.schema) == (0, pl.Schema(KEYS_SCHEMA))


@pytest.mark.parametrize(
    ("table", "name"),
    [(table, column.name) for table in (ASSETS, FINDINGS) for column in table.columns if not column.hashed],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_a_column_that_is_not_meaningful_does_not_count(table: Table, name: str) -> None:
    """Last-seen and the run's own columns move without a change."""
    base = {table.key: "x"}
    # Every row has its time.
    values = [*([] if name == "TimeGenerated" else [None]), *VALUES[table.column(name).type]]
    assert len(set(hashes(table, *(base | {name: value} for value in values)))) == 1


@pytest.mark.parametrize(
    ("table", "name", "kind"),
    [(table, column.name, column.type) for table, column in HASHED],
    ids=[f"{table.name}.{column.name}" for table, column in HASHED],
)
def test_every_meaningful_column_counts(table: Table, name: str, kind: str) -> None:
    """Another value, no value, and the same value in another column of its type are all told apart."""
    first, second = VALUES[kind]
    base = {table.key: "x"}
    other = next(
        (c.name for c in table.columns if c.type == kind and c.hashed and c.name not in {name, table.key}), None
    )
    variants: list[dict[str, Any]] = [{name: first}, {name: second}, {name: None}]
    variants += [{other: first}] if other else []
    assert len(set(hashes(table, *(base | variant for variant in variants)))) == len(variants)


CONFUSABLE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"Tags": ["a", "b"]}, {"Tags": ["a\x1fb"]}),
    ({"Tags": ["a", "b"]}, {"Tags": ["a1:b"]}),
    ({"Tags": ["ab", ""]}, {"Tags": ["ab"]}),
    ({"Tags": [""]}, {"Tags": None}),
    ({"Tags": []}, {"Tags": [""]}),
    ({"Tags": ["a", "b\x1fc"]}, {"Tags": ["a\x1fb", "c"]}),
    ({"Tags": ["a", "b", "c\x1fd"]}, {"Tags": ["a", "b\x1fc", "d"]}),
    ({"AssetName": ""}, {"AssetName": None}),
    ({"AssetName": "n", "AssetStatus": "s"}, {"AssetName": "n\x1eAssetStatus=s"}),
    ({"AssetName": "n", "AssetStatus": "s"}, {"AssetName": "n;AssetStatus=1:s"}),
    ({"AssetName": "é"}, {"AssetName": "e\u0301"}),
    ({"AssetName": "a\x00"}, {"AssetName": "a"}),
    ({"HasEdr": True}, {"HasEdr": None}),
    ({"HasEdr": False}, {"HasEdr": None}),
    ({"FirstSeen": SEEN}, {"FirstSeen": SEEN.replace(microsecond=999_998)}),
]


@pytest.mark.parametrize(("one", "other"), CONFUSABLE, ids=range(len(CONFUSABLE)))
def test_no_value_passes_for_another(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Separators inside values, empty and absent, composed and decomposed, microseconds."""
    first, second = hashes(ASSETS, {"AssetId": "x"} | one, {"AssetId": "x"} | other)
    assert first != second


some_texts = st.none() | st.text(alphabet=st.sampled_from("a1:;=*\x1e\x1fé"), max_size=4)
lists = st.none() | st.lists(st.text(alphabet=st.sampled_from("a1:;*\x1f"), max_size=3), max_size=3)


@given(rows=st.lists(st.tuples(some_texts, some_texts, lists), min_size=2, max_size=12))
def test_different_rows_have_different_hashes(rows: list[tuple[Any, Any, Any]]) -> None:
    """Rows made of nothing but what could be separators: as many hashes as there are rows of different content."""
    found = hashes(ASSETS, *({"AssetId": "x", "AssetName": a, "AssetStatus": b, "Tags": c} for a, b, c in rows))
    assert len(set(found)) == len({repr((a, b, sorted(c) if c else c)) for a, b, c in rows})


def plainly(table: Table, row: dict[str, Any]) -> int:
    """The hash of a row as the module's docstring defines it, value by value."""
    said = {name: row.get(name) for name in sorted(column.name for column in table.columns if column.hashed)}
    for name, value in said.items():
        if isinstance(value, list):
            said[name] = sorted(value)
        elif isinstance(value, datetime):
            said[name] = value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    members = {name: value for name, value in said.items() if value is not None}
    return xxh3_64_intdigest(json.dumps(members, ensure_ascii=False, separators=(",", ":"))[1:-1].encode())


@given(
    rows=st.lists(
        st.tuples(some_texts, lists, st.none() | st.integers(-5, 2**31 - 1), st.none() | st.booleans()), max_size=9
    )
)
def test_the_hash_is_what_the_definition_says(rows: list[tuple[Any, Any, Any, Any]]) -> None:
    """Held against plain Python, for rows side by side that take every way through the columns."""
    given_rows = [
        {"AssetId": "k", "AssetName": a, "Tags": b, "OpenFindings": c, "HasEdr": d, "FirstSeen": SEEN}
        for a, b, c, d in rows
    ]
    assert hashes(ASSETS, *given_rows) == [plainly(ASSETS, row) for row in given_rows]


def test_the_order_of_a_list_says_nothing() -> None:
    """Products give lists in any order; a list that was only shuffled is no change."""
    rows = ({"AssetId": "x", "Tags": tags} for tags in (["a", "b", "c"], ["c", "a", "b"], ["a", "b"]))
    first, shuffled, shorter = hashes(ASSETS, *rows)
    assert first == shuffled != shorter
