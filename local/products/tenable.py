"""Tenable VM's wire protocol: an export job, a list of chunks that grows from poll to poll, chunks as bare arrays.

A job moves by polls, not by the clock: QUEUED, then a quarter more of the chunks with each poll, then FINISHED. It is as it was asked for, on the day
that it was asked on; so what was asked is all that has to be kept of it, and a simulator with a state file goes on with its jobs.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from aiohttp import web

from local.products.columns import u64
from local.products.recorded import RecordedStream
from local.products.simulator import (
    SERVED_PAGE,
    Simulator,
    Stream,
    bad_request,
    json_body,
    json_response,
    not_found,
    unauthorized,
)
from local.products.synthetic import SyntheticStream

_POLLS = 4
_STREAMS = {"assets": "assets", "vulns": "findings_vulns"}
_SIZES = {"assets": ("chunk_size", 1000, 10_000), "vulns": ("num_assets", 500, 5_000)}
_RECORDED_WHOLE = 50  # the smallest size that the product accepts: from here on, recorded chunks stay whole
_TIME_FILTERS = {
    "assets": ("updated_at", "created_at", "last_seen", "since"),
    "vulns": ("since", "last_found", "indexed_at"),
}

_KEPT = 8  # jobs that a state file keeps: the product, too, forgets exports, after a day

_DEFAULT_STATES = ("OPEN", "REOPENED")


class _Asked(msgspec.Struct, frozen=True):
    """What was asked for: all that follows from it and from the inventory need not be kept. `size`: records (of assets) in a chunk, `errs`: it is to fail."""

    id: str
    kind: str
    size: int
    filters: dict[str, Any]
    day: int
    errs: bool

    @property
    def signature(self) -> bytes:
        """Equal for exports of the same kind with the same filters."""
        return msgspec.json.encode([self.kind, self.filters], order="deterministic")


@dataclass
class _Job:
    """One export: the records as spans of the stream, or of the numbers that its filters left."""

    asked: _Asked
    stream: Stream
    spans: list[tuple[int, int]]
    numbers: Any = None
    polls: int = 0
    ended: str | None = None

    @property
    def id(self) -> str:
        return self.asked.id

    @property
    def kind(self) -> str:
        return self.asked.kind

    @property
    def errs(self) -> bool:
        return self.asked.errs

    @property
    def available(self) -> int:
        """How many chunks are ready."""
        steps = min(max(0, self.polls - 1), 2 if self.errs else _POLLS)
        return -(-len(self.spans) * steps // _POLLS)

    @property
    def status(self) -> str:
        if self.ended:
            return self.ended
        if self.polls <= 1:
            return "QUEUED"
        if self.errs:
            return "ERROR" if self.polls > 2 else "PROCESSING"
        return "FINISHED" if self.available >= len(self.spans) else "PROCESSING"

    @property
    def active(self) -> bool:
        return self.status in {"QUEUED", "PROCESSING"}

    def chunk(self, number: int) -> bytes | memoryview:
        """The records of chunk `number` (from 1), with commas between them."""
        first, stop = self.spans[number - 1]
        if isinstance(self.stream, SyntheticStream) and self.numbers is not None:
            return self.stream.body(self.numbers.slice(first, stop - first))
        return self.stream.slice(first, stop - first)

    def recorded_chunk(self, number: int) -> bytes | None:
        """The recorded body of a chunk that is one recorded page."""
        first, stop = self.spans[number - 1]
        return self.stream.page(first, stop - first) if isinstance(self.stream, RecordedStream) else None


def _spans(count: int, size: int, empty_last: bool) -> list[tuple[int, int]]:
    spans = [(first, min(first + size, count)) for first in range(0, count, size)] or [(0, 0)]
    return [*spans, (count, count)] if empty_last else spans


def _filtered(stream: SyntheticStream, kind: str, filters: Mapping[str, Any]) -> Any:
    """The numbers of the records that the filters leave; None when they leave all."""
    times = {name: value for name, value in filters.items() if name in _TIME_FILTERS[kind]}
    asked = filters.get("state")
    states = {str(state).upper() for state in (_DEFAULT_STATES if asked is None else asked)}
    if not times and stream.states <= states:
        return None

    def keep(facts: Mapping[str, Any]) -> Any:
        flags = []
        if kind == "vulns":
            wanted = pa.array([state.encode() for state in sorted(states)], pa.large_binary())
            flags.append(pc.is_in(facts["state"], value_set=wanted))
        for name, value in times.items():
            fact = facts.get(name, facts.get("updated_at" if kind == "assets" else "since"))
            flags.append(pc.greater_equal(fact, u64(int(value))))
        kept = flags[0]
        for flag in flags[1:]:
            kept = pc.and_(kept, flag)
        return kept

    return stream.matching(keep)


class TenableExports:
    """The export jobs of both kinds."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._jobs: dict[str, _Job] = {}
        self._started = 0
        simulator.products.append(self)
        self._go_on()

    def reset(self) -> None:
        self._jobs.clear()
        self._started = 0
        self._keep()

    def _keep(self) -> None:
        """Write down the jobs, when the simulator keeps its state."""
        if self._simulator.state is not None:
            last = list(self._jobs.values())[-_KEPT:]
            jobs = [{"asked": job.asked, "polls": job.polls, "ended": job.ended} for job in last]
            self._simulator.state.write({"started": self._started, "jobs": jobs})

    def _go_on(self) -> None:
        """Take up the jobs of the process before."""
        kept = self._simulator.state.read() if self._simulator.state is not None else None
        if kept is None:
            return
        self._started = kept["started"]
        for entry in kept["jobs"]:
            job = self._plan(msgspec.convert(entry["asked"], _Asked))
            job.polls, job.ended = entry["polls"], entry["ended"]
            self._jobs[job.id] = job

    async def start(self, request: web.Request) -> web.Response:
        """POST /{assets,vulns}/export."""
        self._authorise(request)
        kind = request.match_info["kind"]
        self._simulator.stream("tenable_io", _STREAMS[kind])  # 404 where nothing of it was recorded
        body = await json_body(request)
        if not isinstance(body, dict):
            raise bad_request("the body must be an object")
        name, default, most = _SIZES[kind]
        size, filters = body.get(name, default), body.get("filters") or {}
        if not isinstance(filters, dict):
            raise bad_request("filters must be an object")
        if not isinstance(size, int) or not 1 <= size <= most:
            raise bad_request(f"{name} must be a whole number from 1 to {most}, not {size!r}")
        unknown = set(filters) - {*_TIME_FILTERS[kind], *(["state"] if kind == "vulns" else [])}
        if unknown:
            raise bad_request(f"filters that this simulator does not know: {sorted(unknown)!r}")
        wrong = [key for key in filters if key in _TIME_FILTERS[kind] and not isinstance(filters[key], int)]
        if wrong or not isinstance(filters.get("state", []), list):
            raise bad_request(f"times are whole seconds since 1970 and state is a list; see {wrong or ['state']!r}")
        errs = self._simulator.faults.status_error == f"tenable {kind}"
        asked = _Asked("", kind, self._simulator.capped(size), filters, self._simulator.day, errs)
        for job in self._jobs.values():
            if job.asked.signature == asked.signature and job.active:
                reason = "An export with the same filters is already in progress."
                return json_response({"active_job_id": job.id, "failure_reason": reason}, 409)
        self._started += 1
        job_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{kind}/{self._started}/{asked.signature.decode()}"))
        self._jobs[job_id] = self._plan(msgspec.structs.replace(asked, id=job_id))
        self._keep()
        return json_response({"export_uuid": job_id})

    def _plan(self, asked: _Asked) -> _Job:
        streams = self._simulator.streams_on(asked.day)
        stream, size = streams["tenable_io", _STREAMS[asked.kind]], asked.size
        if isinstance(stream, RecordedStream):
            spans = list(stream.pages) if size >= _RECORDED_WHOLE else _spans(stream.count, size, empty_last=False)
            return _Job(asked, stream, spans)
        numbers = _filtered(stream, asked.kind, asked.filters)
        if asked.kind == "vulns":
            size = max(1, round(size * stream.count / max(1, streams["tenable_io", "assets"].count)))
        count = stream.count if numbers is None else len(numbers)
        return _Job(asked, stream, _spans(count, size, asked.kind == "vulns"), numbers)

    async def status(self, request: web.Request) -> web.Response:
        """GET .../status; each one moves the job on."""
        job = self._job(request)
        job.polls += 1
        self._keep()
        chunks = list(range(1, job.available + 1))
        if self._simulator.faults.shuffle_chunks:
            chunks = chunks[::2][::-1] + chunks[1::2]
        answer: dict[str, Any] = {"status": job.status, "chunks_available": chunks}
        if job.kind == "vulns":
            answer = {"uuid": job.id, **answer, "chunks_failed": [], "chunks_cancelled": []}
        return json_response(answer)

    async def chunk(self, request: web.Request) -> web.Response:
        """GET .../chunks/{number}: the records, once the chunk is in the list."""
        job = self._job(request)
        text = request.match_info["number"]
        number = int(text) if text.isascii() and text.isdigit() else 0
        if not 1 <= number <= job.available:
            raise not_found(f"chunk {text!r} of export {job.id} is not available")
        path = f"/{job.kind}/export/chunks"
        request[SERVED_PAGE] = (path, number, f"{job.id}/{number}")
        recorded = job.recorded_chunk(number)
        if recorded is None or self._simulator.faults.inserted(path, number):
            recorded = self._simulator.array(path, number, job.chunk(number))
        return web.Response(body=recorded, content_type="application/octet-stream")

    async def cancel(self, request: web.Request) -> web.Response:
        """POST .../cancel."""
        job = self._job(request)
        if job.active:
            job.ended = "CANCELLED"
            self._keep()
        return json_response({"status": job.status})

    def _job(self, request: web.Request) -> _Job:
        self._authorise(request)
        job = self._jobs.get(request.match_info["id"])
        if job is None or job.kind != request.match_info["kind"]:
            raise not_found(f"no {request.match_info['kind']} export {request.match_info['id']!r}")
        return job

    def _authorise(self, request: web.Request) -> None:
        header = request.headers.get("X-ApiKeys", "")
        pairs = dict(part.strip().partition("=")[::2] for part in header.split(";") if part.strip())
        keys = self._simulator.keys
        given = f"{pairs.get('accessKey', '')};{pairs.get('secretKey', '')}".encode()
        right = secrets.compare_digest(given, f"{keys.tenable_access};{keys.tenable_secret}".encode())
        if self._simulator.faults.unauthorized or not right:
            raise unauthorized({"statusCode": 401, "error": "Unauthorized", "message": "Invalid Credentials"})


def add_routes(app: web.Application, simulator: Simulator) -> None:
    """/{assets,vulns}/export and its jobs."""
    exports = TenableExports(simulator)
    base = "/{kind:assets|vulns}/export"
    app.router.add_post(base, exports.start)
    app.router.add_get(base + "/{id}/status", exports.status)
    app.router.add_get(base + "/{id}/chunks/{number}", exports.chunk)
    app.router.add_post(base + "/{id}/cancel", exports.cancel)
