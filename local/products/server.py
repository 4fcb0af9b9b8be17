"""The simulators' HTTP application: routes of all products, faults around them, statistics and controls beside them.

A product's handler knows nothing of random faults: the middleware lets it answer and then spoils the answer, so that a
spoiled answer is one that the product could have given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from time import time

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware

from local.products import cycognito, device42, tenable
from local.products.faults import parse
from local.products.moving import Moves
from local.products.simulator import SERVED_PAGE, Simulator, json_response, not_found

_HTML = (
    b"<!DOCTYPE html><html><head><title>Service unavailable</title></head>"
    b"<body><h1>Please try again later</h1></body></html>"
)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _html() -> web.Response:
    return web.Response(body=_HTML, content_type="text/html")


def _body(response: web.StreamResponse) -> bytes:
    """The bytes that a handler answered with; handlers give nothing else."""
    return response.body if isinstance(response, web.Response) and isinstance(response.body, bytes) else b""


def _spoiled(kind: str, whole: web.Response) -> web.Response:
    """A good answer made bad, status 200 as before."""
    if kind == "html-200":
        return _html()
    body = _body(whole)
    body = b"null" if kind == "null" else body[: max(1, len(body) // 2)]
    return web.Response(body=body, content_type=whole.content_type)


async def _half(request: web.Request, whole: web.Response) -> web.StreamResponse:
    """The headers of the whole answer, half of its body, and the end of the connection."""
    body = _body(whole)
    out = web.StreamResponse(headers={"Content-Type": whole.content_type})
    out.content_length = max(2, len(body))
    out.force_close()
    await out.prepare(request)
    await out.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return out


def _refusal(kind: str, retry_after_s: int) -> web.Response | None:
    """The answer of a fault that replaces the product's, or None."""
    if kind in {"429", "429-no-retry-after"}:
        headers = {"Retry-After": str(retry_after_s)} if kind == "429" else None
        return json_response({"error": "too_many_requests", "message": "Rate limit exceeded"}, 429, headers)
    if kind == "expired-token":
        return json_response({"statusCode": 401, "error": "Unauthorized", "message": "The token has expired"}, 401)
    if kind in {"500", "502", "503"}:
        return json_response({"error": "server_error", "message": "simulated"}, int(kind))
    return None


async def _faulty(request: web.Request, handler: _Handler, simulator: Simulator) -> web.StreamResponse:
    """The handler's answer, or what the faults make of it."""
    faults = simulator.faults
    if faults.fail_next:
        status = faults.fail_next.pop(0)
        headers = {"Retry-After": str(faults.retry_after_s)} if status == 429 else None
        return json_response({"error": "simulated", "message": f"fail_next {status}"}, status, headers)
    kind = faults.random_kind(simulator.faulty_requests)
    simulator.faulty_requests += 1
    if kind is not None and (refusal := _refusal(kind, faults.retry_after_s)) is not None:
        return refusal
    if kind == "timeout":
        await asyncio.sleep(faults.slow_s)
    if kind == "drop":
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=503)
    response = await handler(request)
    assert isinstance(response, web.Response)
    page = request.get(SERVED_PAGE)
    spoil = simulator.faults.broken(page[0], page[1]) if page else None
    if spoil or kind in {"html-200", "not-json"}:
        return _spoiled(spoil or str(kind), response)
    if kind == "drop-mid-body":
        return await _half(request, response)
    if page:
        simulator.served(page[0], page[2])
    return response


def _count(request: web.Request, response: web.StreamResponse, simulator: Simulator) -> None:
    stats = simulator.stats
    stats.requests += 1
    stats.by_path[request.path] += 1
    stats.statuses[str(response.status)] += 1
    stats.bytes_out += len(_body(response))


def _middleware(simulator: Simulator) -> Middleware:
    @web.middleware
    async def around(request: web.Request, handler: _Handler) -> web.StreamResponse:
        if request.path.startswith("/_control/"):
            return await handler(request)
        response: web.StreamResponse
        try:
            if any(request.path.startswith(path) for path in simulator.faults.forbidden):
                response = json_response({"error": "forbidden", "message": "You may not read this."}, 403)
            else:
                response = await _faulty(request, handler, simulator)
        except web.HTTPException as error:
            response = web.Response(text=error.text, status=error.status, content_type=error.content_type)
        if simulator.faults.clock_off_s and not response.prepared:
            response.headers["Date"] = formatdate(time() + simulator.faults.clock_off_s, usegmt=True)
        _count(request, response, simulator)
        return response

    return around


def _add_controls(app: web.Application, simulator: Simulator) -> None:
    async def faults(request: web.Request) -> web.Response:
        try:
            simulator.set_faults(parse(await request.read() or b"{}"))
        except msgspec.DecodeError as error:
            return json_response({"error": str(error)}, 400)
        return json_response(simulator.faults)

    async def day(request: web.Request) -> web.Response:
        try:
            if request.method == "POST":
                simulator.control(msgspec.json.decode(await request.read(), type=Moves))
        except (msgspec.DecodeError, ValueError) as error:
            return json_response({"error": str(error)}, 400)
        return json_response(simulator.life())

    async def stats(_: web.Request) -> web.Response:
        return json_response(msgspec.to_builtins(simulator.stats))

    async def reset(_: web.Request) -> web.Response:
        simulator.reset()
        return json_response({"reset": True})

    async def inventory(request: web.Request) -> web.Response:
        try:
            simulator.put(msgspec.json.decode(await request.read(), type=dict[str, list[tuple[int, int, int]]]))
        except (msgspec.DecodeError, ValueError) as error:
            return json_response({"error": str(error)}, 400)
        return json_response(simulator.life())

    app.router.add_post("/_control/inventory", inventory)
    app.router.add_post("/_control/faults", faults)
    app.router.add_get("/_control/day", day)
    app.router.add_post("/_control/day", day)
    app.router.add_get("/_control/stats", stats)
    app.router.add_post("/_control/reset", reset)


def make_app(simulator: Simulator) -> web.Application:
    """The application of one simulator, ready to be run."""

    async def nowhere(request: web.Request) -> web.Response:
        raise not_found(f"nothing answers {request.method} {request.path}")

    app = web.Application(middlewares=[_middleware(simulator)])
    cycognito.add_routes(app, simulator)
    device42.add_routes(app, simulator)
    tenable.add_routes(app, simulator)
    _add_controls(app, simulator)
    app.router.add_route("*", "/{anything:.*}", nowhere)
    return app
