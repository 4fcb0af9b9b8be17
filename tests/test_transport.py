"""The transport of Azure's clients against the SDK's own: the same answers, the same exceptions, over the same wire."""

from __future__ import annotations

import gc
import gzip
import io
import socket
import ssl
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import AzureError, ServiceRequestError, ServiceRequestTimeoutError, ServiceResponseError
from azure.core.pipeline.transport import HttpRequest as OlderRequest
from azure.core.pipeline.transport import RequestsTransport
from azure.core.rest import HttpRequest

from sentinel.ingestion import kinds_of
from transport import CERTIFICATES, Transport, transport

SEEN: list[tuple[str, str, dict[str, str], bytes]] = []

RAW = {
    "/gone": b"",
    "/nonsense": b"what do you mean?\r\n\r\n",
    "/break": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345",
    "/parts": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Twice: a\r\nx-twice: b\r\n\r\n"
    b"3\r\nyes\r\n5;a=b\r\n, no!\r\n0\r\n\r\n",
    "/until-the-end": b"HTTP/1.1 200 OK\r\n\r\nyes",
    "/empty": b"HTTP/1.1 204 No Content\r\n\r\n",
    "/garbled": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nyes",
}
LAST = {"/gone", "/nonsense", "/break", "/until-the-end", "/last"}
"""Answers behind which the connection is closed."""

LARGE = bytes(range(256)) * 4096 * 3


class _Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self) -> None:
        body = self._body()
        SEEN.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        if self.path == "/hang":
            self.rfile.read()
            return
        if self.path in RAW:
            self.wfile.write(RAW[self.path])
            self.close_connection = self.path in LAST
            return
        said = {"/echo": body, "/large": LARGE, "/gzip": gzip.compress(b"yes")}.get(self.path, b"yes")
        self.send_response({"/absent": 404, "/moved": 307}.get(self.path, 200))
        self.send_header("Set-Cookie", "a=b")
        if self.path == "/gzip":
            self.send_header("Content-Encoding", "gzip")
        charset = {"/echo": "; charset=iso-8859-1", "/unknown": "; charset=nobody-s"}.get(self.path, "")
        self.send_header("Content-Type", f"text/plain{charset}")
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said)
        self.close_connection = self.path in LAST

    do_GET = do_PUT = do_POST = do_HEAD = _answer  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Threads(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Server)
        self.closed = threading.Semaphore(0)
        self.opened = 0

    def process_request(self, request: Any, client_address: Any) -> None:
        """Count the connections."""
        self.opened += 1
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Say that a connection is closed."""
        super().shutdown_request(request)
        self.closed.release()


class _Watched(defaultdict[str, Any]):
    """Connections by host, and which hosts were looked up."""

    def __init__(self, asked: list[str]) -> None:
        super().__init__(deque)
        self.asked = asked

    def __getitem__(self, host: str) -> Any:
        self.asked.append(host)
        return super().__getitem__(host)


@contextmanager
def served(certificate: Path | None = None) -> Iterator[_Threads]:
    """A server that answers, does not, or breaks off; over TLS if it has a certificate."""
    server = _Threads()
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Where a server is."""
    with served() as server:
        yield f"http://127.0.0.1:{server.server_port}"


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


def test_ours_does_not_go_through_the_sdks_session(url: str) -> None:
    """Or the tests below would hold the SDK's transport against itself."""
    with transport({}, local=True) as ours:
        assert isinstance(ours, Transport)
        ours.open()
        ours.session.request = None
        assert ours.send(HttpRequest("GET", f"{url}/a")).status_code == 200


class _Writable(io.RawIOBase):
    """A stream that cannot go back and gives what may be written to."""

    def __init__(self, content: bytes) -> None:
        self._left: bytearray = bytearray(content)

    def read(self, size: int = -1) -> Any:
        """As many bytes, or all."""
        end = len(self._left) if size < 0 else size
        read, self._left = self._left[:end], self._left[end:]
        return read


@pytest.mark.parametrize(
    "kind",
    [bytes, io.BytesIO, bytes.decode, lambda sent: iter([sent[:3], sent[3:]]), _Writable, None],
    ids=["bytes", "stream", "text", "parts", "written", "nothing"],
)
def test_a_body_arrives_whole_with_its_headers(url: str, sends: Any, kind: Callable[[bytes], Any] | None) -> None:
    """And the answer is read; one that sets a cookie does no harm."""
    for sent in (b"x" * 100_000, "naïve".encode()):
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


