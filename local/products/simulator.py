"""The state of one running simulator: streams, faults, statistics; and the parts of an answer that products share."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import msgspec
import pyarrow as pa
from aiohttp import web

from local import products
from local.products.columns import FIRST_DAY
from local.products.faults import Faults
from local.products.life import View
from local.products.moving import Moves, MovingStream
from local.products.recorded import RecordedStream
from local.products.state import PageLog, StateFile
from local.products.synthetic import Inventory, SyntheticStream

Stream = RecordedStream | SyntheticStream
SERVED_PAGE = web.RequestKey("served_page", tuple[str, int, str])
"""Path, page number and page key of the page that a handler answers with."""


class Resettable(Protocol):
    """A product's own state (export jobs), forgotten on reset."""

    def reset(self) -> None: ...


@dataclass(frozen=True)
class Keys:
    """What the products accept as credentials."""

    cycognito: str = products.CYCOGNITO_KEY
    device42_user: str = products.DEVICE42_USER
    device42_password: str = products.DEVICE42_PASSWORD
    tenable_access: str = products.TENABLE_ACCESS_KEY
    tenable_secret: str = products.TENABLE_SECRET_KEY


@dataclass
class Stats:
    """What was asked and answered since the last reset; control requests are not counted."""

    requests: int = 0
    bytes_out: int = 0
    by_path: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    pages: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))


