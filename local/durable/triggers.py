"""The app's own HTTP triggers and the admin endpoints, on aiohttp.

Invariant: a request reaches the function as azure.functions.HttpRequest and leaves as its HttpResponse, route prefix and route
parameters as in Azure; authorisation levels are not checked, because only loopback is served. Timer triggers run by hand only.
"""

import asyncio
import json
import logging
import re
from typing import Any

import azure.functions as func
from aiohttp import web

from local.durable.functions import Function
from local.durable.host import Host

log = logging.getLogger(__name__)


class Triggers:
    """The routes of one host's functions."""

    def __init__(self, host: Host) -> None:
        """Nothing is served until `routes` are added to an application."""
        self._host = host

    def routes(self) -> list[web.RouteDef]:
        """HTTP triggers under host.json's extensions.http.routePrefix (default api), and /admin."""
        prefix = self._host.app.config.get("extensions", {}).get("http", {}).get("routePrefix", "api")
        routes = [
            web.get("/admin/functions", self.list_functions),
            web.post("/admin/functions/{name}", self.run_function),
            web.get("/admin/host/usage", self.usage),
        ]
        for function in self._host.app.functions.values():
            if function.kind == "httpTrigger":
                route = function.trigger.route or function.name
                methods = [getattr(method, "value", method) for method in function.trigger.methods or ["*"]]
                routes += [
                    web.route(method, path, self._http(function)) for path in paths(prefix, route) for method in methods
                ]
        return routes

    def _http(self, function: Function) -> Any:
        async def handle(request: web.Request) -> web.Response:
            value = func.HttpRequest(
                request.method,
                str(request.url),
                headers=dict(request.headers),
                params=dict(request.query),
                route_params=dict(request.match_info),
                body=await request.read(),
            )
            try:
                return _response(await self._invoke(function, value))
            except Exception:  # the app's code ran: whatever it raises is a 500, as in Azure
                log.exception("HTTP function %s failed", function.name)
                return web.Response(status=500)

        return handle

    async def _invoke(self, function: Function, value: Any) -> Any:
        arguments = function.arguments(value, self._host.client_binding, self._host.app.directory)
        if function.is_async:
            return await function.call(**arguments)
        return await asyncio.get_running_loop().run_in_executor(None, lambda: function.call(**arguments))

    async def list_functions(self, _: web.Request) -> web.Response:
        """GET /admin/functions: names and trigger types."""
        functions = self._host.app.functions.values()
        return web.json_response([{"name": f.name, "config": {"bindings": [{"type": f.kind}]}} for f in functions])

    async def run_function(self, request: web.Request) -> web.Response:
        """POST /admin/functions/{name}: run a timer trigger, or another one with {"input": …}, now; 202, as Core Tools."""
        function = self._host.app.functions.get(request.match_info["name"])
        if function is None:
            return web.json_response({"Message": f"no function {request.match_info['name']!r}"}, status=404)
        if function.kind == "timerTrigger":
            datum = func.meta.Datum(json.dumps({"IsPastDue": False, "Schedule": {}, "ScheduleStatus": {}}), "json")
            value = function.converter.decode(datum, trigger_metadata={})
        else:
            value = (await request.json()).get("input")
        try:
            await self._invoke(function, value)
        except Exception as error:  # the app's code ran: the caller is told what it raised
            log.exception("function %s failed", function.name)
            return web.json_response({"Message": f"{type(error).__name__}: {error}"}, status=500)
        return web.Response(status=202)

    async def usage(self, _: web.Request) -> web.Response:
        """GET /admin/host/usage: Host.usage."""
        return web.json_response(self._host.usage())


def paths(prefix: str, route: str) -> list[str]:
    """aiohttp's paths for a Functions route: {x:int} → {x}, {*x} → all the rest, {x?} at the end → with and without."""
    path = "/" + "/".join(part for part in (prefix.strip("/"), route.strip("/")) if part)
    path = re.sub(r"\{\*(\w+)\??\}", r"{\1:.*}", path)
    path = re.sub(r"\{(\w+):(?!\.\*)[^}?]*(\??)\}", r"{\1\2}", path)
    found = [path.replace("?}", "}")]
    while match := re.search(r"/\{\w+\?\}$", path):
        path = path[: match.start()]
        found.append(path.replace("?}", "}") or "/")
    return found


def _response(out: Any) -> web.Response:
    if out is None:
        return web.Response(status=204)
    if not isinstance(out, func.HttpResponse):
        return web.Response(text=str(out))
    headers = {key: value for key, value in out.headers.items() if key.lower() != "content-type"}
    content_type = (out.headers.get("Content-Type") or out.mimetype).split(";")[0]
    body = out.get_body()
    return web.Response(
        status=out.status_code, body=body, headers=headers, content_type=content_type, charset=out.charset
    )
