"""The orchestrator function's answer, replayed over its history, as the engine's next actions.

Invariant: one pass does what DurableTask.Core and the Durable extension do for an out-of-process app, in their order, so that
sequence ids agree with those the SDK counts. Transcribed from the extension's OutOfProcOrchestrationShim (one action strictly
after another) and from DurableTask.Core's TaskOrchestrationContext, TaskOrchestrationExecutor and RetryInterceptor (open tasks,
non-determinism checks, the suspend buffer, "complete only when no task is open", the extra timer after a last attempt).
"""

import json
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import NAMESPACE_URL, uuid5

import durabletask.internal.orchestrator_service_pb2 as pb
from google.protobuf.wrappers_pb2 import StringValue

from local.durable.history import text
from local.durable.limits import check_custom_status, check_payload

OUT_OF_PROC_LABEL = "\n\n$OutOfProcData$:"
"""What the SDK puts between an exception's message and the state it had reached."""

Action = dict[str, Any]
State = dict[str, Any]


class NonDeterministicError(Exception):
    """The orchestrator no longer schedules what its own history says it scheduled."""


class Outcome:
    """A task of the replay: not done, succeeded or failed."""

    __slots__ = ("_then", "done", "failed")

    def __init__(self, *, done: bool = False) -> None:
        self.done, self.failed = done, False
        self._then: list[Callable[[], None]] = []

    def settle(self, *, failed: bool = False) -> None:
        """Finish it, once; later calls change nothing."""
        if not self.done:
            self.done, self.failed = True, failed
            then, self._then = self._then, []
            for callback in then:
                callback()

    def then(self, callback: Callable[[], None]) -> None:
        """Call back when it is done, or now."""
        if self.done:
            callback()
        else:
            self._then.append(callback)


Steps = Generator[Outcome, None, bool]


def _drive(steps: Steps) -> Outcome:
    """Run `steps`, which yields what it waits for and returns whether it failed."""
    out = Outcome()

    def step() -> None:
        while True:
            try:
                waiting = next(steps)
            except StopIteration as stop:
                out.settle(failed=stop.value)
                return
            if not waiting.done:
                waiting.then(step)
                return

    step()
    return out


