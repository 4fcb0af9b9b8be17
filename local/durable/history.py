"""An instance's history as the JSON that the Functions host hands to the azure-functions-durable 1.x replay.

Invariant: event numbers and field names are the extension's (OrchestrationTriggerAttributeBindingProvider,
OrchestrationContextToString); the SDK reads several of them unguarded, so every event carries all of its fields.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any

import durabletask.internal.orchestrator_service_pb2 as pb

Event = dict[str, Any]

EVENT_NAMES = (
    "ExecutionStarted", "ExecutionCompleted", "ExecutionFailed", "ExecutionTerminated", "TaskScheduled", "TaskCompleted",
    "TaskFailed", "SubOrchestrationInstanceCreated", "SubOrchestrationInstanceCompleted", "SubOrchestrationInstanceFailed",
    "TimerCreated", "TimerFired", "OrchestratorStarted", "OrchestratorCompleted", "EventSent", "EventRaised", "ContinueAsNew",
    "GenericEvent", "HistoryState", "ExecutionSuspended", "ExecutionResumed",
)  # fmt: skip
"""DurableTask.Core's EventType, by number."""


def text(value: Any) -> str | None:
    """A protobuf StringValue as str; the backend's '' for "absent" as None."""
    return value.value or None if value is not None else None


def _failed(event: Any) -> Event:
    return {
        "TaskScheduledId": event.taskScheduledId,
        "Reason": event.failureDetails.errorMessage,
        "Details": text(event.failureDetails.stackTrace),
    }


def _completed(event: Any) -> Event:
    return {"TaskScheduledId": event.taskScheduledId, "Result": text(event.result)}


def _entity_request(event: Any, **more: bool) -> Event:
    request = {"op": event.operation, "id": event.requestId, "input": text(event.input), **more}
    return {"InstanceId": event.targetInstanceId.value, "Name": "op", "Input": json.dumps(request)}


def _entity_reply(request_id: str, result: str, **more: str) -> Event:
    return {"Name": request_id, "Input": json.dumps({"result": result, **more})}


_FIELDS: dict[str, tuple[int, Callable[[Any], Event]]] = {
    "executionStarted": (
        0,
        lambda e: {
            "Name": e.name,
            "Version": text(e.version) or "",
            "Input": text(e.input),
            "OrchestrationInstance": {"InstanceId": e.orchestrationInstance.instanceId},
            "ParentInstance": None,
            "Tags": None,
        },
    ),
    "executionCompleted": (
        1,
        lambda e: {
            "OrchestrationStatus": pb.OrchestrationStatus.Name(e.orchestrationStatus)
            .removeprefix("ORCHESTRATION_STATUS_")
            .title(),
            "Result": text(e.result),
        },
    ),
    "executionTerminated": (3, lambda e: {"Input": text(e.input)}),
    "taskScheduled": (4, lambda e: {"Name": e.name, "Version": "", "Input": text(e.input)}),
    "taskCompleted": (5, _completed),
    "taskFailed": (6, _failed),
    "subOrchestrationInstanceCreated": (
        7,
        lambda e: {
            "Name": e.name,
            "Version": text(e.version) or "",
            "InstanceId": e.instanceId,
            "Input": text(e.input),
        },
    ),
    "subOrchestrationInstanceCompleted": (8, _completed),
    "subOrchestrationInstanceFailed": (9, _failed),
    "timerCreated": (10, lambda e: {"FireAt": e.fireAt.ToJsonString()}),
    "timerFired": (11, lambda e: {"TimerId": e.timerId, "FireAt": e.fireAt.ToJsonString()}),
    "orchestratorStarted": (12, lambda _: {}),
    "orchestratorCompleted": (13, lambda _: {}),
    "eventSent": (14, lambda e: {"InstanceId": e.instanceId, "Name": e.name, "Input": text(e.input)}),
    "entityOperationCalled": (14, _entity_request),
    "entityOperationSignaled": (14, lambda e: _entity_request(e, signal=True)),
    "eventRaised": (15, lambda e: {"Name": e.name, "Input": text(e.input)}),
    "entityOperationCompleted": (15, lambda e: _entity_reply(e.requestId, text(e.output) or "null")),
    "entityOperationFailed": (
        15,
        lambda e: _entity_reply(e.requestId, e.failureDetails.errorMessage, exceptionType="Error"),
    ),
    "executionSuspended": (19, lambda e: {"Reason": text(e.input)}),
    "executionResumed": (20, lambda e: {"Reason": text(e.input)}),
}


