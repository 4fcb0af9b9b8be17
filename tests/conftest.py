"""What tests of several packages stand on: Azurite, the Sentinel emulator, the product simulators, and a server that answers as it is told.

Each is started by the first test that asks for it, on loopback, and is gone when the session ends.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from aiohttp import web
from azure.storage.blob import BlobServiceClient, ContainerClient
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from contracts import CaasmError
from local.azurite import Azurite
from local.products.server import make_app
from local.products.simulator import Simulator
from local.sentinel.process import Server, start_server
from staging import Staging

_LONGEST = ("runs", "content", "transforms", "sentinel", "bench")
"""Folders whose files take longest: where several processes share the tests, they begin with them, so that none is left with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files, and only between processes: one process goes through them as they are listed."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        here = Path(__file__).parent
        folders = {folder: place for place, folder in enumerate(_LONGEST)}
        items.sort(key=lambda item: folders.get(item.path.relative_to(here).parts[0], len(folders)))


class _InHand:
    """What a caller has in hand, to be seen going."""


@pytest.fixture
def is_left() -> Callable[[Callable[[], object]], bool]:
    """Whether something that the caller of some work had in hand is still there when the caller has ended, as long as the garbage collector does not come by."""

    def left(work: Callable[[], object]) -> bool:
        held: list[weakref.ref[_InHand]] = []

        def call() -> None:
            in_hand = _InHand()
            held.append(weakref.ref(in_hand))
            with suppress(CaasmError):
                work()

        gc.collect()
        gc.disable()
        try:
            call()
            return held[0]() is not None
        finally:
            gc.enable()

    return left


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """One blob service in memory for the session."""
    with Azurite(tmp_path_factory.mktemp("azurite"), in_memory=True) as service:
        yield service


@pytest.fixture(scope="session")
def blob_service(azurite: Azurite) -> Iterator[BlobServiceClient]:
    """One client of it, whose connections all tests share."""
    with BlobServiceClient.from_connection_string(azurite.connection_string, retry_total=0) as service:
        yield service


@pytest.fixture
def container(blob_service: BlobServiceClient) -> ContainerClient:
    """A container of the test's own, created."""
    return blob_service.create_container(f"test-{uuid.uuid4().hex}")


@pytest.fixture
def staging(container: ContainerClient) -> Staging:
    """Staging in a container of the test's own."""
    return Staging(container)


@pytest.fixture(scope="session")
def _emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start_server(tmp_path_factory.mktemp("sentinel"))
    yield server
    server.stop()


@pytest.fixture
def emulator(_emulator: Server) -> Iterator[Server]:
    """The session's Sentinel emulator without faults; tell a test's rows by their EntitySnapshotId."""
    _emulator.control("faults", {})
    yield _emulator
    _emulator.control("faults", {})


@pytest.fixture(scope="session")
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@pytest.fixture
def simulate(_loop: asyncio.AbstractEventLoop) -> Iterator[Callable[[Simulator], str]]:
    """A function that runs a Simulator on a free port and gives its URL; its faults and statistics may be touched between requests."""
    runners: list[web.AppRunner] = []

    async def start(simulator: Simulator) -> str:
        runner = web.AppRunner(make_app(simulator), access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield lambda simulator: asyncio.run_coroutine_threadsafe(start(simulator), _loop).result(10)
    for runner in runners:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), _loop).result(10)


@dataclass(frozen=True)
class Asked:
    """A request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """An answer to give. `sent`: only so many bytes of the body leave before the connection is closed; -1: not even a status line."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    sent: int | None = None


@dataclass
class Listening:
    """A server that answers as it is told, and what it was asked."""

    url: str
    asked: list[Asked] = field(default_factory=list)


@pytest.fixture
def listen() -> Iterator[Callable[[Callable[[Asked], Any]], Listening]]:
    """A function that serves `answer(asked) -> Reply` on a free port. `answer` runs on the connection's thread."""
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def run(answer: Callable[[Asked], Any]) -> Listening:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                return

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                parts = urlsplit(self.path)
                asked = Asked(self.command, parts.path, dict(parse_qsl(parts.query)), dict(self.headers), body)
                listening.asked.append(asked)
                reply = answer(asked)
                self.close_connection = True
                if reply.sent == -1:
                    return
                self.send_response(reply.status)
                for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Connection", "close")
                self.end_headers()
                with suppress(ConnectionError):
                    self.wfile.write(reply.body[: reply.sent])

            do_GET = do_POST = do_PUT = _serve  # noqa: N815 - http.server's names

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        listening = Listening(f"http://127.0.0.1:{server.server_address[1]}")
        thread.start()
        servers.append((server, thread))
        return listening

    yield run
    for server, thread in servers:
        server.shutdown()
        thread.join(10)
        server.server_close()


@pytest.fixture
def reply() -> type[Reply]:
    """What `listen` takes as an answer."""
    return Reply


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that nobody has signed, and its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1))
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    signed = made.add_extension(names, critical=True).sign(key, hashes.SHA256())
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    plain = serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path
