"""The paging kinds: page number, offset with a total, export job with a growing list of chunks; pages that overlap are in sources/overlapping.py.

Invariant: pure functions; a cursor is a small JSON value that says all that is needed to go on, and no kind believes what real products were seen
to break: the page size that was asked for, the total, a short page as an end, a page parameter that is honoured.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import msgspec

from contracts import JsonDict
from native import pages
from sources.model import Done, Fetch, Parsed, Request, Start, UnreadablePageError, Wait

_RECORDS = msgspec.json.Decoder(list[msgspec.Raw])
_NOTHING = msgspec.Raw(b"")


class _Page(msgspec.Struct):
    """What is read of an envelope, the rest of it is skipped."""

    records: list[msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET
    total: msgspec.Raw = _NOTHING


@functools.cache
def _envelope(records_key: str, total_key: str | None) -> msgspec.json.Decoder[_Page]:
    """A decoder that finds records and total in one pass over the body."""
    fields: list[tuple[str, Any, Any]] = [
        ("records", list[msgspec.Raw] | msgspec.UnsetType, msgspec.field(default=msgspec.UNSET, name=records_key))
    ]
    fields += [("total", msgspec.Raw, msgspec.field(default=_NOTHING, name=total_key))] if total_key else []
    return msgspec.json.Decoder(msgspec.defstruct("Page", fields, bases=(_Page,)))


def _describe(body: bytes) -> str:
    start = body[:80].lstrip().decode("utf-8", "replace")
    return f"{len(body)} bytes that begin with {start!r}" if start else "an empty body"


def records_of(body: bytes, key: str | None = None) -> Sequence[msgspec.Raw]:
    """The records of a page, undecoded: the body itself, or the array under `key` of its envelope.

    Raises UnreadablePageError for anything else, an empty body and null among it: who ends a walk there takes a fault for the end.
    """
    return counted_records_of(body, key, None)[0]


def counted_records_of(body: bytes, key: str | None, total_key: str | None) -> tuple[Sequence[msgspec.Raw], int | None]:
    """`records_of`, and the total that the envelope names under `total_key`, if it names one."""
    plain = pages.split(body, key, total_key)
    if plain is not None:
        records, total = plain
        return records, _integer(total)
    try:
        if key is None:
            return _RECORDS.decode(body), None
        page = _envelope(key, total_key).decode(body)
        if page.records is msgspec.UNSET:
            raise UnreadablePageError(f"the page has no {key!r}: {_describe(body)}", body)
        # Without a name for it, an envelope's own "total" is none.
        return page.records, _integer(page.total) if total_key else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadablePageError(
            f"the page is not the JSON it should be ({error}): {_describe(body)}", body
        ) from error


def _integer(raw: msgspec.Raw | bytes) -> int | None:
    try:
        value = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def page_of(
    status: int, body: bytes, key: str | None, total_key: str | None = None
) -> tuple[Sequence[msgspec.Raw], int | None]:
    """`counted_records_of` an answer; none for 204, which says that nothing is there."""
    return ((), None) if status == 204 else counted_records_of(body, key, total_key)


def same_again(cursor: JsonDict, body: bytes, records: Sequence[msgspec.Raw]) -> str:
    """What tells these records from those of another page; raises when the page before had the very same, which is how an ignored page parameter looks.

    Of the records, not of the body: an envelope may hold the time, or the parameter that was ignored. The first, the last, how many and how long:
    records have identifiers, so pages that agree in all of that are one page.
    """
    digest = hashlib.sha256(b"%d %d" % (len(records), pages.bytes_of(records)))
    for record in (*records[:1], *records[-1:]):
        digest.update(record)
    told = digest.hexdigest()[:16]
    if records and cursor.get("last") == told:
        raise UnreadablePageError(
            "the source gave the very records of the page before: it does not follow the page parameter", body
        )
    return told


def behind(cursor: JsonDict, following: JsonDict) -> JsonDict | None:
    """The cursor behind a page that cannot be read; None for the third in a row: the lane would walk on for ever.

    It keeps the digest of the last page that could be read, or an ignored page parameter would look new again.
    """
    skipped = cursor.get("skipped", 0)
    last = {"last": cursor["last"]} if "last" in cursor else {}
    return None if skipped >= 2 else {**following, **last, "skipped": skipped + 1}


@dataclass(frozen=True, slots=True)
class PageNumber:
    """Pages by number, with no total: lane k of n takes the pages k, k+n, k+2n …, each until its own first empty page."""

    path: str
    size: int
    method: str = "GET"
    page_parameter: str = "page"
    size_parameter: str = "per_page"
    first: int = 0
    records_key: str | None = None
    json: object = None
    query: Mapping[str, str] = field(default_factory=dict)

    def _request(self, page: int, size: int) -> Request:
        query = {**self.query, self.size_parameter: str(size), self.page_parameter: str(page)}
        return Request(self.method, self.path, query, self.json)

    stability: str = "none"

    def probe(self, lanes: int, answers: Sequence[bytes] = ()) -> Request | None:  # noqa: ARG002 - the protocol's
        """Strides need no total."""
        return None

    def start(self, answers: Sequence[bytes], lanes: int, since: str | None) -> Start:  # noqa: ARG002 - the protocol's
        """Strided lanes: they need no total and no page size to be believed."""
        return Start([{"page": self.first + lane, "step": lanes} for lane in range(lanes)])

    def step(self, cursor: JsonDict) -> Fetch | Wait | Done:
        """The next page of the lane's stride, until one was empty."""
        if cursor.get("ended"):
            return Done()
        return Fetch(self._request(cursor["page"], self.size), cursor["page"])

    def parse(self, cursor: JsonDict, fetch: Fetch, status: int, body: bytes) -> Parsed:  # noqa: ARG002 - the protocol's
        """A short page is no end: only an empty one is, or 204."""
        records, _ = page_of(status, body, self.records_key)
        digest = same_again(cursor, body, records)
        following = {"page": cursor["page"] + cursor["step"], "step": cursor["step"], "last": digest}
        return Parsed(records, following if records else {**cursor, "ended": True})

    def skip(self, cursor: JsonDict, fetch: Fetch) -> JsonDict | None:  # noqa: ARG002 - the protocol's
        """Page numbers do not depend on what a page held."""
        return behind(cursor, {"page": cursor["page"] + cursor["step"], "step": cursor["step"]})

    def sized(self, records: int) -> PageNumber:
        """With pages of so many records."""
        return replace(self, size=records)

    def close(self, cursor: JsonDict) -> Request | None:  # noqa: ARG002 - the protocol's
        """Nothing to close."""
        return None


