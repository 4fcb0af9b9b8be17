"""Relations of Device42's devices: the rows are those that plain Python finds in the same records (local/relations.py), recorded, synthetic and invented."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local.products.columns import numbers
from local.products.synthetic import Inventory
from local.relations import Relation, all_related
from sentinel.tables import RELATIONSHIPS
from sources.registry import SOURCES
from transforms.decode import RECORD
from transforms.registry import DERIVED, TRANSFORMS
from transforms.rows import Envelope, Flattened, flatten, schema

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "data" / "device42" / "assets.ndjson"
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
        )
        for row in result.rows.rows(named=True)
    }
    assert {row["RelationshipId"] for row in result.rows.rows(named=True)} == {f"device42:{key}" for key in relations}
    return relations


@pytest.fixture
def related() -> Any:
    """Flatten records to their relations."""

    def make(records: list[Any], *, fast: bool = True) -> Flattened:
        texts = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
        return flatten(RELATIONS, pa.array(texts, pa.binary()), ENVELOPE, fast=fast)

    return make


@pytest.mark.skipif(not RECORDED.is_file(), reason=f"no recorded responses at {RECORDED}")
def test_recorded_devices_have_the_relations_that_plain_python_finds(related: Any) -> None:
    """396 of 316 devices, of all five kinds."""
    records = RECORDED.read_bytes().splitlines()
    result = related(records)
    assert found(result) == all_related(map(json.loads, records))
    assert (result.rows.height, result.rows[RECORD].n_unique(), result.rejects) == (396, 316, [])
    kinds = {"Owned By": 2, "Used By": 86, "Runs On": 93, "Member Of": 27, "In Network": 188}
    assert dict(result.rows["RelationshipType"].value_counts().rows()) == kinds


@pytest.mark.parametrize("day", [0, 4])
def test_synthetic_devices_have_the_relations_that_plain_python_finds(related: Any, day: int) -> None:
    """On the first day and later."""
    stream = Inventory(1500, 10).on(day).stream("device42", "assets")
    records = json.loads(b"[" + bytes(stream.body(numbers(0, stream.count))) + b"]")
    result = related(records)
    assert found(result) == all_related(records)
    assert result.rows.height == len(found(result)) > 1000


@QUICK
@given(devices=st.lists(DEVICE, max_size=4, unique_by=lambda device: device["id"]))
def test_any_device_has_the_relations_that_plain_python_finds(devices: list[dict[str, Any]]) -> None:
    """Each once, in the order of the records, the same on both ways of decoding."""
    texts = pa.array([json.dumps(device).encode() for device in devices], pa.binary())
    result = flatten(RELATIONS, texts, ENVELOPE)
    relations = found(result)
    assert relations == all_related(devices)
    assert result.rows.height == len(relations)
    assert result.rows[RECORD].is_sorted()
    for how in ({"fast": False}, {"bytes_at_once": 60}):
        assert flatten(RELATIONS, texts, ENVELOPE, **how).rows.equals(result.rows)


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
    texts = pa.array([json.dumps(record).encode() for record in records], pa.binary())
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
    """One decoding serves both, and each declaration has its transform into the table that it names."""
    declared = {(source.name, derived.name): derived for source in SOURCES.values() for derived in source.derived}
    assert declared.keys() == DERIVED.keys()
    for (source, name), derived in declared.items():
        assert DERIVED[source, name].fields is TRANSFORMS[source, derived.parent].fields
        assert DERIVED[source, name].table.name == derived.table == SOURCES[source].tables[name]
        assert derived.parent in {stream.name for stream in SOURCES[source].streams}
        assert name not in {stream.name for stream in SOURCES[source].streams}
