"""The sink with the real LogsIngestionClient against the emulator: what each trouble of the network and of the token becomes."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.core.pipeline.transport import RequestsTransport
from azure.monitor.ingestion import LogsIngestionClient

import function_app
from local.sentinel.answers import DEFAULT_DCR
from local.sentinel.process import STREAM, LoopbackCredential, Server
from sentinel.ingestion import Answer, Budget, Door, LogsIngestionSink, Part, Sender, Sent, policies
from sentinel.packing import compress, cut
from settings import look_at
from transport import transport

SCOPE = "https://monitor.azure.com/.default"


def client_of(url: str, credential: Any, **options: Any) -> LogsIngestionClient:
    """A client as the app has it."""
    return LogsIngestionClient(url, credential, policies=policies(credential, SCOPE), **options)


@pytest.fixture
def sink(emulator: Server) -> Iterator[LogsIngestionSink]:
    """A sink to the emulator, with connections of its own."""
    with client_of(emulator.url, LoopbackCredential()) as client:
        yield LogsIngestionSink(client, DEFAULT_DCR, enforce_https=False, timeout_s=10.0)


def lines_of(count: int, mark: str) -> bytes:
    """So many rows of a test's own."""
    rows = (
        {"TimeGenerated": "2026-03-01T00:00:00.000000Z", "AssetId": f"a{n}", "EntitySnapshotId": mark}
        for n in range(count)
    )
    return b"".join(json.dumps(row, separators=(",", ":")).encode() + b"\n" for row in rows)


def stored(emulator: Server, mark: str) -> tuple[int, int]:
    """Rows and different rows that the table has of a test."""
    asked = f"CAASM_Assets_CL | where EntitySnapshotId == '{mark}' | summarize n = count(), d = dcount(AssetId)"
    rows, different = emulator.kql(asked).json()["tables"][0]["rows"][0]
    return int(rows), int(different)


def send(sink: LogsIngestionSink, lines: bytes, limit: int, budget: Budget) -> tuple[list[Sent], list[Part]]:
    """Send everything without waits."""
    chunks, _ = cut(lines, limit)
    sent: list[Sent] = []
    doubts: list[Part] = []
    Sender((Door(sink),), STREAM, budget, sleep=lambda _: None).send(
        lines, [Part(c) for c in chunks], sent.append, doubts.append
    )
    return sent, doubts


def test_faults_of_every_kind_lose_nothing(emulator: Server, sink: LogsIngestionSink) -> None:
    """A third of the requests meets trouble: all rows are there, and only those called ambiguous are there twice."""
    emulator.control("faults", {"seed": 3, "rate": 0.35, "slow_s": 0.01})
    mark = uuid.uuid4().hex
    sent, doubts = send(sink, lines_of(600, mark), 1500, Budget(in_flight=4, attempts=12, first_wait_s=0.0))
    emulator.control("faults", {})
    rows, different = stored(emulator, mark)
    ambiguous = sum(part.chunk.rows for part in sent if part.ambiguous)
    assert different == sum(part.chunk.rows for part in sent) == 600
    assert all(part.accepted for part in sent)
    assert doubts == []
    assert 600 < rows <= 600 + 11 * ambiguous


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("drop-before", 0),
        ("drop-after", 0),
        ("expired-token", 401),
        ("429", 429),
        ("503", 503),
        ("408", 408),
        ("413", 413),
    ],
)
def test_what_an_answer_becomes(emulator: Server, sink: LogsIngestionSink, fault: str, status: int) -> None:
    """One request, one answer: the SDK tries nothing again by itself."""
    before = emulator.control("stats")["requests"]
    emulator.control("faults", {"fail_next": [fault], "retry_after_s": 7})
    mark = uuid.uuid4().hex
    answer = sink.post(STREAM, compress(b"[" + lines_of(1, mark).strip() + b"]"))
    assert answer.status == status
    assert answer.retry_after_s == (7.0 if fault == "429" else None)
    assert stored(emulator, mark)[0] == (1 if fault == "drop-after" else 0)
    assert sink.post(STREAM, compress(b"[" + lines_of(1, mark).strip() + b"]")) == Answer(204)
    assert emulator.control("stats")["requests"] == before + 2


