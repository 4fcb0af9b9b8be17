"""The function app: settings to clients to triggers; the only module that binds, reads the environment or builds clients.

Invariant: orchestrators and activities are plain functions elsewhere; here each gets its trigger and what it depends on. An activity's answer is a result,
"again" or "stop", never an exception with a secret in it: whatever is not ours is redacted here, logged, and tried again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import azure.durable_functions as df
import azure.functions as func

import contracts
import memory
import native
from contracts import CaasmError, JsonDict, Message, Stop, TryAgain
from orchestrator.lane import lane
from orchestrator.load import load
from orchestrator.stream import stream
from settings import DestinationSettings, Settings, is_loopback_http, look_at, read_settings
from sources.registry import SOURCES

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from azure.monitor.ingestion import LogsIngestionClient
    from azure.storage.blob import ContainerClient

    from activities.deps import Deps, Destination
    from doctor.findings import Finding
    from doctor.rounds import Installation
    from sentinel.ingestion import Door
    from staging import Staging

# Before an activity loads polars or Arrow, which read it then.
memory.settle(os.environ)

log = logging.getLogger("caasm")
for noisy in ("azure.core.pipeline.policies.http_logging_policy", "azure.identity"):
    logging.getLogger(noisy).setLevel(logging.WARNING)

app = df.DFApp(http_auth_level=func.AuthLevel.FUNCTION)

RUNNING: Final = {"Pending", "Running", "Suspended", "ContinuedAsNew"}


# ------------------------------------------------------------------------------------------------ clients


class _LocalCredential:
    """A token for an emulator on this machine, which takes any."""

    def get_token(self, *_scopes: str, **_options: Any) -> Any:
        from azure.core.credentials import AccessToken

        return AccessToken("local", int(datetime.now(UTC).timestamp()) + 3600)


@cache
def _settings() -> Settings:
    return read_settings(os.environ)


@cache
def _credential(client_id: str | None) -> TokenCredential:
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential(managed_identity_client_id=client_id)


def _container(settings: Settings, **options: Any) -> ContainerClient:
    from azure.storage.blob import ContainerClient

    name = settings.staging_container
    if settings.staging_connection_string:
        return ContainerClient.from_connection_string(settings.staging_connection_string, name, **options)
    credential = _credential(settings.identity_client_id)
    return ContainerClient(settings.staging_account_url, name, credential, **options)


@cache
def _staging() -> Staging:
    from staging import Staging
    from transport import transport

    # One request a blob: segments are far below the service's limit for a single put.
    sizes: dict[str, Any] = {
        "max_single_put_size": 256 * 1024 * 1024,
        "max_single_get_size": 256 * 1024 * 1024,
        "retry_total": 3,
        # A connection string is Azurite's, on this machine.
        "transport": transport(os.environ, local=bool(_settings().staging_connection_string)),
    }
    staging = Staging(_container(_settings(), **sizes), _settings().staged_kept_bytes)
    # A fresh deployment has no container yet, and whoever asks for its runs should read that there are none.
    staging.ensure()
    return staging


def _identity(destination: DestinationSettings, settings: Settings) -> TokenCredential:
    return _LocalCredential() if destination.local else _credential(settings.identity_client_id)


def _ingestion_client(destination: DestinationSettings, settings: Settings) -> LogsIngestionClient:
    from azure.monitor.ingestion import LogsIngestionClient

    from sentinel.ingestion import policies
    from transport import transport

    identity = _identity(destination, settings)
    return LogsIngestionClient(
        destination.endpoint,
        identity,
        policies=policies(identity, f"{destination.audience}/.default"),
        transport=transport(os.environ, local=destination.local),
    )


def _doors(
    destination: DestinationSettings, settings: Settings, client: LogsIngestionClient, timeout_s: float = 60.0
) -> tuple[Door, ...]:
    from sentinel.governor import Governor
    from sentinel.ingestion import Door, LogsIngestionSink

    quota = (settings.dcr_requests_per_minute, settings.dcr_bytes_per_minute)
    return tuple(
        Door(
            LogsIngestionSink(client, rule, enforce_https=not destination.local, timeout_s=timeout_s),
            Governor(*quota),
            f"DCR {rule}" if len(destination.rule_ids) > 1 else "the DCR",
        )
        for rule in destination.rule_ids
    )


def _destination(destination: DestinationSettings, settings: Settings) -> Destination:
    from activities.deps import Destination

    doors = _doors(destination, settings, _ingestion_client(destination, settings))
    return Destination(destination.name, doors, dict(destination.streams))


@contextmanager
def _doors_to_try(destination: DestinationSettings, settings: Settings) -> Iterator[Sequence[Door]]:
    """For an examination: soon tired, and closed when it is over."""
    with _ingestion_client(destination, settings) as client:
        yield _doors(destination, settings, client, 10.0)


@cache
def _reader(source: str) -> Any:
    from activities.deps import source_of
    from sources.reader import Patience, Reader

    declared = source_of(source)
    settings = _settings().sources[source]
    if settings.missing:
        raise Stop(f"{source} is not configured", f"set {', '.join(settings.missing)}")
    return Reader(declared, settings.url, settings.secrets, Patience(timeout_s=_settings().source_timeout_s))


@cache
def _deps() -> Deps:
    from activities.deps import Budgets, Deps
    from sentinel.ingestion import Budget

    settings = _settings()
    # Once a worker, before its first activity.
    log.info("worker begins", extra={"kernel": native.loaded()[1]})
    budgets = Budgets(
        segment_bytes=settings.export_segment_bytes,
        export_s=settings.export_s,
        upload_s=settings.upload_s,
        body_limit_bytes=settings.upload_body_limit_bytes,
        pack_bytes=settings.upload_pack_bytes,
        lanes=settings.lanes,
        compressed=settings.upload_mode == "wire",
        page_records=settings.page_records,
    )
    destinations = tuple(_destination(destination, settings) for destination in settings.destinations)
    sending = Budget(in_flight=settings.upload_in_flight)
    without_relations = frozenset(name for name, source in settings.sources.items() if not source.relations)
    desks = threading.Semaphore(settings.work_at_once)
    return Deps(_staging(), _reader, destinations, budgets, sending, desks, without_relations=without_relations)


def _answer(name: str, work: Callable[[], Message | JsonDict]) -> JsonDict:
    """The activity's answer as a fact that the orchestrator can decide on."""
    try:
        result = work()
    except TryAgain as error:
        log.warning("activity waits", extra={"activity": name, "reason": error.reason})
        return contracts.again(error.reason, error.retry_after_s, progressed=error.progressed)
    except Stop as error:
        log.error("activity stops", extra={"activity": name, "reason": error.reason, "remedy": error.remedy})  # noqa: TRY400
        return contracts.stop(error)
    except Exception as error:  # noqa: BLE001 - the composition root: what nobody foresaw is tried again, then ends the run with its text
        reason = _redacted(f"{name} broke: {type(error).__name__}: {error}")
        log.error("activity broke", extra={"activity": name, "reason": reason})  # noqa: TRY400 - a traceback may quote a secret
        return contracts.again(reason)
    return result.to_wire() if isinstance(result, Message) else result


