"""Synthetic inventories on later days: the truth of what changed against the bytes themselves, and what is served."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import urllib3

from local.products.columns import numbers
from local.products.simulator import Simulator
from local.products.synthetic import EPOCH, Changes, Inventory, SyntheticStream, _family
from transforms.registry import TRANSFORMS
from transforms.rows import Envelope, flatten

ROOT = Path(__file__).resolve().parents[3]
INVENTORY = Inventory(900, 1500, seed=5, fixed_share=0.1, big_output_share=0)
KEYS = list(INVENTORY.streams())
ALL = pytest.mark.parametrize("key", KEYS, ids=["-".join(key) for key in KEYS])
STREAM_OF = {
    ("cycognito", "assets_domain"): ("cycognito", "domains"),
    ("cycognito", "assets_webapp"): ("cycognito", "web_apps"),
    ("cycognito", "assets_iprange"): ("cycognito", "ip_ranges"),
    ("cycognito", "findings_issues"): ("cycognito", "issues"),
    ("device42", "assets"): ("device42", "devices"),
    ("tenable_io", "assets"): ("tenable", "assets"),
    ("tenable_io", "findings_vulns"): ("tenable", "vulnerabilities"),
}
FIRST_DAY_DIGESTS = {
    "cycognito-assets_domain": "3c0d3c0eb410cde3",
    "cycognito-assets_webapp": "d9fe7cac28bcd752",
    "cycognito-assets_iprange": "ebd29c73696acde3",
    "cycognito-findings_issues": "dbc61220aa7baff8",
    "device42-assets": "37bc3a6c8df4b116",
    "tenable_io-assets": "e0e13c48a0e9f46e",
    "tenable_io-findings_vulns": "b6d83e0503c5c647",
}
MOVING_TIMES = (
    "last_seen", "last_detected", "last_updated", "updated_at", "last_scan_time", "last_authenticated_scan_date",
    "last_licensed_scan_date", "last_authenticated_results", "last_unauthenticated_results", "completed_at",
    "started_at", "last_found", "indexed",
)  # fmt: skip
TIMES = re.compile(rb'"(?:%b)":"[^"]*"' % "|".join(MOVING_TIMES).encode())


def texts(stream: SyntheticStream) -> list[bytes]:
    return [text[:-1] for text in stream.records(numbers(0, stream.count)).to_pylist()]


def on(day: int, key: tuple[str, str]) -> dict[str, bytes]:
    """The records of a day by their ids."""
    stream = INVENTORY.on(day).stream(*key)
    ids = list(stream.ids())
    assert len(ids) == len(set(ids)) == stream.count
    return dict(zip(ids, texts(stream), strict=True))


def compared(old: dict[str, bytes], new: dict[str, bytes]) -> Changes:
    """What differs between two inventories, by comparing bytes."""
    both = [i for i in new if i in old and old[i] != new[i]]
    changed = [i for i in both if TIMES.sub(b"", old[i]) != TIMES.sub(b"", new[i])]
    return Changes(
        sorted(new.keys() - old.keys()), sorted(changed), sorted(old.keys() - new.keys()), sorted({*both} - {*changed})
    )


def in_order(changes: Changes) -> Changes:
    return Changes(*(sorted(ids) for ids in (changes.created, changes.changed, changes.deleted, changes.touched)))


@ALL
def test_day_0_has_the_bytes_that_it_had_before_inventories_lived(key: tuple[str, str]) -> None:
    """The digests were taken before days were there."""
    stream = Inventory(3000, 5000, 5, fixed_share=0.1, day=0, created=0.5).stream(*key)
    body = stream.slice(0, stream.count)
    assert hashlib.blake2b(body, digest_size=8).hexdigest() == FIRST_DAY_DIGESTS["-".join(key)]


@ALL
@pytest.mark.parametrize(("from_day", "to_day"), [(0, 1), (0, 9), (3, 4), (5, 14)])
def test_the_truth_is_what_a_comparison_of_all_bytes_finds(key: tuple[str, str], from_day: int, to_day: int) -> None:
    truth = INVENTORY.changes(from_day, to_day, *key)
    assert in_order(truth) == compared(on(from_day, key), on(to_day, key))
    if to_day - from_day > 1:
        assert truth.created
        assert truth.changed
    assert bool(truth.touched) == (key[1] != "assets_iprange")


@ALL
def test_rows_change_where_the_truth_says_changed_and_only_there(key: tuple[str, str]) -> None:
    """In the columns that take part in the row hash, after the product's own transform."""
    source, name = STREAM_OF[key]
    transform = TRANSFORMS[source, name]
    envelope = Envelope("run", datetime(2025, 1, 1, tzinfo=UTC), "Snapshot")
    hashed = [column.name for column in transform.table.columns if column.hashed]
    rows = []
    for day in (2, 6):
        records = on(day, key)
        flat = flatten(transform, pl.Series(records.values(), dtype=pl.Binary), envelope)
        assert not flat.rejects
        rows.append(dict(zip(records, flat.rows.select(hashed).rows(), strict=True)))
    old, new = rows
    truth = INVENTORY.changes(2, 6, *key)
    assert sorted(i for i in new if i in old and old[i] != new[i]) == sorted(truth.changed)


