"""Relations of assets: the rows are those that plain Python finds in the same records (local/relations.py), recorded, synthetic and invented."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local.products.synthetic import Inventory
from local.relations import STREAMS, Relation, all_related, records_of
from sentinel.reference.page import RELATION_KINDS
from sentinel.tables import RELATIONSHIPS
from sources.registry import SOURCES
from transforms.decode import RECORD
from transforms.registry import DERIVED, TRANSFORMS
from transforms.rows import Envelope, Flattened, flatten, flatten_in_turn, flatten_together, schema

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "data"
RELATIONS = DERIVED["device42", "relations"]
ENVELOPE = Envelope("run", datetime(2025, 1, 1, tzinfo=UTC), "Snapshot")
QUICK = settings(max_examples=40, deadline=None)

TEXT = st.sampled_from(["", " ", "a", "Team A", " b|c ", "10.0.0.1", "größe"]) | st.none()
NUMBER = st.integers(0, 3) | st.none()
SUBNET = TEXT | st.sampled_from(
    ["10.0.0.0/24", "LAN-10.0.0.0/24", "A-B-10.0.0.0/24(X, Inc.)", "undefined-::/0", "0.0.0.0/0", "2001:db8::/32"]
)
DEVICE = st.fixed_dictionaries(
    {"id": st.integers(1, 9)},
    optional={
        "name": TEXT,
        "customer": TEXT,
        "customer_id": NUMBER,
        "virtual_host_name": TEXT,
        "blade_host_name": TEXT,
        "blade_host_id": NUMBER,
        "custom_fields": st.none()
        | st.lists(
            st.fixed_dictionaries({"key": st.sampled_from(["Owner", " asset owner", "Other", ""]), "value": TEXT}),
            max_size=3,
        ),
        "ip_addresses": st.none()
        | st.lists(st.fixed_dictionaries({"ip": TEXT, "subnet": SUBNET, "subnet_id": NUMBER}), max_size=4),
    },
)

NAMES = st.none() | st.lists(TEXT | st.sampled_from(["Host.corp.example", "b.example.", "10.0.0.1"]), max_size=3)
ADDRESSES = st.none() | st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2"]) | st.none(), max_size=3)
ID = st.sampled_from(["", " ", "a", "b "]) | st.none()
TENABLE = st.fixed_dictionaries(
    {},
    optional={
        "id": ID,
        "network_id": st.sampled_from(["00000000-0000-0000-0000-000000000000", "n1", " "]) | st.none(),
        "network_name": st.sampled_from(["Default", "default ", "DMZ", ""]) | st.none(),
        "aws_vpc_id": st.sampled_from(["vpc-1", " "]) | st.none(),
        "azure_resource_id": st.sampled_from(["/subscriptions/s1/resourceGroups/g", "/Subscriptions/s2", "/x/s3"])
        | TEXT,
        "azure_vm_id": TEXT,
        "aws_owner_id": TEXT,
        "gcp_project_id": TEXT,
        "deleted_at": st.none() | st.just("2025-01-01T00:00:00.000Z"),
        "terminated_at": st.none() | st.just("2025-01-01T00:00:00.000Z"),
        "aws_ec2_name": TEXT,
        **dict.fromkeys(("fqdns", "hostnames", "netbios_names", "agent_names"), NAMES),
        **dict.fromkeys(("ipv4s", "ipv6s"), ADDRESSES),
    },
)
CYCOGNITO = st.fixed_dictionaries(
    {"type": st.just("any")},
    optional={
        "id": st.sampled_from(
            ["domain/a.example", "b", "webapp/10.0.0.1:8443", "webapp/App.example:80", "webapp/app", " "]
        )
        | st.none(),
        "owned_by": TEXT,
        "organizations": st.none() | st.lists(TEXT, max_size=3),
        "ip_names": ADDRESSES,
        "sub_domains": st.none() | st.lists(st.sampled_from(["domain/x.a.example", "y", " "]) | st.none(), max_size=3),
    },
)
OTHERS = {of: TENABLE if of[0] == "tenable" else CYCOGNITO for of in STREAMS if of[0] != "device42"}


def found(result: Flattened) -> dict[str, Relation]:
    """The relations of the rows by their original id, none twice."""
    relations = {
        row["EntityOriginalId"]: Relation(
            *(
                row[name]
                for name in ("FromId", "FromName", "DvcIpAddr", "RelationshipType", "OriginalRelationshipType")
            ),
            *(row[name] for name in ("ToType", "ToId", "ToName")),
            tuple(row["Attributes"] or ()),
            row["EntityIsDeleted"],
        )
        for row in result.rows.rows(named=True)
    }
    for row in result.rows.rows(named=True):
        assert row["RelationshipId"] == f"{row['FromId'].partition(':')[0]}:{row['EntityOriginalId']}"
    return relations


@pytest.fixture
def related() -> Any:
    """Flatten records to their relations."""

    def make(records: list[Any], *of: str, fast: bool = True) -> Flattened:
        texts = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
        return flatten(DERIVED[of] if of else RELATIONS, pl.Series(texts, dtype=pl.Binary), ENVELOPE, fast=fast)

    return make


RECORDINGS = {
    ("device42", "relations"): (
        "device42/assets",
        396,
        316,
        {"Owned By": 2, "Used By": 86, "Runs On": 93, "Member Of": 27, "In Network": 188},
    ),
    ("tenable", "relations"): ("tenable_io/assets", 2, 2, {"Member Of": 2}),
    ("cycognito", "domain_relations"): (
        "cycognito/assets_domain",
        8522,
        2879,
        {"Used By": 2884, "Resolves To": 3020, "Contains": 2618},
    ),
    ("cycognito", "web_app_relations"): ("cycognito/assets_webapp", 7208, 3505, {"Used By": 3703, "Runs On": 3505}),
    ("cycognito", "ip_range_relations"): ("cycognito/assets_iprange", 565, 565, {"Used By": 565}),
}
"""Of each derived stream: the records, how many rows of how many of them, and of which kinds."""


@pytest.mark.parametrize("of", RECORDINGS, ids="-".join)
def test_recorded_records_have_the_relations_that_plain_python_finds(related: Any, of: tuple[str, str]) -> None:
    """Of every kind that was recorded."""
    name, rows, records, kinds = RECORDINGS[of]
    if not (recorded := RECORDED / f"{name}.ndjson").is_file():
        pytest.skip(f"no recorded responses at {recorded}")
    lines = recorded.read_bytes().splitlines()
    result = related(lines, *of)
    assert found(result) == all_related(map(json.loads, lines), *of)
    assert dict(result.rows["RelationshipType"].value_counts().rows()) == kinds
    assert (result.rows.height, result.rows[RECORD].n_unique(), result.rejects) == (rows, records, [])


@pytest.mark.parametrize("day", [0, 4])
@pytest.mark.parametrize("of", STREAMS, ids="-".join)
def test_synthetic_records_have_the_relations_that_plain_python_finds(
    related: Any, of: tuple[str, str], day: int
) -> None:
    """On the first day and later."""
    records = list(records_of(Inventory(1500, 10).on(day), *of))
    result = related(records, *of)
    assert found(result) == all_related(records, *of)
    assert result.rows.height == len(found(result)) > 30


@QUICK
@given(devices=st.lists(DEVICE, max_size=4, unique_by=lambda device: device["id"]))
def test_any_device_has_the_relations_that_plain_python_finds(devices: list[dict[str, Any]]) -> None:
    """Each once, in the order of the records, the same on both ways of decoding."""
    texts = pl.Series([json.dumps(device).encode() for device in devices], dtype=pl.Binary)
    result = flatten(RELATIONS, texts, ENVELOPE)
    relations = found(result)
    assert relations == all_related(devices)
    assert result.rows.height == len(relations)
    assert result.rows[RECORD].is_sorted()
    for how in ({"fast": False}, {"bytes_at_once": 60}):
        assert flatten(RELATIONS, texts, ENVELOPE, **how).rows.equals(result.rows)


@pytest.mark.parametrize("of", OTHERS, ids="-".join)
@QUICK
@given(data=st.data())
def test_any_record_has_the_relations_that_plain_python_finds(of: tuple[str, str], data: st.DataObject) -> None:
    """Of the other products: each once, in the order of the records, the same on both ways of decoding; what is deleted is marked."""
    records = data.draw(st.lists(OTHERS[of], max_size=4, unique_by=lambda record: (record.get("id") or "").strip()))
    texts = pl.Series([json.dumps(record).encode() for record in records], dtype=pl.Binary)
    result = flatten(DERIVED[of], texts, ENVELOPE)
    # A field that the parent's stream does not have is none of the relations' either.
    known = [{name: value for name, value in record.items() if name in DERIVED[of].fields} for record in records]
    relations = found(result)
    assert relations == all_related(known, *of)
    assert result.rows.height == len(relations)
    assert result.rows[RECORD].is_sorted()
    assert result.rejects == flatten(TRANSFORMS[of[0], SOURCES[of[0]].parents[of[1]]], texts, ENVELOPE).rejects
    assert flatten(DERIVED[of], texts, ENVELOPE, fast=False).rows.equals(result.rows)


@pytest.mark.parametrize(("rows_at_once", "least"), [(1, 5), (20, 2)], ids=["always as many", "as their rows are"])
@pytest.mark.parametrize("of", sorted(DERIVED), ids="-".join)
def test_relations_made_of_some_records_at_a_time_are_the_same(
    of: tuple[str, str], rows_at_once: int, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, each with its record's position; what is refused is told once."""
    parent = TRANSFORMS[of[0], SOURCES[of[0]].parents[of[1]]]
    records = [json.dumps(record).encode() for record in records_of(Inventory(400, 10), *of)]
    texts = pl.Series([*records, b"[]", b"{}"], dtype=pl.Binary)
    whole = flatten_together([parent, DERIVED[of]], texts, ENVELOPE)
    monkeypatch.setattr("transforms.rows.DERIVED_AT_ONCE", 3)
    monkeypatch.setattr("transforms.rows.FEWEST_AT_ONCE", 3)
    monkeypatch.setattr("transforms.rows.ROWS_AT_ONCE", rows_at_once)
    assert len(list(flatten_in_turn([parent, DERIVED[of]], texts, ENVELOPE))) > least
    for made, alone in zip(flatten_together([parent, DERIVED[of]], texts, ENVELOPE), whole, strict=True):
        assert made.rows.equals(alone.rows)
        assert (made.rejects, made.lenient, made.truncated) == (alone.rejects, alone.lenient, alone.truncated)
    assert whole[1].rows.height > 0
    assert whole[1].rejects


