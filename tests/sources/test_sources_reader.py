"""What the reader does about each answer: wait as asked, try again, or say what has to be changed; and never show a secret."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import urllib3

from contracts import CaasmError, Stop, TryAgain
from sources.authentication import Basic, Headers, Login
from sources.model import Request, Source, Stream
from sources.paging import PageNumber
from sources.reader import Ended, Page, Reader

SECRET = "s3cr3t-that-nobody-may-see"
STREAM = Stream("records", "CAASM_Assets_CL", PageNumber("/records", 5))
SOURCE = Source("acme", "Acme", "Acme", "", ("api_key",), Headers({"Authorization": "Bearer {api_key}"}), (STREAM,))
REQUEST = Request("GET", "/records", {"page": "0"})


@pytest.fixture
def against(listen: Any, reader_of: Any) -> Callable[..., tuple[Reader, Any]]:
    """A function from answers (given one after the other, the last for ever) to a reader and its server."""

    def run(*answers: Any, source: Source = SOURCE, secrets: dict[str, str] | None = None, **patience: Any) -> Any:
        left = list(answers)
        server = listen(lambda _: left.pop(0) if len(left) > 1 else left[0])
        return reader_of(source, server.url, secrets=secrets or {"api_key": SECRET}, **patience), server

    return run


def in_three_seconds() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"Retry-After": "3"}, 3.0, 3.0),
        ({"Retry-After": "2.5"}, 2.5, 2.5),
        ({"Retry-After": "http-date"}, 1.5, 3.0),
        ({"X-RateLimit-ToWait-Sec": "4"}, 4.0, 4.0),
        ({"RateLimit-Reset": "5"}, 5.0, 5.0),
        ({"RateLimit-Reset": "unix-time"}, 1.5, 3.1),
        ({"Retry-After": "soon", "RateLimit-Reset": "5"}, 5.0, 5.0),
        ({"Retry-After": "0"}, 0.05, 0.2),
        ({"Retry-After": "-7"}, 0.05, 0.2),
        ({"Retry-After": "nan"}, 0.05, 0.2),
        ({"Retry-After": "Sat, 21 Nov 2020 00:00:00 GMT"}, 0.05, 0.2),
        ({"Retry-After": "soon"}, 0.05, 0.2),
        ({}, 0.05, 0.2),
    ],
    ids=str,
)
def test_a_429_is_waited_out_as_asked(
    headers: dict[str, str], least: float, most: float, against: Any, reply: Any, slept: Any
) -> None:
    """In seconds, as a date or a Unix time, under any of the known names; without a usable one the backoff decides."""
    stamps = {"http-date": in_three_seconds(), "unix-time": str(int(time.time()) + 3)}
    filled = {name: stamps.get(value, value) for name, value in headers.items()}
    reader, server = against(reply(status=429, headers=filled), reply(b"[]"))
    assert reader.fetch(REQUEST) == (200, b"[]")
    [pause] = slept.seconds
    assert least <= pause <= most
    assert len(server.asked) == 2


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("first_contact", [True, False])
def test_a_long_wait_is_left_to_a_durable_timer(
    status: int, first_contact: bool, against: Any, reply: Any, slept: Any
) -> None:
    """An hour is not slept in an activity: TryAgain has the wait."""
    reader, server = against(reply(status=status, headers={"Retry-After": "3600"}))
    with pytest.raises(TryAgain) as caught:
        reader.fetch(REQUEST, first_contact=first_contact)
    assert caught.value.retry_after_s == 3600
    assert slept.seconds == []
    assert len(server.asked) == 1


@pytest.mark.parametrize("value", ["inf", "1e999", "9" * 400])
def test_a_wait_that_never_ends_is_not_believed(value: str, against: Any, reply: Any) -> None:
    """An orchestrator cannot hold infinity, and nobody waits for ten thousand years."""
    reader, _ = against(reply(status=429, headers={"Retry-After": value}))
    with pytest.raises(TryAgain) as caught:
        reader.fetch(REQUEST)
    assert caught.value.retry_after_s <= 86_400


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_an_outage_is_tried_a_few_times_with_growing_pauses_and_then_left(
    status: int, against: Any, reply: Any, slept: Any
) -> None:
    """Six tries within seconds; also on first contact, since the source did answer."""
    reader, server = against(reply(status=status))
    with pytest.raises(TryAgain, match=f"acme answered {status} to GET /records"):
        reader.fetch(REQUEST, first_contact=True)
    assert len(server.asked) == 6
    assert len(slept.seconds) == 5
    assert all(0.1 * 2**n <= pause <= 0.2 * 2**n for n, pause in enumerate(slept.seconds))


def test_an_outage_that_passes_is_not_noticed(against: Any, reply: Any) -> None:
    """The page comes as soon as the source answers again."""
    reader, _ = against(reply(status=502), reply(status=503), reply(b"[1]"))
    assert reader.fetch(REQUEST) == (200, b"[1]")


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_refused_connection_stops_on_first_contact_and_is_tried_again_later(reader_of: Any, slept: Any) -> None:
    """A wrong port looks like that at the start; half-way it is an outage."""
    url = f"http://127.0.0.1:{closed_port()}"
    with pytest.raises(Stop, match=r"connection refused\): check ACME_URL"):
        reader_of(SOURCE, url, secrets={"api_key": SECRET}).fetch(REQUEST, first_contact=True)
    with pytest.raises(TryAgain, match="connection refused"):
        reader_of(SOURCE, url, secrets={"api_key": SECRET}).fetch(REQUEST)
    assert sum(slept.seconds) < 20


def test_an_unknown_host_stops_at_once_on_first_contact(
    reader_of: Any, slept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that does not resolve is a wrong setting; half-way it is an outage of the name service."""

    def unresolved(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    reader = reader_of(SOURCE, "https://no-such-host.invalid", secrets={"api_key": SECRET})
    with pytest.raises(Stop, match=r"no such host: 'no-such-host.invalid': check ACME_URL"):
        reader.fetch(REQUEST, first_contact=True)
    assert slept.seconds == []
    with pytest.raises(TryAgain, match="no such host"):
        reader.fetch(REQUEST)


def test_a_source_that_was_reached_before_is_never_a_wrong_setting(listen: Any, reader_of: Any, reply: Any) -> None:
    """A first segment that goes on after a pause meets an outage, not a wrong URL."""
    server = listen(lambda asked: reply(b"[]") if len(server.asked) == 1 else reply(sent=-1))
    reader = reader_of(SOURCE, server.url, secrets={"api_key": SECRET})
    reader.fetch(REQUEST, first_contact=True)
    with pytest.raises(TryAgain, match="cannot be reached"):
        reader.fetch(REQUEST, first_contact=True)


def test_no_answer_in_time_is_tried_again(listen: Any, reader_of: Any, reply: Any) -> None:
    """A read timeout is an outage, named as what it is."""
    release = threading.Event()

    def answer(_: Any) -> Any:
        release.wait(10)
        return reply(b"[]")

    server = listen(answer)
    reader = reader_of(SOURCE, server.url, secrets={"api_key": SECRET}, timeout_s=0.05, attempts=2)
    try:
        with pytest.raises(TryAgain, match="no answer in time"):
            reader.fetch(REQUEST)
        deadline = time.monotonic() + 10
        while len(server.asked) < 2:  # a busy server reads what nobody waits for any more
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        release.set()
    assert len(server.asked) == 2


@pytest.mark.parametrize("below", ["", "/", "/api/v1", "/api/v1/"])
@pytest.mark.parametrize("path", ["/records", "/a b/ü/%7e%2f", "/a:b@c;d"])
@pytest.mark.parametrize("query", [{}, {"page": "0", "q": "a b&c=d?/ü%"}])
def test_an_address_is_what_urllib3_makes_of_it(
    below: str, path: str, query: dict[str, str], listen: Any, reader_of: Any, reply: Any
) -> None:
    """Whether it takes the address apart or is told what follows the host."""
    lines: list[str] = []
    server = listen(lambda asked: lines.append(f"{asked.path} {asked.query} {asked.headers['Host']}") or reply(b"[]"))
    reader_of(SOURCE, server.url + below, secrets={"api_key": SECRET}).fetch(Request("GET", path, query))
    with urllib3.PoolManager() as theirs:
        address = server.url + below.rstrip("/") + path
        theirs.request("GET", f"{address}?{urlencode(query)}" if query else address)
    assert lines[0] == lines[1]


def test_connections_are_used_again_and_each_host_has_its_own(listen: Any, reader_of: Any) -> None:
    """One connection for all requests to a host, unless it was closed meanwhile."""
    with ExitStack() as servers:
        found = []
        for _ in range(2):
            server = servers.enter_context(socket.create_server(("127.0.0.1", 0)))
            accepted: list[int] = []
            thread = threading.Thread(target=_serve, args=(server, accepted))
            thread.start()
            servers.callback(thread.join, 10)
            servers.callback(server.shutdown, socket.SHUT_RDWR)
            found.append((server.getsockname()[1], accepted))
        readers = [reader_of(SOURCE, f"http://127.0.0.1:{port}", secrets={"api_key": SECRET}) for port, _ in found]
        for reader in readers[1:]:
            reader.pool = readers[0].pool
        for _ in range(3):
            for (port, _), reader in zip(found, readers, strict=True):
                assert reader.fetch(REQUEST) == (200, f"[{port}]".encode())
        readers[0].pool.clear()
        assert [accepted for _, accepted in found] == [[1], [1]]


def _serve(server: socket.socket, accepted: list[int]) -> None:
    """Answer with the port's number, for as long as the connection stands."""
    said = f"[{server.getsockname()[1]}]".encode()
    with suppress(OSError):
        while True:
            connection, _ = server.accept()
            accepted.append(1)
            with connection:
                while connection.recv(65_536):
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))