@dataclass(frozen=True, slots=True)
class OffsetLimit:
    """Offset and limit with a total: each lane walks a range of offsets by what it really got; the last lane goes on to an empty page."""

    path: str
    size: int
    records_key: str
    total_key: str
    limit_parameter: str = "limit"
    offset_parameter: str = "offset"
    query: Mapping[str, str] = field(default_factory=dict)

    def _request(self, offset: int, limit: int) -> Request:
        query = {**self.query, self.limit_parameter: str(limit), self.offset_parameter: str(offset)}
        return Request("GET", self.path, query)

    stability: str = "counted"

    def probe(self, lanes: int, answers: Sequence[bytes] = ()) -> Request | None:
        """The first record, for the total; a single lane needs none."""
        return self._request(0, 1) if lanes > 1 and not answers else None

    def start(self, answers: Sequence[bytes], lanes: int, since: str | None) -> Start:  # noqa: ARG002 - the protocol's
        """Ranges of equal length, whole pages each; the last is open, so that a total that is too small loses nothing."""
        if not answers:
            return Start([{"offset": 0, "end": None}])
        _, total = counted_records_of(answers[0], self.records_key, self.total_key)
        pages = -(-(total or 0) // self.size)
        lanes = max(1, min(lanes, pages))
        share = -(-pages // lanes) * self.size
        starts = [lane * share for lane in range(lanes)]
        return Start([{"offset": at, "end": at + share if at != starts[-1] else None} for at in starts], total)

    def _limit(self, cursor: JsonDict) -> int:
        return self.size if cursor["end"] is None else min(self.size, cursor["end"] - cursor["offset"])

    def step(self, cursor: JsonDict) -> Fetch | Wait | Done:
        """The next offset of the range."""
        if cursor.get("ended") or (cursor["end"] is not None and cursor["offset"] >= cursor["end"]):
            return Done()
        return Fetch(self._request(cursor["offset"], self._limit(cursor)), cursor["offset"])

    def parse(self, cursor: JsonDict, fetch: Fetch, status: int, body: bytes) -> Parsed:  # noqa: ARG002 - the protocol's
        """The offset moves by the records received, never by the limit that was asked for: servers cap it silently.

        What a server gives beyond the lane's range, ignoring the limit, is the next lane's to take.
        """
        records, total = page_of(status, body, self.records_key, self.total_key)
        if cursor["end"] is not None:
            records = records[: cursor["end"] - cursor["offset"]]
        digest = same_again(cursor, body, records)
        following = {"offset": cursor["offset"] + len(records), "end": cursor["end"], "last": digest}
        return Parsed(records, following if records else {**cursor, "ended": True}, total)

    def skip(self, cursor: JsonDict, fetch: Fetch) -> JsonDict | None:  # noqa: ARG002 - the protocol's
        """Behind the records that the page should have held; the ledger names the page, and the run is not complete."""
        return behind(cursor, {"offset": cursor["offset"] + self._limit(cursor), "end": cursor["end"]})

    def sized(self, records: int) -> OffsetLimit:
        """With pages of so many records."""
        return replace(self, size=records)

    def close(self, cursor: JsonDict) -> Request | None:  # noqa: ARG002 - the protocol's
        """Nothing to close."""
        return None


@dataclass(frozen=True, slots=True)
class ExportJob:
    """An export job: create it (or adopt the one that runs), poll its growing list of chunks, fetch each chunk once.

    `since_filter`: the filter that takes a Unix time in seconds, for deltas. Chunks done are kept as ranges, so that a cursor stays small.
    `size_key`: the member of `body` that says how large a chunk is, from `sizes[0]` to `sizes[1]` of whatever the product counts; without one nobody can choose.
    """

    path: str
    body: Mapping[str, object]
    filters: Mapping[str, object] = field(default_factory=dict)
    since_filter: str | None = None
    poll_s: float = 2.0
    size_key: str = ""
    sizes: tuple[int, int] = (1, sys.maxsize)
    id_key: str = "export_uuid"
    adopt_key: str = "active_job_id"
    stability: str = "snapshot"

    def probe(self, lanes: int, answers: Sequence[bytes] = ()) -> Request | None:  # noqa: ARG002 - the protocol's
        """A job is one lane."""
        return None

    def start(self, answers: Sequence[bytes], lanes: int, since: str | None) -> Start:  # noqa: ARG002 - the protocol's
        """One lane: the product asks not to be read by several at once, and a job's chunks are one list."""
        return Start([{"since": since}])

    def step(self, cursor: JsonDict) -> Fetch | Wait | Done:
        """Create, or the lowest chunk known and not done, or poll."""
        job = cursor.get("job")
        if job is None:
            filters = dict(self.filters)
            if cursor.get("since") and self.since_filter:
                filters[self.since_filter] = int(datetime.fromisoformat(cursor["since"]).timestamp())
            body = {**self.body, **({"filters": filters} if filters else {})}
            return Fetch(Request("POST", self.path, json=body, accept=(409,)), None)
        if cursor.get("todo"):
            chunk = cursor["todo"][0]
            # A chunk that failed, or has expired, is set aside like one that cannot be read: 404 says nothing about the URL.
            return Fetch(Request("GET", f"{self.path}/{job}/chunks/{chunk}", accept=(404,)), chunk)
        if cursor.get("state") == "FINISHED":
            return Done()
        if cursor.get("state") in {"ERROR", "CANCELLED"}:
            return Done(f"the export job {job} ended as {cursor['state']} after {count(cursor.get('done', []))} chunks")
        if cursor.get("polled"):
            return Wait(self.poll_s)
        return Fetch(Request("GET", f"{self.path}/{job}/status"), None)

    def parse(self, cursor: JsonDict, fetch: Fetch, status: int, body: bytes) -> Parsed:
        """An answer of any of the three requests."""
        if fetch.page is not None:
            if status == 404:
                raise UnreadablePageError(f"the job has no chunk {fetch.page}: {_describe(body)}", body)
            # Chunks are listed, so an empty one ends nothing.
            records = records_of(body) if body.strip() not in {b"", b"null"} else ()
            return Parsed(records, self._did(cursor, fetch.page))
        try:
            answer = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            if cursor.get("job") is None:
                adopted = {"adopted": True} if status == 409 else {}
                job = msgspec.json.decode(answer[self.adopt_key if adopted else self.id_key], type=str)
                return Parsed((), {**cursor, **adopted, "job": job})
            state = msgspec.json.decode(answer["status"], type=str).upper()
            listed = msgspec.json.decode(answer.get("chunks_available", b"[]"), type=list[int] | None) or []
            failed = msgspec.json.decode(answer.get("chunks_failed", b"[]"), type=list[int] | None) or []
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError) as error:
            raise UnreadablePageError(
                f"the export job's answer is not what it should be: {_describe(body)}", body
            ) from error
        done = cursor.get("done", [])
        todo = sorted(chunk for chunk in {*listed, *failed} if not within(done, chunk))
        return Parsed((), {**cursor, "state": state, "todo": todo, "polled": not todo})

    def skip(self, cursor: JsonDict, fetch: Fetch) -> JsonDict | None:
        """Chunks do not depend on each other."""
        return None if fetch.page is None else self._did(cursor, fetch.page)

    def sized(self, records: int) -> ExportJob:
        """With chunks of so many of what the product counts, as near as it allows; for findings that may be assets."""
        if not self.size_key:
            return self
        smallest, largest = self.sizes
        return replace(self, body={**self.body, self.size_key: min(largest, max(smallest, records))})

    def close(self, cursor: JsonDict) -> Request | None:
        """Cancel the job, so that the product's limit of running exports is not used up."""
        if cursor.get("job") is None or cursor.get("state") in {"FINISHED", "ERROR", "CANCELLED"}:
            return None
        return Request("POST", f"{self.path}/{cursor['job']}/cancel")

    @staticmethod
    def _did(cursor: JsonDict, chunk: int) -> JsonDict:
        # It is the first: of tens of thousands of chunks, each is looked for among all that are left.
        assert cursor["todo"][0] == chunk
        return {**cursor, "todo": cursor["todo"][1:], "done": joined(cursor.get("done", []), chunk), "polled": False}


def resting(cursor: JsonDict) -> JsonDict:
    """The cursor as it is kept between two activities: without what the next one asks the product for again.

    The job's state goes with its list of chunks: FINISHED without the list would look like the end.
    """
    return {key: value for key, value in cursor.items() if key not in {"todo", "polled", "state"}}


def unasked(cursor: JsonDict) -> bool:
    """Whether nothing was asked yet at the first cursor of a lane: a job that has been created says that the source answers."""
    return cursor.get("job") is None


def within(ranges: list[list[int]], number: int) -> bool:
    """Whether the number is in one of the ranges, both ends included."""
    return any(low <= number <= high for low, high in ranges)


def count(ranges: list[list[int]]) -> int:
    """How many numbers the ranges hold."""
    return sum(high - low + 1 for low, high in ranges)


def joined(ranges: list[list[int]], number: int) -> list[list[int]]:
    """The ranges with one more number, neighbours merged, in order."""
    merged: list[list[int]] = []
    for low, high in sorted([*ranges, [number, number]]):
        if merged and low <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], high)
        else:
            merged.append([low, high])
    return merged