@ALL
def test_shares_of_a_day_are_those_that_were_asked_for(key: tuple[str, str]) -> None:
    inventory = Inventory(40_000, 40_000, created=0.02, changed=0.04, deleted=0.03, touched=0.2)
    before, after = inventory.count(*key), inventory.on(1).count(*key)
    truth = inventory.changes(0, 1, *key)
    finding = key[1].startswith("findings")
    assert len(truth.created) == int(before * 0.02) or (finding and before * 0.018 < len(truth.created))
    assert abs(len(truth.deleted) / before - (0.05 if finding else 0.03)) < 0.011
    assert abs(len(truth.changed) / before - 0.04) < 0.008
    assert abs(len(truth.touched) / before - (0 if key[1] == "assets_iprange" else 0.2)) < 0.012
    assert after == before + len(truth.created) - len(truth.deleted)


@ALL
def test_new_records_stand_behind_the_others(key: tuple[str, str]) -> None:
    """What is created on day 1 cannot be anything that was there before."""
    old, new = INVENTORY.ids(*key), INVENTORY.on(1).ids(*key)
    created = INVENTORY.changes(0, 1, *key).created
    assert new[len(new) - len(created) :] == created
    assert new[: len(new) - len(created)] == [i for i in old if i in set(new)]


@ALL
def test_some_of_the_deleted_come_back_under_their_id_and_changed(key: tuple[str, str]) -> None:
    days = [on(day, key) for day in range(16)]
    present = {i: [i in day for day in days] for day in days for i in day}
    gone = {i for i, there in present.items() if (True, False) in pairwise(there)}
    back = {
        i
        for i in gone
        if any(a and not b and True in present[i][n + 2 :] for n, (a, b) in enumerate(pairwise(present[i])))
    }
    assert back
    assert len(back) < 0.35 * len(gone)
    for i in back:
        seen = [day[i] for day in days if i in day]
        assert TIMES.sub(b"", seen[0]) != TIMES.sub(b"", seen[-1])


@ALL
def test_what_comes_and_goes_between_two_days_is_in_none(key: tuple[str, str]) -> None:
    inventory = Inventory(4000, 4000, created=0.2, deleted=0.2)
    ends = {*inventory.ids(*key), *inventory.on(3).ids(*key)}
    between = {*inventory.on(1).ids(*key), *inventory.on(2).ids(*key)} - ends
    truth = inventory.changes(0, 3, *key)
    assert between
    assert not between & {*truth.created, *truth.changed, *truth.deleted, *truth.touched}


@ALL
def test_a_day_is_the_same_whichever_days_were_asked_for_before(key: tuple[str, str]) -> None:
    later_first = [on(day, key) for day in (9, 4, 6)]
    _family.cache_clear()
    assert [on(day, key) for day in (4, 6, 9)] == [later_first[1], later_first[2], later_first[0]]


@ALL
def test_pages_of_a_later_day_are_cut_from_the_same_bytes(key: tuple[str, str]) -> None:
    stream = INVENTORY.on(5).stream(*key)
    whole = texts(stream)
    for first, count in ((stream.count - 3, 10), (7, 11), (0, 1), (stream.count, 5)):
        assert bytes(stream.slice(first, count)) == b",".join(whole[first : first + count])
    assert stream.record(17) == whole[17]
    for text in whole:
        assert json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False).encode() == text


@ALL
def test_ids_stay_unique_when_an_inventory_grows_many_times_over(key: tuple[str, str]) -> None:
    stream = Inventory(600, 6000, created=1.0, deleted=0, day=6).stream(*key)
    assert len(set(stream.ids())) == stream.count > 6 * Inventory(600, 6000).count(*key)