def _redacted(text: str) -> str:
    try:
        return _settings().redacted(text)
    except CaasmError:
        return text


# ------------------------------------------------------------------------------------------------ orchestrators


app.orchestration_trigger(context_name="context", orchestration=contracts.LOAD)(load)
app.orchestration_trigger(context_name="context", orchestration=contracts.STREAM)(stream)
app.orchestration_trigger(context_name="context", orchestration=contracts.LANE)(lane)


# ------------------------------------------------------------------------------------------------ activities


@app.activity_trigger(input_name="message", activity=contracts.OPEN_RUN)
def open_run(message: dict) -> dict:  # type: ignore[type-arg]  # the Functions worker reads the bare annotation
    """Open a run."""
    from activities.open_run import open_run as work

    return _answer("open_run", lambda: work(contracts.LoadRequest.from_wire(message), _deps(), _settings().policy))


@app.activity_trigger(input_name="message", activity=contracts.EXPORT)
def export(message: dict) -> dict:  # type: ignore[type-arg]  # see open_run
    """Export a segment."""
    from activities.export import export as work

    return _answer("export", lambda: work(contracts.ExportRequest.from_wire(message), _deps()))


@app.activity_trigger(input_name="message", activity=contracts.TRANSFORM)
def transform(message: dict) -> dict:  # type: ignore[type-arg]  # see open_run
    """Transform a segment."""
    from activities.transform import transform as work

    return _answer("transform", lambda: work(contracts.TransformRequest.from_wire(message), _deps()))