def test_a_redirect_is_an_answer_too(url: str, sends: Any) -> None:
    """Whether it is followed, and with which headers, is for the client's policies."""
    SEEN.clear()
    answer = sends.send(HttpRequest("GET", f"{url}/moved"))
    assert (answer.status_code, answer.headers["Location"]) == (307, "/elsewhere")
    assert [path for _, path, _, _ in SEEN] == ["/moved"]


def test_nothing_is_added_to_a_request_but_what_http_needs(url: str) -> None:
    """No cookie of an earlier answer, nothing that requests would have liked to say."""
    with transport({}, local=True) as ours:
        for _ in range(2):
            SEEN.clear()
            ours.send(HttpRequest("POST", url, headers={"x-ms-version": "1", "User-Agent": "u"}, content=b"x"))
            assert {**SEEN[0][2], "host": ""} == {
                "host": "",
                "x-ms-version": "1",
                "user-agent": "u",
                "content-length": "1",
                "accept-encoding": "identity",
            }


@pytest.mark.parametrize(
    ("method", "path", "content", "headers"),
    [
        ("GET", "/parts", b"yes, no!", {"X-Twice": "a, b"}),
        ("GET", "/until-the-end", b"yes", {}),
        ("GET", "/empty", b"", {}),
        ("GET", "/gzip", b"yes", {"Content-Encoding": "gzip"}),
        ("HEAD", "/a", b"", {"Content-Length": "3"}),
    ],
)
def test_every_kind_of_answer_is_read(
    url: str, sends: Any, method: str, path: str, content: bytes, headers: dict[str, str]
) -> None:
    """In parts, behind one that says to go on, up to the connection's end, without a body, compressed; and another one over the same connection."""
    for _ in range(2):
        answer = sends.send(HttpRequest(method, url + path))
        assert answer.content == content
        assert {name: answer.headers[name.lower()] for name in headers} == headers
        assert answer.read() == answer.body() == content
        assert answer.text() == content.decode()
        assert (answer.is_closed, answer.is_stream_consumed) == (True, True)


def test_a_text_is_of_the_encoding_that_it_names(url: str, sends: Any) -> None:
    """Or of the one that is asked for, or UTF-8, with or without its mark; one that nobody knows is none."""
    sent = "naïve".encode("iso-8859-1")
    answer = sends.send(HttpRequest("POST", f"{url}/echo", content=sent))
    assert (answer.text(), answer.text("iso-8859-15"), answer.encoding) == ("naïve", "naïve", "iso-8859-1")
    assert sends.send(HttpRequest("POST", f"{url}/echo", content=b"\xef\xbb\xbf1")).text("utf-8") == "1"
    answer = sends.send(HttpRequest("GET", f"{url}/unknown"))
    assert (answer.text(), answer.encoding) == ("yes", None)


def test_what_is_not_ordinary_is_the_sdks_business(url: str) -> None:
    """A form, an address that has to be quoted, a request of the older kind, one on other terms: sent all the same."""
    ordinary = []
    with transport({}, local=True) as ours:
        ours._idle = _Watched(ordinary)
        for request in (
            HttpRequest("POST", f"{url}/echo", data={"a": "b c"}),
            HttpRequest("GET", f"{url}/naïve way"),
            OlderRequest("GET", f"{url}/older"),
        ):
            assert ours.send(request).status_code == 200
        assert ours.send(HttpRequest("GET", f"{url}/terms"), connection_verify=False).status_code == 200
        assert ordinary == []
        assert ours.send(HttpRequest("GET", f"{url}/ordinary")).status_code == 200
        assert set(ordinary) == {url}
    assert [path for _, path, _, _ in SEEN[-5:]] == ["/echo", "/na%C3%AFve%20way", "/older", "/terms", "/ordinary"]


def test_a_header_of_two_lines_is_not_sent(url: str, sends: Any) -> None:
    """Or whoever can say what a header holds could make requests."""
    SEEN.clear()
    with pytest.raises((ValueError, AzureError)):
        sends.send(HttpRequest("GET", url, headers={"a": "b\r\nc: d"}))
    assert SEEN == []
    assert sends.send(HttpRequest("GET", url)).status_code == 200