def test_how_many_records_are_worked_on_at_once_follows_from_the_rows_that_they_gave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many rows records give, about as many are made at once; what is known of a segment's records is of use for the next of them."""
    of = ("cycognito", "domain_relations")
    parent = TRANSFORMS[of[0], SOURCES[of[0]].parents[of[1]]]
    monkeypatch.setattr("transforms.rows.DERIVED_AT_ONCE", 40)
    monkeypatch.setattr("transforms.rows.FEWEST_AT_ONCE", 2)
    monkeypatch.setattr("transforms.rows.ROWS_AT_ONCE", 60)
    portions: dict[str, int] = {}

    def made(addresses: int) -> list[int]:
        record = {"id": "domain/a.example", "ip_names": [f"192.0.2.{n}" for n in range(addresses)]}
        texts = pl.Series([json.dumps(record).encode()] * 120, dtype=pl.Binary)
        turns = flatten_in_turn([parent, DERIVED[of]], texts, ENVELOPE, portions=portions)
        return [part.rows.height for number, part in turns if number]

    assert made(3) == [120, *[60] * 4]
    assert made(30) == [600, *[60] * 50]
    assert made(0) == [0] * 6
    assert portions == {of[1]: 128}


@pytest.mark.parametrize(
    ("network", "end"),
    [
        ({"network_id": "00000000-0000-0000-0000-000000000000", "network_name": "Default"}, None),
        ({"network_id": "00000000-0000-0000-0000-000000000000", "network_name": "Renamed"}, None),
        ({"network_name": "Default"}, None),
        ({"network_name": "DMZ"}, (None, "DMZ")),
        ({"network_id": "7f", "network_name": "DMZ"}, ("tenable:network/7f", "DMZ")),
        ({"network_id": "7f"}, ("tenable:network/7f", None)),
        ({}, None),
    ],
)
def test_the_default_network_of_tenable_is_none(related: Any, network: Any, end: Any) -> None:
    """Every asset is in it that nobody has put into another."""
    rows = related([{"id": "a", **network}], "tenable", "relations").rows
    assert rows.select("ToId", "ToName").rows() == ([end] if end else [])