@app.activity_trigger(input_name="message", activity=contracts.UPLOAD)
def upload(message: dict) -> dict:  # type: ignore[type-arg]  # see open_run
    """Upload a pack of segments."""
    from activities.upload import upload as work

    return _answer("upload", lambda: work(contracts.UploadRequest.from_wire(message), _deps()))


@app.activity_trigger(input_name="message", activity=contracts.DIFF)
def diff(message: dict) -> dict:  # type: ignore[type-arg]  # see open_run
    """Compare a part of a stream with the last complete run."""
    from activities.diff import diff as work

    def compared() -> contracts.DiffResult:
        # What the lanes left behind, a hundred MB, is of no use to a comparison.
        _deps().staging.forget()
        memory.give_back()
        return work(contracts.DiffRequest.from_wire(message), _deps())

    return _answer("diff", compared)


@app.activity_trigger(input_name="message", activity=contracts.CLOSE_RUN)
def close_run(message: dict) -> dict:  # type: ignore[type-arg]  # see open_run
    """Close a run."""
    from activities.close_run import close_run as work

    return _answer("close_run", lambda: work(contracts.CloseRequest.from_wire(message), _deps()))


# ------------------------------------------------------------------------------------------------ triggers


def _fresh(req: func.HttpRequest) -> bool:
    """Whether the caller wants a new run whatever became of the last one."""
    body = req.get_json()
    return isinstance(body, dict) and bool(body.get("fresh", False))


def _json(status: int, body: Any) -> func.HttpResponse:
    return func.HttpResponse(json.dumps(body, indent=1), status_code=status, mimetype="application/json")


def _refusal(status: int, error: str, remedy: str = "", **more: Any) -> func.HttpResponse:
    return _json(status, {"error": error, "remedy": remedy, **more})


def _request(body: Any) -> contracts.LoadRequest:
    """The load that a request body asks for. Raises Stop when it cannot be."""
    if not isinstance(body, dict):
        raise Stop("the body is no JSON object", 'send {"source": "tenable", "mode": "full"}')
    source, mode, streams = body.get("source"), body.get("mode", "full"), body.get("streams") or []
    if source not in SOURCES:
        raise Stop(f"there is no source {source!r}", f"use one of {', '.join(sorted(SOURCES))}")
    if mode not in contracts.MODES:
        raise Stop(f"there is no mode {mode!r}", f"use one of {', '.join(contracts.MODES)}")
    known = [stream.name for stream in SOURCES[source].streams]
    if not isinstance(streams, list) or not set(streams) <= set(known):
        raise Stop(
            f"{source} has no such streams: {streams!r}", f"use some of {', '.join(known)}, or leave them out for all"
        )
    allow_deletes = body.get("allow_deletes", False)
    if not isinstance(allow_deletes, bool):
        raise Stop(f"allow_deletes is {allow_deletes!r}", "send true or false, or leave it out")
    missing = _settings().sources[source].missing
    if missing:
        raise Stop(f"{source} is not configured", f"set {', '.join(missing)}")
    now = datetime.now(UTC)
    run_id = f"{source}-{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"
    return contracts.LoadRequest(run_id, source, mode, now.isoformat(timespec="microseconds"), streams, allow_deletes)


