"""Whether a product lets us in and gives a first page of each stream, asked for with a page size of one.

Invariant: one request a page and one for a job that is then cancelled, never a second try, so that a wrong key locks no account; what is asked is what a
load would ask, through the same reader.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import urllib3

from contracts import CaasmError
from doctor.clocks import product_clock
from doctor.findings import Finding, doubt, fine, wrong
from doctor.reach import WORDS, unreachable
from sentinel.ingestion import kinds_of
from sources.model import Fetch, Source, Stream, UnreadablePageError
from sources.reader import WAIT_HEADERS, Connections, Patience, Reader

LONGEST_S: Final = 15.0

_OF_THE_PRODUCT: Final = frozenset(
    {"product.reach", "product.tls", "product.key", "product.limited", "product.trouble"}
)
"""What is wrong with one stream and then with every other."""


class _Ear(Connections):
    """Connections that remember the last answer's status and headers, or why there was none."""

    def __init__(self, **options: Any) -> None:
        super().__init__(maxsize=1, **options)
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.failure = ""

    def urlopen(self, method: str, url: str, redirect: bool = False, **options: Any) -> urllib3.BaseHTTPResponse:  # type: ignore[override]  # as Connections has it
        self.status, self.headers, self.failure = 0, {}, ""
        try:
            answer = super().urlopen(method, url, redirect, **options)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            self.failure = kinds_of(error)
            raise
        self.status, self.headers = answer.status, answer.headers
        return answer


def product_findings(
    source: Source, url: str, secrets: Mapping[str, str], timeout_s: float, now: Callable[[], float]
) -> Iterator[Finding]:
    """Login and first page of every stream, what it says about its limits, its clock."""
    ear = _Ear()
    patience = Patience(attempts=1, timeout_s=min(timeout_s, LONGEST_S), unreadable_attempts=1)
    reader = Reader(source, url, secrets, patience, pool=ear)
    try:
        yield from _walk(source, reader, ear, now)
    finally:
        ear.clear()


def _walk(source: Source, reader: Reader, ear: _Ear, now: Callable[[], float]) -> Iterator[Finding]:
    taken = []
    date = ""
    for stream in source.streams:
        found = _stream(reader, ear, stream, now())
        date = ear.headers.get("Date", date)
        if found is None:
            taken.append(stream.name)
            continue
        yield found
        if found.id in _OF_THE_PRODUCT:
            break
    if taken:
        yield fine("product.key", source.name, f"a first page of {', '.join(taken)}")
        yield from product_clock(source.name, date, now())


def _stream(reader: Reader, ear: _Ear, stream: Stream, now: float) -> Finding | None:
    """What is wrong with a stream's first page; None when all is well."""
    paging = stream.paging.sized(1)
    # Changes since now: an export job with that filter is as good as empty.
    since = datetime.fromtimestamp(now, UTC).isoformat()
    cursor = paging.start((), 1, since if stream.changed_since else None).cursors[0]
    step = paging.step(cursor)
    assert isinstance(step, Fetch)
    try:
        status, body = reader.fetch(step.request)
        cursor = paging.parse(cursor, step, status, body).cursor
    except UnreadablePageError as error:
        return wrong("product.page", f"{reader.source.name} {stream.name}", f"{ear.status}: {error.reason}")
    except CaasmError as error:
        return _judged(reader.source, ear, stream, error)
    if step.page is None and status not in step.request.accept:
        # A job of ours; one that is accepted by its refusal (409) is somebody else's.
        reader.close(dataclasses.replace(stream, paging=paging), cursor)
    return None


def _judged(source: Source, ear: _Ear, stream: Stream, error: CaasmError) -> Finding:
    one, whole = f"{source.name} {stream.name}", source.name
    if not ear.status:
        word = unreachable(ear.failure)
        kind = "product.tls" if word == "tls" else "product.reach"
        return wrong(kind, whole, WORDS[word] if ear.failure else error.reason)
    if ear.status == 429:
        waits = [f"{name}: {ear.headers[name]}" for name in WAIT_HEADERS if name in ear.headers]
        says = ", ".join(waits) or "it does not say for how long"
        return doubt("product.limited", whole, f"{error.reason} ({says})")
    if ear.status >= 500 or ear.status == 408:
        return doubt("product.trouble", whole, error.reason)
    if ear.status in source.reauthenticate_on:
        return wrong("product.key", whole, error.reason)
    kinds = {401: "product.key", 403: "product.forbidden", 404: "product.endpoint"}
    kind = "product.endpoint" if 300 <= ear.status < 400 else kinds.get(ear.status, "product.page")
    return wrong(kind, one, error.reason)