def test_relations_of_an_asset_that_tenable_says_is_gone_are_gone(related: Any) -> None:
    """A delta exports it once more, and never again: its relations must go with it."""
    records = [
        {"id": "a", "gcp_project_id": "p"},
        {"id": "b", "aws_owner_id": "1", "aws_vpc_id": "vpc-1", "deleted_at": "2025-01-01T00:00:00.000Z"},
    ]
    rows = related(records, "tenable", "relations").rows
    assert rows.select(
        "FromId", "RelationshipType", "OriginalRelationshipType", "ToName", "EntityIsDeleted"
    ).rows() == [
        ("tenable:a", "Member Of", "gcp_project_id", "p", False),
        ("tenable:b", "In Network", "aws_vpc_id", "vpc-1", True),
        ("tenable:b", "Member Of", "aws_owner_id", "1", True),
    ]


def test_what_cycognito_resolves_and_contains_are_its_own_assets(related: Any) -> None:
    """By the identifiers that assets and findings have; each once."""
    domain = {"id": "domain/a.example", "ip_names": ["192.0.2.1", "192.0.2.1"], "sub_domains": ["domain/x.a.example"]}
    rows = related([domain], "cycognito", "domain_relations").rows
    assert rows.select("RelationshipType", "ToId", "ToName").rows() == [
        ("Resolves To", "cycognito:ip/192.0.2.1", "192.0.2.1"),
        ("Contains", "cycognito:domain/x.a.example", "x.a.example"),
    ]
    apps = [{"id": f"webapp/{host}"} for host in ("192.0.2.1:8443", "App.a.example", "[2001:db8::1]:443", "app")]
    rows = related(apps, "cycognito", "web_app_relations").rows
    assert rows.select("RelationshipType", "ToId").rows() == [
        ("Runs On", f"cycognito:{end}") for end in ("ip/192.0.2.1", "domain/app.a.example", "ip/2001:db8::1")
    ]


