"""The emulator as one aiohttp application: ingestion, queries, control; everything on the event loop but decoding, writing and querying.

A query waits until all that was accepted before it is in the tables, where the service would have it wait some minutes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, Final

from aiohttp import web

from local.sentinel import answers
from local.sentinel.faults import Faults
from local.sentinel.flows import flows
from local.sentinel.identity import Identity
from local.sentinel.ingestion import Ingestion, Rule
from local.sentinel.query import QueryError, Workspace
from local.sentinel.resources import Drift, Resources
from local.sentinel.results import as_response
from local.sentinel.spool import FILE_BYTES, Spool
from local.sentinel.stats import Stats
from local.sentinel.store import Store
from local.sentinel.timespan import parse_timespan
from local.sentinel.wire import BODY_LIMIT, BYTES_PER_MINUTE, REQUESTS_PER_MINUTE, LimitMode, Quota
from sentinel.tables import TABLES, Table

IDLE_S: Final = 30.0
"""Bodies are decoded, unasked, when none has come for this long: a load may pause for seconds between two packs, and decoding costs more than accepting."""

CLOSING_S: Final = 5.0
"""How long an emulator that is told to end still decodes; whoever stops it waits for 10 s at least."""


@dataclass(frozen=True, slots=True)
class Options:
    """How an emulator is set up; the defaults are the service's documented limits. `dcrs`: rules with the same streams, each with its quota."""

    store: Path
    dcrs: Sequence[str] = (answers.DEFAULT_DCR,)
    limit: LimitMode = "raw"
    denied_tokens: Sequence[str] = ("no-access",)
    requests_per_minute: int = REQUESTS_PER_MINUTE
    bytes_per_minute: int = BYTES_PER_MINUTE
    file_bytes: int = FILE_BYTES
    idle_s: float = IDLE_S
    faults: Mapping[str, Any] = field(default_factory=dict)
    tables: Sequence[Table] = TABLES
    lean: bool = False