def test_an_expired_token_is_asked_for_again(emulator: Server) -> None:
    """After a 401 the next try asks the credential for a new token."""
    asked: list[float] = []

    class Counting:
        def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
            asked.append(1)
            return AccessToken("local", 4_000_000_000)

    emulator.control("faults", {"fail_next": ["expired-token"]})
    with client_of(emulator.url, Counting()) as client:
        mark = uuid.uuid4().hex
        sent, _ = send(LogsIngestionSink(client, DEFAULT_DCR, enforce_https=False), lines_of(3, mark), 10_000, Budget())
    assert [(part.status, part.tries, part.ambiguous) for part in sent] == [(204, 2, False)]
    assert len(asked) == 2


def test_a_token_without_the_role_is_forbidden(emulator: Server) -> None:
    """403 with the service's words."""
    with client_of(emulator.url, LoopbackCredential("no-access")) as client:
        answer = LogsIngestionSink(client, DEFAULT_DCR, enforce_https=False).post(
            STREAM, compress(b'[{"AssetId":"a"}]')
        )
    assert answer.status == 403
    assert "does not have access to ingest data" in answer.message


def test_a_credential_without_a_token_sends_nothing(emulator: Server) -> None:
    """No managed identity, no login: nothing was sent, so nothing is in doubt."""

    class Broken:
        def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
            raise ClientAuthenticationError("no managed identity endpoint found")

    with client_of(emulator.url, Broken()) as client:
        answer = LogsIngestionSink(client, DEFAULT_DCR, enforce_https=False).post(
            STREAM, compress(b'[{"AssetId":"a"}]')
        )
    assert answer.status == -1
    assert "no managed identity" in answer.message


def test_an_endpoint_that_is_not_there_got_nothing() -> None:
    """A refused connection is no doubt."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with client_of(f"http://127.0.0.1:{port}", LoopbackCredential()) as client:
        answer = LogsIngestionSink(client, DEFAULT_DCR, enforce_https=False).post(STREAM, compress(b"[{}]"))
    assert answer.status == -1


def test_what_the_sdk_raised_holds_nobody_s_pack(is_left: Callable[[Callable[[], object]], bool]) -> None:
    """An endpoint that cannot be reached is an ordinary answer, for as long as it is out."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with client_of(f"http://127.0.0.1:{port}", LoopbackCredential()) as client:
        sink = LogsIngestionSink(client, DEFAULT_DCR, enforce_https=False)
        assert not is_left(lambda: sink.post(STREAM, compress(b"[{}]")))


def test_an_answer_that_does_not_come_is_a_doubt() -> None:
    """The service took the request and says nothing in time."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []
        thread = threading.Thread(target=lambda: held.append(server.accept()[0]))
        thread.start()
        with client_of(f"http://127.0.0.1:{server.getsockname()[1]}", LoopbackCredential()) as client:
            sink = LogsIngestionSink(client, DEFAULT_DCR, enforce_https=False, timeout_s=0.2)
            answer = sink.post(STREAM, compress(b"[{}]"))
        thread.join(10)
        for connection in held:
            connection.close()
    assert answer.status == 0


@pytest.mark.parametrize("header", ["nan", "inf", "-5", "soon", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_a_retry_after_that_is_no_time_is_ignored(listen: Any, reply: Any, header: str) -> None:
    """The backoff decides then."""
    server = listen(lambda asked: reply(b"{}", 429, {"Retry-After": header, "Content-Type": "application/json"}))
    with client_of(server.url, LoopbackCredential()) as client:
        answer = LogsIngestionSink(client, DEFAULT_DCR, enforce_https=False).post(STREAM, compress(b"[{}]"))
    assert (answer.status, answer.retry_after_s) == (429, None)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_and_nothing_goes_there(listen: Any, reply: Any, status: int) -> None:
    """Neither rows nor the token."""
    elsewhere = listen(lambda _: reply(status=204))
    server = listen(lambda _: reply(status=status, headers={"Location": f"{elsewhere.url}/there"}))
    with client_of(server.url, LoopbackCredential()) as client:
        answer = LogsIngestionSink(client, DEFAULT_DCR, enforce_https=False).post(STREAM, compress(b"[{}]"))
    assert answer.status == status
    assert (len(server.asked), elsewhere.asked) == (1, [])


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_the_apps_own_client_tries_nothing_again(listen: Any, reply: Any, status: int) -> None:
    """Whatever the answer: one request."""
    server = listen(lambda _: reply(b"{}", status, {"Content-Type": "application/json"}))
    with function_app._ingestion_client(*app_settings(server.url)) as client:
        sink = LogsIngestionSink(client, DEFAULT_DCR, enforce_https=False)
        assert sink.post(STREAM, compress(b"[{}]")).status == status
    assert len(server.asked) == 1


def test_the_apps_own_client_tries_no_connection_again() -> None:
    """A request that did not get out is an answer as well, after one try."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        tries: list[int] = []

        def refuse() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                tries.append(1)
                connection.close()

        thread = threading.Thread(target=refuse)
        thread.start()
        with function_app._ingestion_client(*app_settings(f"http://127.0.0.1:{server.getsockname()[1]}")) as client:
            answer = LogsIngestionSink(client, DEFAULT_DCR, enforce_https=False).post(STREAM, compress(b"[{}]"))
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    assert (answer.status, tries) == (0, [1])