def _events(events: Iterable[Any], *, played: bool) -> Iterable[Event]:
    for event in events:
        kind = event.WhichOneof("eventType")
        known = _FIELDS.get(kind)
        if known is None:  # bookkeeping of the engine that DurableTask.Core does not have
            continue
        number, fields = known
        yield {
            "EventType": number,
            "EventId": event.eventId,
            "IsPlayed": played,
            "Timestamp": event.timestamp.ToJsonString(),
            **fields(getattr(event, kind)),
        }


def history_json(past: Iterable[Any], new: Iterable[Any]) -> list[Event]:
    """Both halves of an episode's history; those of `past` are marked as played."""
    return [*_events(past, played=True), *_events(new, played=False)]


def execution_started(request: Any) -> Any:
    """The ExecutionStarted event of an OrchestratorRequest: the orchestrator's name and input."""
    for events in (request.pastEvents, request.newEvents):
        for event in events:
            if event.HasField("executionStarted"):
                return event.executionStarted
    raise ValueError(f"instance {request.instanceId!r} has no ExecutionStarted event")


def context_json(request: Any, parent_instance_id: str | None) -> str:
    """The body of the SDK's OrchestrationContext for one episode (an OrchestratorRequest)."""
    raw = text(execution_started(request).input)
    return json.dumps(
        {
            "history": history_json(request.pastEvents, request.newEvents),
            "input": json.loads(raw) if raw else None,
            "instanceId": request.instanceId,
            "isReplaying": bool(request.pastEvents),
            "parentInstanceId": parent_instance_id,
            "upperSchemaVersion": 1,
            "upperSchemaVersionNew": 2,
            # null, as for Durable Task Scheduler and MSSQL: the engine takes timers of any length
            "longRunningTimerIntervalDuration": None,
            "maximumShortTimerDuration": None,
            "defaultHttpAsyncRequestSleepTimeMillseconds": 30000,
        }
    )


def folded_history(events: Iterable[Any], *, show_input: bool, show_output: bool) -> list[Event]:
    """The `historyEvents` of a status answer.

    As the extension's DurableClient.GetDurableOrchestrationStatusAsync gives it: a scheduling event is folded into its
    completion as ScheduledTime, FunctionName and Input; bookkeeping is dropped; EventType is a name.
    """
    items = history_json(events, [])
    scheduled: dict[tuple[str, int], int] = {}
    dropped: set[int] = set()
    for number, item in enumerate(items):
        kind = item["EventType"] = EVENT_NAMES[item["EventType"]]
        if kind in ("TaskScheduled", "SubOrchestrationInstanceCreated"):
            scheduled[kind[:4], item["EventId"]] = number
        elif "TaskScheduledId" in item:
            source = scheduled.get((kind[:4], item.pop("TaskScheduledId")))
            if source is not None:
                dropped.add(source)
                item["ScheduledTime"], item["FunctionName"] = items[source]["Timestamp"], items[source]["Name"]
                item["Input"] = items[source].get("Input")
        elif kind == "ExecutionStarted":
            item["FunctionName"] = item.pop("Name")
            for key in ("OrchestrationInstance", "ParentInstance", "Tags"):
                del item[key]
        elif kind == "TimerFired":
            del item["TimerId"]
        elif kind in ("OrchestratorStarted", "OrchestratorCompleted"):
            dropped.add(number)
    return [_shown(item, show_input, show_output) for number, item in enumerate(items) if number not in dropped]


def _shown(item: Event, show_input: bool, show_output: bool) -> Event:
    hidden = {"EventId", "IsPlayed", "Version"}
    if not show_input:
        hidden.add("Input")
    if not show_output:
        hidden.add("Result")
    shown = {key: value for key, value in item.items() if key not in hidden}
    if "Result" in shown:
        shown["Result"] = parsed(shown["Result"])
    return shown


def parsed(value: str | None) -> Any:
    """A stored payload as a status shows it (DurableClient.ParseToJToken): JSON if it parses, else the raw string."""
    if not value:
        return None
    try:
        return json.loads(value)
    except ValueError:
        return value