def test_what_is_created_is_never_an_asset_that_findings_named_as_not_exported() -> None:
    inventory = Inventory(400, 2000, tenable_orphan_share=0.2, big_output_share=0, created=1.0, day=2)
    first_day = inventory.on(0)
    named = {key.split("/")[0] for key in first_day.ids("tenable_io", "findings_vulns")}
    orphans = named - {*first_day.ids("tenable_io", "assets")}
    assert orphans
    assert not orphans & {*inventory.ids("tenable_io", "assets")}


@pytest.mark.parametrize("product", ["cycognito", "tenable_io"])
def test_findings_go_with_their_assets_but_for_a_few_orphans(product: str) -> None:
    inventory = Inventory(3000, 9000, orphan_share=0, tenable_orphan_share=0, big_output_share=0, deleted=0.05)
    assets = ("assets",) if product == "tenable_io" else ("assets_domain", "assets_webapp")
    findings = "findings_vulns" if product == "tenable_io" else "findings_issues"

    def asset_of(text: bytes) -> str:
        record = json.loads(text)
        return str(record["asset"]["uuid"] if product == "tenable_io" else record["affected_asset"])

    then, now = ({i for kind in assets for i in inventory.on(day).ids(product, kind)} for day in (0, 4))
    on_first_day = [asset_of(text) for text in texts(inventory.stream(product, findings))]
    doomed = sum(asset not in now for asset in on_first_day)
    left = [asset for text in texts(inventory.on(4).stream(product, findings)) if (asset := asset_of(text)) not in now]
    assert set(on_first_day) <= then
    assert doomed > 900
    assert 0 < len(left) < 0.1 * doomed


@pytest.mark.parametrize("key", [("tenable_io", "assets"), ("device42", "assets")], ids=["tenable", "device42"])
def test_what_happens_on_a_day_has_its_times_within_that_day(key: tuple[str, str]) -> None:
    field = "updated_at" if key[0] == "tenable_io" else "last_updated"
    epoch = date(2026, 3, 1)
    inventory = Inventory(900, 0, seed=2, epoch=epoch)
    for day in (1, 4):
        truth = inventory.changes(day - 1, day, *key)
        moved = {*truth.created, *truth.changed, *truth.touched}
        records = {str(r["id"]): r for r in map(json.loads, texts(inventory.on(day).stream(*key)))}
        of_today = {i for i, r in records.items() if r[field][:10] == (epoch + timedelta(days=day)).isoformat()}
        assert of_today == moved
        assert all(r[field][:10] <= (epoch + timedelta(days=day)).isoformat() for r in records.values())
        if key[0] == "tenable_io":
            assert all(records[i]["created_at"] < records[i]["updated_at"] for i in truth.created)


@pytest.mark.parametrize("day", [1, 6])
def test_tenables_filters_leave_exactly_what_happened_since_the_day_began(serve: Any, day: int) -> None:
    """A fixed finding that is only touched keeps the time of its fix, by which `since` judges it."""
    client = serve(Simulator(dict(INVENTORY.on(day).streams())))
    begins = int(datetime.combine(EPOCH + timedelta(days=day), datetime.min.time(), UTC).timestamp())
    states = ["open", "reopened", "fixed"]
    for kind, export, name in (
        ("assets", "assets", "updated_at"),
        ("assets", "assets", "since"),
        ("findings_vulns", "vulns", "last_found"),
        ("findings_vulns", "vulns", "since"),
    ):
        truth = INVENTORY.changes(day - 1, day, "tenable_io", kind)
        filters = {name: begins} | ({"state": states} if export == "vulns" else {})
        records = [record for chunk in client.tenable(export, {"filters": filters}) for record in chunk]
        ids = {_id(record) for record in records}
        expected = {*truth.created, *truth.changed, *truth.touched}
        if (export, name) == ("vulns", "since"):
            everything = map(json.loads, texts(INVENTORY.on(day).stream("tenable_io", kind)))
            fixed = {_id(record) for record in everything if record["state"] == "FIXED"}
            assert {*truth.touched} & fixed
            expected -= {*truth.touched} & fixed
        assert ids == expected, (kind, name)


def _id(record: dict[str, Any]) -> str:
    if "plugin" in record:
        port = record["port"]
        return f"{record['asset']['uuid']}/{record['plugin']['id']}/{port['port']}/{port['protocol']}"
    return str(record["id"])


