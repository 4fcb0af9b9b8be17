"""durabletask's in-memory backend, called in-process, repaired for runs that last, with an optional journal.

Invariant: an event reaches the execution that scheduled it or nobody. DurableTask.Core has execution ids for this; here a
fence per instance (activities), an execution number (timers) and orphaned parents (sub-orchestrations) do it.

Repairs of durabletask 1.12.0, each at its method: sub-orchestrations longer than 30 s never report; a timer outlives
continue-as-new; so do late results, also when a finished id is started anew; a failure without a message counts as success;
custom status is lost; events carry the year 1970; a resume that meets the suspending episode is forgotten; history has a
ceiling that strands instances; one long history is replayed once per completed activity.
"""

import heapq
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import durabletask.internal.orchestrator_service_pb2 as pb
from durabletask.internal import helpers
from durabletask.testing.in_memory_backend import ActivityWorkItem, InMemoryOrchestrationBackend

from local.durable.journal import Journal


class EngineError(Exception):
    """The backend refused a call; `code` is the gRPC status name that a client would see."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(details)
        self.code = code


class _Context:
    """The little of grpc.ServicerContext that the backend uses."""

    def is_active(self) -> bool:
        return True

    def abort(self, code: Any, details: str) -> None:
        raise EngineError(code.name, details)


_CONTEXT = _Context()


class Engine(InMemoryOrchestrationBackend):  # type: ignore[misc]  # durabletask is untyped here: a base class of Any
    """Instances, timers and queues; every public method may be called from any thread."""

    def __init__(self, journal: Path | None = None) -> None:
        """Start empty, or from `journal`; unfinished work is issued again."""
        # Durable Functions has no ceiling of its own; the backend's 10,000 leaves the instance running for ever.
        super().__init__(max_history_size=2**31)
        self.episodes = 0
        self.history_events_max = 0
        self._parents: dict[str, tuple[str, int | None]] = {}  # sub-orchestration -> (parent, its task id)
        self._fence: dict[str, int] = {}  # results of activities with an older token are stale
        self._execution: dict[str, int] = {}  # timers of another execution are stale
        self._timers: list[tuple[float, int, str, int, int | None, datetime]] = []
        self._timer_number = 0
        self._timer_changed = threading.Condition(self._lock)
        self._hold_until: dict[str, float] = {}
        self._held: set[tuple[str, float]] = set()
        self._depth = 0
        self._closed = False
        self._journal = Journal(journal) if journal else None
        if self._journal:
            self._rehydrate(self._journal)
        self._timer_thread = threading.Thread(target=self._fire_timers, name="durable-timers", daemon=True)
        self._timer_thread.start()

    # Calling the servicer without a network.

    def call(self, method: str, request: Any) -> Any:
        """One unary call of TaskHubSidecarService; its changes are in the journal when it returns.

        Raises EngineError where the service would abort. After `close` nothing changes any more, and it raises too.
        """
        with self._lock, self._transaction():
            if self._closed:
                raise EngineError("UNAVAILABLE", "the local durable host is closed")
            return getattr(self, method)(request, _CONTEXT)

    def work_items(self) -> Iterator[Any]:
        """Work items as they become due, until `close`; each is to be answered by a Complete… call."""
        items: Iterator[Any] = self.GetWorkItems(pb.GetWorkItemsRequest(), _CONTEXT)
        return items

    def wait(self, instance_id: str, timeout_s: float) -> None:
        """Return when the instance has finished, does not exist, or `timeout_s` seconds have passed."""
        with self._lock:
            if instance_id not in self._instances:
                return
        self._wait_for_state(instance_id, self._is_terminal_status_check, max(timeout_s, 0.001))  # 0: 30 s

    def history(self, instance_id: str) -> list[Any]:
        """The instance's history events; empty when there is no such instance."""
        with self._lock:
            instance = self._instances.get(instance_id)
            return list(instance.history) if instance else []

    def parent_of(self, instance_id: str) -> str | None:
        """The id of the instance that started this one as a sub-orchestration."""
        return self._parents.get(instance_id, (None, None))[0]

    def close(self) -> None:
        """End the timer thread and `work_items`, and close the journal; late results are refused."""
        with self._timer_changed:
            self._closed = True
            self._timer_changed.notify_all()
        self.stop()
        self._timer_thread.join()
        with self._lock:
            if self._journal:
                self._journal.close()
                self._journal = None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit the journal when the outermost call leaves the lock."""
        self._depth += 1
        try:
            yield
        except BaseException:
            self._depth -= 1
            if self._journal and self._depth == 0:
                self._journal.rollback()
            raise
        self._depth -= 1
        if self._journal and self._depth == 0:
            self._journal.commit()

    # Starting: an id that is used again begins a new execution.

    def StartInstance(self, request: Any, context: Any) -> Any:  # noqa: N802  # the servicer's name
        used_before = self._used_before(request.instanceId)
        response = super().StartInstance(request, context)
        if used_before:
            self._begin_execution(request.instanceId)
        return response

    def _create_instance_internal(
        self, instance_id: str, name: str, encoded_input: str | None = None, version: str | None = None
    ) -> None:
        used_before = self._used_before(instance_id)
        super()._create_instance_internal(instance_id, name, encoded_input, version=version)
        if used_before:
            self._begin_execution(instance_id)

    def RestartInstance(self, request: Any, context: Any) -> Any:  # noqa: N802  # the servicer's name
        self._execution.setdefault(request.instanceId, 0)  # upstream removes the instance before it creates the new one
        return super().RestartInstance(request, context)

    def _used_before(self, instance_id: str) -> bool:
        return instance_id in self._instances or instance_id in self._execution

    def _begin_execution(self, instance_id: str) -> None:
        """What an earlier execution of this id left under way must not reach the one that starts now."""
        self._fence[instance_id] = self._instances[instance_id].completion_token
        self._execution[instance_id] = self._execution.get(instance_id, 0) + 1
        self._orphan({instance_id})

    def _orphan(self, parents: set[str]) -> None:
        self._parents.update({sub: (parent, None) for sub, (parent, _) in self._parents.items() if parent in parents})
        if self._journal:
            self._journal.orphan(parents)

    # Sub-orchestrations. Upstream waits in a thread that gives up silently after 30 s.

    def _watch_sub_orchestration(self, parent_instance_id: str, sub_instance_id: str, task_id: int) -> None:
        self._parents[sub_instance_id] = (parent_instance_id, task_id)
        if self._journal:
            self._journal.parent(sub_instance_id, parent_instance_id, task_id)

    def _notify_parent(self, sub: Any) -> None:
        parent_id, task_id = self._parents.get(sub.instance_id, (None, None))
        parent = self._instances.get(parent_id)
        if parent is None or task_id is None or self._is_terminal_status(parent.status):
            return
        if sub.status == pb.ORCHESTRATION_STATUS_COMPLETED:
            event = helpers.new_sub_orchestration_completed_event(task_id, sub.output)
        else:
            failure = sub.failure_details or pb.TaskFailureDetails(
                errorType="Terminated", errorMessage=sub.output or "terminated"
            )
            failed = pb.SubOrchestrationInstanceFailedEvent(taskScheduledId=task_id, failureDetails=failure)
            event = pb.HistoryEvent(eventId=-1, subOrchestrationInstanceFailed=failed)
        self._deliver(parent, event)

    def _deliver(self, instance: Any, event: Any) -> None:
        event.timestamp.GetCurrentTime()
        instance.pending_events.append(event)
        instance.last_updated_at = datetime.now(UTC)
        self._enqueue_orchestration(instance.instance_id)

    # Timers. Upstream starts a thread for each and lets it outlive continue-as-new.

    def _process_create_timer_action(self, instance: Any, action: Any) -> None:
        fire_at = action.createTimer.fireAt.ToDatetime(tzinfo=UTC)
        instance.history.append(helpers.new_timer_created_event(action.id, fire_at))
        self._arm(instance.instance_id, action.id, fire_at)

    def _arm(self, instance_id: str, timer_id: int | None, fire_at: datetime) -> None:
        """Without a `timer_id` it is no durable timer: look at the instance's inbox again then."""
        with self._timer_changed:
            self._timer_number += 1
            execution = self._execution.get(instance_id, 0)
            entry = (fire_at.timestamp(), self._timer_number, instance_id, execution, timer_id, fire_at)
            heapq.heappush(self._timers, entry)
            self._timer_changed.notify()

    def _fire_timers(self) -> None:
        with self._timer_changed:
            while not self._closed:
                wait_s = self._timers[0][0] - time.time() if self._timers else None
                if wait_s is None or wait_s > 0:
                    # a wait of years overflows the platform's clock
                    self._timer_changed.wait(None if wait_s is None else min(wait_s, 3600))
                    continue
                _, _, instance_id, execution, timer_id, fire_at = heapq.heappop(self._timers)
                instance = self._instances.get(instance_id)
                if instance is None or self._is_terminal_status(instance.status):
                    continue
                with self._transaction():
                    if timer_id is None:
                        if instance.pending_events:
                            self._enqueue_orchestration(instance_id)
                    elif execution == self._execution.get(instance_id, 0):
                        self._deliver(instance, helpers.new_timer_fired_event(timer_id, fire_at))

    # Results.

    def CompleteActivityTask(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802  # the servicer's signature
        # upstream takes a failure with an empty message for a success, and results of an earlier execution
        instance = self._instances.get(request.instanceId)
        if instance is None or int(request.completionToken or 0) < self._fence.get(request.instanceId, 0):
            return pb.CompleteTaskResponse()
        event = pb.HistoryEvent(eventId=-1)
        if request.HasField("failureDetails"):
            event.taskFailed.taskScheduledId = request.taskId
            event.taskFailed.failureDetails.CopyFrom(request.failureDetails)
        else:
            event.taskCompleted.taskScheduledId = request.taskId
            event.taskCompleted.result.CopyFrom(request.result)
        self._deliver(instance, event)
        return pb.CompleteTaskResponse()

    def CompleteOrchestratorTask(self, request: Any, context: Any) -> Any:  # noqa: N802  # the servicer's name
        self.episodes += 1
        instance = self._instances.get(request.instanceId)
        if instance is None or str(instance.completion_token) != request.completionToken:
            return super().CompleteOrchestratorTask(request, context)
        dispatched, pending = list(instance.dispatched_events), list(instance.pending_events)
        before, status = len(instance.history), instance.custom_status
        response = super().CompleteOrchestratorTask(request, context)
        if not request.HasField("customStatus"):
            instance.custom_status = status  # upstream stores '' when the field is absent
        for event in instance.history[before:] + instance.pending_events:
            if not event.timestamp.seconds:
                event.timestamp.GetCurrentTime()  # upstream leaves most events at 1970
        continued = any(
            action.completeOrchestration.orchestrationStatus == pb.ORCHESTRATION_STATUS_CONTINUED_AS_NEW
            for action in request.actions
            if action.HasField("completeOrchestration")
        )
        if continued:
            self._fence[instance.instance_id] = instance.completion_token
            self._execution[instance.instance_id] = self._execution.get(instance.instance_id, 0) + 1
        terminal = self._is_terminal_status(instance.status)
        self.history_events_max = max(self.history_events_max, before + len(dispatched), len(instance.history))
        if self._journal:
            consumed = dispatched + (pending if terminal else [])
            self._journal.episode(instance, 0 if continued else before, consumed, continued=continued)
        if terminal:
            self._hold_until.pop(instance.instance_id, None)
            self._notify_parent(instance)
        elif instance.status == pb.ORCHESTRATION_STATUS_SUSPENDED and any(
            event.HasField("executionResumed") or event.HasField("executionTerminated")
            for event in instance.pending_events
        ):
            self._enqueue_orchestration(instance.instance_id)  # upstream leaves a suspended instance's inbox alone
        self._work_available.set()
        return response

    def CompleteEntityTask(self, request: Any, context: Any) -> Any:  # noqa: N802  # the servicer's name
        token = request.completionToken
        entity = next((e for e in self._entities.values() if str(e.completion_token) == token), None)
        dispatched = list(entity.dispatched_operations) if entity else []
        response = super().CompleteEntityTask(request, context)
        if self._journal and entity:
            self._journal.entity(entity, dispatched)
        self._work_available.set()
        return response

    def RaiseEvent(self, request: Any, context: Any) -> Any:  # noqa: N802  # the servicer's name
        response = super().RaiseEvent(request, context)
        if self._journal:  # a suspended instance is not enqueued, which is where its inbox is recorded otherwise
            self._journal.inbox(self._instances[request.instanceId])
        return response

    def PurgeInstances(self, request: Any, context: Any) -> Any:  # noqa: N802  # the servicer's name
        known = set(self._instances)
        response = super().PurgeInstances(request, context)
        gone = known - set(self._instances)
        self._orphan(gone)
        for instance_id in gone:
            self._parents.pop(instance_id, None)
            self._execution.setdefault(instance_id, 0)  # the id may be used again while old work is under way
        if self._journal:
            self._journal.purge(gone)
        return response

    # Queues. Completions gather while a long history rests, instead of replaying it for each.

    def hold(self, instance_id: str, seconds: float) -> None:
        """Let completions gather: the instance's next episode starts no earlier than in `seconds`."""
        with self._lock:
            self._hold_until[instance_id] = time.time() + seconds

    def _enqueue_orchestration(self, instance_id: str) -> None:
        if self._journal:
            self._journal.inbox(self._instances[instance_id])
        if instance_id in self._orchestration_in_flight:
            return  # CompleteOrchestratorTask looks at the inbox again
        until = self._hold_until.get(instance_id)
        if until is not None:
            if until > time.time():
                if (instance_id, until) not in self._held:
                    self._held.add((instance_id, until))
                    self._arm(instance_id, None, datetime.fromtimestamp(until, UTC))
                return
            del self._hold_until[instance_id]
            self._held.discard((instance_id, until))
        super()._enqueue_orchestration(instance_id)

    def _enqueue_entity(self, entity_id: str) -> None:
        if self._journal:
            self._journal.entity_inbox(self._entities[entity_id])
        super()._enqueue_entity(entity_id)

    # Restart.

    def _rehydrate(self, journal: Journal) -> None:
        with self._lock, self._transaction():
            self._parents = journal.load_parents()
            for instance in journal.load_instances():
                instance.completion_token = self._token()
                self._instances[instance.instance_id] = instance
            for entity in journal.load_entities():
                entity.completion_token = self._token()
                self._entities[entity.instance_id] = entity
                if entity.pending_operations:
                    self._enqueue_entity(entity.instance_id)
            for instance in list(self._instances.values()):
                if not self._is_terminal_status(instance.status):
                    self._resume(instance)

    def _token(self) -> int:
        token: int = self._next_completion_token
        self._next_completion_token += 1
        return token

    def _resume(self, instance: Any) -> None:
        """Issue again whatever the history shows as scheduled and not settled."""
        settled: set[tuple[str, int]] = set()
        for event in instance.history + instance.pending_events:
            kind = event.WhichOneof("eventType")
            if kind == "timerFired":
                settled.add(("timerCreated", event.timerFired.timerId))
            elif kind in ("taskCompleted", "taskFailed"):
                settled.add(("taskScheduled", getattr(event, kind).taskScheduledId))
            elif kind in ("subOrchestrationInstanceCompleted", "subOrchestrationInstanceFailed"):
                settled.add(("subOrchestrationInstanceCreated", getattr(event, kind).taskScheduledId))
        for event in instance.history:
            kind = event.WhichOneof("eventType")
            if (kind, event.eventId) not in settled:
                self._reissue(instance, kind, event)
        if instance.pending_events:
            self._enqueue_orchestration(instance.instance_id)

    def _reissue(self, instance: Any, kind: str, event: Any) -> None:
        if kind == "taskScheduled":
            task = event.taskScheduled
            self._activity_queue.append(
                ActivityWorkItem(
                    instance.instance_id, task.name, event.eventId, task.input.value, instance.completion_token
                )
            )
        elif kind == "timerCreated":
            self._arm(instance.instance_id, event.eventId, event.timerCreated.fireAt.ToDatetime(UTC))
        elif kind == "subOrchestrationInstanceCreated":
            sub = self._instances.get(event.subOrchestrationInstanceCreated.instanceId)
            if sub is not None and self._is_terminal_status(sub.status):
                self._notify_parent(sub)
