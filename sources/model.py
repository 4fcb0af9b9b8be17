"""What a source is: a declaration of its product, authentication, streams and paging, that one HTTP reader walks.

Invariant: nothing here does I/O or knows the time; adding a product is a new declaration, never a new reader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from contracts import CaasmError, JsonDict


class UnreadablePageError(CaasmError):
    """An answer with a success status that is not the page that was asked for; `body` is what came instead."""

    def __init__(self, reason: str, body: bytes) -> None:
        super().__init__(reason)
        self.body = body


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, relative to the source's URL. `json` is sent as the body, compact. `accept`: statuses besides 2xx that are answers."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    json: object = None
    accept: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Fetch:
    """The next step is this request. `page`: the number of the page that it gives, or None when it gives no records (a job's status)."""

    request: Request
    page: int | None


@dataclass(frozen=True, slots=True)
class Wait:
    """The source is not ready; look again after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Done:
    """The lane has walked to its end. `problem`: why that end is not the end of the data, if so."""

    problem: str = ""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What an answer held: the records, undecoded, and the cursor after it. `total`: the total that the source names, if it does."""

    records: Sequence[msgspec.Raw]
    cursor: JsonDict
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """How a stream's walk begins: one cursor per lane, and the total that the source promised."""

    cursors: list[JsonDict]
    total: int | None = None


class Paging(Protocol):
    """A way of paging as pure functions over a small JSON cursor, so that a durable orchestrator can hold where a lane is.

    `stability`: what guards against records that move while they are read: "snapshot" (the product freezes the export), "counted" (its total
    before and after shows it), "none".
    """

    @property
    def stability(self) -> str:
        """snapshot, counted or none."""
        ...

    def probe(self, lanes: int, answers: Sequence[bytes] = ()) -> Request | None:
        """The next request whose answer `start` needs to cut the stream into so many lanes, after these answers; None when it needs no more.

        Raises UnreadablePageError when the last answer is not what it should be.
        """
        ...

    def start(self, answers: Sequence[bytes], lanes: int, since: str | None) -> Start:
        """The cursors of up to `lanes` lanes. Raises UnreadablePageError when the last probe's answer is not what it should be."""
        ...

    def step(self, cursor: JsonDict) -> Fetch | Wait | Done:
        """What comes next at this cursor."""
        ...

    def parse(self, cursor: JsonDict, fetch: Fetch, status: int, body: bytes) -> Parsed:
        """The records of an answer and the next cursor. Raises UnreadablePageError when the body is not what it should be."""
        ...

    def skip(self, cursor: JsonDict, fetch: Fetch) -> JsonDict | None:
        """The cursor behind a page that cannot be read, or None when this paging cannot go on without it."""
        ...

    def sized(self, records: int) -> Paging:
        """The same with pages of so many records; as it is where the product's sizes are of something else."""
        ...

    def close(self, cursor: JsonDict) -> Request | None:
        """What tells the product that a lane stops before its end (cancel an export job), if there is such a request."""
        ...


class Authentication(Protocol):
    """How requests prove who sends them."""

    def headers(self, secrets: Mapping[str, str]) -> dict[str, str]:
        """The headers of every request."""
        ...

    def login(self, secrets: Mapping[str, str]) -> Request | None:
        """The request that gets a token, for products that exchange the secret for one."""
        ...

    def token_headers(self, status: int, body: bytes) -> tuple[dict[str, str], float]:
        """The headers that the login's answer gives, and the seconds for which they hold."""
        ...


@dataclass(frozen=True, slots=True)
class Stream:
    """One kind of record of a product: the table that it feeds, how it is paged, into how many lanes it may be cut."""

    name: str
    table: str
    paging: Paging
    lanes: int = 1
    changed_since: bool = False


@dataclass(frozen=True, slots=True)
class Derived:
    """A stream that is not asked for: what the records of the stream `parent` also say, as rows of another table."""

    name: str
    table: str
    parent: str


@dataclass(frozen=True, slots=True)
class Source:
    """A product: who makes it, how to reach it and log in, its streams. `secrets` are names of settings, without the source's prefix.

    `derived`: streams that come out of the records of the others, and are loaded whenever those are.
    """

    name: str
    vendor: str
    product: str
    default_url: str
    secrets: tuple[str, ...]
    authentication: Authentication
    streams: tuple[Stream, ...]
    reauthenticate_on: frozenset[int] = frozenset({401})
    derived: tuple[Derived, ...] = ()

    @property
    def tables(self) -> dict[str, str]:
        """The table of each stream, derived ones behind the others."""
        exported = {stream.name: stream.table for stream in self.streams}
        return exported | {stream.name: stream.table for stream in self.derived}

    @property
    def parents(self) -> dict[str, str]:
        """The stream whose records each derived stream is made of."""
        return {stream.name: stream.parent for stream in self.derived}

    def stream(self, name: str) -> Stream:
        """The stream of that name; raises KeyError when there is none."""
        for stream in self.streams:
            if stream.name == name:
                return stream
        raise KeyError(f"{self.name} has no stream {name!r}")
