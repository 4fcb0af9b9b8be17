"""Faults on demand, statistics and the process itself."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import urllib3

from local.products.faults import KINDS, Faults, parse
from local.products.simulator import Simulator
from local.products.synthetic import Inventory

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def client(serve: Any) -> Any:
    """A client of a small synthetic inventory."""
    return serve(Simulator(dict(Inventory(700, 1300, seed=9, big_output_share=0).streams())))


def outcome(client: Any, number: int) -> str:
    """What a request for that page comes to."""
    try:
        answer = client.cycognito_page("/v1/issues", 10, number)
    except urllib3.exceptions.HTTPError as error:
        return type(error).__name__
    return f"{answer.status} {answer.headers['Content-Type'].split(';')[0]} {len(answer.data)}"


def test_random_faults_depend_on_seed_and_request_number_alone(client: Any) -> None:
    kinds = ["429", "500", "502", "503", "drop", "drop-mid-body", "expired-token", "html-200", "not-json"]
    runs = []
    for seed in (1, 1, 2):
        client.control("faults", {"seed": seed, "rate": 0.4, "kinds": kinds})
        runs.append([outcome(client, number) for number in range(60)])
    assert runs[0] == runs[1] != runs[2]
    fine = sum(run.startswith("200 application/json") for run in runs[0])
    assert 25 < fine < 50


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_of_fault_is_what_it_says(client: Any, kind: str) -> None:
    client.control("faults", {"rate": 1, "kinds": [kind], "retry_after_s": 7, "slow_s": 0.2})
    if kind in {"drop", "drop-mid-body"}:
        expected = urllib3.exceptions.ProtocolError
        with pytest.raises(expected) as caught:
            client.cycognito_page("/v1/issues", 10, 0)
        assert ("IncompleteRead" in str(caught.value)) == (kind == "drop-mid-body")
        return
    started = time.monotonic()
    answer = client.cycognito_page("/v1/issues", 10, 0)
    if kind == "timeout":
        assert time.monotonic() - started >= 0.2
        assert len(answer.json()) == 10
    elif kind == "html-200":
        assert answer.status == 200
        assert answer.data.startswith(b"<!DOCTYPE html>")
    elif kind == "not-json":
        assert answer.status == 200
        with pytest.raises(json.JSONDecodeError):
            answer.json()
    elif kind == "expired-token":
        assert answer.status == 401
    else:
        assert answer.status == int(kind[:3])
        assert answer.headers.get("Retry-After") == ("7" if kind == "429" else None)
    assert (client.control("stats")["pages"] == {}) == (kind != "timeout")


@pytest.mark.parametrize("kind", ["html-200", "not-json", "null"])
def test_a_broken_page_is_always_broken_and_its_neighbours_never(client: Any, kind: str) -> None:
    client.control("faults", {"break_page": [{"path": "/v1/issues", "page": 2, "kind": kind}]})
    for _ in range(2):
        whole = [client.cycognito_page("/v1/issues", 10, number) for number in range(4)]
        assert [isinstance(_value(answer), list) for answer in whole] == [True, True, False, True]
        assert {answer.status for answer in whole} == {200}


def _value(answer: Any) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


@pytest.mark.parametrize("product", ["cycognito", "device42", "tenable"])
def test_garbage_elements_stand_behind_the_records_of_the_page(client: Any, product: str) -> None:
    garbage = [5, None, "text", {"no": "key"}, [1]]
    path, page = {
        "cycognito": ("/v1/issues", 1),
        "device42": ("/api/1.0/devices/all/", 1),
        "tenable": ("/assets/export/chunks", 2),
    }[product]
    client.control("faults", {"records": [{"path": path, "page": page, "insert": garbage}]})
    if product == "cycognito":
        pages = [client.cycognito_page(path, 100, number).json() for number in range(3)]
    elif product == "device42":
        pages = [client.device42_page(100, offset).json()["Devices"] for offset in (0, 100, 200)]
    else:
        pages = client.tenable("assets", {"chunk_size": 100})[:3]
    assert pages[1][100:] == garbage
    assert [len(page) for page in pages] == [100, 105, 100]


def test_the_total_drifts_with_each_request(client: Any) -> None:
    client.control("faults", {"total_drift": -3})
    assert [client.device42_page(10, 0).json()["total_count"] for _ in range(3)] == [697, 694, 691]


def test_a_page_cap_makes_pages_smaller_and_loses_nothing(client: Any) -> None:
    client.control("faults", {"page_cap": 40})
    assert len(client.cycognito_page("/v1/issues", 500, 0).json()) == 40
    assert len(client.device42(500)) == 700
    assert len(client.cycognito("/v1/assets/webapp", 500)) == 350
    assert [len(chunk) for chunk in client.tenable("assets", {})] == [40] * 17 + [20]


def test_revoked_access_is_refused_by_every_product(client: Any) -> None:
    client.control("faults", {"unauthorized": True})
    answers = [client.cycognito_page("/v1/issues", 1, 0), client.device42_page(1, 0)]
    keys = {"X-ApiKeys": "accessKey=local-access;secretKey=local-secret"}
    answers.append(client.send("POST", "/vulns/export", keys, {}))
    assert [answer.status for answer in answers] == [401, 401, 401]


def test_an_export_can_end_in_an_error_with_some_chunks_ready(client: Any) -> None:
    client.control("faults", {"status_error": "tenable vulns"})
    job = client.tenable_start("vulns", {"num_assets": 50})
    seen = [client.tenable_status("vulns", job) for _ in range(4)]
    assert [status["status"] for status in seen] == ["QUEUED", "PROCESSING", "ERROR", "ERROR"]
    assert 0 < len(seen[-1]["chunks_available"]) < 15
    assert sum(map(len, client.tenable("assets", {}))) == 700


def test_chunk_numbers_can_come_out_of_order(client: Any) -> None:
    client.control("faults", {"shuffle_chunks": True})
    job = client.tenable_start("assets", {"chunk_size": 50})
    listed = [client.tenable_status("assets", job)["chunks_available"] for _ in range(5)][-1]
    assert sorted(listed) == list(range(1, 15)) != listed


def test_the_next_requests_fail_as_told_and_then_no_more(client: Any) -> None:
    client.control("faults", {"fail_next": [503, 429]})
    assert [client.device42_page(1, 0).status for _ in range(3)] == [503, 429, 200]


def test_statistics_say_how_often_each_page_was_served(client: Any) -> None:
    records = client.cycognito("/v1/issues", 500)
    client.cycognito_page("/v1/issues", 500, 1)
    client.tenable("assets", {"chunk_size": 350})
    client.device42(400)
    stats = client.control("stats")
    assert len(records) == 1300
    assert stats["pages"]["/v1/issues"] == {"0 of 500": 1, "1 of 500": 2, "2 of 500": 1, "3 of 500": 1}
    assert stats["pages"]["/api/1.0/devices/all/"] == {"0": 1, "400": 1, "700": 1}
    assert list(stats["pages"]["/assets/export/chunks"].values()) == [1, 1]
    assert stats["by_path"]["/v1/issues"] == 5
    assert stats["requests"] == sum(stats["statuses"].values()) == sum(stats["by_path"].values())
    assert stats["bytes_out"] > 1_000_000
    client.control("reset")
    assert client.control("stats") == {"requests": 0, "bytes_out": 0, "by_path": {}, "statuses": {}, "pages": {}}


def test_reset_brings_back_the_first_faults(serve: Any) -> None:
    client = serve(Simulator(dict(Inventory(10, 0).streams()), faults_at_start=Faults(fail_next=[500])))
    for _ in range(2):
        assert [client.device42_page(1, 0).status for _ in range(2)] == [500, 200]
        client.control("reset")


@pytest.mark.parametrize(
    "text",
    [
        '{"rate": 1}',
        '{"rate": 1, "kinds": ["gremlins"]}',
        '{"rat": 1}',
        '{"break_page": [{"path": "/", "page": 0, "kind": "500"}]}',
    ],
    ids=["no-kinds", "unknown-kind", "unknown-key", "break-kind"],
)
def test_settings_that_mean_nothing_are_refused(client: Any, text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        parse(text)
    assert client.send("POST", "/_control/faults", {}, json.loads(text)).status == 400


def start(*arguments: str) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "local.products", *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    return process, json.loads(line)


def finish(process: subprocess.Popen[bytes]) -> bytes:
    _, errors = process.communicate(timeout=20)
    return errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
def test_the_process_says_where_it_listens_and_ends_on_a_signal(number: int) -> None:
    process, ready = start("--assets", "100", "--findings", "50", "--seed", "3", "--page-cap", "10")
    with urllib3.PoolManager() as pool:
        auth = urllib3.make_headers(basic_auth="local:local")
        answer = pool.request("GET", ready["url"] + "/api/1.0/devices/all/", headers=auth, retries=False, timeout=10)
        devices = answer.json()["Devices"]
    process.send_signal(number)
    assert finish(process) == b""
    assert process.returncode == 0
    assert ready["url"].startswith("http://127.0.0.1:")
    assert ready["records"]["cycognito/assets_webapp"] == 50
    expected = Inventory(100, 50, seed=3).stream("device42", "assets")
    assert devices == [json.loads(expected.record(i)) for i in range(10)]


def test_the_process_ends_with_its_parent() -> None:
    """The simulator holds the pipe of its parent's stderr, so `run` returns only when both have ended."""
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'local.products', '--assets', '5', '--with-parent'],"
        " stdout=subprocess.PIPE)\n"
        "print(child.stdout.readline().decode(), flush=True)\n"
    )
    parent = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=30, check=True)
    assert json.loads(parent.stdout)["records"]["device42/assets"] == 5
    assert parent.stderr == b""
