"""The Durable HTTP API on aiohttp, for HTTP starters and durable clients.

Invariant: paths, status codes and bodies are those of the extension's HttpApiHandler and LocalHttpListener, as the unmodified
SDK (DurableOrchestrationClient) reads them; keys are not checked, because only loopback is served. Not here: rewind (501).
"""

import asyncio
import json
import traceback
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from aiohttp import web

from local.durable.engine import EngineError
from local.durable.history import parsed
from local.durable.host import Host
from local.durable.taskhub import FINISHED, Status

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Management:
    """The routes of one host's task hub."""

    def __init__(self, host: Host) -> None:
        """Nothing is served until `routes` are added to an application."""
        self._host, self._hub = host, host.hub

    def routes(self) -> list[web.RouteDef]:
        """The same routes at the webhook base and at the address that durable clients use (rpcBaseUrl)."""
        return [
            web.route(method, base + path, _answering(handler))
            for base in ("/runtime/webhooks/durabletask", "/durabletask")
            for method, path, handler in (
                ("POST", "/orchestrators/{name}", self.start),
                ("POST", "/orchestrators/{name}/{id}", self.start),
                ("GET", "/instances", self.list_instances),
                ("GET", "/instances/", self.list_instances),
                ("DELETE", "/instances", self.purge_many),
                ("DELETE", "/instances/", self.purge_many),
                ("GET", "/instances/{id}", self.status),
                ("DELETE", "/instances/{id}", self.purge),
                ("POST", "/instances/{id}/raiseEvent/{event}", self.raise_event),
                ("POST", "/instances/{id}/{verb:terminate|suspend|resume}", self.change),
                ("POST", "/instances/{id}/restart", self.restart),
                ("POST", "/instances/{id}/rewind", self.rewind),
                ("GET", "/entities/", self.list_entities),
                ("GET", "/entities/{name}", self.list_entities),
                ("GET", "/entities/{name}/{key}", self.entity),
                ("POST", "/entities/{name}/{key}", self.signal_entity),
            )
        ]

    async def start(self, request: web.Request) -> web.Response:
        """POST orchestrators/{name}[/{id}]: 202 with the links, 409 when the id is running; `timeout` waits for the output."""
        query, raw = request.query, await request.read()
        try:
            instance_id = self._hub.start_json(
                request.match_info["name"],
                json.dumps(json.loads(raw)) if raw else None,
                request.match_info.get("id"),
                query.get("version", ""),
            )
        except EngineError as error:
            return failed(409, "An Orchestration instance with this id is already running.", error)
        if query.get("timeout") and query.get("pollingInterval"):
            status = await self._finished(instance_id, float(query["timeout"]), float(query["pollingInterval"]))
            if status is not None:
                return web.json_response(status["output"] if status["runtimeStatus"] == "Completed" else status)
        return self._accepted(request, instance_id)

    async def _finished(self, instance_id: str, timeout_s: float, interval_s: float) -> Status | None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_s
        while clock() < deadline:
            status = self._hub.status(instance_id)
            if status is None or status["runtimeStatus"] in FINISHED:
                return status
            await asyncio.sleep(min(interval_s, 1))
        return None

    def _accepted(self, request: web.Request, instance_id: str) -> web.Response:
        links = self._host.links(f"{request.url.origin()}/runtime/webhooks/durabletask", instance_id)
        del links["rewindPostUri"]
        headers = {"Location": links["statusQueryGetUri"], "Retry-After": "10"}
        return web.json_response(links, status=202, headers=headers)

    async def status(self, request: web.Request) -> web.Response:
        """GET instances/{id}: 200 finished, 202 under way, 404."""
        instance_id = request.match_info["id"]
        show_input = _flag(request, "showInput", default=True)
        status = self._hub.status(instance_id, show_input=show_input)
        if status is None:
            return web.Response(status=404)
        if _flag(request, "showHistory") and status["runtimeStatus"] != "Pending":
            status["historyEvents"] = self._hub.history(
                instance_id, show_input=show_input, show_output=_flag(request, "showHistoryOutput")
            )
        if status["runtimeStatus"] not in FINISHED:
            headers = {"Location": str(request.url), "Retry-After": "5"}
            return web.json_response(status, status=202, headers=headers)
        as_error = status["runtimeStatus"] == "Failed" and _flag(request, "returnInternalServerErrorOnFailure")
        return web.json_response(status, status=500 if as_error else 200)

    async def list_instances(self, request: web.Request) -> web.Response:
        """GET instances: a page, and the next one's token in x-ms-continuation-token."""
        query = request.query
        page, token = self._hub.instances(
            statuses=[name for part in query.getall("runtimeStatus", []) for name in part.split(",")],
            created_from=_time(query.get("createdTimeFrom")),
            created_to=_time(query.get("createdTimeTo")),
            prefix=query.get("instanceIdPrefix", ""),
            top=int(query.get("top") or 100),
            token=request.headers.get("x-ms-continuation-token", ""),
            show_input=_flag(request, "showInput"),
        )
        return web.json_response(page, headers={"x-ms-continuation-token": token} if token else {})

    async def purge(self, request: web.Request) -> web.Response:
        """DELETE instances/{id}: 200 with the count, 404."""
        if self._hub.status(request.match_info["id"]) is None:
            return web.Response(status=404)
        return web.json_response({"instancesDeleted": self._hub.purge(request.match_info["id"])})

    async def purge_many(self, request: web.Request) -> web.Response:
        """DELETE instances?createdTimeFrom: 200 with the count, 404 when none."""
        query = request.query
        created_from = _time(query.get("createdTimeFrom"))
        if created_from is None:
            return failed(400, "Please provide value for 'createdTimeFrom' parameter.")
        statuses = query.get("runtimeStatus", "").split(",")
        count = self._hub.purge_by(created_from, _time(query.get("createdTimeTo")), statuses)
        return web.json_response({"instancesDeleted": count}) if count else web.Response(status=404)

    async def raise_event(self, request: web.Request) -> web.Response:
        """POST instances/{id}/raiseEvent/{event}: 202, 404, 410 when finished."""
        instance_id = request.match_info["id"]
        if (gone := self._gone(instance_id)) is not None:
            return gone
        if request.content_type != "application/json":
            return failed(400, "Only application/json request content is supported")
        self._hub.raise_event(instance_id, request.match_info["event"], json.loads(await request.read()))
        return web.Response(status=202)

    async def change(self, request: web.Request) -> web.Response:
        """POST instances/{id}/terminate, suspend or resume: 202, 404, 410 when finished."""
        instance_id, verb = request.match_info["id"], request.match_info["verb"]
        if (gone := self._gone(instance_id)) is not None:
            return gone
        act = {"terminate": self._hub.terminate, "suspend": self._hub.suspend, "resume": self._hub.resume}[verb]
        act(instance_id, request.query.get("reason", ""))
        return web.Response(status=202)

    def _gone(self, instance_id: str) -> web.Response | None:
        status = self._hub.status(instance_id)
        if status is None:
            return web.Response(status=404)
        return web.Response(status=410) if status["runtimeStatus"] in FINISHED else None

    async def restart(self, request: web.Request) -> web.Response:
        """POST instances/{id}/restart: 202 with the links of the new run, 400 when it has not finished, 404."""
        if self._hub.status(request.match_info["id"]) is None:
            return web.Response(status=404)
        new_id = _flag(request, "restartWithNewInstanceId", default=True)
        try:
            return self._accepted(request, self._hub.restart(request.match_info["id"], new_id=new_id))
        except EngineError as error:
            return failed(400, "The instance has not finished.", error)

    async def rewind(self, request: web.Request) -> web.Response:
        """POST instances/{id}/rewind: 501 for a failed instance, which only Azure can rewind; 404, 410 otherwise."""
        status = self._hub.status(request.match_info["id"])
        if status is None:
            return web.Response(status=404)
        if status["runtimeStatus"] == "Failed":
            return failed(501, "rewind is not supported by the local durable host")
        return web.Response(status=410)

    async def entity(self, request: web.Request) -> web.Response:
        """GET entities/{name}/{key}: the state's JSON, 404."""
        state = self._hub.entity_state(request.match_info["name"], request.match_info["key"])
        return web.Response(status=404) if state is None else web.json_response(parsed(state))

    async def signal_entity(self, request: web.Request) -> web.Response:
        """POST entities/{name}/{key}?op=: 202."""
        raw = await request.read()
        input_json = json.dumps(json.loads(raw)) if raw else None
        where = request.match_info
        self._hub.signal_entity(where["name"], where["key"], request.query.get("op", ""), input_json)
        return web.Response(status=202)

    async def list_entities(self, request: web.Request) -> web.Response:
        """GET entities[/{name}]?fetchState: the entities."""
        name = request.match_info.get("name", "")
        return web.json_response(self._hub.entities(name, show_state=_flag(request, "fetchState")))


def failed(status: int, message: str, error: Exception | None = None) -> web.Response:
    """An error as the extension words it; the SDK raises ExceptionMessage."""
    body = {"Message": message}
    if error is not None:
        body |= {
            "ExceptionMessage": str(error),
            "ExceptionType": type(error).__name__,
            "StackTrace": "".join(traceback.format_tb(error.__traceback__)),
        }
    return web.json_response(body, status=status)


def _answering(handler: Handler) -> Handler:
    """`handler`, with what a bad request makes it raise answered as the extension does."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except ValueError as error:
            return failed(400, "One or more of the arguments submitted is incorrect", error)
        except EngineError as error:
            return failed(500, "Something went wrong while processing your request", error)

    return answer


def _flag(request: web.Request, name: str, *, default: bool = False) -> bool:
    """The SDK spells them True and False."""
    given: dict[str, bool] = {"true": True, "false": False}
    return given.get(request.query.get(name, "").lower(), default)


def _time(value: str | None) -> datetime | None:
    if not value:
        return None
    at = datetime.fromisoformat(value.replace(" ", "+"))  # an unescaped + of an offset
    return at if at.tzinfo else at.replace(tzinfo=UTC)
