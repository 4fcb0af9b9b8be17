"""The Logs Ingestion API of the emulator, over HTTP and through the real LogsIngestionClient."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.monitor.ingestion import LogsIngestionClient

from local.sentinel.answers import DEFAULT_DCR as DCR
from local.sentinel.process import ROOT, LoopbackCredential, Server
from local.sentinel.process import STREAM as ASSETS_STREAM
from local.sentinel.spool import recover
from sentinel.tables import ASSETS

LIMIT = 1_048_576
CHUNK = b'[{"AssetId":"a"}]'


def stored(server: Server, table: str = ASSETS.name) -> pl.DataFrame:
    """Everything that is in files after a flush."""
    server.control("flush", {})
    return pl.concat(pl.read_parquet(path) for path in sorted((server.store / table).glob("*.parquet")))


def padded(size: int) -> bytes:
    """A conforming body of exactly that many bytes."""
    row = {"AssetId": "x", "Hostnames": []}
    empty = len(json.dumps([row], separators=(",", ":")))
    # Spaces between elements are JSON too, and unlike a long field are not cut.
    return b"[" + b" " * (size - empty) + json.dumps([row], separators=(",", ":")).encode()[1:]


def client(server: Server, token: str = "local", **options: Any) -> LogsIngestionClient:
    """The real client on loopback."""
    return LogsIngestionClient(server.url, LoopbackCredential(token), **options)


def test_the_real_client_uploads_a_list(launch: Callable[..., Server]) -> None:
    """The SDK's own chunks arrive, whole and once, with every column of the table and the time of receipt."""
    server = launch()
    rows: list[MutableMapping[str, Any]] = [
        {"AssetId": f"a{i}", "OpenFindings": i, "Tags": ["x", f"t{i}"], "TimeGenerated": _now()} for i in range(500)
    ]
    with client(server) as ingestion:
        ingestion.upload(DCR, ASSETS_STREAM, rows, enforce_https=False)
    frame = stored(server)
    assert frame.columns == [*ASSETS.names, "_TimeReceived"]
    assert frame.sort("OpenFindings")["AssetId"].to_list() == [f"a{i}" for i in range(500)]
    assert frame.sort("OpenFindings")["Tags"].to_list() == [["x", f"t{i}"] for i in range(500)]
    stats = server.control("stats")
    assert stats["rows"] == {ASSETS.name: 500}
    assert stats["time_replaced"] == 0
    assert stats["statuses"] == {"204": stats["requests"]}


def test_the_real_client_passes_a_gzip_stream_through(launch: Callable[..., Server]) -> None:
    """A BytesIO of gzip is one request, counted by what it weighs on the wire and unpacked."""
    server = launch()
    body = json.dumps([{"AssetId": f"a{i}"} for i in range(1000)]).encode()
    wire = gzip.compress(body)
    with client(server) as ingestion:
        ingestion.upload(DCR, ASSETS_STREAM, io.BytesIO(wire), enforce_https=False)
    stats = server.control("stats")
    assert (stats["accepted_requests"], stats["bytes_body"], stats["bytes_wire"]) == (1, len(body), len(wire))
    assert stats["largest_body"] == len(body)
    assert stats["fast_path_requests"] == 1
    assert stats["time_replaced"] == 1000
    assert stored(server).height == 1000


def test_the_real_client_raises_its_own_errors(shared_server: Server) -> None:
    """401, 403, 404 and 413 come out of the SDK as they do from the service."""
    expected: list[tuple[LogsIngestionClient, str, list[MutableMapping[str, Any]], type[HttpResponseError], str]] = [
        (client(shared_server), "dcr-other", [{}], ResourceNotFoundError, "NotFound"),
        (client(shared_server, "no-access"), DCR, [{}], HttpResponseError, "OperationFailed"),
        (client(shared_server), DCR, [{"AssetId": "x" * LIMIT}], HttpResponseError, "ContentLengthLimitExceeded"),
    ]
    for ingestion, dcr, logs, error, code in expected:
        with ingestion, pytest.raises(error, match=code) as raised:
            ingestion.upload(dcr, ASSETS_STREAM, logs, enforce_https=False)
        response: Any = raised.value.response  # azure-core's protocol for it leaves out the headers
        assert response.headers["x-ms-error-code"] == code