def _placed(request: contracts.LoadRequest, *, fresh: bool = False) -> contracts.LoadRequest:
    """The request at its place among the source's runs: after the last complete one, or as the run that it takes up: the last one of the source, if that failed, was cancelled or never ended, and is not old.

    Everything that a run stages and sends has a name that follows from the run, so taking it up is starting it under its own name.
    """
    from staging import current_name, watermark_name

    mark = _staging().find_json(watermark_name(request.source))
    if mark is not None and mark["up_to"] >= request.started_at:
        # The clock has jumped back: rows of the past would lose against those that are there.
        begun = datetime.fromisoformat(mark["up_to"]) + timedelta(milliseconds=1)
        request = dataclasses.replace(request, started_at=begun.isoformat(timespec="microseconds"))
    last = _staging().find_json(current_name(request.source))
    if (
        fresh
        or last is None
        or not last["resumable"]
        or (last["mode"], last["streams"]) != (request.mode, request.streams)
    ):
        return request
    age = datetime.fromisoformat(request.started_at) - datetime.fromisoformat(last["started_at"])
    if not 0 <= age.total_seconds() <= _settings().resume_within_s:
        return request
    log.info("load resumed", extra={"run": last["run_id"], "source": request.source})
    return dataclasses.replace(request, run_id=last["run_id"], started_at=last["started_at"])


async def _running(client: df.DurableOrchestrationClient, source: str) -> Any:
    """The status of the source's instance when it is running, else None."""
    instance = contracts.instance_id(source)
    found = await client.get_status(instance)
    if found and not isinstance(found.custom_status, dict):
        # It has been started and has not said anything yet: which run it is, only its input tells.
        found = await client.get_status(instance, show_input=True)
    name = getattr(found.runtime_status, "value", found.runtime_status) if found else None
    return found if name in RUNNING else None


def _run_of(found: Any) -> str | None:
    """The run id of a running instance."""
    if isinstance(found.custom_status, dict):
        return found.custom_status.get("run_id")
    given = json.loads(found.input_) if isinstance(found.input_, str) else found.input_
    return given["request"]["run_id"] if isinstance(given, dict) else None


async def _start(client: df.DurableOrchestrationClient, request: contracts.LoadRequest) -> str | None:
    """Start the load; None, or the run id (possibly empty) of the load of this source that is already running."""
    going = await _running(client, request.source)
    if going is not None:
        return _run_of(going) or ""
    try:
        await client.start_new(contracts.LOAD, contracts.instance_id(request.source), {"request": request.to_wire()})
    except Exception:
        # The task hub refused: another start of the same source was faster.
        going = await _running(client, request.source)
        if going is None:
            raise
        return _run_of(going) or ""
    log.info("load started", extra={"run": request.run_id, "source": request.source, "mode": request.mode})
    return None