def test_every_product_serves_the_day_that_it_is_told_to(serve: Any) -> None:
    client = serve(Simulator(dict(INVENTORY.streams()), inventory=INVENTORY))
    job = client.tenable_start("assets", {"chunk_size": 500})
    for day in (3, 8, 0):
        answer = client.control("day", {"day": day})
        assert answer["day"] == day
        expected = INVENTORY.on(day)
        assert answer["records"]["device42/assets"] == expected.count("device42", "assets")
        assert [str(r["id"]) for r in client.device42(97)] == expected.ids("device42", "assets")
        for path, kind in (("/v1/assets/iprange", "assets_iprange"), ("/v1/issues", "findings_issues")):
            assert [r["id"] for r in client.cycognito(path, 200)] == expected.ids("cycognito", kind)
        filters = {"state": ["open", "reopened", "fixed"]}
        chunks = client.tenable("vulns", {"num_assets": 50, "filters": filters})
        assert [_id(r) for chunk in chunks for r in chunk] == expected.ids("tenable_io", "findings_vulns")
    while client.tenable_status("assets", job)["status"] != "FINISHED":
        pass
    first = client.tenable_chunk("assets", job, 1).json()
    assert [r["id"] for r in first] == INVENTORY.ids("tenable_io", "assets")[:500]


def test_reset_goes_back_to_the_first_day(serve: Any) -> None:
    inventory = INVENTORY.on(2)
    client = serve(Simulator(dict(inventory.streams()), inventory=inventory))
    client.control("day", {"day": 7})
    client.control("reset")
    assert [str(r["id"]) for r in client.device42(1000)] == inventory.ids("device42", "assets")


@pytest.mark.parametrize("body", [{"day": -1}, {"day": 10**6}, {"days": 1}, {"day": "tomorrow"}, {"every": 0}])
def test_a_day_that_means_nothing_is_refused_and_nothing_moves(serve: Any, body: Any) -> None:
    client = serve(Simulator(dict(INVENTORY.streams()), inventory=INVENTORY))
    assert client.send("POST", "/_control/day", {}, body).status == 400
    assert client.send("GET", "/_control/day", {}).json()["day"] == 0


def test_streams_without_an_inventory_have_no_days(serve: Any) -> None:
    client = serve(Simulator(dict(INVENTORY.streams())))
    assert client.send("POST", "/_control/day", {}, {"day": 1}).status == 400


@pytest.mark.parametrize(
    "arguments",
    [{"created": -0.1}, {"changed": 0.6, "touched": 0.6}, {"day": -1}, {"epoch": date(2020, 1, 1)}, {"day": 9999}],
    ids=["negative", "over-one", "day-before", "epoch-early", "day-too-late"],
)
def test_an_impossible_life_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Inventory(10, 10, **arguments)


def test_the_truth_runs_forwards_only() -> None:
    with pytest.raises(ValueError, match="before day"):
        INVENTORY.changes(2, 1, "device42", "assets")


def test_nothing_is_created_from_nothing() -> None:
    for assets, findings in ((0, 0), (0, 40), (1, 300), (3, 0)):
        for stream in Inventory(assets, findings, day=12).streams().values():
            ids = list(stream.ids())
            assert len(ids) == len(set(ids)) == stream.count


def test_another_process_serves_the_same_day() -> None:
    """Started with the command line's own options, under another hash seed."""
    command = "--assets 900 --findings 40 --seed 5 --day 6 --created 0.03 --changed 0.05 --deleted 0.04 --touched 0.2"
    process = subprocess.Popen(
        [sys.executable, "-m", "local.products", *command.split(), "--epoch", "2026-01-01"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env={"PYTHONHASHSEED": "77"},
    )
    assert process.stdout is not None
    try:
        ready = json.loads(process.stdout.readline())
        with urllib3.PoolManager() as pool:
            url = ready["url"] + "/api/1.0/devices/all/?limit=1000"
            auth = urllib3.make_headers(basic_auth="local:local")
            devices = pool.request("GET", url, headers=auth, retries=False, timeout=10).json()["Devices"]
    finally:
        process.terminate()
        process.communicate(timeout=20)
    inventory = Inventory(
        900, 40, 5, day=6, created=0.03, changed=0.05, deleted=0.04, touched=0.2, epoch=date(2026, 1, 1)
    )
    stream = inventory.stream("device42", "assets")
    assert ready["day"] == 6
    assert ready["records"]["device42/assets"] == stream.count
    assert devices == [json.loads(text) for text in texts(stream)]


def test_an_impossible_life_ends_the_process_with_the_reason() -> None:
    command = [sys.executable, "-m", "local.products", "--assets", "5", "--changed", "0.9", "--touched", "0.9"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2
    assert "changed + deleted + touched are at most 1" in ended.stderr