@dataclass
class Simulator:
    """Everything that handlers read and write; one event loop, so no locks.

    With `inventory`, whose streams these are, the simulator can go to another of its days. With `state`, products keep there what a new
    process has to know; with `page_log`, the pages that are served are written down.
    """

    streams: dict[tuple[str, str], Stream]
    keys: Keys = field(default_factory=Keys)
    faults_at_start: Faults = field(default_factory=Faults)
    page_cap: int | None = None
    inventory: Inventory | None = None
    state: StateFile | None = None
    page_log: PageLog | None = None
    stats: Stats = field(default_factory=Stats)
    faults: Faults = field(init=False)
    faulty_requests: int = 0
    drifted: int = 0
    products: list[Resettable] = field(default_factory=list)
    day: int = field(init=False, default=0)
    moves: Moves | None = field(init=False, default=None)
    moving: dict[tuple[str, str], MovingStream] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.day = self.inventory.day if self.inventory is not None else 0
        self.set_faults(self.faults_at_start)

    def set_faults(self, faults: Faults) -> None:
        """Replace all faults and begin to number requests anew."""
        self.faults = msgspec.structs.replace(faults, fail_next=list(faults.fail_next))
        self.faulty_requests = self.drifted = 0

    def reset(self) -> None:
        """As at the start: no statistics, no jobs, the first faults, the first day, nothing moved."""
        if self.inventory is not None and (self.day != self.inventory.day or self.moves or self.moving):
            self.go_to(self.inventory.day)
        self.stats = Stats()
        self.set_faults(self.faults_at_start)
        for product in self.products:
            product.reset()

    def stream(self, product: str, kind: str) -> Stream:
        """The stream, or 404 where the folder has no pages of it."""
        stream = self.streams.get((product, kind))
        if stream is None:
            raise not_found(f"no {kind} of {product} here")
        return stream

    def streams_on(self, day: int) -> Mapping[tuple[str, str], Stream]:
        """The streams of a day; recorded ones have no days."""
        return self.streams if self.inventory is None or day == self.day else self.inventory.on(day).streams()

    def served(self, path: str, page: str) -> None:
        """Take note of a page that was answered whole."""
        self.stats.pages[path][page] += 1
        if self.page_log is not None:
            self.page_log.served(path, page)

    def go_to(self, day: int) -> None:
        """Serve another day, nothing moved; export jobs that have begun stay on theirs. Needs an inventory."""
        if self.inventory is None:
            raise ValueError("recorded pages have no days: start the simulator with --assets and --findings")
        self.streams = dict(self.inventory.on(day).streams())
        self.day, self.moves, self.moving = day, None, {}

    def put(self, inventory: Mapping[str, list[tuple[int, int, int]]]) -> None:
        """Serve exactly these records: "product/kind" to [number, day of the last change, day of the last touch], in the order of export.

        Records are the ones of day 0, by their numbers; other streams stay as they are. Raises ValueError without an inventory, and for what it has not.
        """
        if self.inventory is None:
            raise ValueError("recorded pages are what they are: start the simulator with --assets and --findings")
        first = self.inventory.on(0).streams()
        epoch = (self.inventory.epoch - FIRST_DAY).days
        for name, records in inventory.items():
            product, _, kind = name.partition("/")
            stream = first.get((product, kind))
            if stream is None or any(not 0 <= number < stream.count for number, _, _ in records):
                raise ValueError(f"{name}: no such stream, or not so many records")
            number, version, touched = zip(*records, strict=True) if records else ((), (), ())
            days = pa.array(version, pa.uint16()), pa.array(touched, pa.uint16())
            view = View(pa.array(number, pa.uint32()), *days, stream.count, pa.array([], pa.uint16()))
            self.streams[product, kind] = replace(stream, count=len(records), view=view, epoch=epoch)
            self.moving.pop((product, kind), None)

    def control(self, asked: Moves) -> None:
        """Go to another day, begin or stop to move while a stream is paged. Raises ValueError without an inventory."""
        if self.inventory is None:
            raise ValueError("recorded pages have no days: start the simulator with --assets and --findings")
        if asked.day is not None:
            self.go_to(asked.day)
        if asked.move_while_paging is not None:
            self.moves = asked if asked.move_while_paging else None

    def listing(self, product: str, kind: str) -> Stream | MovingStream:
        """The stream as one page of it is asked for, moved where it moves; for products that page through lists."""
        stream = self.stream(product, kind)
        if self.moves is not None and isinstance(stream, SyntheticStream):
            self.moving.setdefault((product, kind), MovingStream(stream)).requested(self.moves)
        return self.moving.get((product, kind), stream)

    def life(self) -> dict[str, Any]:
        """The day, the number of records of each stream, and the ids that have moved since the day began."""
        now: dict[tuple[str, str], Stream | MovingStream] = {**self.streams, **self.moving}
        return {
            "day": self.day,
            "records": {"/".join(key): stream.count for key, stream in now.items()},
            "move_while_paging": self.moves is not None,
            "moved": {
                "/".join(key): {"inserted": stream.inserted_ids(), "removed": stream.removed_ids()}
                for key, stream in self.moving.items()
            },
        }

    def capped(self, size: int) -> int:
        """A page size under the caps of the command line and of the faults."""
        caps = [cap for cap in (self.page_cap, self.faults.page_cap) if cap is not None]
        return max(1, min([size, *caps]))

    def array(self, path: str, page: int, inner: bytes | memoryview) -> bytes:
        """A JSON array of the records, with the extra elements that faults put on that page."""
        extra = self.faults.inserted(path, page)
        if not extra:
            return b"".join((b"[", inner, b"]"))
        elements = [bytes(inner)] if len(inner) else []
        return b"[" + b",".join([*elements, *(msgspec.json.encode(element) for element in extra)]) + b"]"


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json", headers=headers
    )


def _failure(kind: type[web.HTTPException], value: Any) -> web.HTTPException:
    return kind(text=msgspec.json.encode(value).decode(), content_type="application/json")


def not_found(message: str) -> web.HTTPException:
    """404 with a JSON body."""
    return _failure(web.HTTPNotFound, {"error": "not_found", "message": message})


def bad_request(message: str) -> web.HTTPException:
    """400 with a JSON body."""
    return _failure(web.HTTPBadRequest, {"error": "bad_request", "message": message})


def unauthorized(body: dict[str, Any]) -> web.HTTPException:
    """401 with the product's kind of body."""
    return _failure(web.HTTPUnauthorized, body)


def whole_number(request: web.Request, name: str, default: int) -> int:
    """A query parameter that is a whole number from 0; 400 when it is anything else."""
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit()):
        raise bad_request(f"{name} must be a whole number from 0, not {text!r}")
    return int(text)


async def json_body(request: web.Request) -> Any:
    """The request's JSON; 400 when it is none."""
    try:
        return msgspec.json.decode(await request.read())
    except msgspec.DecodeError as error:
        raise bad_request(f"the body is not JSON: {error}") from error
