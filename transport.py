"""The HTTP transport of Azure's clients: the SDK's own, with a session that does nothing for a request that the SDK has not asked for.

Invariant: method, address, body and headers are those that the SDK gives, and the answers and exceptions that come back are those of its transport, for any
number of threads at once. What requests adds by itself is left out: headers of its own (Accept-Encoding, Accept), cookies of earlier answers, a login from .netrc.
Where a proxy or a certificate file is configured in the environment, and the other end is not on this machine, it is the SDK's transport itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies

import requests
from azure.core.pipeline.transport import RequestsTransport
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPConnectionPool
from urllib3.util import Retry

CERTIFICATES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

CONNECTIONS: Final = 32
"""Kept for a host: as many requests as a worker has under way. The SDK keeps 10 and makes a new one for each further request."""

TIMES: Final = {"connection_timeout": 20, "read_timeout": 60}
"""Seconds, as the storage SDK has them."""

BLOCK_BYTES: Final = 64 * 1024 * 1024
"""What is read of a body at once: all that the storage SDK asks for in one request (32 MiB), so that nothing is joined afterwards. The SDK reads 4 KB."""


def transport(environment: Mapping[str, str], *, local: bool) -> RequestsTransport:
    """A transport for one client. `local`: the other end is on this machine.

    A request through the SDK's own costs 2.0 ms of CPU, 1.6 without looking for a proxy in the environment, 1.1 without merging a session's cookies, headers, hooks
    and addresses into it (bodies of 95 KB, measured in turn), and a twelfth less without looking up the connections of its host.
    """
    configured = getproxies() or any(environment.get(name) for name in CERTIFICATES)
    if configured and not local:
        return RequestsTransport(connection_data_block_size=BLOCK_BYTES, **TIMES)
    session = _Session()
    for scheme in ("http://", "https://"):
        session.mount(
            scheme,
            _Adapter(pool_maxsize=CONNECTIONS, max_retries=Retry(total=False, redirect=False, raise_on_status=False)),
        )
    return RequestsTransport(session=session, connection_data_block_size=BLOCK_BYTES, **TIMES)


class _Adapter(HTTPAdapter):
    """Requests' own, which looks up once what it sends a host's requests through: it would do so for each, and look at the file of certificates again."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._pools: dict[object, HTTPConnectionPool] = {}

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> HTTPConnectionPool:
        """The host's connections, with these settings of TLS."""
        address = str(request.url)
        parts = urlsplit(address)
        key = (parts.scheme, parts.netloc, verify, cert)
        pool = None if proxies else self._pools.get(key)
        if pool is None:
            pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
            super().cert_verify(pool, address, verify, cert)
            if not proxies:
                self._pools[key] = pool
        return pool

    def cert_verify(self, *_: Any) -> None:
        """Done when the connections were looked up."""

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        """What follows the host, unless a proxy has to be told all of it."""
        return super().request_url(request, proxies) if proxies else request.path_url

    def close(self) -> None:
        """Let go of the connections."""
        self._pools.clear()
        super().close()


class _Session(requests.Session):
    """Sends what it is given, through requests' own adapter."""

    def request(self, method: str | bytes, url: str | bytes, *_: Any, **given: Any) -> requests.Response:
        """One request as the SDK's transport gives it, one answer, which may be a redirect; its body is read unless it is to be streamed.

        A body without a length, an iterator, goes out in chunks. There are no forms and no files: the SDK makes bodies of them, or has none.
        """
        address = str(url)
        body: Any = given.get("data")
        if hasattr(body, "read"):
            body = _read(body)
        if isinstance(body, str):
            body = body.encode()
        prepared = requests.PreparedRequest()
        prepared.method, prepared.url, prepared.body = str(method), address, body
        prepared.headers = CaseInsensitiveDict(given["headers"])
        if isinstance(body, bytes):
            # As requests does: the SDK counts a text's characters.
            prepared.headers["Content-Length"] = str(len(body))
        answer = self.get_adapter(address).send(
            prepared,
            stream=True,
            timeout=given["timeout"],
            verify=given["verify"],
            cert=given["cert"],
            proxies=given["proxies"],
        )
        if not given.get("stream"):
            # Read here, so that what goes wrong meanwhile is requests' exception, which the SDK's transport knows.
            answer.content  # noqa: B018 - a property that reads
        return answer


def _read(stream: Any) -> Any:
    """All of a stream from where it is; it stays there if it can, so that a request that is sent again (after a challenge) is not empty."""
    begin = stream.tell() if getattr(stream, "seekable", bool)() else None
    content = stream.read()
    if begin is not None:
        stream.seek(begin)
    return content
