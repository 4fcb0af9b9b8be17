"""Work items, run: an orchestrator's episode, an activity, an entity's batch.

Invariant: every work item ends in exactly one answer to the engine, whatever the app's code raises; an item without an answer
would leave its instance running for ever.
"""

import asyncio
import json
import logging
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import azure.functions as func
import durabletask.internal.orchestrator_service_pb2 as pb
from durabletask.internal import helpers

from local.durable.engine import Engine
from local.durable.functions import App, Function
from local.durable.history import context_json, execution_started, text
from local.durable.limits import check_payload
from local.durable.replay import OUT_OF_PROC_LABEL, Replay, parse_state, unknown_function

log = logging.getLogger(__name__)

Deliver = Callable[[Any, Callable[[], Any], Callable[[Any], None]], None]
"""How an activity's message is delivered: (request, run, complete) -> None, on an activity thread. `run` runs the function
and returns its response; `complete` hands a response to the engine, which ignores those that come too late."""


def deliver_once(request: Any, run: Callable[[], Any], complete: Callable[[Any], None]) -> None:  # noqa: ARG001  # a Deliver
    """Run the activity and hand its response over: the plain Deliver."""
    complete(run())


class Worker:
    """Runs one app's functions for one engine; every method may be called from any thread."""

    def __init__(self, app: App, engine: Engine, client_binding: Callable[[], str], deliver: Deliver) -> None:
        """`client_binding` gives the JSON of a durableClient binding, for activities that have one."""
        self._app, self._engine, self._client_binding, self._deliver = app, engine, client_binding, deliver
        self._known = app.known
        self.activity_cpu_s = 0.0
        self._activity_lock = threading.Lock()
        self._loop = asyncio.new_event_loop()  # async activities share one loop, as in the Functions worker
        self._loop_thread = threading.Thread(target=self._loop.run_forever, name="durable-async", daemon=True)
        self._loop_thread.start()

    def cancel_async(self) -> None:
        """Cancel what async activities are doing; the threads that wait for them go on."""
        asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result()

    def close(self) -> None:
        """End the loop of the async activities; none may be under way."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._loop_thread.join()
        self._loop.close()

    def _call(self, function: Function, value: Any) -> Any:
        arguments = function.arguments(value, self._client_binding, self._app.directory)
        if function.is_async:
            return asyncio.run_coroutine_threadsafe(function.call(**arguments), self._loop).result()
        return function.call(**arguments)

    def _metered(self, function: Function, value: Any) -> Any:
        """`_call`, with the CPU time of this thread added to that of all activities."""
        begun = time.thread_time()
        try:
            return self._call(function, value)
        finally:
            with self._activity_lock:
                self.activity_cpu_s += time.thread_time() - begun

    def orchestrate(self, request: Any, token: str) -> None:
        """Run one episode and hand its actions to the engine."""
        begun = time.perf_counter()
        name, status = "", None
        try:
            name = execution_started(request).name
            actions, status = self._episode(request, name)
        except Exception as error:  # noqa: BLE001  # the app's code ran, and gave no state: whatever it raises fails the instance
            details = "".join(traceback.format_exception(error))
            log.warning("orchestrator %s failed outside its replay: %s", name, details)
            failed = Replay(request.instanceId, name, {}, self._known)
            actions = [failed.failure(f"{type(error).__name__}: {error}", type(error).__name__, details)]
        response = pb.OrchestratorResponse(instanceId=request.instanceId, actions=actions, completionToken=token)
        if status is not None:
            response.customStatus.value = status
        spent_s = time.perf_counter() - begun
        if spent_s > 0.02 and not any(action.HasField("completeOrchestration") for action in actions):
            self._engine.hold(request.instanceId, min(2 * spent_s, 1.0))  # a long history is not replayed back to back
        self._engine.call("CompleteOrchestratorTask", response)

    def _episode(self, request: Any, name: str) -> tuple[list[Any], str | None]:
        function = self._app.durable["orchestrator"].get(name.lower())
        if function is None:
            raise ValueError(unknown_function("orchestrator", name, self._known["orchestrator"]))
        body = context_json(request, self._engine.parent_of(request.instanceId))
        answer, error = None, None
        try:
            answer = self._call(function, func.OrchestrationContext(body))
        except Exception as raised:
            if OUT_OF_PROC_LABEL not in str(raised):
                raise
            error = raised  # the orchestrator's own exception, with the state that it had reached
        state = parse_state(answer, error)
        return Replay(request.instanceId, name, state, self._known).run(request.pastEvents, request.newEvents)

    def activity(self, request: Any, token: str) -> None:
        """Deliver one activity's message."""

        def complete(response: Any) -> None:
            self._engine.call("CompleteActivityTask", response)

        self._deliver(request, lambda: self._run_activity(request, token), complete)

    def _run_activity(self, request: Any, token: str) -> Any:
        response = pb.ActivityResponse(
            instanceId=request.orchestrationInstance.instanceId, taskId=request.taskId, completionToken=token
        )
        try:
            function = self._app.durable["activity"][request.name.lower()]
            datum = func.meta.Datum(request.input.value or "null", "json")
            value = function.converter.decode(datum, trigger_metadata={})
            result = function.converter.encode(self._metered(function, value), expected_type=None).value
            check_payload(f"The output of activity function '{request.name}'", result)
            response.result.value = result
        except Exception as error:  # noqa: BLE001  # the app's code ran: whatever it raises fails the activity
            # production's text: "Result: Failure\nException: <type>: <message>…" loses its labels, not its space
            message = f"Activity function '{request.name}' failed:  {type(error).__name__}: {error}"
            response.failureDetails.errorType = type(error).__name__
            response.failureDetails.errorMessage = message
            response.failureDetails.stackTrace.value = "".join(traceback.format_exception(error))
            log.warning("%s", message)
        return response

    def entity(self, request: Any, token: str) -> None:
        """Run one batch of operations on an entity and hand its results to the engine."""
        batch, infos = helpers.convert_to_entity_batch_request(request)
        try:
            result = self._entity_batch(request, batch, infos)
        except Exception as error:  # the SDK reports what an operation raises; this is a fault around it
            log.exception("the local host could not run entity %s", request.instanceId)
            failure = pb.TaskFailureDetails(errorType=type(error).__name__, errorMessage=str(error))
            result = pb.EntityBatchResult()
            if request.HasField("entityState"):
                result.entityState.value = request.entityState.value
            for _ in batch.operations:
                result.results.add().failure.failureDetails.CopyFrom(failure)
        result.completionToken = token
        result.operationInfos.extend(infos)
        self._engine.call("CompleteEntityTask", result)

    def _entity_batch(self, request: Any, batch: Any, infos: list[Any]) -> Any:
        name, key = request.instanceId[1:].split("@", 1)
        function = self._app.durable["entity"].get(name.lower())
        if function is None:
            raise ValueError(unknown_function("entity", name, self._known["entity"]))
        state = request.entityState.value if request.HasField("entityState") else None
        operations = [
            {"name": op.operation, "input": text(op.input), "isSignal": not info.HasField("responseDestination")}
            for op, info in zip(batch.operations, infos, strict=True)
        ]
        body = {"self": {"name": name, "key": key}, "exists": state is not None, "state": state, "batch": operations}
        done = json.loads(self._call(function, func.EntityContext(json.dumps(body))))
        result = pb.EntityBatchResult()
        if done["entityExists"]:
            result.entityState.value = done["entityState"]
        for outcome in done["results"]:
            if outcome["isError"]:
                failure = pb.TaskFailureDetails(errorType="Error", errorMessage=outcome["result"])
                result.results.add().failure.failureDetails.CopyFrom(failure)
            else:
                result.results.add().success.result.value = outcome["result"]
        return result


async def _cancel_all() -> None:
    """Cancel every other task of the running loop and wait for them."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
