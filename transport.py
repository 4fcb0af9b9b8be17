"""The HTTP transport of Azure's clients: an ordinary request goes over a connection of http.client's, any other through the SDK's transport.

Invariant: method, address, headers and body are those that the SDK gives, answers are read whole, and what goes wrong is the exception that its transport raises, for
any number of threads at once; no request is sent twice. What requests adds by itself is left out: headers of its own (Accept), cookies of earlier answers, a login from .netrc.
Where a proxy or a certificate file is configured in the environment, and the other end is not on this machine, it is the SDK's transport itself.
"""

from __future__ import annotations

import codecs
import json
import re
import ssl
import zlib
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, MutableMapping
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPSConnection, IncompleteRead
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlsplit
from urllib.request import getproxies

from azure.core.exceptions import (
    HttpResponseError,
    IncompleteReadError,
    ServiceRequestError,
    ServiceRequestTimeoutError,
    ServiceResponseError,
    ServiceResponseTimeoutError,
)
from azure.core.pipeline.transport import RequestsTransport
from azure.core.rest import HttpRequest, HttpResponse
from azure.core.utils import CaseInsensitiveDict
from urllib3.util import wait_for_read

CERTIFICATES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

CONNECTIONS: Final = 32
"""Kept for a host: as many requests as a worker has under way. The SDK keeps 10 and makes a new one for each further request."""

TIMES: Final = {"connection_timeout": 20, "read_timeout": 60}
"""Seconds, as the storage SDK has them."""

BLOCK_BYTES: Final = 64 * 1024 * 1024
"""What the SDK's transport reads of a body at once: all that the storage SDK asks for in one request, so that nothing is joined afterwards. By itself it reads 4 KB."""

_TERMS: Final = frozenset({"connection_timeout", "read_timeout", "stream"})
"""What may be said of a request that does not go through the SDK's transport."""

_ADDRESS: Final = re.compile(r"(https?://[\w.:\[\]-]+)(/[!\"$-~]*)?", re.ASCII)
"""Scheme and host, and what is asked of it, as both go over the wire: one that would have to be quoted is for the SDK's transport."""

_CHARSET: Final = re.compile(r"charset=[\"']?([\w.:-]+)", re.IGNORECASE)


def transport(environment: Mapping[str, str], *, local: bool) -> RequestsTransport:
    """A transport for one client. `local`: the other end is on this machine."""
    configured = getproxies() or any(environment.get(name) for name in CERTIFICATES)
    kind = RequestsTransport if configured and not local else Transport
    return kind(connection_data_block_size=BLOCK_BYTES, **TIMES)


class Transport(RequestsTransport):  # type: ignore[misc]  # a package that imports it late, so that it has no type
    """The SDK's transport, and a shorter way for requests that go to a host directly and whose body is known."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._idle: defaultdict[str, deque[HTTPConnection]] = defaultdict(deque)

    def send(self, request: Any, *, proxies: MutableMapping[str, str] | None = None, **kwargs: Any) -> Any:
        """One request, one answer, which may be a redirect. Raises the SDK's exceptions."""
        self.open()
        ready = None if proxies or not _TERMS.issuperset(kwargs) else _ready(request)
        if ready is None:
            return super().send(request, proxies=proxies, **kwargs)
        settings = self.connection_config
        try:
            connection = self._connected(ready.host, kwargs.get("connection_timeout", settings.timeout))
        except TimeoutError as error:
            raise ServiceRequestTimeoutError(error, error=error) from error
        except OSError as error:
            raise ServiceRequestError(error, error=error) from error
        again = False
        try:
            response, again = _exchange(connection, ready, kwargs.get("read_timeout", settings.read_timeout))
        except TimeoutError as error:
            raise ServiceResponseTimeoutError(error, error=error) from error
        except IncompleteRead as error:
            raise IncompleteReadError(error, error=error) from error
        except (OSError, HTTPException) as error:
            raise ServiceResponseError(error, error=error) from error
        finally:
            self._let_go(ready.host, connection, again=again)
        try:
            return _Response(request, *response)
        except zlib.error as error:
            raise ServiceResponseError(error, error=error) from error

    def close(self) -> None:
        """Let go of the connections."""
        super().close()
        while self._idle:
            for connection in self._idle.popitem()[1]:
                connection.close()

    def _connected(self, host: str, patience: float) -> HTTPConnection:
        """A connection that nobody uses: one of before that the other end has not closed, or a new one."""
        idle = self._idle[host]
        while idle:
            try:
                connection = idle.pop()
            except IndexError:  # another thread was faster
                break
            # Between two requests there is nothing to read but the end.
            if not wait_for_read(connection.sock, 0.0):
                return connection
            connection.close()
        return _connect(host, patience)

    def _let_go(self, host: str, connection: HTTPConnection, *, again: bool) -> None:
        if again and self.session is not None and len(self._idle[host]) < CONNECTIONS:
            self._idle[host].append(connection)
        else:
            connection.close()


class _Ready(NamedTuple):
    """A request as it goes over the wire; `host`: its address up to the path."""

    host: str
    method: str
    target: str
    body: bytes | None
    headers: dict[str, str]