def test_a_certificate_that_nobody_vouches_for_is_no_page(certificate: Path, reader_of: Any) -> None:
    """Nothing is sent to whoever has it: no key, no question."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    told: list[bytes] = []

    def answer() -> None:
        for _ in range(2):
            connection, _ = server.accept()
            with suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
                told.append(secured.recv(65_536))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer)
        thread.start()
        address = f"https://127.0.0.1:{server.getsockname()[1]}"
        reader = reader_of(SOURCE, address, secrets={"api_key": SECRET}, attempts=2)
        with pytest.raises(TryAgain, match=r"cannot be reached \(GET /records: the connection broke \(SSLError\)"):
            reader.fetch(REQUEST)
        thread.join(10)
    assert told == []


def test_a_proxy_of_the_environment_is_not_asked(
    against: Any, reply: Any, listen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A product is reached as its setting says."""
    proxy = listen(lambda _: reply(b"[]"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    reader, server = against(reply(b"[1]"))
    assert reader.fetch(REQUEST) == (200, b"[1]")
    assert (len(server.asked), proxy.asked) == (1, [])


def test_credentials_that_were_never_right_stop_quickly(against: Any, reply: Any, slept: Any) -> None:
    """The settings are named; the source is not asked dozens of times with a wrong key."""
    reader, server = against(reply(b'{"message":"bad key"}', status=401))
    with pytest.raises(Stop, match=r"401.*credentials: check ACME_API_KEY"):
        reader.fetch(REQUEST, first_contact=True)
    assert len(server.asked) <= 4
    assert sum(slept.seconds) <= 2


def test_every_secret_s_setting_is_named(against: Any, reply: Any) -> None:
    """Basic has two."""
    source = Source("acme", "Acme", "Acme", "", ("user", "password"), Basic("user", "password"), (STREAM,))
    reader, _ = against(reply(status=401), source=source, secrets={"user": "u", "password": SECRET})
    with pytest.raises(Stop, match="check ACME_USER and ACME_PASSWORD"):
        reader.fetch(REQUEST)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (403, "right to read and export"),
        (404, "check ACME_URL"),
        (302, "not followed: set ACME_URL"),
        (400, "does not accept the request"),
        (501, "does not accept the request"),
    ],
)
def test_an_answer_that_no_retry_cures_stops_with_its_remedy(
    status: int, remedy: str, against: Any, reply: Any
) -> None:
    """At the first such answer."""
    reader, server = against(reply(status=status))
    with pytest.raises(Stop, match=f"answered {status} to GET /records.*{remedy}"):
        reader.fetch(REQUEST)
    assert len(server.asked) == 1


