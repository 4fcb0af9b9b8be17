"""What holds for any records of any stream: they add up, no key is lost, vocabularies are closed, both paths agree, nothing is too long."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sentinel import ndjson
from sentinel.tables import EVENT_SEVERITY, FIELD_LIMIT_BYTES, SEVERITIES
from transforms.decode import RECORD
from transforms.registry import TRANSFORMS

STREAMS = ["/".join(name) for name in TRANSFORMS]
IDENTIFIER = {"cycognito": "id", "device42": "id", "tenable": "id", "tenable/vulnerabilities": "finding_id"}
QUICK = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    [
        "critical",
        "Low",
        "2025-01-02T03:04:05Z",
        "2018-02-31",
        "192.0.2.1",
        "2001:db8::1",
        "Web.example.test",
        "yes",
        "OPEN",
        "A",
        "7",
    ]
)


def _conforming(kind: Any) -> st.SearchStrategy[Any]:
    if isinstance(kind, list):
        return st.none() | st.lists(st.none() | _conforming(kind[0]), max_size=3)
    if isinstance(kind, dict):
        return st.none() | st.fixed_dictionaries({}, optional={name: _conforming(of) for name, of in kind.items()})
    scalars: dict[type, st.SearchStrategy[Any]] = {
        str: TEXT,
        int: st.integers(-(2**63), 2**63 - 1) | st.integers(0, 70_000),
        float: st.floats(-20, 20) | st.integers(0, 10),
        bool: st.booleans(),
    }
    return st.none() | scalars[kind]


FLIPPED = st.one_of(
    *(TEXT, st.just(""), st.integers(), st.floats(allow_nan=False), st.booleans(), st.lists(TEXT, max_size=2)),
    *(st.dictionaries(st.sampled_from(["key", "value", "ip", "uuid", "link"]), TEXT, max_size=2), st.none()),
)


def _records(name: str, flips: bool) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Records with an identifier each, a number as text, so that it also is one where a number is declared."""
    source, stream = name.split("/")
    key = IDENTIFIER.get(name, IDENTIFIER[source])
    fields = TRANSFORMS[source, stream].fields
    optional = {
        of: (_conforming(kind) | FLIPPED) if flips else _conforming(kind) for of, kind in fields.items() if of != key
    }
    identified = st.integers(1, 10**9).map(lambda number: number if fields[key] is int else str(number))
    return st.lists(st.fixed_dictionaries({key: identified}, optional=optional), max_size=4)


def _check(name: str, records: list[dict[str, Any]], result: Any) -> None:
    source, stream = name.split("/")
    table = TRANSFORMS[source, stream].table
    key = IDENTIFIER.get(name, IDENTIFIER[source])
    rows = result.rows
    assert result.rejects == []
    assert rows[RECORD].to_list() == [*range(len(records))]
    assert rows["EntityOriginalId"].to_list() == [str(record[key]) for record in records]
    assert rows[table.key].to_list() == [f"{source}:{record[key]}" for record in records]
    if "Severity" in rows.columns:
        assert set(rows["Severity"]) <= set(SEVERITIES)
        assert rows["EventSeverity"].to_list() == [EVENT_SEVERITY[level] for level in rows["Severity"]]
    lines = ndjson.encode(rows.drop(RECORD)).splitlines()
    for line, row in zip(lines, rows.drop(RECORD).rows(named=True), strict=True):
        kept = {column: value for column, value in row.items() if value is not None}
        stamped = {c: f"{v:%Y-%m-%dT%H:%M:%S.%fZ}" if hasattr(v, "hour") else v for c, v in kept.items()}
        assert json.loads(line) == stamped


@pytest.mark.parametrize("name", STREAMS)
def test_records_of_the_declared_shape_are_rows_on_the_fast_path(name: str, flattened) -> None:
    """As many rows as records, with their keys, the same rows on the lenient path, encoded as they are."""

    @QUICK
    @given(_records(name, flips=False))
    def check(records: list[dict[str, Any]]) -> None:
        result = flattened(name, records)
        assert result.lenient == 0
        _check(name, records, result)
        assert result.rows.equals(flattened(name, records, fast=False).rows)

    check()


@pytest.mark.parametrize("name", STREAMS)
def test_records_whose_types_flip_are_rows_all_the_same(name: str, flattened) -> None:
    """A flip costs the value at most, never the record; both paths say the same."""

    @QUICK
    @given(_records(name, flips=True))
    def check(records: list[dict[str, Any]]) -> None:
        result = flattened(name, records)
        _check(name, records, result)
        assert result.rows.equals(flattened(name, records, fast=False).rows)

    check()


@pytest.mark.parametrize("name", STREAMS)
def test_records_without_identifier_are_rejects_that_add_up(name: str, flattened) -> None:
    """Rows and rejects are the records, each once."""
    key = IDENTIFIER.get(name, IDENTIFIER[name.partition("/")[0]])
    records = [{key: 1}, {}, {key: None}, {key: 2}, None, {key: ""}]
    result = flattened(name, records)
    assert result.rows[RECORD].to_list() == [0, 3]
    assert [reject.record for reject in result.rejects] == [1, 2, 4, 5]


@pytest.mark.parametrize("name", STREAMS)
def test_how_many_records_are_worked_on_at_once_shows_nowhere(name: str, flattened) -> None:
    """Rows, rejects and their records' positions are those of the whole, also where the parts are single records."""
    key = IDENTIFIER.get(name, IDENTIFIER[name.partition("/")[0]])

    @QUICK
    @given(_records(name, flips=True), st.integers(1, 300))
    def check(records: list[dict[str, Any]], bytes_at_once: int) -> None:
        mixed = [None, *records, {}, *({key: number} for number in range(1, 5))]
        whole, parts = flattened(name, mixed), flattened(name, mixed, bytes_at_once=bytes_at_once)
        assert parts.rows.equals(whole.rows)
        assert parts.rows.schema == whole.rows.schema
        assert (parts.rejects, parts.truncated) == (whole.rejects, whole.truncated)

    check()


