"""The wire protocols: every record exactly once, for any page size, recorded and synthetic."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from local.products.recorded import read_folder
from local.products.simulator import Simulator
from local.products.synthetic import Inventory

INVENTORY = Inventory(700, 1300, seed=9, big_output_share=0)
CYCOGNITO = {
    "/v1/assets/domain": "assets_domain",
    "/v1/assets/webapp": "assets_webapp",
    "/v1/assets/iprange": "assets_iprange",
    "/v1/issues": "findings_issues",
}
KEYS = {"X-ApiKeys": "accessKey=local-access;secretKey=local-secret"}


def key(record: dict[str, Any]) -> str:
    if "plugin" in record:
        port = record["port"]
        return f"{record['asset']['uuid']}/{record['plugin']['id']}/{port['port']}/{port['protocol']}"
    return str(record["id"])


@pytest.fixture
def client(serve: Any) -> Any:
    """A client of a small synthetic inventory."""
    return serve(Simulator(dict(INVENTORY.streams())))


@pytest.fixture
def recorded(serve: Any, recordings: Path) -> Any:
    """A client of the recorded folder."""
    return serve(Simulator(dict(read_folder(recordings))))


@pytest.mark.parametrize("count", [1000, 500, 97])
@pytest.mark.parametrize(("path", "kind"), CYCOGNITO.items(), ids=CYCOGNITO.values())
def test_cycognito_gives_each_synthetic_record_once(client: Any, path: str, kind: str, count: int) -> None:
    assert [key(record) for record in client.cycognito(path, count)] == INVENTORY.ids("cycognito", kind)


@pytest.mark.parametrize("limit", [5000, 100, 33])
def test_device42_gives_each_synthetic_record_once(client: Any, limit: int) -> None:
    assert [key(record) for record in client.device42(limit)] == INVENTORY.ids("device42", "assets")


@pytest.mark.parametrize("size", [5000, 100, 7])
@pytest.mark.parametrize("kind", ["assets", "vulns"])
def test_tenable_gives_each_synthetic_record_once(client: Any, kind: str, size: int) -> None:
    name, stream = ("chunk_size", "assets") if kind == "assets" else ("num_assets", "findings_vulns")
    chunks = client.tenable(kind, {name: size})
    assert [key(record) for chunk in chunks for record in chunk] == INVENTORY.ids("tenable_io", stream)


def test_the_last_chunk_of_a_finding_export_is_empty(client: Any) -> None:
    chunks = client.tenable("vulns", {"num_assets": 50})
    assert chunks[-1] == []
    assert all(chunks[:-1])


@pytest.mark.parametrize("count", [1000, 500, 211])
@pytest.mark.parametrize(("path", "kind"), CYCOGNITO.items(), ids=CYCOGNITO.values())
def test_cycognito_gives_each_recorded_record_once(
    recorded: Any, recordings: Path, path: str, kind: str, count: int
) -> None:
    lines = (recordings / "cycognito" / f"{kind}.ndjson").read_text(encoding="utf-8").splitlines()
    assert recorded.cycognito(path, count) == [json.loads(line) for line in lines]


@pytest.mark.parametrize("limit", [1000, 25, 17])
def test_device42_gives_each_recorded_record_once(recorded: Any, recordings: Path, limit: int) -> None:
    lines = (recordings / "device42" / "assets.ndjson").read_text(encoding="utf-8").splitlines()
    assert recorded.device42(limit) == [json.loads(line) for line in lines]


@pytest.mark.parametrize("size", [500, 50, 7])
@pytest.mark.parametrize("kind", ["assets", "findings_vulns"])
def test_tenable_gives_each_record_of_the_recorded_pages_once(
    recorded: Any, recordings: Path, kind: str, size: int
) -> None:
    lines = (recordings / "tenable_io" / f"{kind}.ndjson").read_text(encoding="utf-8").splitlines()
    export, name = ("assets", "chunk_size") if kind == "assets" else ("vulns", "num_assets")
    chunks = recorded.tenable(export, {name: size})
    served = [json.dumps(record, sort_keys=True) for chunk in chunks for record in chunk]
    assert sorted(served) == sorted(json.dumps(json.loads(line), sort_keys=True) for line in lines)


def test_a_request_that_coincides_with_a_recorded_page_gets_its_bytes(recorded: Any, recordings: Path) -> None:
    for path, kind in CYCOGNITO.items():
        for file in sorted(recordings.glob(f"cycognito/wire/{kind}-*.json")):
            number = int(file.stem.rsplit("-", 1)[1])
            assert recorded.cycognito_page(path, 500, number).data == file.read_bytes()
    for file in sorted(recordings.glob("device42/wire/assets-*.json")):
        offset = 25 * int(file.stem.rsplit("-", 1)[1])
        assert recorded.device42_page(25, offset).data == file.read_bytes()
    job = recorded.tenable_start("assets", {})
    while recorded.tenable_status("assets", job)["status"] != "FINISHED":
        pass
    for file in sorted(recordings.glob("tenable_io/wire/assets-*.json")):
        number = 1 + int(file.stem.rsplit("-", 1)[1])
        assert recorded.tenable_chunk("assets", job, number).data == file.read_bytes()


def test_recorded_streams_know_the_ids_of_their_records(recordings: Path) -> None:
    for (product, kind), stream in read_folder(recordings).items():
        pages = [json.loads(page) for page in stream.pages.values()]
        records = [r for page in pages for r in (page["Devices"] if product == "device42" else page)]
        assert Counter(stream.ids()) == Counter(key(record) for record in records), kind


def test_products_absent_from_the_folder_answer_404(serve: Any, tmp_path: Path) -> None:
    wire = tmp_path / "device42" / "wire"
    wire.mkdir(parents=True)
    (wire / "assets-0000.json").write_text(
        '{"total_count": 2, "Devices": [{"id":1}, {"id" : 2}], "offset": 0, "limit": 2}'
    )
    client = serve(Simulator(dict(read_folder(tmp_path))))
    missing = client.cycognito_page("/v1/issues", 10, 0)
    assert missing.status == 404
    assert missing.json()["error"] == "not_found"
    assert client.send("POST", "/assets/export", KEYS, {}).status == 404
    assert [device["id"] for device in client.device42(1)] == [1, 2]
    assert client.device42_page(1, 1).data == b'{"total_count":2,"Devices":[{"id" : 2}],"offset":1,"limit":1}'


def test_a_folder_without_pages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no recorded page"):
        read_folder(tmp_path)


def test_device42_says_what_it_capped_and_ends_with_an_empty_list(client: Any, recorded: Any) -> None:
    assert client.device42_page(5000, 0).json()["limit"] == 1000
    past = client.device42_page(100, 700).json()
    assert past == {"total_count": 700, "Devices": [], "offset": 700, "limit": 100}
    assert recorded.device42_page(5000, 25).json()["limit"] == 25


def test_cycognito_caps_the_page_at_a_thousand(serve: Any) -> None:
    client = serve(Simulator(dict(Inventory(3000, 0).streams())))
    assert len(client.cycognito_page("/v1/assets/webapp", 5000, 0).json()) == 1000
    assert len(client.cycognito_page("/v1/assets/webapp", 5000, 1).json()) == 500


def test_the_chunk_list_grows_from_poll_to_poll(client: Any) -> None:
    job = client.tenable_start("assets", {"chunk_size": 50})
    seen = [client.tenable_status("assets", job) for _ in range(6)]
    assert [status["status"] for status in seen] == [
        "QUEUED",
        "PROCESSING",
        "PROCESSING",
        "PROCESSING",
        "FINISHED",
        "FINISHED",
    ]
    lists = [status["chunks_available"] for status in seen]
    assert lists[0] == []
    assert lists[-1] == list(range(1, 15))
    sizes = [len(chunks) for chunks in lists]
    assert sizes[1] < sizes[2] < sizes[3] < sizes[4] == sizes[5]
    assert set(seen[0]) == {"status", "chunks_available"}


def test_a_chunk_that_is_not_in_the_list_is_not_served(client: Any) -> None:
    job = client.tenable_start("vulns", {"num_assets": 50})
    assert client.tenable_chunk("vulns", job, 1).status == 404
    client.tenable_status("vulns", job)
    status = client.tenable_status("vulns", job)
    assert set(status) == {"uuid", "status", "chunks_available", "chunks_failed", "chunks_cancelled"}
    assert client.tenable_chunk("vulns", job, 1).status == 200
    assert client.tenable_chunk("vulns", job, max(status["chunks_available"]) + 1).status == 404
    assert client.tenable_chunk("assets", job, 1).status == 404


def test_a_second_export_of_the_same_filters_is_refused_with_the_running_job(client: Any) -> None:
    job = client.tenable_start("vulns", {"num_assets": 50, "filters": {"state": ["open"]}})
    again = client.send("POST", "/vulns/export", KEYS, {"num_assets": 100, "filters": {"state": ["open"]}})
    assert again.status == 409
    assert set(again.json()) == {"active_job_id", "failure_reason"}
    assert again.json()["active_job_id"] == job
    other = client.tenable_start("vulns", {"filters": {"state": ["open", "reopened"]}})
    assert client.tenable_start("assets", {}) not in {job, other}
    while client.tenable_status("vulns", job)["status"] != "FINISHED":
        pass
    assert client.tenable_start("vulns", {"filters": {"state": ["open"]}}) != job


def test_a_cancelled_export_stays_cancelled_and_frees_its_filters(client: Any) -> None:
    job = client.tenable_start("assets", {})
    answer = client.send("POST", f"/assets/export/{job}/cancel", KEYS)
    assert answer.json() == {"status": "CANCELLED"}
    assert client.tenable_status("assets", job)["status"] == "CANCELLED"
    assert client.tenable_start("assets", {}) != job


def test_since_leaves_the_records_updated_from_then_on(client: Any) -> None:
    everything = [record for chunk in client.tenable("vulns", {}) for record in chunk]
    since = 1_735_689_600  # 2025-01-01: nothing was found last before it
    bound = sorted(record["last_found"] for record in everything)[len(everything) // 2]
    assert [r for c in client.tenable("vulns", {"filters": {"since": since}}) for r in c] == everything
    moment = int(datetime.fromisoformat(bound).timestamp())
    expected = [key(r) for r in everything if int(datetime.fromisoformat(r["last_found"]).timestamp()) >= moment]
    chunks = client.tenable("vulns", {"num_assets": 50, "filters": {"since": moment}})
    assert [key(record) for chunk in chunks for record in chunk] == expected
    assert 0 < len(expected) < len(everything)
    assets = [record for chunk in client.tenable("assets", {}) for record in chunk]
    kept = [
        record["id"] for record in assets if int(datetime.fromisoformat(record["updated_at"]).timestamp()) >= moment
    ]
    chunks = client.tenable("assets", {"filters": {"updated_at": moment}})
    assert [record["id"] for chunk in chunks for record in chunk] == kept


def test_fixed_findings_come_only_when_their_state_is_asked_for(serve: Any) -> None:
    inventory = Inventory(100, 600, fixed_share=0.2, big_output_share=0)
    client = serve(Simulator(dict(inventory.streams())))
    default = [record for chunk in client.tenable("vulns", {}) for record in chunk]
    assert {record["state"] for record in default} == {"OPEN", "REOPENED"}
    states = ["open", "reopened", "fixed"]
    everything = [r for chunk in client.tenable("vulns", {"filters": {"state": states}}) for r in chunk]
    assert [key(record) for record in everything] == inventory.ids("tenable_io", "findings_vulns")
    assert 60 < sum(record["state"] == "FIXED" for record in everything) == 600 - len(default)


@pytest.mark.parametrize(
    "header",
    [
        "accessKey=local-access;secretKey=local-secret",
        "accessKey=local-access; secretKey=local-secret;",
        "secretKey=local-secret; accessKey=local-access",
    ],
)
def test_tenable_takes_its_keys_in_any_order(client: Any, header: str) -> None:
    assert client.send("POST", "/assets/export", {"X-ApiKeys": header}, {}).status == 200


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("POST", "/v1/issues", {"Authorization": "Bearer local-cycognito-key", "Content-Type": "application/json"}),
        ("POST", "/v1/issues", {"Content-Type": "application/json"}),
        ("GET", "/api/1.0/devices/all/", {"Authorization": "Basic bG9jYWw6d3Jvbmc="}),
        ("GET", "/api/1.0/devices/all/", {"Authorization": "Basic %%%"}),
        ("POST", "/vulns/export", {"X-ApiKeys": "accessKey=local-access;secretKey=wrong"}),
        ("GET", "/assets/export/x/status", {}),
    ],
    ids=["cycognito-scheme", "cycognito-none", "device42-wrong", "device42-garbage", "tenable-wrong", "tenable-none"],
)
def test_wrong_credentials_get_401_and_json(client: Any, method: str, path: str, headers: dict[str, str]) -> None:
    answer = client.send(method, path, headers, [] if method == "POST" else None)
    assert answer.status == 401
    assert isinstance(answer.json(), dict)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/assets/export", {"chunk_size": 0}),
        ("/vulns/export", {"num_assets": 5001}),
        ("/vulns/export", {"filters": {"since": "yesterday"}}),
        ("/vulns/export", {"filters": {"colour": "red"}}),
        ("/vulns/export", []),
    ],
)
def test_tenable_refuses_what_it_cannot_honour(client: Any, path: str, body: Any) -> None:
    assert client.send("POST", path, KEYS, body).status == 400


def test_cycognito_wants_a_json_list_as_its_body(client: Any) -> None:
    headers = {"Authorization": "local-cycognito-key"}
    assert client.send("POST", "/v1/issues", headers | {"Content-Type": "text/plain"}, []).status == 400
    assert client.send("POST", "/v1/issues", headers | {"Content-Type": "application/json"}, {}).status == 400
    assert client.send("POST", "/v1/issues?offset=-1", headers | {"Content-Type": "application/json"}, []).status == 400
