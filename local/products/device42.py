"""Device42's wire protocol: GET with limit and offset, an envelope with the total, a limit that the server caps."""

from __future__ import annotations

import base64
import binascii
import secrets

from aiohttp import web

from local.products.recorded import RecordedStream
from local.products.simulator import SERVED_PAGE, Simulator, unauthorized, whole_number

_MOST_PER_PAGE = 1000
_PATH = "/api/1.0/devices/all/"


def _authorised(request: web.Request, simulator: Simulator) -> bool:
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if simulator.faults.unauthorized or scheme.lower() != "basic":
        return False
    try:
        given = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return False
    expected = f"{simulator.keys.device42_user}:{simulator.keys.device42_password}"
    return secrets.compare_digest(given, expected.encode())


def add_routes(app: web.Application, simulator: Simulator) -> None:
    """GET /api/1.0/devices/all/?limit=&offset=&blankasnull=yes."""

    async def page(request: web.Request) -> web.Response:
        if not _authorised(request, simulator):
            raise unauthorized({"code": 401, "msg": "Invalid username/password."})
        stream = simulator.listing("device42", "assets")
        most = stream.page_size if isinstance(stream, RecordedStream) else _MOST_PER_PAGE
        asked = whole_number(request, "limit", most) or most
        limit, offset = simulator.capped(min(asked, most)), whole_number(request, "offset", 0)
        number = offset // limit
        request[SERVED_PAGE] = (_PATH, number, str(offset))
        simulator.drifted += simulator.faults.total_drift
        plain = not simulator.drifted and not simulator.faults.inserted(_PATH, number)
        if plain and isinstance(stream, RecordedStream) and limit == stream.page_size:
            recorded = stream.page(offset, limit)
            if recorded is not None:
                return web.Response(body=recorded, content_type="application/json")
        total = max(0, stream.count + simulator.drifted)
        devices = simulator.array(_PATH, number, stream.slice(offset, limit))
        head, tail = b'{"total_count":%d,"Devices":' % total, b',"offset":%d,"limit":%d}' % (offset, limit)
        return web.Response(body=b"".join((head, devices, tail)), content_type="application/json")

    app.router.add_get(_PATH, page)
