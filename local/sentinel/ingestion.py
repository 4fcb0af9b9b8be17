"""The Logs Ingestion API: `POST /dataCollectionRules/{immutableId}/streams/{stream}`.

An answer of 204 means that the body is in the spool: its rows are in no table yet, as the service promises acceptance and not ingestion.
Requests are counted and given their faults in the order of their arrival, so a sequential client meets the same faults in every run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime

from aiohttp import web

from local.sentinel import answers
from local.sentinel.faults import Faults
from local.sentinel.flows import Flow
from local.sentinel.identity import admit
from local.sentinel.spool import Kept, Spool, rows_in
from local.sentinel.stats import Stats
from local.sentinel.wire import BODY_LIMIT, LimitMode, Quota, plain_body


@dataclass(frozen=True, slots=True)
class Rule:
    """The data collection rules that are served: their immutable ids, the streams that each has, how they read the body limit, which tokens they refuse."""

    immutable_ids: Sequence[str]
    streams: Mapping[str, Flow]
    limit: LimitMode
    denied_tokens: Sequence[str]


class Ingestion:
    """The one handler, with what it needs: the rules, the spool, the faults, the counters, and threads to unpack in. `quotas`: of each rule."""

    def __init__(
        self, rule: Rule, spool: Spool, faults: Faults, quotas: Mapping[str, Quota], stats: Stats, executor: Executor
    ) -> None:
        self._rule = rule
        self._spool = spool
        self._faults = faults
        self._quotas = quotas
        self._stats = stats
        self._executor = executor

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one ingestion request."""
        fault = self._faults.draw()
        if fault == "drop-before":
            return self._drop(request, fault)
        try:
            await self._fail(request, fault)
            await self._take(request)
        except answers.Refusal as refusal:
            self._stats.answered(refusal.status)
            return web.json_response(refusal.body(), status=refusal.status, headers=refusal.all_headers())
        if fault == "drop-after":
            return self._drop(request, fault)
        self._stats.answered(204)
        return web.Response(status=204)

    def _drop(self, request: web.Request, kind: str) -> web.Response:
        """Close the connection; the response that is returned has nowhere to go."""
        self._stats.answered(kind)
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)

    async def _fail(self, request: web.Request, fault: str | None) -> None:
        match fault:
            case None | "drop-after":
                return
            case "slow":
                await asyncio.sleep(self._faults.slow_s)
                return
            case "expired-token":
                refusal = answers.unauthenticated("The access token expired.")
            case "429":
                refusal = answers.throttled(self._faults.retry_after_s)
            case "429-no-retry-after":
                refusal = answers.throttled(None)
            case "413":
                refusal = answers.too_long(request.content_length or 0, BODY_LIMIT)
            case _:
                refusal = answers.generic(int(fault))
        # The service has read the body by the time that it fails; a client that is still sending would see a broken pipe instead.
        await _read(request)
        raise refusal

    async def _take(self, request: web.Request) -> None:
        self._admit(request)
        wire = await _read(request)
        if not wire:
            raise answers.empty_body()
        encoding = request.headers.get("Content-Encoding", "").strip().lower()
        loop = asyncio.get_running_loop()
        body_bytes = await loop.run_in_executor(
            self._executor, self._work, wire, encoding, request.match_info["stream"]
        )
        self._quotas[request.match_info["dcr"]].add_bytes(body_bytes)
        self._stats.rules[request.match_info["dcr"]] += 1
        self._stats.accepted(body=body_bytes, wire=len(wire))

    def _work(self, wire: bytes, encoding: str, stream: str) -> int:
        body = plain_body(wire, encoding, self._rule.limit)
        rows_in(body)
        self._spool.add(Kept(stream, datetime.now(UTC).replace(tzinfo=None), encoding, wire), len(body))
        return len(body)

    def _admit(self, request: web.Request) -> None:
        """Raises the Refusal that the request's line and headers deserve."""
        version = request.query.get("api-version", "")
        if version not in answers.API_VERSIONS:
            raise answers.bad_version(version)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise answers.unauthenticated("Authentication failed. The 'Authorization' header has no bearer token.")
        dcr = request.match_info["dcr"]
        if dcr not in self._rule.immutable_ids:
            raise answers.no_such_rule(dcr)
        if admit(token.strip()) in self._rule.denied_tokens:
            raise answers.forbidden(dcr)
        stream = request.match_info["stream"]
        if stream not in self._rule.streams:
            raise answers.no_such_stream(stream)
        if request.content_type != "application/json" or "Content-Type" not in request.headers:
            raise answers.bad_content_type(request.headers.get("Content-Type", ""))
        throttled = self._quotas[dcr].admit()
        if throttled is not None:
            raise throttled


async def _read(request: web.Request) -> bytes:
    """The body as sent; raises Refusal (413) as soon as it is known to be too long."""
    length = request.content_length
    if length is not None and length > BODY_LIMIT:
        raise answers.too_long(length, BODY_LIMIT)
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise answers.too_long(BODY_LIMIT + 1, BODY_LIMIT) from error