OF_EVERY_KIND: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("device42", "relations"): [
        {
            "id": 1,
            "custom_fields": [{"key": "Owner", "value": "a"}],
            "customer": "b",
            "customer_id": 2,
            "virtual_host_name": "c",
            "blade_host_id": 3,
            "ip_addresses": [{"ip": "10.0.0.1", "subnet": "10.0.0.0/24", "subnet_id": 4}],
        }
    ],
    ("tenable", "relations"): [
        {"id": "a", "network_id": "n", "aws_vpc_id": "v", "aws_owner_id": "1"},
        {"id": "b", "gcp_project_id": "p"},
        {"id": "c", "azure_resource_id": "/subscriptions/s/resourceGroups/g"},
    ],
    ("cycognito", "domain_relations"): [
        {
            "id": "domain/a",
            "owned_by": "o",
            "organizations": ["p"],
            "ip_names": ["1.1.1.1"],
            "sub_domains": ["domain/b"],
        }
    ],
    ("cycognito", "web_app_relations"): [
        {"id": "webapp/a.example:443", "owned_by": "o", "organizations": ["p"]},
        {"id": "webapp/1.1.1.1:443"},
    ],
    ("cycognito", "ip_range_relations"): [{"id": "iprange/a", "owned_by": "o", "organizations": ["p"]}],
}