def test_an_accepted_request_is_204_and_empty(shared_server: Server) -> None:
    """Nothing in the body, as in the specification; an empty array is accepted too."""
    for body in (CHUNK, b"[]"):
        answer = shared_server.ingest(body)
        assert (answer.status, answer.body) == (204, b"")


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"Authorization": None}, 401, "AuthenticationFailed"),
        ({"Authorization": "Basic eDp5"}, 401, "AuthenticationFailed"),
        ({"Authorization": "Bearer "}, 401, "AuthenticationFailed"),
        ({"Authorization": "Bearer no-access"}, 403, "OperationFailed"),
        ({"dcr": "dcr-1"}, 404, "NotFound"),
        ({"stream": "Custom-Nothing"}, 400, "InvalidStream"),
        ({"query": "api-version=2021-11-01-preview"}, 400, "UnsupportedApiVersion"),
        ({"query": ""}, 400, "UnsupportedApiVersion"),
        ({"Content_Type": "text/plain"}, 415, "UnsupportedMediaType"),
        ({"Content_Type": None}, 415, "UnsupportedMediaType"),
        ({"Content_Encoding": "br"}, 400, "InvalidContentEncoding"),
        ({"Content_Encoding": "gzip"}, 400, "InvalidContentEncoding"),
        # Without the time, which would be in the test's name: every process has to find the same tests.
        ({"body": gzip.compress(CHUNK, mtime=0)[:-9], "Content_Encoding": "gzip"}, 400, "InvalidContentEncoding"),
        ({"body": gzip.compress(CHUNK, mtime=0)}, 400, "InvalidPayload"),
        ({"body": b'{"AssetId":"a"}'}, 400, "InvalidPayload"),
        ({"body": b'[{"AssetId":"a"},1]'}, 400, "InvalidPayload"),
        ({"body": b'[{"RiskScore":NaN}]'}, 400, "InvalidPayload"),
        ({"body": b'[{"AssetId":"\xff"}]'}, 400, "InvalidPayload"),
        ({"body": b'[{"AssetId":"a"}] []'}, 400, "InvalidPayload"),
        ({"body": b""}, 500, ""),
    ],
    ids=lambda value: str(value)[:60],
)
def test_each_refusal_has_its_status_code_and_shape(
    shared_server: Server, change: dict[str, Any], status: int, code: str
) -> None:
    """One deviation at a time from a request that is accepted."""
    change = dict(change)
    answer = shared_server.ingest(change.pop("body", CHUNK), **change)
    assert (answer.status, answer.headers.get("x-ms-error-code", "")) == (status, code)
    assert answer.json()["error"]["code"] == code
    assert answer.json()["error"]["message"]
    assert (status == 401) == ("www-authenticate" in answer.headers)


def test_two_gzip_members_are_one_body(shared_server: Server) -> None:
    """A gzip stream may have several members."""
    body = gzip.compress(CHUNK[:5]) + gzip.compress(CHUNK[5:])
    assert shared_server.ingest(body, Content_Encoding="gzip").status == 204


@pytest.mark.parametrize("encoding", [None, "gzip"])
@pytest.mark.parametrize(("size", "status"), [(LIMIT, 204), (LIMIT + 1, 413)])
def test_the_limit_is_exact(shared_server: Server, encoding: str | None, size: int, status: int) -> None:
    """1,048,576 bytes are accepted and one more is not, plain or decompressed."""
    body = padded(size)
    assert len(body) == size
    answer = shared_server.ingest(gzip.compress(body) if encoding else body, Content_Encoding=encoding)
    assert answer.status == status
    if status == 413:
        assert answer.headers["x-ms-error-code"] == "ContentLengthLimitExceeded"
        assert answer.json()["error"]["message"] == (
            f"Maximum allowed content length: {LIMIT} bytes (1 MB). Provided content length: {size} bytes."
        )


def test_in_wire_mode_only_the_wire_is_held_to_1_mb(launch: Callable[..., Server]) -> None:
    """Up to 50 MiB unpacked is accepted; the next byte is another 413; the wire limit stays exact."""
    server = launch("--limit", "wire")
    most = 50 * 1024 * 1024
    statuses = []
    for body in (padded(LIMIT + 1), padded(most), padded(most + 1)):
        answer = server.ingest(gzip.compress(body, 1), Content_Encoding="gzip")
        statuses.append((answer.status, answer.headers.get("x-ms-error-code")))
    assert statuses == [(204, None), (204, None), (413, "PayloadSizeLimitExceeded")]
    assert [server.ingest(padded(size)).status for size in (LIMIT, LIMIT + 1)] == [204, 413]


