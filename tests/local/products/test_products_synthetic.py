"""Synthetic inventories: determinism, identity, JSON text, shapes and shares."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from local.products.columns import numbers, scramble32, weighted
from local.products.layout import Layout, raw, slot
from local.products.synthetic import Inventory, SyntheticStream

INVENTORY = Inventory(20_000, 30_000, seed=5)
STREAMS = INVENTORY.streams()
ALL = pytest.mark.parametrize("stream", STREAMS.values(), ids=["-".join(key) for key in STREAMS])
RECORDED_BYTES = {
    "cycognito-assets_domain": 486,
    "cycognito-assets_webapp": 354,
    "cycognito-assets_iprange": 234,
    "cycognito-findings_issues": 1063,
    "device42-assets": 2272,
    "tenable_io-assets": 1593,
    "tenable_io-findings_vulns": 4288,
}


def texts(stream: SyntheticStream, count: int, first: int = 0) -> list[bytes]:
    return [text[:-1] for text in stream.records(numbers(first, min(count, stream.count - first))).to_pylist()]


def wire_id(stream: SyntheticStream, record: dict[str, Any]) -> str:
    if stream.kind == "findings_vulns":
        port = record["port"]
        return f"{record['asset']['uuid']}/{record['plugin']['id']}/{port['port']}/{port['protocol']}"
    return str(record["id"])


def walk(value: Any, path: str, found: dict[str, set[str]]) -> None:
    found.setdefault(path, set()).add(type(value).__name__)
    if isinstance(value, dict):
        for key, inner in value.items():
            walk(inner, f"{path}.{key}", found)
    elif isinstance(value, list):
        for inner in value:
            walk(inner, path + "[]", found)


@ALL
def test_rendered_text_is_the_compact_json_of_its_own_value(stream: SyntheticStream) -> None:
    for text in texts(stream, 4000):
        assert json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False).encode() == text


@ALL
def test_truth_ids_are_those_of_the_records_and_unique(stream: SyntheticStream) -> None:
    ids = list(stream.ids())
    assert len(ids) == len(set(ids)) == stream.count
    sample = [wire_id(stream, json.loads(text)) for text in texts(stream, 1500, first=200)]
    assert sample == ids[200:1700]
    assert list(stream.ids(70, 5)) == ids[70:75]


@ALL
def test_a_record_is_the_same_in_any_page_and_any_process_state(stream: SyntheticStream) -> None:
    whole = bytes(stream.slice(0, 300))
    again = Inventory(20_000, 30_000, seed=5).stream(stream.product, stream.kind)
    assert b",".join(again.record(i) for i in range(300)) == whole
    assert bytes(again.slice(100, 7)) == b",".join(texts(stream, 7, first=100))
    shuffled = [17, 3, 299, 0]
    picked = bytes(stream.body(pa.array(shuffled, pa.uint64())))
    assert picked == b",".join(stream.record(i) for i in shuffled)


@ALL
def test_another_seed_gives_other_records(stream: SyntheticStream) -> None:
    other = Inventory(20_000, 30_000, seed=6).stream(stream.product, stream.kind)
    assert sum(stream.record(i) == other.record(i) for i in range(50)) == 0


@ALL
def test_a_later_version_changes_the_record_and_keeps_its_id(stream: SyntheticStream) -> None:
    first = [json.loads(stream.record(i)) for i in range(60)]
    later = [json.loads(stream.record(i, version=1)) for i in range(60)]
    assert [wire_id(stream, record) for record in first] == [wire_id(stream, record) for record in later]
    assert sum(a != b for a, b in zip(first, later, strict=True)) > 30


@ALL
@pytest.mark.parametrize("size", [500, 700, 1000, 4000])
def test_pages_of_a_walk_are_those_asked_for_one_by_one(stream: SyntheticStream, size: int) -> None:
    """Walks beside each other, a page asked for again and a page out of turn: what is rendered ahead shows nowhere."""
    firsts = range(0, 9000, size - 3)
    order = [place for first in firsts for place in (first, (first + 4000) % 9000, first, 100)]
    for first in order:
        alone = stream.body(numbers(first, max(0, min(size, stream.count - first))))
        assert bytes(stream.slice(first, size)) == bytes(alone)


@ALL
def test_slices_end_with_the_stream(stream: SyntheticStream) -> None:
    assert bytes(stream.slice(stream.count, 10)) == b""
    assert bytes(stream.slice(stream.count + 99, 10)) == b""
    assert bytes(stream.slice(stream.count - 1, 10)) == stream.record(stream.count - 1)


@ALL
def test_keys_and_types_are_among_the_recorded_ones(stream: SyntheticStream, recordings: Path) -> None:
    real: dict[str, set[str]] = {}
    key_orders: dict[frozenset[str], set[tuple[str, ...]]] = {}
    with (recordings / stream.product / f"{stream.kind}.ndjson").open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            walk(record, "", real)
            key_orders.setdefault(frozenset(record), set()).add(tuple(record))
    ours: dict[str, set[str]] = {}
    records = [json.loads(text) for text in texts(stream, 6000)]
    for record in records:
        walk(record, "", ours)
    strange = {path: types - real.get(path, set()) for path, types in ours.items() if types - real.get(path, set())}
    assert strange == {}
    assert {path for path in real if path.count(".") == 1} - set(ours) <= {".datacenter", ".slot_location"}
    known = sum(frozenset(record) in key_orders for record in records)
    assert known > 0.8 * len(records)


@ALL
def test_mean_size_is_within_a_seventh_of_the_recorded_one(stream: SyntheticStream) -> None:
    sizes = [len(text) for text in texts(stream, 20_000)]
    expected = RECORDED_BYTES[f"{stream.product}-{stream.kind}"]
    assert abs(sum(sizes) / len(sizes) - expected) < expected / 7


def test_no_text_of_the_recordings_is_reused(recordings: Path) -> None:
    """Long strings (titles, descriptions, host names) of synthetic records do not occur in the recordings."""
    for stream in STREAMS.values():
        recorded = (recordings / stream.product / f"{stream.kind}.ndjson").read_text(encoding="utf-8")
        for text in texts(stream, 400):
            record = json.loads(text)
            for key in ("title", "summary", "name", "domain", "hw_model"):
                if isinstance(value := record.get(key), str):
                    assert value not in recorded
            plugin = record.get("plugin", {})
            assert not plugin or plugin["description"] not in recorded
            assert not plugin or plugin["name"] not in recorded


def test_tenable_findings_have_the_real_long_tail() -> None:
    stream = Inventory(20_000, 60_000).stream("tenable_io", "findings_vulns")
    sizes = sorted(len(text) for first in range(0, 60_000, 10_000) for text in texts(stream, 10_000, first))
    assert 1500 < sizes[len(sizes) // 2] < 2600
    assert 0.007 < sum(size > 32_768 for size in sizes) / len(sizes) < 0.016
    big = [size for size in sizes if size > 300_000]
    assert 0.0005 < len(big) / len(sizes) < 0.002
    assert 480_000 < max(big) < 540_000
    without = Inventory(20_000, 5000, big_output_share=0).stream("tenable_io", "findings_vulns")
    assert max(len(text) for text in texts(without, 5000)) < 80_000


@pytest.mark.parametrize(
    ("product", "kind", "shares"),
    [
        ("cycognito", "findings_issues", {"critical": 0.017, "high": 0.118, "medium": 0.361, "low": 0.504}),
        (
            "tenable_io",
            "findings_vulns",
            {"info": 0.777, "low": 0.023, "medium": 0.059, "high": 0.127, "critical": 0.015},
        ),
    ],
    ids=["cycognito", "tenable"],
)
def test_severity_shares_are_the_real_ones(product: str, kind: str, shares: dict[str, float]) -> None:
    found = Counter(json.loads(text)["severity"] for text in texts(STREAMS[product, kind], 20_000))
    assert set(found) == set(shares)
    for severity, share in shares.items():
        assert abs(found[severity] / 20_000 - share) < 0.012, severity


def test_issues_point_at_exported_assets_but_for_the_orphan_share() -> None:
    assets = {i for kind in ("assets_domain", "assets_webapp") for i in INVENTORY.ids("cycognito", kind)}
    issues = [json.loads(text) for text in texts(STREAMS["cycognito", "findings_issues"], 30_000)]
    orphans = [issue["affected_asset"] for issue in issues if issue["affected_asset"] not in assets]
    assert {asset.split("/")[0] for asset in orphans} == {"ip", "cert"}
    assert abs(len(orphans) / len(issues) - 0.3) < 0.02
    stream = Inventory(100, 500, orphan_share=0).stream("cycognito", "findings_issues")
    assert all(json.loads(text)["affected_asset"].split("/")[0] in {"domain", "webapp"} for text in texts(stream, 500))


def test_tenable_findings_point_at_exported_assets_but_for_a_few() -> None:
    assets = set(INVENTORY.ids("tenable_io", "assets"))
    per_asset = Counter(key.split("/")[0] for key in INVENTORY.ids("tenable_io", "findings_vulns"))
    orphans = sum(n for uuid, n in per_asset.items() if uuid not in assets)
    assert 0.002 < orphans / 30_000 < 0.01
    assert max(per_asset.values()) > 20
    assert len(set(per_asset) & assets) < 0.9 * len(assets)


def test_a_finding_names_its_asset_as_the_asset_names_itself() -> None:
    assets = {
        record["id"]: record for text in texts(STREAMS["tenable_io", "assets"], 20_000) if (record := json.loads(text))
    }
    compared = 0
    for text in texts(STREAMS["tenable_io", "findings_vulns"], 3000):
        inside = json.loads(text)["asset"]
        asset = assets.get(inside["uuid"])
        if asset is not None:
            assert inside["ipv4"] == asset["ipv4s"][0]
            assert not (asset["fqdns"] and "fqdn" in inside) or inside["fqdn"] == asset["fqdns"][0]
            compared += 1
    assert compared > 2900


@pytest.mark.parametrize(("assets", "findings"), [(0, 50), (1, 900), (3, 2000), (7, 20), (500, 3), (40, 12_000)])
def test_ids_stay_unique_for_odd_ratios_of_findings_to_assets(assets: int, findings: int) -> None:
    for stream in Inventory(assets, findings).streams().values():
        ids = list(stream.ids())
        assert len(ids) == len(set(ids)) == stream.count


def test_the_inventory_holds_what_an_analyst_looks_for() -> None:
    devices = [json.loads(text) for text in texts(STREAMS["device42", "assets"], 4000)]
    edr = Counter(
        entry["value"] for d in devices for entry in d["custom_fields"] if entry["key"] == "SentinelOne_Active"
    )
    assert min(edr["Yes"], edr["No"], edr[None]) > 400
    unprotected = [
        d
        for d in devices
        if d["service_level"] == "Production"
        and any(entry == {"notes": None, "key": "SentinelOne_Active", "value": "No"} for entry in d["custom_fields"])
        and any(address["ip"].startswith("24") for address in d["ip_addresses"])
    ]
    assert unprotected
    agents = Counter(json.loads(text)["has_agent"] for text in texts(STREAMS["tenable_io", "assets"], 2000))
    assert min(agents[True], agents[False]) > 100
    ratings = Counter(
        json.loads(text)["security_rating"] for text in texts(STREAMS["cycognito", "assets_webapp"], 4000)
    )
    assert set(ratings) == set("ABCDF")


def test_device42_is_as_empty_as_the_real_one() -> None:
    def leaves(value: Any) -> list[Any]:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return [value] if inner is None else [leaf for item in inner for leaf in leaves(item)]

    found = [leaf for text in texts(STREAMS["device42", "assets"], 1000) for leaf in leaves(json.loads(text))]
    assert 0.57 < sum(leaf is None for leaf in found) / len(found) < 0.67


def test_texts_hold_escapes_quotes_markup_and_other_scripts() -> None:
    body = b"".join(bytes(stream.slice(0, 3000)) for stream in STREAMS.values()).decode()
    for mark in ('\\"', "\\\\", "\\t", "\\u0007", "<b>", "&amp;", "ü", "確", "🔒"):
        assert mark in body, mark


def test_a_template_with_slots_out_of_order_is_refused() -> None:
    with pytest.raises(ValueError, match="'a' is out of the order"):
        Layout([{"x": slot("b"), "y": raw("a")}], ["a", "b"])


def test_scrambling_keeps_numbers_distinct() -> None:
    out = scramble32(numbers(0, 100_000), 3, "x").to_pylist()
    assert len(set(out)) == 100_000
    assert max(out) < 1 << 32


def test_weighted_tables_are_full_and_give_small_shares_a_place() -> None:
    counts = Counter(weighted([90, 9.99, 0.001, 0]).to_pylist())
    assert sum(counts.values()) == 4096
    assert counts[2] == 1
    assert counts[3] == 0
    assert abs(counts[0] / 4096 - 0.9) < 0.01