class Emulator:
    """The handlers of the query API and of the control paths, and the parts that they share with ingestion."""

    def __init__(self, options: Options) -> None:
        options.store.mkdir(parents=True, exist_ok=True)
        streams = flows(options.tables, lean=options.lean)
        self._workspace = Workspace(options.store, tables=options.tables)
        self._faults = Faults(options.faults)
        self._stats = Stats()
        self._spool = Spool(Store(options.store), streams, self._stats.ingested, file_bytes=options.file_bytes)
        self._executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="decode")
        self._idle_s = options.idle_s
        self._quotas: dict[str, Quota] = {}
        self._limit(options.requests_per_minute, options.bytes_per_minute, options.dcrs)
        self.identity = Identity()
        self.resources = Resources(options.dcrs, streams, options.tables)
        self._ingestion = Ingestion(
            Rule(options.dcrs, streams, options.limit, options.denied_tokens),
            self._spool,
            self._faults,
            self._quotas,
            self._stats,
            self._executor,
        )

    def application(self) -> web.Application:
        """The aiohttp application. It must run with `auto_decompress=False`: the limits are about the bytes on the wire."""
        application = web.Application(client_max_size=BODY_LIMIT + 2)
        application.add_routes(
            [
                web.post("/dataCollectionRules/{dcr}/streams/{stream}", self._ingestion.handle),
                web.post("/v1/workspaces/{workspace}/query", self._query),
                web.get("/msi/token", self._token),
                web.get("/subscriptions/{resource:.*}", self.resources.get),
                web.post("/_control/identity", self._set_identity),
                web.post("/_control/drift", self._set_drift),
                web.get("/_control/stats", self._show_stats),
                web.post("/_control/faults", self._set_faults),
                web.post("/_control/quota", self._set_quota),
                web.post("/_control/functions", self._add_functions),
                web.post("/_control/flush", self._flush),
            ]
        )
        application.cleanup_ctx.append(self._lifetime)
        return application

    async def _lifetime(self, _application: web.Application) -> AsyncIterator[None]:
        idle = asyncio.create_task(self._flush_when_idle())
        yield
        idle.cancel()
        with suppress(asyncio.CancelledError):
            await idle
        self._executor.shutdown()
        await asyncio.to_thread(self._spool.close, CLOSING_S)

    async def _flush_when_idle(self) -> None:
        while True:
            await asyncio.sleep(self._idle_s / 4)
            if self._idle():
                await asyncio.to_thread(self._spool.drain, self._idle)

    def _idle(self) -> bool:
        idle_s = self._spool.idle_s()
        return idle_s is not None and idle_s >= self._idle_s

    async def _query(self, request: web.Request) -> web.Response:
        if not request.headers.get("Authorization", "").lower().startswith("bearer "):
            refusal = answers.unauthenticated("Authentication failed. The 'Authorization' header is missing.")
            return web.json_response(refusal.body(), status=401, headers=refusal.all_headers())
        try:
            asked = await request.json()
            query, timespan = asked["query"], asked.get("timespan")
            interval = parse_timespan(timespan, datetime.now(UTC).replace(tzinfo=None)) if timespan else None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return web.json_response(answers.bad_query("InvalidRequest", str(error)), status=400)
        try:
            answer = await asyncio.to_thread(self._answer, str(query), interval)
        except QueryError as error:
            return web.json_response(answers.bad_query(error.code, str(error)), status=400)
        return web.json_response(answer)

    def _answer(self, query: str, interval: Any) -> dict[str, Any]:
        self._spool.drain()
        return as_response(self._workspace.query(query, timespan=interval))

    async def _token(self, request: web.Request) -> web.Response:
        return await self.identity.token(request)

    async def _set_identity(self, request: web.Request) -> web.Response:
        """Take the fields of `Identity`; what is left out is as at the start."""
        try:
            self.identity = Identity(**await request.json())
        except (ValueError, TypeError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({})

    async def _set_drift(self, request: web.Request) -> web.Response:
        """Take the fields of `Drift`; what is left out is as deployed."""
        try:
            self.resources.drift = Drift(**await request.json())
        except (ValueError, TypeError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({})

    async def _show_stats(self, _request: web.Request) -> web.Response:
        await asyncio.to_thread(self._spool.drain)
        return web.json_response({**self._stats.summary(), "faults": dict(self._faults.counts)})

    async def _set_faults(self, request: web.Request) -> web.Response:
        try:
            self._faults.configure(await request.json())
        except (ValueError, TypeError, AttributeError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({})

    def _limit(self, requests: float, body_bytes: float, rules: Sequence[str], window_s: float = 60.0) -> None:
        for rule in rules:
            self._quotas[rule] = Quota(requests, body_bytes, monotonic, window_s)

    async def _set_quota(self, request: web.Request) -> web.Response:
        """Take `{"requests_per_minute", "bytes_per_minute", "window_s"}`, of each rule; what is left out becomes the service's. Windows begin anew."""
        try:
            asked = {name: float(value) for name, value in (await request.json()).items()}
        except (ValueError, TypeError, AttributeError) as error:
            return web.json_response({"error": str(error)}, status=400)
        if (
            asked.keys() - {"requests_per_minute", "bytes_per_minute", "window_s"}
            or min(asked.values(), default=0.0) < 0
        ):
            return web.json_response({"error": f"unknown or negative: {sorted(asked)}"}, status=400)
        requests = asked.get("requests_per_minute", REQUESTS_PER_MINUTE)
        body_bytes = asked.get("bytes_per_minute", BYTES_PER_MINUTE)
        self._limit(requests, body_bytes, list(self._quotas), asked.get("window_s", 60.0))
        return web.json_response({})

    async def _add_functions(self, request: web.Request) -> web.Response:
        """Save stored functions: `[{"name", "parameters", "body"}]`."""
        try:
            for function in await request.json():
                await asyncio.to_thread(
                    self._workspace.add_function, function["name"], function.get("parameters", ""), function["body"]
                )
        except (ValueError, KeyError, TypeError, AttributeError, QueryError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({})

    async def _flush(self, _request: web.Request) -> web.Response:
        await asyncio.to_thread(self._spool.drain)
        return web.json_response({})
