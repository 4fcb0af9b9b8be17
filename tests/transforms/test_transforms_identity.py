"""Row identity: golden keys and hashes, what they must not depend on, and what they must not miss."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from sentinel.tables import ASSETS, FINDINGS, Table
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
    return pl.DataFrame([dict.fromkeys(table.names) | row for row in rows], schema=schema(table))


def hashes(table: Table, *rows: dict[str, Any]) -> list[int]:
    """The rows' hashes."""
    return keys(frame(table, *rows), table)["hash"].to_list()


def test_golden_identities() -> None:
    """Keys, parts and hashes of hand-made rows: whoever changes one makes every subject of every workspace an updated one."""
    found = [
        *keys(frame(ASSETS, ASSET, {"AssetId": "x"}), ASSETS).rows(),
        *keys(frame(FINDINGS, FINDING), FINDINGS).rows(),
    ]
    assert found == [
        ("device42:17", 16414262023412920910, 7411113016231655887),
        ("x", 5395104992458594383, 4418543787786394895),
        ("tenable:a1/19506/0", 5919145044185628695, 3650159309329144157),
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.0, 5144231652353604964),
        (0.1 + 0.2, 11710606826537144196),
        (0.3, 11710606826537144196),
        (1e300, 5998417995178725360),
        (-1e300, 15221790032033501168),
        (1e-6, 6184247369449946937),
        (-0.0, 14524767615472946724),
        (0.0, 14524767615472946724),
        (1e12, 13057009422874496548),
    ],
)
def test_golden_reals(value: float, expected: int) -> None:
    """A score's hash: to the millionth, and by its bits where it has no millionths."""
    assert hashes(ASSETS, {"AssetId": "x", "RiskScore": value}) == [expected]


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
    expected = keys(rows, ASSETS)
    assert expected.schema == pl.Schema(KEYS_SCHEMA)
    assert keys(rows.select(reversed(rows.columns)), ASSETS).equals(expected)
    narrow = rows.select(name for name in rows.columns if rows[name].null_count() < rows.height)
    assert len(narrow.columns) < len(rows.columns)
    assert keys(narrow, ASSETS).equals(expected)
    assert keys(rows.reverse(), ASSETS).equals(expected.reverse())
    chunked = pl.concat([rows[i : i + 1] for i in range(3)], rechunk=False)
    assert chunked.n_chunks() > 1
    assert keys(chunked, ASSETS).equals(expected)
    assert pl.concat([keys(rows[i : i + 1], ASSETS) for i in range(3)]).equals(expected)
    assert keys(rows.with_columns(_record=pl.lit(7)), ASSETS).equals(expected)


def test_no_rows_have_no_identities() -> None:
    """An empty segment gives an empty frame of the same columns."""
    empty = keys(frame(ASSETS), ASSETS)
    assert (empty.height, empty.schema) == (0, pl.Schema(KEYS_SCHEMA))


@pytest.mark.parametrize(
    ("table", "name"),
    [(table, column.name) for table in (ASSETS, FINDINGS) for column in table.columns if not column.hashed],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_a_column_that_is_not_meaningful_does_not_count(table: Table, name: str) -> None:
    """Last-seen and the run's own columns move without a change."""
    base = {table.key: "x"}
    values = [None, *VALUES[table.column(name).type]]
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


texts = st.none() | st.text(alphabet=st.sampled_from("a1:;=*\x1e\x1fé"), max_size=4)
lists = st.none() | st.lists(st.text(alphabet=st.sampled_from("a1:;*\x1f"), max_size=3), max_size=3)


@given(rows=st.lists(st.tuples(texts, texts, lists), min_size=2, max_size=12))
def test_different_rows_have_different_hashes(rows: list[tuple[Any, Any, Any]]) -> None:
    """Rows made of nothing but what could be separators: as many hashes as there are rows of different content."""
    found = hashes(ASSETS, *({"AssetId": "x", "AssetName": a, "AssetStatus": b, "Tags": c} for a, b, c in rows))
    assert len(set(found)) == len({repr((a, b, sorted(c) if c else c)) for a, b, c in rows})


def plainly(table: Table, row: dict[str, Any]) -> int:
    """The hash of a row as the module's docstring defines it, value by value."""
    texts, total = "", 0
    for name in sorted(column.name for column in table.columns if column.hashed):
        value = row.get(name)
        numbers: list[tuple[str, int]] = []
        if isinstance(value, list):
            numbers.append((f"{name}[]", len(value)))
            text = "\x1f".join(sorted(value))
            torn = text.count("\x1f") != len(value) - 1 and len(value) > 1
            value = text + "\x1f".join(str(len(item.encode())) for item in sorted(value)) if torn else text
        if isinstance(value, str):
            texts += value
            numbers.append((name, len(value.encode())))
        elif isinstance(value, datetime):
            numbers.append((name, (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)))
        elif isinstance(value, float):
            numbers.append((name, round(value * 1e6)))
        elif value is not None:
            numbers.append((name, int(value)))
        for own, number in numbers:
            total += (number + 1) * (int.from_bytes(blake2b(own.encode(), digest_size=8).digest(), "big") | 1)
    return (total + xxh3_64_intdigest(texts.encode())) % 2**64


@given(
    rows=st.lists(
        st.tuples(texts, lists, st.none() | st.integers(-5, 2**31 - 1), st.none() | st.booleans()), max_size=9
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
