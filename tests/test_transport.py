"""The transport of Azure's clients against the SDK's own: the same answers, the same exceptions, over the same wire."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from azure.core.exceptions import AzureError
from azure.core.pipeline.transport import RequestsTransport
from azure.core.rest import HttpRequest

from transport import CERTIFICATES, transport

SEEN: list[tuple[str, str, dict[str, str], bytes]] = []


class _Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        SEEN.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        if self.path == "/hang":
            self.rfile.read()
            return
        if self.path == "/break":
            self.send_response(200)
            self.send_header("Content-Length", "10")
            self.end_headers()
            self.wfile.write(b"12345")
            self.close_connection = True
            return
        self.send_response(404 if self.path == "/absent" else 200)
        self.send_header("Set-Cookie", "a=b")
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"yes")

    do_GET = do_PUT = do_POST = _answer  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server that answers, does not, or breaks off."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(params=["ours", "the SDK's"])
def sends(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Our transport, and the one that it stands for."""
    with transport({}, local=True) if request.param == "ours" else RequestsTransport() as made:
        yield made


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


def test_ours_is_not_the_sdks_session() -> None:
    """Or the tests below would hold the SDK's transport against itself."""
    with transport({}, local=True) as ours, RequestsTransport() as theirs:
        assert type(ours.session) is not type(theirs.session)


@pytest.mark.parametrize("kind", [bytes, io.BytesIO, None], ids=["bytes", "stream", "nothing"])
def test_a_body_arrives_whole_with_its_length_and_headers(url: str, sends: Any, kind: Any) -> None:
    """And the answer is read; one that sets a cookie does no harm."""
    for sent in (b"x" * 100_000, b"y"):
        SEEN.clear()
        headers = {"x-ms-version": "1", "Content-Type": "application/json"}
        content = kind(sent) if kind else None
        answer = sends.send(HttpRequest("PUT", f"{url}/a%20b?c=d%2Fe", headers=headers, content=content))
        assert (answer.status_code, answer.content, answer.headers["Set-Cookie"]) == (200, b"yes", "a=b")
        [(method, path, seen, body)] = SEEN
        assert (method, path, seen["x-ms-version"]) == ("PUT", "/a%20b?c=d%2Fe", "1")
        assert body == (sent if kind else b"")


def test_a_status_is_an_answer(url: str, sends: Any) -> None:
    """What it means is for the client's policies."""
    assert sends.send(HttpRequest("GET", f"{url}/absent")).status_code == 404


@pytest.mark.parametrize("where", ["/hang", "/break", "nobody"])
def test_what_goes_wrong_is_the_sdks_exception(url: str, where: str) -> None:
    """No answer in time, one that breaks off, nobody there: as the SDK's own transport says it."""
    raised = []
    for made in (transport({}, local=True), RequestsTransport()):
        target = f"http://127.0.0.1:{closed_port()}/" if where == "nobody" else url + where
        with made as sends, pytest.raises(AzureError) as error:
            sends.send(HttpRequest("GET", target), read_timeout=0.3, connection_timeout=2)
        raised.append(type(error.value))
    assert raised[0] is raised[1]


@pytest.mark.parametrize(
    ("variables", "local", "looks"),
    [
        ({"HTTPS_PROXY": "http://proxy.invalid:8080"}, False, True),
        ({"HTTPS_PROXY": "http://proxy.invalid:8080"}, True, False),
        ({CERTIFICATES[0]: "/ca.pem"}, False, True),
        ({CERTIFICATES[1]: "/ca.pem"}, False, True),
        ({}, False, False),
    ],
)
def test_a_proxy_or_certificates_of_the_environment_are_the_sdks_business(
    variables: dict[str, str], local: bool, looks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody's requests go around the proxy that was set for them; to this machine there is none."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with transport(variables, local=local) as made:
        assert made.session.trust_env is looks