# ------------------------------------------------------------------------------------------------ authentication


def test_basic_and_headers_are_sent_as_declared(against: Any, reply: Any) -> None:
    """RFC 7617 in UTF-8; a format string over the secrets, in which braces of a secret are only text."""
    basic = Source("acme", "Acme", "Acme", "", ("user", "password"), Basic("user", "password"), (STREAM,))
    reader, server = against(reply(b"[]"), source=basic, secrets={"user": "jörg", "password": "a:b{c}"})
    reader.fetch(REQUEST)
    assert server.asked[0].headers["Authorization"] == "Basic asO2cmc6YTpie2N9"
    reader, server = against(reply(b"[]"), secrets={"api_key": "{api_key}%s"})
    reader.fetch(REQUEST)
    assert server.asked[0].headers["Authorization"] == "Bearer {api_key}%s"


class Tokens:
    """A product with a login: a token holds for so many requests, and a new one ends those before it."""

    def __init__(self, reply: Any, holds: int) -> None:
        self.reply, self.holds = reply, holds
        self.issued = 0
        self.left = 0
        self.served: list[int] = []
        self.refused: list[int] = []

    def __call__(self, asked: Any) -> Any:
        if asked.path == "/login":
            assert asked.body == b'{"key":"' + SECRET.encode() + b'"}'
            self.issued += 1
            self.left = self.holds
            return self.reply(b'{"data":{"token":"t%d"}}' % self.issued, status=201)
        page = int(asked.query["page"])
        if asked.headers.get("Authorization") != f"Bearer t{self.issued}" or self.left == 0:
            self.refused.append(page)
            return self.reply(status=401)
        self.left -= 1
        self.served.append(page)
        return self.reply(b"[]" if page == 9 else b"[%d]" % page)