@pytest.mark.parametrize("of", STREAMS, ids="-".join)
def test_the_column_reference_lists_every_kind_of_relation(related: Any, of: tuple[str, str]) -> None:
    """Its words, the type of its end, and what the end's identifier begins with: those that records give, and no other."""
    listed = {
        (kind.said if " " not in kind.said else "Owner", kind.type, kind.to_type, end.partition("/")[0])
        for kind in RELATION_KINDS
        if (kind.source, kind.stream) == of
        for end in kind.end.split(" or ")
    }

    def given(records: list[Any]) -> set[tuple[str, ...]]:
        rows = related(records, *of).rows
        ends = [(to_id or "").partition(":")[2] for to_id in rows["ToId"]]
        starts = [end.partition("/")[0] if "/" in end else end and "<number>" for end in ends]
        # A custom field is called as somebody called it.
        said = rows["OriginalRelationshipType"].str.replace("^Owner.*", "Owner")
        kinds = rows.select(said, "RelationshipType", "ToType").rows()
        return {(*kind, start) for kind, start in zip(kinds, starts, strict=True)}

    assert given(OF_EVERY_KIND[of]) == listed
    assert {kind[:3] for kind in given(list(records_of(Inventory(1500, 10), *of)))} <= {kind[:3] for kind in listed}


@pytest.mark.parametrize(
    ("subnet", "name"),
    [
        ("10.0.0.0/24", "10.0.0.0/24"),
        ("Dev Net-10.42.0.0/16", "10.42.0.0/16"),
        ("Infra-10.1.10.0/24(ABC, Inc.)", "10.1.10.0/24"),
        ("v6-2001:db8::/32", "2001:db8::/32"),
        ("no network", "no network"),
        ("undefined-0.0.0.0/0", None),
        ("undefined-::/0", None),
        ("::/0", None),
        ("east-10.0.0.0/0", "10.0.0.0/0"),
    ],
)
def test_a_network_is_named_by_its_cidr_and_one_that_holds_everything_is_none(
    related: Any, subnet: str, name: str | None
) -> None:
    """However the product writes it; two addresses in it are one relation."""
    addresses = [{"ip": f"10.0.0.{n}", "subnet": subnet, "subnet_id": 7} for n in (1, 2)]
    rows = related([{"id": 1, "ip_addresses": addresses}]).rows
    assert rows["ToName"].to_list() == ([name] if name else [])
    if name:
        assert rows["ToId"].to_list() == ["device42:subnet/7"]
        assert rows["Attributes"].to_list() == [["ip=10.0.0.1", "ip=10.0.0.2"]]


def test_a_record_is_rejected_once_and_exactly_where_the_asset_is(related: Any) -> None:
    """With relations, without any, no object at all: reasons and places are the parent's."""
    records = [{"customer": "x", "virtual_host_name": "y"}, {"id": 1, "customer": "x"}, {}, [1], None, {"id": 2}]
    result = related(records)
    texts = pl.Series([json.dumps(record).encode() for record in records], dtype=pl.Binary)
    assert result.rejects == flatten(TRANSFORMS["device42", "devices"], texts, ENVELOPE).rejects
    assert [reject.record for reject in result.rejects] == [0, 2, 3, 4]
    assert result.rows[RECORD].to_list() == [1]


def test_rows_have_exactly_the_columns_of_the_table(related: Any) -> None:
    """Also when no record is a row; the stream is named."""
    for records in ([], [{}], [{"id": 1}], [{"id": 1, "customer": "x"}]):
        rows = related(records).rows
        assert dict(rows.drop(RECORD).schema) == schema(RELATIONSHIPS)
    assert rows["SourceStream"].to_list() == ["relations"]


def test_every_derived_stream_has_a_parent_whose_fields_it_reads() -> None:
    """One decoding and preparing serves both, and each declaration has its transform into the table that it names."""
    declared = {(source.name, derived.name): derived for source in SOURCES.values() for derived in source.derived}
    assert declared.keys() == DERIVED.keys()
    for (source, name), derived in declared.items():
        parent = TRANSFORMS[source, derived.parent]
        assert DERIVED[source, name].fields is parent.fields
        assert DERIVED[source, name].prepare is parent.prepare
        assert DERIVED[source, name].table.name == derived.table == SOURCES[source].tables[name]
        assert derived.parent in {stream.name for stream in SOURCES[source].streams}
        assert name not in {stream.name for stream in SOURCES[source].streams}