class Replay:
    """A single pass over one instance's history; use `run` once."""

    def __init__(self, instance_id: str, name: str, state: State, known: Mapping[str, Iterable[str]]) -> None:
        """`state` is the SDK's answer (`parse_state`), `known` the app's function names, lower case, by kind."""
        self.instance_id, self.name, self.state, self.known = instance_id, name, state, known
        self.now = datetime.fromtimestamp(0, UTC)
        self.epoch = ""  # tells executions of one instance apart (continue-as-new)
        self.counter = 0
        self.open: dict[int, Outcome] = {}
        self.actions: dict[int, Any] = {}  # scheduled, not yet in history
        self.waiting: dict[str, list[Outcome]] = {}  # for external events and entity replies, by name
        self.buffered: dict[str, int] = {}
        self.continue_as_new: str | None = None
        self.carried: list[Any] = []
        self.suspended = False
        self.held: list[Any] = []
        self.terminated: str | None = None
        self.main: Outcome | None = None

    def run(self, past: Iterable[Any], new: Iterable[Any]) -> tuple[list[Any], str | None]:
        """The actions that history does not hold yet, and the custom status's JSON (None: leave it as it is)."""
        status = self.state.get("customStatus")
        status_json = None if status is None else json.dumps(status)
        try:
            check_custom_status(status_json)
            for events in (past, new):
                for event in events:
                    self._process(event)
            if self.terminated is not None:
                return [self._complete(pb.ORCHESTRATION_STATUS_TERMINATED, self.terminated)], status_json
            actions = [] if self.suspended else list(self.actions.values())
            # an instance completes only once no activity, sub-orchestration or timer is open
            if self.main is not None and self.main.done and not self.open:
                actions += self._completion()
        except (ValueError, NonDeterministicError) as error:
            return [self.failure(str(error), type(error).__name__)], None
        return actions, status_json

    def _completion(self) -> list[Any]:
        if error := self.state.get("error"):
            details = f"Message: {error}, StackTrace: {self.state.get('_trace', '')}"
            return [self.failure(error, "OrchestrationFailureException", details)]
        if not self.state.get("isDone"):
            return []
        if self.continue_as_new is not None:
            return [self._complete(pb.ORCHESTRATION_STATUS_CONTINUED_AS_NEW, self.continue_as_new)]
        output = self.state.get("output")
        output_json = None if output is None else json.dumps(output)
        check_payload(f"The output of orchestrator function '{self.name}'", output_json)
        return [self._complete(pb.ORCHESTRATION_STATUS_COMPLETED, output_json)]

    def _complete(self, status: Any, result: str | None) -> Any:
        done = pb.CompleteOrchestrationAction(orchestrationStatus=status, carryoverEvents=self.carried)
        if result is not None:
            done.result.value = result
        return pb.OrchestratorAction(id=self.counter, completeOrchestration=done)

    def failure(self, message: str, error_type: str, details: str = "") -> Any:
        """The action that fails the instance, in the extension's words."""
        action = self._complete(
            pb.ORCHESTRATION_STATUS_FAILED, f"Orchestrator function '{self.name}' failed: {message}"
        )
        failure = action.completeOrchestration.failureDetails
        failure.errorType, failure.errorMessage = error_type, action.completeOrchestration.result.value
        failure.stackTrace.value = details
        return action

    # What an action of the SDK schedules.

    def _schedule(self, **body: Any) -> Outcome:
        task_id = self.counter
        self.counter += 1
        self.actions[task_id] = pb.OrchestratorAction(id=task_id, **body)
        outcome = self.open[task_id] = Outcome()
        return outcome

    def _check_known(self, kind: str, name: str) -> None:
        if name.lower() not in self.known[kind]:
            raise ValueError(unknown_function(kind, name, self.known[kind]))

    def _activity(self, action: Action) -> Outcome:
        name = action["functionName"]
        self._check_known("activity", name)
        check_payload(f"The input of activity function '{name}'", action["input"])
        return self._schedule(scheduleTask=pb.ScheduleTaskAction(name=name, input=StringValue(value=action["input"])))

    def _sub_orchestration(self, action: Action) -> Outcome:
        name, version = action["functionName"], action.get("version")
        self._check_known("orchestrator", name)
        input_json = json.dumps(action["input"])
        check_payload(f"The input of orchestrator function '{name}'", input_json)
        # DurableTask.Core: "<execution id>:<sequence id>" when the caller names no instance
        child = action.get("instanceId") or f"{uuid5(NAMESPACE_URL, self.instance_id + self.epoch).hex}:{self.counter}"
        return self._schedule(
            createSubOrchestration=pb.CreateSubOrchestrationAction(
                name=name,
                instanceId=child,
                input=StringValue(value=input_json),
                version=StringValue(value=version) if version else None,
            )
        )

    def _retry(self, action: Action, call: Callable[[Action], Outcome]) -> Outcome:
        options = action["retryOptions"]
        attempts = options["maxNumberOfAttempts"]
        delay = timedelta(milliseconds=options["firstRetryIntervalInMilliseconds"])
        factor = options.get("backoffCoefficient", 1)

        def loop() -> Steps:
            for number in range(attempts):
                attempt = call(action)
                yield attempt
                if not attempt.failed:
                    return False
                # RetryInterceptor: one more timer, due at once, after the last attempt; the SDK counts on it
                last = number + 1 == attempts
                yield self._timer(self.now if last else self.now + delay * factor**number)
            return True

        return _drive(loop())

    def _continue_as_new(self, action: Action) -> Outcome:
        self.continue_as_new = json.dumps(action["input"])
        check_payload(f"The input of orchestrator function '{self.name}'", self.continue_as_new)
        return Outcome(done=True)

    def _timer(self, fire_at: datetime) -> Outcome:
        body = pb.CreateTimerAction()
        body.fireAt.FromDatetime(fire_at)
        return self._schedule(createTimer=body)

    def _create_timer(self, action: Action) -> Outcome:
        timer_id = self.counter
        outcome = self._timer(datetime.fromisoformat(action["fireAt"]))
        if action["isCanceled"]:
            self.open.pop(timer_id).settle(failed=True)
        return outcome

    def _entity(self, action: Action, *, signal: bool) -> Outcome:
        target = action["instanceId"]
        self._check_known("entity", target[1:].split("@", 1)[0])
        request_id = str(uuid5(NAMESPACE_URL, f"{self.instance_id}/{self.epoch}/{self.counter}"))
        fields = {
            "requestId": request_id,
            "operation": action["operation"],
            "input": StringValue(value=json.dumps(action["input"])),
            "targetInstanceId": StringValue(value=target),
        }
        if signal:
            message = pb.SendEntityMessageAction(entityOperationSignaled=pb.EntityOperationSignaledEvent(**fields))
        else:
            caller = StringValue(value=self.instance_id)
            called = pb.EntityOperationCalledEvent(parentInstanceId=caller, **fields)
            message = pb.SendEntityMessageAction(entityOperationCalled=called)
        self.actions[self.counter] = pb.OrchestratorAction(id=self.counter, sendEntityMessage=message)
        self.counter += 1
        return Outcome(done=True) if signal else self._external(request_id)

    def _external(self, name: str) -> Outcome:
        key, outcome = name.lower(), Outcome()
        if self.buffered.get(key):
            self.buffered[key] -= 1
            outcome.settle()
        else:
            self.waiting.setdefault(key, []).append(outcome)
        return outcome

    def _compound(self, action: Action, *, every: bool) -> Outcome:
        children = [self._invoke(child) for child in action["compoundActions"]]
        left = len(children) if every else min(1, len(children))
        out = Outcome(done=not children)

        def one_done() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                out.settle(failed=every and any(child.failed for child in children))

        for child in children:
            child.then(one_done)
        return out

    def _invoke(self, action: Action) -> Outcome:
        schedule = self._schedulers.get(action["actionType"])
        if schedule is None:
            raise ValueError(f"action type {action['actionType']} is not supported by the local engine")
        return schedule(self, action)

    _schedulers: ClassVar[dict[int, Callable[["Replay", Action], Outcome]]] = {  # by the extension's AsyncActionType
        0: _activity,
        1: lambda self, action: self._retry(action, self._activity),
        2: _sub_orchestration,
        3: lambda self, action: self._retry(action, self._sub_orchestration),
        4: _continue_as_new,
        5: _create_timer,
        6: lambda self, action: self._external(action["externalEventName"]),
        7: lambda self, action: self._entity(action, signal=False),
        9: lambda self, action: self._entity(action, signal=True),
        11: lambda self, action: self._compound(action, every=False),
        12: lambda self, action: self._compound(action, every=True),
    }

    def _body(self) -> Steps:
        # OutOfProcOrchestrationShim.ProcessAsyncActionsV2: strictly one action after another
        for action in self.state["actions"][0]:
            yield self._invoke(action)
        return False

    # What an event of the history does to them.

    def _process(self, event: Any) -> None:
        kind = event.WhichOneof("eventType")
        if kind == "orchestratorStarted":
            self.now = max(self.now, event.timestamp.ToDatetime(UTC))
            self.epoch = self.epoch or event.timestamp.ToJsonString()
        elif self.suspended and kind not in ("executionResumed", "executionTerminated"):
            self.held.append(event)
        elif kind in _SCHEDULED:
            field, named = _SCHEDULED[kind]
            self._confirm(event, field, getattr(event, kind).name if named else None)
        elif kind in _SETTLED:
            id_field, failed = _SETTLED[kind]
            outcome = self.open.pop(getattr(getattr(event, kind), id_field), None)
            if outcome is not None:
                outcome.settle(failed=failed)
        elif kind == "eventRaised":
            self._raise(event.eventRaised.name, event)
        elif kind in ("entityOperationCompleted", "entityOperationFailed"):
            self._raise(getattr(event, kind).requestId, event)
        else:
            self._change_state(kind, event)

    def _change_state(self, kind: str, event: Any) -> None:
        if kind == "executionStarted":
            self.main = _drive(self._body())
        elif kind == "executionTerminated":
            self.terminated = text(event.executionTerminated.input) or ""
        elif kind == "executionSuspended":
            self.suspended = True
        elif kind == "executionResumed":
            self.suspended = False
            held, self.held = self.held, []
            for late in held:
                self._process(late)

    def _confirm(self, event: Any, field: str, name: str | None) -> None:
        """Strike the action that this scheduling event records off the list of those still to be made."""
        action = self.actions.pop(event.eventId, None)
        if action is None:
            found = "the current replay execution hasn't (yet?) scheduled this task"
        elif not action.HasField(field) or (name and getattr(action, field).name.lower() != name.lower()):
            found = f"the current orchestration replay instead produced {action.WhichOneof('orchestratorActionType')}"
        else:
            return
        raise NonDeterministicError(
            f"A previous execution of this orchestration scheduled a {field} with sequence ID {event.eventId}"
            f"{f' and name {name!r}' if name else ''}, but {found}. Was a change made to the orchestrator code after this "
            "instance had already started running?"
        )

    def _raise(self, name: str, event: Any) -> None:
        key = name.lower()
        if self.continue_as_new is not None:
            self.carried.append(event)
        elif self.waiting.get(key):
            self.waiting[key].pop().settle()  # the extension keeps a stack of waiters
        else:
            self.buffered[key] = self.buffered.get(key, 0) + 1


