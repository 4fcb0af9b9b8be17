"""The sink with the real LogsIngestionClient against the emulator: what each trouble of the network and of the token becomes."""

from __future__ import annotations

import json
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.monitor.ingestion import LogsIngestionClient

from local.sentinel.answers import DEFAULT_DCR
from local.sentinel.process import STREAM, LoopbackCredential, Server
from sentinel.ingestion import Answer, Budget, Door, LogsIngestionSink, Part, Sender, Sent
from sentinel.packing import compress, cut


@pytest.fixture
def sink(emulator: Server) -> Iterator[LogsIngestionSink]:
    """A sink to the emulator, with connections of its own."""
    with LogsIngestionClient(emulator.url, LoopbackCredential()) as client:
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
    with LogsIngestionClient(emulator.url, Counting()) as client:
        mark = uuid.uuid4().hex
        sent, _ = send(LogsIngestionSink(client, DEFAULT_DCR, enforce_https=False), lines_of(3, mark), 10_000, Budget())
    assert [(part.status, part.tries, part.ambiguous) for part in sent] == [(204, 2, False)]
    assert len(asked) == 2


def test_a_token_without_the_role_is_forbidden(emulator: Server) -> None:
    """403 with the service's words."""
    with LogsIngestionClient(emulator.url, LoopbackCredential("no-access")) as client:
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

    with LogsIngestionClient(emulator.url, Broken()) as client:
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
    with LogsIngestionClient(f"http://127.0.0.1:{port}", LoopbackCredential()) as client:
        answer = LogsIngestionSink(client, DEFAULT_DCR, enforce_https=False).post(STREAM, compress(b"[{}]"))
    assert answer.status == -1


def test_what_the_sdk_raised_holds_nobody_s_pack(is_left: Callable[[Callable[[], object]], bool]) -> None:
    """An endpoint that cannot be reached is an ordinary answer, for as long as it is out."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with LogsIngestionClient(f"http://127.0.0.1:{port}", LoopbackCredential()) as client:
        sink = LogsIngestionSink(client, DEFAULT_DCR, enforce_https=False)
        assert not is_left(lambda: sink.post(STREAM, compress(b"[{}]")))


def test_an_answer_that_does_not_come_is_a_doubt() -> None:
    """The service took the request and says nothing in time."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []
        thread = threading.Thread(target=lambda: held.append(server.accept()[0]))
        thread.start()
        with LogsIngestionClient(f"http://127.0.0.1:{server.getsockname()[1]}", LoopbackCredential()) as client:
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
    with LogsIngestionClient(server.url, LoopbackCredential()) as client:
        answer = LogsIngestionSink(client, DEFAULT_DCR, enforce_https=False).post(STREAM, compress(b"[{}]"))
    assert (answer.status, answer.retry_after_s) == (429, None)