LOGIN = Login("/login", {"key": "{api_key}"}, ("data", "token"))
TOKENED = Source("acme", "Acme", "Acme", "", ("api_key",), LOGIN, (STREAM,))


def test_a_token_that_expires_half_way_is_renewed_and_the_same_page_asked_again(
    listen: Any, reader_of: Any, reply: Any
) -> None:
    """Nothing is skipped, nothing comes twice, and a login is made only when it must be."""
    product = Tokens(reply, holds=4)
    reader = reader_of(TOKENED, listen(product).url, secrets={"api_key": SECRET})
    items = list(reader.walk(STREAM, {"page": 0, "step": 1}))
    assert isinstance(items[-1], Ended)
    assert [bytes(r) for item in items if isinstance(item, Page) for r in item.records] == [b"%d" % n for n in range(9)]
    assert product.served == list(range(10))
    assert product.refused == [4, 8]
    assert product.issued == 3


def test_several_threads_log_in_once(listen: Any, reader_of: Any, reply: Any) -> None:
    """They share one session: a 401 for the token before does not throw away the one that has just come.

    Two requests with the first token are held back until both have arrived, then both are refused.
    """
    import threading

    both = threading.Barrier(2)
    first_done = threading.Event()
    issued: list[str] = []

    def answer(asked: Any) -> Any:
        if asked.path == "/login":
            issued.append(f"t{len(issued) + 1}")
            return reply(b'{"data":{"token":"%s"}}' % issued[-1].encode())
        if asked.headers["Authorization"] == "Bearer t1":
            # The second refusal leaves only when the first thread has its new token and its page.
            if both.wait(10) == 0:
                first_done.wait(10)
            return reply(status=401)
        first_done.set()
        return reply(b"[]")

    reader = reader_of(TOKENED, listen(answer).url, secrets={"api_key": SECRET})
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(reader.fetch(REQUEST))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == [(200, b"[]")] * 2
    assert issued == ["t1", "t2"]


def test_a_token_is_renewed_before_it_expires(listen: Any, reader_of: Any, reply: Any) -> None:
    """After the time for which it is declared to hold, without waiting for a 401."""
    product = Tokens(reply, holds=100)
    brief = Login("/login", {"key": "{api_key}"}, ("data", "token"), holds_s=0.0)
    source = Source("acme", "Acme", "Acme", "", ("api_key",), brief, (STREAM,))
    reader = reader_of(source, listen(product).url, secrets={"api_key": SECRET})
    reader.fetch(REQUEST)
    reader.fetch(REQUEST)
    assert product.issued == 2
    assert product.refused == []