def app_settings(url: str) -> tuple[Any, Any]:
    """The destination at that address, and the app's settings."""
    environment = {"INGESTION_ENDPOINT": url, "DCR_IMMUTABLE_ID": DEFAULT_DCR}
    settings, _ = look_at(environment)
    return settings.destinations[0], settings


def test_a_request_says_what_the_sdks_own_client_says(listen: Any, reply: Any) -> None:
    """The same address, the same headers as `upload` of a gzipped stream gives it: who asks, with which id and token."""
    server = listen(lambda _: reply(status=204))
    body = compress(b"[{}]")
    identity = LoopbackCredential()
    with client_of(server.url, identity) as client:
        assert LogsIngestionSink(client, DEFAULT_DCR, enforce_https=False).post(STREAM, body) == Answer(204)
    with LogsIngestionClient(server.url, identity) as client:
        client.upload(DEFAULT_DCR, STREAM, io.BytesIO(body), enforce_https=False)
    ours, theirs = server.asked
    assert uuid.UUID(ours.headers.pop("x-ms-client-request-id"))
    assert uuid.UUID(theirs.headers.pop("x-ms-client-request-id"))
    assert ours == theirs
    assert ours.headers["User-Agent"].startswith("azsdk-python-monitor-ingestion/")
    assert ours.body == body


@pytest.mark.parametrize("sends", [lambda: transport({}, local=True), RequestsTransport], ids=["ours", "the SDK's"])
def test_a_challenge_is_met_with_a_new_token_and_the_whole_body(listen: Any, reply: Any, sends: Any) -> None:
    """The service asks for other claims: the token has them, and the second request is not empty, behind a proxy neither."""
    claims = '{"access_token":{"nbf":{"essential":true}}}'
    challenge = f'Bearer error="insufficient_claims", claims="{base64.b64encode(claims.encode()).decode()}"'

    class Claiming:
        def get_token(self, *_scopes: str, claims: str = "", **_options: Any) -> AccessToken:
            return AccessToken(claims or "plain", 4_000_000_000)

    def answer(asked: Any) -> Any:
        if asked.headers["Authorization"] == f"Bearer {claims}":
            return reply(status=204)
        return reply(status=401, headers={"WWW-Authenticate": challenge})

    server = listen(answer)
    body = compress(b"[{}]")
    with client_of(server.url, Claiming(), transport=sends()) as client:
        assert LogsIngestionSink(client, DEFAULT_DCR, enforce_https=False).post(STREAM, body).status == 204
    assert [asked.body for asked in server.asked] == [body, body]


def test_a_token_goes_over_tls_only(listen: Any, reply: Any) -> None:
    """Unless the endpoint is an emulator's."""
    server = listen(lambda _: reply(status=204))
    with client_of(server.url, LoopbackCredential()) as client:
        answer = LogsIngestionSink(client, DEFAULT_DCR).post(STREAM, compress(b"[{}]"))
    assert (answer.status, server.asked) == (-1, [])


def test_a_proxy_of_the_environment_is_gone_through(listen: Any, reply: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing left over that requests' own session would not take."""
    proxy = listen(lambda _: reply(status=204))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("http_proxy", proxy.url)
    with client_of("http://dce.invalid", LoopbackCredential(), transport=transport({}, local=False)) as client:
        answer = LogsIngestionSink(client, DEFAULT_DCR, enforce_https=False).post(STREAM, compress(b"[{}]"))
    assert answer.status == 204
    assert [asked.headers["Host"] for asked in proxy.asked] == ["dce.invalid"]
