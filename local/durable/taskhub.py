"""The task hub's verbs, in-process: start, status, wait, events, terminate, purge, list; what a durable client may ask for.

Invariant: arguments and answers are those of the Durable HTTP API (EXT HttpApiHandler, DurableClient), which `management`
serves from here; so a test without a network sees what a client sees.
"""

import json
import re
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import durabletask.internal.orchestrator_service_pb2 as pb
from google.protobuf.wrappers_pb2 import StringValue

from local.durable.engine import Engine
from local.durable.functions import App
from local.durable.history import Event, folded_history, parsed, text
from local.durable.limits import check_payload
from local.durable.replay import unknown_function

STATUS_NAMES: dict[Any, str] = {
    pb.ORCHESTRATION_STATUS_RUNNING: "Running",
    pb.ORCHESTRATION_STATUS_COMPLETED: "Completed",
    pb.ORCHESTRATION_STATUS_CONTINUED_AS_NEW: "ContinuedAsNew",
    pb.ORCHESTRATION_STATUS_FAILED: "Failed",
    pb.ORCHESTRATION_STATUS_CANCELED: "Canceled",
    pb.ORCHESTRATION_STATUS_TERMINATED: "Terminated",
    pb.ORCHESTRATION_STATUS_PENDING: "Pending",
    pb.ORCHESTRATION_STATUS_SUSPENDED: "Suspended",
}
STATUS_NUMBERS = {name: number for number, name in STATUS_NAMES.items()}
FINISHED = frozenset({"Completed", "Failed", "Canceled", "Terminated"})

Status = dict[str, Any]
"""name, instanceId, runtimeStatus, input, customStatus, output, createdTime, lastUpdatedTime (yyyy-MM-ddTHH:mm:ssZ)."""