def test_what_the_rule_changes_is_counted_by_column(launch: Callable[..., Server]) -> None:
    """Dropped, nulled, cut and replaced values show in the statistics and in the files."""
    server = launch()
    rows = [
        {"AssetId": "a", "Colour": "red", "OpenFindings": "3", "AssetName": 7, "HasEdr": "yes", "LastSeen": "never"},
        {"AssetId": "b", "Model": "m" * 70_000, "RiskScore": 5, "LastSeen": "2020-01-01", "TimeGenerated": _now()},
    ]
    assert server.ingest(json.dumps(rows).encode()).status == 204
    stats = server.control("stats")
    assert stats["columns_dropped"] == {"Colour": 1}
    assert stats["values_nulled"] == {"OpenFindings": 1, "HasEdr": 1, "LastSeen": 1}
    assert stats["values_cut"] == {"Model": 1}
    assert stats["time_replaced"] == 1
    first, second = stored(server).sort("AssetId").to_dicts()
    assert (first["AssetName"], first["OpenFindings"], first["LastSeen"]) == ("7", None, None)
    assert (len(second["Model"]), second["RiskScore"], second["LastSeen"].year) == (65_536, 5.0, 2020)


@pytest.mark.parametrize(
    ("option", "value"), [("--requests-per-minute", "2"), ("--bytes-per-minute", str(2 * len(CHUNK)))]
)
def test_a_used_up_quota_is_429_with_retry_after(launch: Callable[..., Server], option: str, value: str) -> None:
    """After two requests of the minute the third waits for what is left of it."""
    server = launch(option, value)
    answers = [server.ingest(CHUNK) for _ in range(3)]
    assert [answer.status for answer in answers] == [204, 204, 429]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 60


def fates(server: Server, settings: dict[str, Any], count: int) -> list[str]:
    """What a sequence of requests meets under these faults."""
    server.control("faults", settings)
    seen = []
    for _ in range(count):
        try:
            answer = server.ingest(CHUNK)
            seen.append(f"{answer.status}{' later' if 'retry-after' in answer.headers else ''}")
        except (http.client.HTTPException, ConnectionError):
            seen.append("dropped")
    return seen


def test_faults_are_the_same_for_the_same_seed(launch: Callable[..., Server]) -> None:
    """Drawn from the seed and the request's number: repeatable, different for another seed, none at rate 0."""
    server = launch()
    settings = {"seed": 7, "rate": 0.5, "slow_s": 0}
    first = fates(server, settings, 40)
    assert first == fates(server, settings, 40)
    assert first != fates(server, {**settings, "seed": 8}, 40)
    assert {"204", "dropped"} < set(first)
    assert fates(server, {"rate": 0.0}, 5) == ["204"] * 5


def test_scripted_answers_come_in_their_order(launch: Callable[..., Server]) -> None:
    """Each kind as it is asked for; a drop before takes nothing, a drop after takes the rows all the same."""
    server = launch()
    script = [503, "429", "429-no-retry-after", "drop-before", "drop-after", "expired-token", 204, 413, "slow", 408]
    seen = fates(server, {"fail_next": script, "retry_after_s": 3, "slow_s": 0.01}, len(script) + 1)
    assert seen == ["503", "429 later", "429", "dropped", "dropped", "401", "204", "413", "204", "408", "204"]
    stats = server.control("stats")
    assert stats["accepted_requests"] == stored(server).height == 4
    assert stats["statuses"]["204"] == 3
    assert stats["requests"] == len(seen)


def test_bad_fault_settings_are_refused(shared_server: Server) -> None:
    """A mistyped kind, setting or rate is an error and changes nothing."""
    for settings in ({"kinds": ["teapot"]}, {"rate": 2}, {"sede": 1}, {"fail_next": ["soon"]}, [1]):
        answer = shared_server.request("POST", "/_control/faults", json.dumps(settings).encode())
        assert answer.status == 400, settings
    assert shared_server.ingest(CHUNK).status == 204


def test_the_sdk_meets_a_scripted_401(launch: Callable[..., Server]) -> None:
    """One expired token is one ClientAuthenticationError; the next call works again."""
    server = launch("--faults", '{"fail_next": ["expired-token"]}')
    with client(server) as ingestion:
        with pytest.raises(ClientAuthenticationError):
            ingestion.upload(DCR, ASSETS_STREAM, [{"AssetId": "a"}], enforce_https=False)
        ingestion.upload(DCR, ASSETS_STREAM, [{"AssetId": "a"}], enforce_https=False)
    assert server.control("stats")["statuses"] == {"401": 1, "204": 1}