@pytest.mark.parametrize("character", ["x", "é", "漢", "\U0001f600"], ids=["1 byte", "2 bytes", "3 bytes", "4 bytes"])
@pytest.mark.parametrize("over", range(-2, 3))
def test_a_text_is_cut_between_characters(character: str, over: int, flattened) -> None:
    """To at most 65,536 bytes, losing less than a character more than it must; FieldsTruncated names the column."""
    width = len(character.encode())
    text = "a" * (FIELD_LIMIT_BYTES % width) + character * (FIELD_LIMIT_BYTES // width + over)
    records = [{"finding_id": "1", "output": text}, {"finding_id": "2", "output": "short"}]
    result = flattened("tenable/vulnerabilities", records)
    evidence = result.rows["Evidence"].to_list()
    long = len(text.encode()) > FIELD_LIMIT_BYTES
    assert text.startswith(evidence[0])
    assert evidence[1] == "short"
    assert len(evidence[0].encode()) <= FIELD_LIMIT_BYTES
    assert len(evidence[0].encode()) > FIELD_LIMIT_BYTES - width or not long
    assert (evidence[0] == text) is not long
    assert result.rows["FieldsTruncated"].to_list() == [["Evidence"] if long else None, None]
    assert result.truncated == int(long)


def test_identifiers_that_are_cut_stay_different_and_still_join(flattened) -> None:
    """Two keys with the same first 64 KB are two subjects; a finding's asset is cut as the asset itself is."""
    long = "h" * FIELD_LIMIT_BYTES
    assets = flattened("cycognito/domains", [{IDENTIFIER["cycognito"]: long + end} for end in "ab"]).rows
    assert assets["AssetId"].n_unique() == 2
    assert assets["AssetId"].str.len_bytes().to_list() == [FIELD_LIMIT_BYTES] * 2
    assert all("AssetId" in names for names in assets["FieldsTruncated"].to_list())
    again = flattened("cycognito/domains", [{IDENTIFIER["cycognito"]: long + "b"}]).rows
    assert again["AssetId"].to_list() == assets["AssetId"].to_list()[1:]


def test_lists_are_cut_at_elements_and_every_cut_column_is_named(flattened) -> None:
    """Whole elements stay, in order; a single element that is too long leaves an empty list; other columns stay as they are."""
    many = [f"cpe:/a:example:größe:{at}" for at in range(4_000)]
    record = {
        "id": "1",
        "installed_software": many,
        "ipv4s": ["192.0.2.1"],
        "hostnames": ["h" * 70_000],
        "network_name": "n" * 70_000,
    }
    result = flattened("tenable/assets", [record, {"id": "2", "installed_software": ["one"]}])
    row, other = result.rows.rows(named=True)
    assert row["FieldsTruncated"] is not None
    assert {"Software", "DvcZone", "Hostnames"} <= set(row["FieldsTruncated"])
    sizes = {
        c: len(json.dumps(v, ensure_ascii=False, separators=(",", ":")).encode())
        for c, v in row.items()
        if isinstance(v, list)
    }
    assert max(sizes.values()) <= FIELD_LIMIT_BYTES
    assert row["Software"] == many[: len(row["Software"])]
    assert sizes["Software"] > FIELD_LIMIT_BYTES - 60
    assert row["IpAddresses"] == ["192.0.2.1"]
    assert (other["Software"], other["FieldsTruncated"], result.truncated) == (["one"], None, 1)
    for column in row["FieldsTruncated"]:
        value = row[column]
        assert isinstance(value, list) or len(value.encode()) == FIELD_LIMIT_BYTES


def test_encoding_leaves_out_nulls_and_escapes_what_json_must() -> None:
    """Constant, full and sparse columns in any mix; quotes, controls and text that looks like a null field."""
    texts = ['"', "\\", "\n\r\t\x00\x1f\x7f", ',"b":null', "}{", "ä漢\U0001f600", ""]
    frame = pl.DataFrame(
        {"a": texts, "b": [None, *texts[1:]], "c": [None] * 7, "d": ["x"] * 7, "e": [[t, None] for t in texts]}
    )
    expected = [{k: v for k, v in row.items() if v is not None} for row in frame.rows(named=True)]
    text = ndjson.encode(frame)
    assert [json.loads(line) for line in text.splitlines()] == expected
    assert text.count(b"\n") == 7
    assert b"".join(ndjson.encode(part) for part in (frame[:3], frame[3:])) == text
    assert ndjson.encode(frame.clear()) == b""
    same = pl.DataFrame({"a": ["x"] * 3, "b": [None, None, None], "c": [1.5] * 3})
    assert ndjson.encode(same) == b'{"a":"x","c":1.5}\n' * 3
    with pytest.raises(ValueError, match="'b' is the first column and null in 1 rows"):
        ndjson.encode(frame.select("b"))


def test_a_sliced_array_of_records_is_flattened_as_it_is(flattened) -> None:
    """The place of a record counts from the slice's own beginning."""
    from transforms.decode import decode

    records = pl.Series([b'{"id":"0"}', b'{"id":"1"}', b"null", b'{"id":"3"}'], dtype=pl.Binary).slice(1)
    decoded = decode(records, {"id": str})
    assert decoded.frame.rows() == [("1", 0), ("3", 2)]
    assert [reject.record for reject in decoded.rejects] == [1]