_SCHEDULED = {  # history event -> the action that it confirms, whether by a function's name
    "taskScheduled": ("scheduleTask", True),
    "subOrchestrationInstanceCreated": ("createSubOrchestration", True),
    "timerCreated": ("createTimer", False),
    "entityOperationCalled": ("sendEntityMessage", False),
    "entityOperationSignaled": ("sendEntityMessage", False),
}

_SETTLED = {  # history event -> its field with the task's id, whether the task failed
    "taskCompleted": ("taskScheduledId", False),
    "taskFailed": ("taskScheduledId", True),
    "subOrchestrationInstanceCompleted": ("taskScheduledId", False),
    "subOrchestrationInstanceFailed": ("taskScheduledId", True),
    "timerFired": ("timerId", False),
}


def unknown_function(kind: str, name: str, known: Iterable[str]) -> str:
    """The extension's message for a name that the app does not have."""
    names = ", ".join(f"'{known_name}'" for known_name in sorted(known))
    return (
        f"The function '{name}' doesn't exist, is disabled, or is not an {kind} function. "
        f"Additional info: The following are the known {kind} functions: {names}."
    )


def parse_state(answer: str | None, error: Exception | None) -> State:
    """The extension's OutOfProcOrchestratorState: what the orchestrator function answered, or raised with it inside."""
    body = answer if error is None else str(error).split(OUT_OF_PROC_LABEL, 1)[1]
    state: State = json.loads(body or "{}")
    if error is not None:
        state["_trace"] = "".join(traceback.format_exception(error))
    return state