@pytest.mark.parametrize(
    ("answer", "status", "kind", "text"),
    [
        (b"", 401, Stop, "does not accept the credentials: check ACME_API_KEY"),
        (b"", 400, Stop, "does not accept the credentials: check ACME_API_KEY"),
        (b"", 503, TryAgain, "the login at acme answered 503"),
        (b"<html>", 200, Stop, "without a token at data.token"),
        (b'{"data":{"tok":1}}', 200, Stop, "without a token at data.token"),
        (b'{"data":{"token":null}}', 200, Stop, "without a token at data.token"),
        (b"[]", 201, Stop, "without a token at data.token"),
        (b"\xff", 201, Stop, "without a token at data.token"),
    ],
)
def test_a_login_that_fails_says_why(
    answer: bytes, status: int, kind: type[CaasmError], text: str, listen: Any, reader_of: Any, reply: Any
) -> None:
    """Refused, out, or not a login at all; the page is not asked for without a token."""
    server = listen(lambda _: reply(answer, status=status))
    with pytest.raises(kind, match=text):
        reader_of(TOKENED, server.url, secrets={"api_key": SECRET}).fetch(REQUEST, first_contact=True)
    assert {asked.path for asked in server.asked} == {"/login"}


# ------------------------------------------------------------------------------------------------ secrets

AUTHENTICATIONS = {
    "headers": (Headers({"Authorization": "Bearer {api_key}"}), ("api_key",)),
    "basic": (Basic("user", "api_key"), ("user", "api_key")),
    "login": (LOGIN, ("api_key",)),
}


@pytest.mark.parametrize("authentication", AUTHENTICATIONS)
@pytest.mark.parametrize(
    "trouble",
    ["401", "403", "404", "429", "500", "302", "html", "dropped", "cut", "refused", "line break", "not latin"],
)
def test_no_secret_is_in_an_error_a_traceback_or_a_log(
    authentication: str, trouble: str, listen: Any, reader_of: Any, reply: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong, with logging at its most talkative; also for secrets that no header can carry."""
    caplog.set_level(logging.DEBUG)
    declared, names = AUTHENTICATIONS[authentication]
    source = Source("acme", "Acme", "Acme", "", names, declared, (STREAM,))
    answers = {
        "html": reply(b"<html>"),
        "dropped": reply(sent=-1),
        "cut": reply(b"[]", sent=1),
        "302": reply(status=302, headers={"Location": "http://127.0.0.1:1/"}),
    }
    answer = answers.get(trouble) or reply(status=int(trouble) if trouble.isdigit() else 401)
    server = listen(lambda _: answer)
    url = f"http://127.0.0.1:{closed_port()}" if trouble == "refused" else server.url
    secret = {"line break": f"{SECRET}\r\n{SECRET}", "not latin": f"{SECRET}…{SECRET}"}.get(trouble, SECRET)
    reader = reader_of(source, url, secrets={"user": "u", "api_key": secret}, attempts=2, unreadable_attempts=2)
    said = ""
    try:
        said = repr(list(reader.walk(STREAM, {"page": 0, "step": 1}, first_contact=True)))
    except CaasmError as error:
        said = "".join(traceback.format_exception(error)) + error.reason + error.remedy
    assert said
    for text in (said, caplog.text):
        assert SECRET not in text
        assert "czNjcjN0LXRoYXQtbm9ib2R5LW1heS1zZWU" not in text, "the secret in base64"
        assert "OnMzY3IzdC10aGF0LW5vYm9keS1tYXktc2Vl" not in text, "the secret in base64, behind the user"


def test_a_secret_that_no_header_can_carry_names_its_setting(against: Any, reply: Any) -> None:
    """A key pasted with a line break inside or a typographic dash: the settings to check, not the library's complaint."""
    for secret in ("abc\ndef", "abc–def"):
        reader, server = against(reply(b"[]"), secrets={"api_key": secret})
        with pytest.raises(Stop, match="check ACME_API_KEY") as caught:
            reader.fetch(REQUEST)
        assert "abc" not in str(caught.value)
        assert server.asked == []