class TaskHub:
    """The instances and entities of one engine; every method may be called from any thread."""

    def __init__(self, app: App, engine: Engine) -> None:
        """The app tells which names may be started."""
        self._app, self._engine = app, engine

    def start(self, name: str, value: Any = None, instance_id: str | None = None) -> str:
        """Start orchestrator `name` with a JSON value, as DurableOrchestrationClient.start_new does; its instance id.

        Raises ValueError for an unknown name, a bad id or a value over 1 MB, EngineError when `instance_id` is running. A
        finished instance of the same id is replaced.
        """
        # the SDK encodes twice, and its get_input decodes twice
        return self.start_json(name, None if value is None else json.dumps(json.dumps(value)), instance_id)

    def start_json(self, name: str, input_json: str | None, instance_id: str | None = None, version: str = "") -> str:
        """Start with the input as it is stored: JSON text."""
        known = self._app.durable["orchestrator"]
        if name.lower() not in known:
            raise ValueError(unknown_function("orchestrator", name, known))
        instance_id = instance_id or uuid.uuid4().hex
        forbidden = re.search(r"[/\\#?\x00-\x1f\x7f-\x9f]", instance_id)
        if instance_id.startswith("@") or forbidden or len(instance_id) > 100:
            raise ValueError(
                "Orchestration instance ids must not start with @, contain /, \\, #, ?, or control characters, or exceed 100 "
                f"characters: {instance_id!r}"
            )
        check_payload(f"The input of orchestrator function '{name}'", input_json)
        replaceable = pb.OrchestrationIdReusePolicy(replaceableStatus=[STATUS_NUMBERS[s] for s in sorted(FINISHED)])
        create = pb.CreateInstanceRequest(instanceId=instance_id, name=name, orchestrationIdReusePolicy=replaceable)
        if input_json is not None:
            create.input.value = input_json
        if version:
            create.version.value = version
        self._engine.call("StartInstance", create)
        return instance_id

    def status(self, instance_id: str, *, show_input: bool = True) -> Status | None:
        """The instance's status, None when there is no such instance."""
        request = pb.GetInstanceRequest(instanceId=instance_id, getInputsAndOutputs=True)
        answer = self._engine.call("GetInstance", request)
        return _status(answer.orchestrationState, show_input=show_input) if answer.exists else None

    def wait(self, instance_id: str, timeout_s: float = 30) -> Status:
        """The status of the instance once it has finished; raises TimeoutError, KeyError when there is no such instance."""
        self._engine.wait(instance_id, timeout_s)
        status = self.status(instance_id)
        if status is None:
            raise KeyError(f"there is no instance {instance_id!r}")
        if status["runtimeStatus"] not in FINISHED:
            raise TimeoutError(f"instance {instance_id!r} has not finished within {timeout_s} s: {status}")
        return status

    def history(self, instance_id: str, *, show_input: bool = True, show_output: bool = True) -> list[Event]:
        """The instance's history as a status answer shows it: events folded, EventType by name."""
        events = self._engine.history(instance_id)
        return folded_history(events, show_input=show_input, show_output=show_output)

    def raise_event(self, instance_id: str, name: str, value: Any = None) -> None:
        """Raise an external event with a JSON value on an instance that has not finished."""
        data = json.dumps(value)
        check_payload(f"The data of event '{name}'", data)
        event = pb.RaiseEventRequest(instanceId=instance_id, name=name, input=StringValue(value=data))
        self._engine.call("RaiseEvent", event)

    def terminate(self, instance_id: str, reason: str = "") -> None:
        """Terminate the instance; what its activities and sub-orchestrations do goes on, and reports to nobody."""
        request = pb.TerminateRequest(instanceId=instance_id, output=StringValue(value=reason))
        self._engine.call("TerminateInstance", request)

    def suspend(self, instance_id: str, reason: str = "") -> None:
        """Suspend the instance: it takes no further step until it is resumed."""
        self._engine.call(
            "SuspendInstance", pb.SuspendRequest(instanceId=instance_id, reason=StringValue(value=reason))
        )

    def resume(self, instance_id: str, reason: str = "") -> None:
        """Resume a suspended instance."""
        self._engine.call("ResumeInstance", pb.ResumeRequest(instanceId=instance_id, reason=StringValue(value=reason)))

    def restart(self, instance_id: str, *, new_id: bool = True) -> str:
        """Start a finished instance's orchestrator again with its input; the instance id of the new run."""
        request = pb.RestartInstanceRequest(instanceId=instance_id, restartWithNewInstanceId=new_id)
        restarted: str = self._engine.call("RestartInstance", request).instanceId
        return restarted

    def instances(
        self,
        *,
        statuses: Iterable[str] = (),
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        prefix: str = "",
        top: int = 100,
        token: str = "",
        show_input: bool = False,
    ) -> tuple[list[Status], str]:
        """A page of instances, oldest first, and the token of the next one, '' at the end."""
        query = pb.InstanceQuery(fetchInputsAndOutputs=True, maxInstanceCount=top)
        _restrict(query, statuses, created_from, created_to)
        query.instanceIdPrefix.value = prefix
        query.continuationToken.value = token
        answer = self._engine.call("QueryInstances", pb.QueryInstancesRequest(query=query))
        return [
            _status(state, show_input=show_input) for state in answer.orchestrationState
        ], answer.continuationToken.value

    def purge(self, instance_id: str) -> int:
        """Forget a finished instance; how many were (0 when it has not finished)."""
        answer = self._engine.call("PurgeInstances", pb.PurgeInstancesRequest(instanceId=instance_id))
        return int(answer.deletedInstanceCount)

    def purge_by(self, created_from: datetime, created_to: datetime | None = None, statuses: Iterable[str] = ()) -> int:
        """Forget the finished instances created in that time; how many were."""
        criteria = pb.PurgeInstanceFilter()
        _restrict(criteria, statuses, created_from, created_to)
        answer = self._engine.call("PurgeInstances", pb.PurgeInstancesRequest(purgeInstanceFilter=criteria))
        return int(answer.deletedInstanceCount)

    def entity_state(self, name: str, key: str) -> str | None:
        """The JSON of an entity's state, None when it has none."""
        request = pb.GetEntityRequest(instanceId=f"@{name.lower()}@{key}", includeState=True)
        answer = self._engine.call("GetEntity", request)
        return text(answer.entity.serializedState) if answer.exists else None

    def signal_entity(self, name: str, key: str, operation: str, input_json: str | None) -> None:
        """Signal an entity; raises ValueError for an unknown name."""
        known = self._app.durable["entity"]
        if name.lower() not in known:
            raise ValueError(unknown_function("entity", name, known))
        signal = pb.SignalEntityRequest(
            instanceId=f"@{name.lower()}@{key}", name=operation, requestId=str(uuid.uuid4())
        )
        if input_json is not None:
            signal.input.value = input_json
        self._engine.call("SignalEntity", signal)

    def entities(self, name: str = "", *, show_state: bool = False) -> list[dict[str, Any]]:
        """The entities, all or those of one name."""
        query = pb.EntityQuery(includeState=show_state, includeTransient=True)
        query.instanceIdStartsWith.value = f"@{name.lower()}@" if name else "@"
        answer = self._engine.call("QueryEntities", pb.QueryEntitiesRequest(query=query))
        return [
            {
                "entityId": dict(zip(("name", "key"), entity.instanceId[1:].split("@", 1), strict=True)),
                "lastOperationTime": entity.lastModifiedTime.ToJsonString(),
                "state": parsed(text(entity.serializedState)),
            }
            for entity in answer.entities
        ]


def _restrict(query: Any, statuses: Iterable[str], created_from: datetime | None, created_to: datetime | None) -> None:
    query.runtimeStatus.extend(STATUS_NUMBERS[status] for status in statuses if status in STATUS_NUMBERS)
    if created_from is not None:
        query.createdTimeFrom.FromDatetime(created_from)
    if created_to is not None:
        query.createdTimeTo.FromDatetime(created_to)


def _status(state: Any, *, show_input: bool) -> Status:
    output = parsed(text(state.output))
    if output is None and state.HasField("failureDetails"):
        output = state.failureDetails.errorMessage
    return {
        "name": state.name,
        "instanceId": state.instanceId,
        "runtimeStatus": STATUS_NAMES[state.orchestrationStatus],
        "input": parsed(text(state.input)) if show_input else None,
        "customStatus": parsed(text(state.customStatus)),
        "output": output,
        "createdTime": _stamp(state.createdTimestamp),
        "lastUpdatedTime": _stamp(state.lastUpdatedTimestamp),
    }


def _stamp(timestamp: Any) -> str:
    at: datetime = timestamp.ToDatetime(UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