def test_who_has_read_enough_may_answer_and_hang_up(sends: Any) -> None:
    """What a gateway says of a body that is too large is heard, and nothing is sent again."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        came: list[bytes] = []

        def refuse() -> None:
            for _ in range(2):
                guest, _ = door.accept()
                came.append(guest.recv(100))
                guest.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
                guest.shutdown(socket.SHUT_WR)
                # Read away, so that the answer is not lost in a reset.
                while guest.recv(1 << 20):
                    pass
                guest.close()

        host = threading.Thread(target=refuse, daemon=True)
        host.start()
        for _ in range(2):
            request = HttpRequest("POST", f"http://127.0.0.1:{door.getsockname()[1]}/", content=b"x" * 5_000_000)
            answer = sends.send(request)
            assert (answer.status_code, answer.text()) == (413, "no")
        sends.close()
        host.join(10)
        assert len(came) == 2


def test_a_body_comes_in_blocks_when_it_is_asked_for(url: str, sends: Any) -> None:
    """As downloads of blobs do."""
    answer = sends.send(HttpRequest("GET", f"{url}/large"), stream=True)
    assert not answer.is_stream_consumed
    assert b"".join(answer.iter_bytes()) == LARGE


def test_a_download_comes_in_one_piece(url: str) -> None:
    """Where the SDK would read 4 KB at a time, and join it."""
    with transport({}, local=True) as ours:
        blocks = list(ours.send(HttpRequest("GET", f"{url}/large"), stream=True).iter_bytes())
    assert blocks == [LARGE]


def test_a_connection_that_was_closed_meanwhile_is_made_anew(sends: Any) -> None:
    """A server, or a gateway before it, need not say that an answer was the last one."""
    with served() as server:
        for _ in range(3):
            assert sends.send(HttpRequest("GET", f"http://127.0.0.1:{server.server_port}/last")).status_code == 200
            assert server.closed.acquire(timeout=10)


def test_threads_that_share_a_transport_get_each_its_own_answer(url: str, sends: Any) -> None:
    """The activities of a worker have one client."""

    def ask(n: int) -> bool:
        sent = b"%d" % n * 5_000
        return bool(sends.send(HttpRequest("POST", f"{url}/echo", content=sent)).content == sent)

    with ThreadPoolExecutor(12) as threads:
        assert list(threads.map(ask, range(96))) == [True] * 96


def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: Path, sends: Any) -> None:
    """Unless the client was told to accept it."""
    SEEN.clear()
    with served(certificate) as server:
        request = HttpRequest("GET", f"https://127.0.0.1:{server.server_port}/")
        with pytest.raises(ServiceRequestError, match="CERTIFICATE_VERIFY_FAILED"):
            sends.send(request)
        assert SEEN == []
        for _ in range(2):
            assert sends.send(request, connection_verify=str(certificate)).content == b"yes"
            # A connection that was made on other terms is not taken for this.
            with pytest.raises(ServiceRequestError, match="CERTIFICATE_VERIFY_FAILED"):
                sends.send(request)
        with pytest.raises(OSError, match="no-such-file"):
            sends.send(request, connection_verify="/no-such-file.pem")


def test_requests_over_tls_go_over_one_connection(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To whom the certificate names, and nobody else; large bodies both ways."""
    monkeypatch.setattr("transport._trusted", lambda: ssl.create_default_context(cafile=str(certificate)))
    with served(certificate) as server, transport({}, local=True) as ours:
        for sent in (b"", b"a", LARGE):
            answer = ours.send(HttpRequest("POST", f"https://127.0.0.1:{server.server_port}/echo", content=sent))
            assert answer.content == sent
        assert server.opened == 1
        with pytest.raises(ServiceRequestError, match="CERTIFICATE_VERIFY_FAILED"):
            ours.send(HttpRequest("GET", f"https://localhost:{server.server_port}/"))


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "in blocks"])
@pytest.mark.parametrize("where", ["/hang", "/break", "/gone", "/nonsense", "nobody", "no TLS"])
def test_what_goes_wrong_is_the_sdks_exception(url: str, where: str, streamed: bool) -> None:
    """No answer in time, one that breaks off, none, no HTTP, nobody there: as the SDK's own transport says it."""
    addresses = {
        "nobody": f"http://127.0.0.1:{closed_port()}/",
        "no TLS": url.replace("http:", "https:"),
    }
    raised = []
    for made in (transport({}, local=True), RequestsTransport()):
        request = HttpRequest("GET", addresses.get(where, url + where))
        patience = {"read_timeout": 0.3 if where == "/hang" else 20, "connection_timeout": 20}
        with made as sends, pytest.raises(AzureError) as error:
            sends.send(request, stream=streamed, **patience).read()
        raised.append((type(error.value), kinds_of(error.value).split()[-1]))
    assert raised[0] == raised[1]