def test_a_killed_emulator_keeps_what_it_flushed(launch: Callable[..., Server], tmp_path: Path) -> None:
    """Files survive SIGKILL, numbering goes on after them, and half a file is cleared away."""
    store = tmp_path / "kept"
    first = launch(store=store)
    assert first.ingest(b'[{"AssetId":"flushed"}]').status == 204
    first.control("flush", {})
    assert first.stop(9) == -9
    (store / ASSETS.name / "00000009.tmp").write_bytes(b"half")
    second = launch(store=store)
    assert second.ingest(b'[{"AssetId":"later"}]').status == 204
    assert second.stop() == 0
    frame = pl.concat(pl.read_parquet(path) for path in sorted((store / ASSETS.name).glob("*.parquet")))
    assert frame["AssetId"].to_list() == ["flushed", "later"]
    assert [path.suffix for path in (store / ASSETS.name).iterdir()] == [".parquet", ".parquet"]


def test_idle_rows_are_written_without_being_asked_for(launch: Callable[..., Server]) -> None:
    """So long after the last row as it is told there is a file."""
    server = launch("--idle-s", "0.5")
    assert server.ingest(CHUNK).status == 204
    deadline = time.monotonic() + 10
    while not list((server.store / ASSETS.name).glob("*.parquet")):
        assert time.monotonic() < deadline, "no file after 10 s"
    assert server.start_s < 5


def test_what_was_accepted_outlives_a_kill(launch: Callable[..., Server], tmp_path: Path) -> None:
    """A body that was answered 204 and decoded by nobody is in its table after a restart, or for whoever reads the directory, once."""
    store = tmp_path / "kept"
    for key in ("first", "second"):
        server = launch(store=store)
        assert server.ingest(b'[{"AssetId":"%s"}]' % key.encode()).status == 204
        assert server.stop(9) == -9
        assert list(store.glob("spool/*.bodies"))
        recover(store)
        recover(store)
        assert not list(store.glob("spool/*.bodies"))
    frame = pl.concat(pl.read_parquet(path) for path in sorted((store / ASSETS.name).glob("*.parquet")))
    assert frame["AssetId"].to_list() == ["first", "second"]


def test_a_body_that_was_being_written_is_none(launch: Callable[..., Server], tmp_path: Path) -> None:
    """Half a body behind a whole one was never accepted; a file that is decoded again replaces what it gave before."""
    store = tmp_path / "kept"
    server = launch(store=store)
    assert server.ingest(b'[{"AssetId":"whole"}]').status == 204
    assert server.stop(9) == -9
    (bodies,) = store.glob("spool/*.bodies")
    whole = bodies.read_bytes()
    bodies.write_bytes(whole + whole[:-3])
    recover(store)
    bodies.write_bytes(whole)
    recover(store)
    (file,) = (store / ASSETS.name).glob("*.parquet")
    assert pl.read_parquet(file)["AssetId"].to_list() == ["whole"]


def test_files_of_the_spool_are_bounded(launch: Callable[..., Server]) -> None:
    """A file ends with the body that fills it, so no more than that is decoded at a time."""
    server = launch("--file-bytes", "1")
    for _ in range(3):
        assert server.ingest(CHUNK).status == 204
    server.control("flush", {})
    assert len(list((server.store / ASSETS.name).glob("*.parquet"))) == 3


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())


def test_an_emulator_ends_with_its_parent(tmp_path: Path) -> None:
    """A parent that is killed takes the emulator with it, and what was buffered is written first."""
    code = (
        "import sys; from pathlib import Path; from local.sentinel.process import start_server\n"
        f"server = start_server(Path({str(tmp_path)!r})); server.ingest({CHUNK!r})\n"
        "print(server.url, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    port = int(parent.stdout.readline().rpartition(":")[2])
    parent.kill()
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()
    deadline = time.monotonic() + 15
    while _listens(port):
        assert time.monotonic() < deadline, "the emulator outlived its parent"
        time.sleep(0.05)
    while not list((tmp_path / ASSETS.name).glob("*.parquet")):
        assert time.monotonic() < deadline, "the rows were not written"
        time.sleep(0.05)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