def _ready(request: Any) -> _Ready | None:
    """None when it is for the SDK's transport: a request of its older kind, one whose address has to be quoted, a form, parts whose length nobody knows."""
    address = _ADDRESS.fullmatch(request.url)
    if not address or not isinstance(request, HttpRequest) or "Transfer-Encoding" in request.headers:
        return None
    content: Any = request.content
    if hasattr(content, "read"):
        content = _read(content)
    body = content.encode() if isinstance(content, str) else content
    if isinstance(body, bytearray):
        body = bytes(body)
    if not (body is None or isinstance(body, bytes)):
        return None
    headers = dict(request.headers)
    if body is not None:
        # The SDK counts a text's characters.
        headers["Content-Length"] = str(len(body))
    return _Ready(address[1], request.method, address[2] or "/", body, headers)


def _read(stream: Any) -> Any:
    """All of a stream from where it is; it stays there if it can, so that a request that is sent again (after a challenge) is not empty."""
    begin = stream.tell() if getattr(stream, "seekable", bool)() else None
    content = stream.read()
    if begin is not None:
        stream.seek(begin)
    return content


@cache
def _trusted() -> ssl.SSLContext:
    """Certificates as requests has them; a host's name is checked."""
    from requests.utils import DEFAULT_CA_BUNDLE_PATH

    return ssl.create_default_context(cafile=DEFAULT_CA_BUNDLE_PATH)


def _connect(host: str, patience: float) -> HTTPConnection:
    """A connection that stands. Raises OSError when it does not come about in so many seconds."""
    parts = urlsplit(host)
    name = parts.hostname or ""
    if parts.scheme == "https":
        connection: HTTPConnection = HTTPSConnection(name, parts.port, timeout=patience, context=_trusted())
    else:
        connection = HTTPConnection(name, parts.port, timeout=patience)
    try:
        connection.connect()
    except BaseException:
        connection.close()
        raise
    return connection


def _exchange(connection: HTTPConnection, ready: _Ready, patience: float) -> tuple[_Answer, bool]:
    """Send a request and read what is answered; whether the connection is good for another one.

    Raises OSError and HTTPException, after which the other end may have taken the request all the same.
    """
    connection.sock.settimeout(patience)
    whole = True
    try:
        connection.request(ready.method, ready.target, ready.body, ready.headers)
    except (BrokenPipeError, ConnectionResetError):
        # Who has read enough may answer and hang up.
        whole = False
    answer = connection.getresponse()
    content = answer.read()
    headers = CaseInsensitiveDict()
    for name, value in answer.headers.items():
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return _Answer(answer.status, answer.reason, headers, content), whole and connection.sock is not None


class _Answer(NamedTuple):
    """An answer as it came."""

    status: int
    reason: str
    headers: CaseInsensitiveDict
    content: bytes


class _Response(HttpResponse):
    """An answer as the SDK's clients and policies want it. There is nothing left to be read or closed."""

    # Attributes, where the SDK's class has abstract properties: it could not be made without them.
    request: Any = None
    url: Any = ""
    status_code: Any = 0
    reason: Any = ""
    headers: Any = None
    content_type: Any = None
    content: Any = b""
    encoding: Any = None
    is_closed: Any = True
    is_stream_consumed: Any = False

    def __init__(self, request: HttpRequest, status: int, reason: str, headers: Any, content: bytes) -> None:
        self.request, self.url = request, request.url
        self.status_code, self.reason, self.headers = status, reason, headers
        self.content_type = headers.get("Content-Type")
        self._raw, self.content = content, _decoded(content, headers.get("Content-Encoding"))
        self.encoding = _charset(self.content_type or "")

    def text(self, encoding: str | None = None) -> str:
        """The body as text, in the encoding that it names, or UTF-8."""
        named = encoding or self.encoding or "utf-8"
        return str(self.content.decode("utf-8-sig" if named.lower() == "utf-8" else named, "replace"))

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.text())

    def raise_for_status(self) -> None:
        """Raises HttpResponseError for an error."""
        if self.status_code >= 400:
            raise HttpResponseError(response=self)

    def read(self) -> bytes:
        """The body."""
        self.is_stream_consumed = True
        return bytes(self.content)

    body = read

    def iter_bytes(self, **_: Any) -> Iterator[bytes]:
        """The body, in one piece."""
        return iter(self.stream_download())

    def iter_raw(self, **_: Any) -> Iterator[bytes]:
        """The body as it came, in one piece."""
        return iter(self.stream_download(decompress=False))

    def stream_download(self, pipeline: object = None, *, decompress: bool = True) -> _Download:  # noqa: ARG002 - as the SDK calls it
        """The body, as the storage client takes it."""
        self.is_stream_consumed = True
        return _Download(self, self.content if decompress else self._raw)

    def close(self) -> None:
        """It was read whole."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """It was read whole."""


class _Download:
    """A body in pieces: one, or none if it is empty. The storage client hangs what else it knows on it."""

    def __init__(self, response: _Response, content: bytes) -> None:
        self.response, self.request, self.content_length = response, response.request, len(content)
        self._pieces = iter([content] if content else [])

    def __len__(self) -> int:
        return self.content_length

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def __next__(self) -> bytes:
        return next(self._pieces)


def _charset(content_type: str) -> str | None:
    """The encoding that is named, if Python has it."""
    named = _CHARSET.search(content_type)
    if named:
        try:
            codecs.lookup(named[1])
        except LookupError:
            return None
    return named[1] if named else None


def _decoded(content: bytes, encoding: str | None) -> bytes:
    """The body without what it was compressed by: a gateway may do so although it is told not to."""
    compressed = content and (encoding or "").lower() in {"gzip", "x-gzip", "deflate"}
    return zlib.decompress(content, zlib.MAX_WBITS | 32) if compressed else content