def test_what_cannot_be_decompressed_is_no_answer(url: str, sends: Any) -> None:
    """And is taken for one that broke off: the other end has taken the request."""
    with pytest.raises(ServiceResponseError):
        sends.send(HttpRequest("POST", f"{url}/garbled", content=b"x"))


def test_a_connection_that_does_not_come_about_is_given_up_in_time(sends: Any) -> None:
    """Nothing was sent then."""
    with socket.socket() as door, ExitStack() as waiting:
        door.bind(("127.0.0.1", 0))
        door.listen(0)
        for _ in range(4):  # those that wait at the door, so that no other gets there
            other = waiting.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(door.getsockname())
        with pytest.raises(ServiceRequestTimeoutError):
            sends.send(HttpRequest("GET", f"http://127.0.0.1:{door.getsockname()[1]}/"), connection_timeout=0.2)


def test_a_stream_that_is_sent_again_is_whole(url: str) -> None:
    """As after a challenge: from where it was, not from where it has been read to."""
    body = io.BytesIO(b"12345")
    body.seek(2)
    request = HttpRequest("POST", f"{url}/echo", content=body)
    with transport({}, local=True) as ours:
        assert [ours.send(request).content for _ in range(2)] == [b"345"] * 2


def test_each_host_has_its_own_connections(url: str, sends: Any) -> None:
    """The same path, another server."""
    with served() as other:
        for _ in range(2):
            SEEN.clear()
            hosts = [url.removeprefix("http://"), f"127.0.0.1:{other.server_port}", f"localhost:{other.server_port}"]
            for host in hosts:
                assert sends.send(HttpRequest("GET", f"http://{host}/same?a=b")).status_code == 200
            assert [(path, seen["host"]) for _, path, seen, _ in SEEN] == [("/same?a=b", host) for host in hosts]


def test_a_proxy_that_is_asked_for_is_gone_through_for_that_request(
    url: str, sends: Any, listen: Any, reply: Any
) -> None:
    """With the whole address, whoever was asked before; the next request goes without."""
    SEEN.clear()
    proxy = listen(lambda _: reply(b"from the proxy"))
    address = f"{url}/a%20b?c=d"
    said = []
    for proxies in (None, {"http": proxy.url}, {"http": proxy.url}, None):
        answer = sends.send(HttpRequest("GET", address), proxies=proxies)
        said.append(answer.content)
    assert said == [b"yes", b"from the proxy", b"from the proxy", b"yes"]
    assert [path for _, path, _, _ in SEEN] == ["/a%20b?c=d"] * 2
    assert (
        sends.send(HttpRequest("GET", "http://no-such-host.invalid/"), proxies={"http": proxy.url}).content == said[1]
    )


def test_a_transport_that_is_closed_lets_its_connections_go(sends: Any) -> None:
    """And says so when it is asked to send."""
    with served() as server:
        request = HttpRequest("GET", f"http://127.0.0.1:{server.server_port}/")
        sends.send(request)
        session = sends.session
        sends.close()
        gc.collect()
        assert server.closed.acquire(timeout=10)
        del session
        with pytest.raises(ValueError, match="already been closed"):
            sends.send(request)


@pytest.mark.parametrize(
    ("variables", "local", "sdks"),
    [
        ({"HTTPS_PROXY": "http://proxy.invalid:8080"}, False, True),
        ({"HTTPS_PROXY": "http://proxy.invalid:8080"}, True, False),
        ({CERTIFICATES[0]: "/ca.pem"}, False, True),
        ({CERTIFICATES[1]: "/ca.pem"}, False, True),
        ({}, False, False),
    ],
)
def test_a_proxy_or_certificates_of_the_environment_are_the_sdks_business(
    variables: dict[str, str], local: bool, sdks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody's requests go around the proxy that was set for them; to this machine there is none."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with transport(variables, local=local) as made:
        assert isinstance(made, Transport) is not sdks