@app.route(route="loads", methods=["POST"])
@app.durable_client_input(client_name="client")
async def start_load(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    """Start a load: 202 with Durable's status links and the run id; 400 for a bad request; 409 while the source is being loaded."""
    try:
        request = _request(req.get_json())
    except ValueError:
        return _refusal(400, "the body is no JSON", 'send {"source": "tenable", "mode": "full"}')
    except Stop as error:
        return _refusal(400, error.reason, error.remedy)
    try:
        request = await asyncio.to_thread(_placed, request, fresh=_fresh(req))
    except CaasmError as error:
        return _refusal(503, error.reason, error.remedy)
    running = await _start(client, request)
    if running is not None:
        return _refusal(
            409,
            f"{request.source} is being loaded already",
            "wait for it, or cancel it with POST /api/loads/{run_id}/cancel",
            run_id=running or None,
        )
    links = client.create_check_status_response(req, contracts.instance_id(request.source))
    answer = _json(202, {"run_id": request.run_id, **json.loads(links.get_body())})
    answer.headers.update(links.headers)
    return answer


@app.route(route="loads", methods=["GET"])
@app.durable_client_input(client_name="client")
async def list_loads(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    """The runs, newest first: those that are going on, then the manifests' headlines. `?source=` and `?top=` narrow it."""
    from staging import MANIFESTS

    wanted, top = req.params.get("source"), req.params.get("top", "50")
    if (wanted is not None and wanted not in SOURCES) or not top.isdigit():
        return _refusal(
            400, "source or top is not right", f"source: one of {', '.join(sorted(SOURCES))}; top: a number"
        )
    sources = [wanted] if wanted else sorted(SOURCES)
    going = [found for source in sources if (found := await _running(client, source)) is not None]
    running = [{"run_id": _run_of(found), "status": "running", "progress": found.custom_status} for found in going]
    try:
        ended = [
            blob.summary for source in sources for blob in _staging().list(f"{MANIFESTS}{source}/") if blob.summary
        ]
    except CaasmError as error:
        return _refusal(503, error.reason, error.remedy)
    ended.sort(key=lambda headline: str(headline["started_at"]), reverse=True)
    return _json(200, {"running": running, "runs": ended[: int(top)]})


@app.route(route="loads/estimate", methods=["GET"])
async def estimate_load(req: func.HttpRequest) -> func.HttpResponse:
    """What a load would come to, from the last runs or a sample. `?source=&mode=&sample=true&records=N`."""
    from activities.estimate import Terms, estimate

    source, mode, records = req.params.get("source", ""), req.params.get("mode", "full"), req.params.get("records", "0")
    if source not in SOURCES or mode not in contracts.MODES or not records.isdigit():
        wanted = f"source: one of {', '.join(sorted(SOURCES))}; mode: {' or '.join(contracts.MODES)}; records: a number"
        return _refusal(400, "source, mode or records is not right", wanted)
    sample = req.params.get("sample", "").lower() in {"1", "true"}
    try:
        settings = _settings()
        doors = len(settings.destinations[0].rule_ids)
        terms = Terms(
            settings.dcr_requests_per_minute * doors,
            settings.dcr_bytes_per_minute * doors,
            settings.ingestion_price_per_gb,
        )
        found = await asyncio.to_thread(
            lambda: estimate(source, mode, _deps(), terms, sample=sample, records=int(records))
        )
    except CaasmError as error:
        return _refusal(503, error.reason, error.remedy)
    return _json(200, found)


@app.route(route="loads/{run_id}", methods=["GET"])
@app.durable_client_input(client_name="client")
async def get_load(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    """One run: its ledger so far while it is going on, its manifest when it has ended."""
    run_id = req.route_params["run_id"]
    source = run_id.split("-", 1)[0]
    if source in SOURCES:
        from staging import Names

        found = await _running(client, source)
        if found is not None and _run_of(found) == run_id:
            return _json(200, {"run_id": run_id, "status": "running", "progress": found.custom_status})
        try:
            manifest = await asyncio.to_thread(_staging().find_json, Names(source, run_id).manifest)
        except CaasmError as error:
            return _refusal(503, error.reason, error.remedy)
        if manifest is not None:
            return _json(200, manifest)
    return _refusal(404, f"there is no run {run_id!r}", "GET /api/loads lists them")


@app.route(route="loads/{run_id}/cancel", methods=["POST"])
@app.durable_client_input(client_name="client")
async def cancel_load(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    """Ask a run to stop: it ends between two pages or requests, consistent, and closes with its ledger."""
    from staging import Names

    run_id = req.route_params["run_id"]
    source = run_id.split("-", 1)[0]
    found = await _running(client, source) if source in SOURCES else None
    if found is None or _run_of(found) != run_id:
        return _refusal(404, f"no run {run_id!r} is going on", "GET /api/loads lists them")
    try:
        marker = {"asked_at": datetime.now(UTC).isoformat()}
        await asyncio.to_thread(_staging().put_json, Names(source, run_id).cancel, marker, {})
    except CaasmError as error:
        return _refusal(503, error.reason, error.remedy)
    log.info("load cancelled", extra={"run": run_id})
    return _json(202, {"run_id": run_id, "status": "cancelling"})


def installation(environment: Mapping[str, str]) -> Installation:
    """An installation that has these settings, to be examined; never raises for what is wrong with them."""
    from doctor.management import Management
    from doctor.rounds import Installation

    settings, problems = look_at(environment)
    quick: dict[str, Any] = {"retry_total": 0, "connection_timeout": 5, "read_timeout": 10}
    return Installation(
        environment,
        settings,
        problems,
        json.loads((Path(__file__).parent / "host.json").read_text(encoding="utf-8")),
        container=lambda: _container(settings, **quick),
        credential=lambda destination: _identity(destination, settings),
        doors=lambda destination: _doors_to_try(destination, settings),
        management=lambda: Management(settings.management_endpoint, _management_identity(settings)),
    )


def _management_identity(settings: Settings) -> TokenCredential:
    return (
        _LocalCredential()
        if is_loopback_http(settings.management_endpoint)
        else _credential(settings.identity_client_id)
    )


@app.route(route="health", methods=["GET"])
@app.durable_client_input(client_name="client")
async def health(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    """What is wrong with the app's settings, identity, rule, storage, task hub, products: 200, or 503 when loads cannot run. `?source=` narrows it."""
    return await _health(req.params.get("source"), client)


async def _health(wanted: str | None, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    from doctor.rounds import examination

    if wanted is not None and wanted not in SOURCES:
        return _refusal(400, f"there is no source {wanted!r}", f"use one of {', '.join(sorted(SOURCES))}")
    examined = installation(os.environ)
    report, hub = await asyncio.gather(
        asyncio.to_thread(examination, examined, [wanted] if wanted else []),
        _task_hub(client, wanted or min(SOURCES), min(10.0, examined.settings.health_s)),
    )
    report = dataclasses.replace(report, findings=(*report.findings, hub))
    return _json(503 if report.status == "error" else 200, report.to_json())


async def _task_hub(client: df.DurableOrchestrationClient, source: str, longest_s: float) -> Finding:
    """Whether the hub answers for an instance."""
    from doctor.findings import fine, wrong

    try:
        await asyncio.wait_for(client.get_status(contracts.instance_id(source)), longest_s)
    except Exception as error:  # noqa: BLE001 - the extension's own failures are plain exceptions; their texts may quote keys
        return wrong("taskhub.answer", "task hub", f"it does not answer ({type(error).__name__})")
    return fine("taskhub.answer", "task hub", "it answers")


async def _scheduled(client: df.DurableOrchestrationClient, mode: str) -> None:
    for source in _settings().scheduled:
        request = await asyncio.to_thread(_placed, _request({"source": source, "mode": mode}))
        running = await _start(client, request)
        if running is not None:
            log.warning("scheduled load left out: the source is being loaded", extra={"source": source, "run": running})


@app.timer_trigger(schedule="%FULL_SCHEDULE%", arg_name="timer", run_on_startup=False)
@app.durable_client_input(client_name="client")
async def full_schedule(timer: func.TimerRequest, client: df.DurableOrchestrationClient) -> None:  # noqa: ARG001 - the trigger's
    """Start a full load of every scheduled source; at least every 7 days, as rules look back 14 at most."""
    await _scheduled(client, "full")


@app.timer_trigger(schedule="%DELTA_SCHEDULE%", arg_name="timer", run_on_startup=False)
@app.durable_client_input(client_name="client")
async def delta_schedule(timer: func.TimerRequest, client: df.DurableOrchestrationClient) -> None:  # noqa: ARG001 - the trigger's
    """Start a delta load of every scheduled source."""
    await _scheduled(client, "delta")
