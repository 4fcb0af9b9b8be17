"""What a request may weigh: gzip within bounds, the two readings of the 1 MB limit, the quotas of a minute.

The documentation says 1 MB "compressed and uncompressed" (`raw`); what producers report is a gateway that looks at the wire alone and a check
of 50 MiB behind it (`wire`). Nobody could measure the service here, so both are offered, and the documented one is the default.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from isal import isal_zlib

from local.sentinel.answers import Refusal, bad_encoding, throttled, too_large, too_long

LimitMode = Literal["raw", "wire"]

BODY_LIMIT: Final = 1_048_576
"""Bytes of a request body, in the words of the service's 413."""

DECOMPRESSED_LIMIT: Final = 50 * 1024 * 1024
"""Bytes of a decompressed body in `wire` mode (open-telemetry/otel-arrow#2535)."""

REQUESTS_PER_MINUTE: Final = 12_000
BYTES_PER_MINUTE: Final = 2_000_000_000
"""Per rule (Azure Monitor service limits, custom logs)."""


def gunzip(data: bytes, limit: int) -> bytes:
    """The decompressed bytes, at most one more than `limit` of them; raises Refusal (400) when it is not a whole gzip stream."""
    parts: list[bytes] = []
    size = 0
    try:
        while data and size <= limit:
            stream = isal_zlib.decompressobj(wbits=31)
            part = stream.decompress(data, limit + 1 - size)
            parts.append(part)
            size += len(part)
            if size > limit:
                break
            if not stream.eof:
                raise bad_encoding("The gzip stream ends too early.")
            data = stream.unused_data
    except isal_zlib.error as error:  # type: ignore[misc]  # isal's stubs do not say that it is an exception
        raise bad_encoding(f"The body is not gzip: {error}") from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def plain_body(wire: bytes, encoding: str, mode: LimitMode) -> bytes:
    """The body as JSON bytes; raises Refusal for an unknown encoding (400), bad gzip (400), or too many bytes (413)."""
    if len(wire) > BODY_LIMIT:
        raise too_long(len(wire), BODY_LIMIT)
    if encoding in {"", "identity"}:
        return wire
    if encoding != "gzip":
        raise bad_encoding(f"Content-Encoding '{encoding}' is not supported.")
    limit = BODY_LIMIT if mode == "raw" else DECOMPRESSED_LIMIT
    body = gunzip(wire, limit)
    if len(body) > limit:
        raise too_long(len(body), limit) if mode == "raw" else too_large(len(body), limit)
    return body


@dataclass
class Quota:
    """Requests and decompressed bytes of one rule in windows of `window_s` seconds, given for a minute; 0 means no limit. `clock` gives seconds."""

    requests: float
    body_bytes: float
    clock: Callable[[], float]
    window_s: float = 60.0

    def __post_init__(self) -> None:
        self._since = self.clock()
        self._requests = 0
        self._bytes = 0

    def admit(self) -> Refusal | None:
        """Count one request; a Refusal (429, Retry-After: what is left of the window) when the window is used up."""
        now = self.clock()
        if now - self._since >= self.window_s:
            self._since, self._requests, self._bytes = now, 0, 0
        part = self.window_s / 60
        over_requests = self.requests and self._requests >= self.requests * part
        over_bytes = self.body_bytes and self._bytes >= self.body_bytes * part
        if over_requests or over_bytes:
            return throttled(max(1, math.ceil(self.window_s - (now - self._since))))
        self._requests += 1
        return None

    def add_bytes(self, count: int) -> None:
        """Count the bytes of an admitted request."""
        self._bytes += count
