"""CyCognito's wire protocol: POST, page numbers in `offset`, a bare array, an empty array past the end."""

from __future__ import annotations

import secrets

from aiohttp import web

from local.products.recorded import RecordedStream
from local.products.simulator import SERVED_PAGE, Simulator, bad_request, json_body, unauthorized, whole_number

_MOST_PER_PAGE = 1000
_KINDS = {
    "/v1/assets/domain": "assets_domain",
    "/v1/assets/webapp": "assets_webapp",
    "/v1/assets/iprange": "assets_iprange",
    "/v1/issues": "findings_issues",
}


def add_routes(app: web.Application, simulator: Simulator) -> None:
    """POST /v1/assets/{domain,webapp,iprange} and /v1/issues."""

    async def page(request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "")
        if simulator.faults.unauthorized or not secrets.compare_digest(
            given.encode(), simulator.keys.cycognito.encode()
        ):
            raise unauthorized({"message": "Unauthorized", "statusCode": 401})
        if request.content_type != "application/json":
            raise bad_request(f"content-type must be application/json, not {request.content_type!r}")
        if not isinstance(await json_body(request), list):
            raise bad_request("the body must be a list of filters, [] for none")
        stream = simulator.listing("cycognito", _KINDS[request.path])
        count, number = whole_number(request, "count", 100), whole_number(request, "offset", 0)
        if count < 1:
            raise bad_request("count must be at least 1")
        count = simulator.capped(min(count, _MOST_PER_PAGE))
        request[SERVED_PAGE] = (request.path, number, f"{number} of {count}")
        first = number * count
        recorded = stream.page(first, count) if isinstance(stream, RecordedStream) else None
        if recorded is None or simulator.faults.inserted(request.path, number):
            recorded = simulator.array(request.path, number, stream.slice(first, count))
        return web.Response(body=recorded, content_type="application/json")

    for path in _KINDS:
        app.router.add_post(path, page)
