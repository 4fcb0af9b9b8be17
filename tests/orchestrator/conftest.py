"""Orchestrators in virtual time: the real SDK replays real histories, an invented plant answers their activities.

Invariant: every episode goes through azure-functions-durable's own replay and the extension's rules (`local.durable.replay`), on the history that Azure
would have written, OrchestratorStarted to OrchestratorCompleted; only the queue, the clock and the activities are invented here.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import azure.durable_functions as df
import durabletask.internal.orchestrator_service_pb2 as pb
import pytest

from contracts import (
    ACTIVITIES,
    LANE,
    LOAD,
    ORCHESTRATORS,
    STREAM,
    TOMBSTONE_LANE,
    DiffResult,
    ExportResult,
    JsonDict,
    LanePlan,
    LoadRequest,
    Plan,
    Policy,
    Run,
    TransformResult,
    UploadResult,
)
from local.durable.history import context_json
from local.durable.limits import check_custom_status, check_payload
from local.durable.replay import OUT_OF_PROC_LABEL, Replay, parse_state
from orchestrator.compare import parts_of
from orchestrator.lane import lane
from orchestrator.load import load
from orchestrator.stream import stream

EPOCH = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
POLICY = Policy(
    pack_bytes=1000,
    staged_ahead=2,
    first_wait_s=2.0,
    longest_wait_s=300.0,
    give_up_after_s=1800.0,
    first_turn_s=2.0,
    longest_turn_s=120.0,
)
BODIES = {LOAD: load, STREAM: stream, LANE: lane}
KNOWN = {"orchestrator": set(ORCHESTRATORS), "activity": set(ACTIVITIES), "entity": set()}

Script = Callable[[str, JsonDict, int], Any]


class Plant:
    """A source of so many segments a lane, a staging area, a snapshot index and a table, as activities' answers; idempotent, as the real ones are.

    `script(name, message, nth call of that name)` may give an answer of its own, raise, or return None for the usual. `known`, `gone`: keys that the index of the
    last run has of each stream, and those of them that are not there any more; `changed(segment)`: rows of a segment that a delta has to send.
    """

    def __init__(
        self,
        lanes: dict[str, int] | None = None,
        segments: int = 5,
        policy: Policy = POLICY,
        script: Script = lambda *_: None,
        *,
        rows: Callable[[int], int] = lambda _: 10,
        row_bytes: int = 50,
        known: int = 0,
        gone: int = 0,
        changed: Callable[[int], int] = lambda segment: segment % 3,
        stability: str = "snapshot",
        cursor: Callable[[int], JsonDict] = lambda _: {},
        derived: dict[str, str] | None = None,
    ) -> None:
        self.lanes, self.segments, self.policy, self.script = (
            lanes or {"assets": 2, "findings": 1},
            segments,
            policy,
            script,
        )
        self.rows, self.row_bytes, self.changed = rows, row_bytes, changed
        self.derived = derived or {}
        self.known, self.gone, self.stability, self.cursor = known, gone, stability, cursor
        self.calls: list[tuple[str, JsonDict]] = []
        self.exported: set[tuple[str, int, int]] = set()
        self.transformed: set[tuple[str, int, int]] = set()
        self.uploaded: Counter[tuple[str, int, int]] = Counter()
        self.buried: Counter[tuple[str, int]] = Counter()
        self.judged: dict[str, set[int]] = {}
        self.packs: dict[tuple[str, int, int], JsonDict] = {}
        self.close: JsonDict | None = None

    def __call__(self, name: str, message: JsonDict) -> Any:
        self.calls.append((name, message))
        answer = self.script(name, message, sum(called == name for called, _ in self.calls))
        return getattr(self, name)(message) if answer is None else answer

    @property
    def everything(self) -> set[tuple[str, int, int]]:
        """Every segment that there is."""
        lanes = self.lanes | {name: self.lanes[parent] for name, parent in self.derived.items()}
        return {(name, n, s) for name, count in lanes.items() for n in range(count) for s in range(self.segments)}

    @property
    def parts(self) -> int:
        """In how many parts a stream is compared; every stream of the plant has as many lanes as it has, so it is the most of any."""
        return parts_of(0, self.known)

    def open_run(self, message: JsonDict) -> JsonDict:
        request = LoadRequest.from_wire(message)
        base = "plant-0" if self.known else None
        run = Run(request.run_id, request.source, request.mode, request.started_at, None, base).to_wire()
        lanes = [
            LanePlan(name, n, {"at": 0}, uploads=request.mode == "full", derived=self._derived(name)).to_wire()
            for name, count in self.lanes.items()
            for n in range(count)
        ]
        expected: dict[str, int | None] = dict.fromkeys(self.lanes, 10 * self.segments)
        known = dict.fromkeys([*self.lanes, *self.derived], self.known) if self.known else {}
        of = {"whole": True, "stability": self.stability, "table": "CAASM_Assets_CL"}
        streams = {name: dict(of) for name in self.lanes}
        streams |= {name: of | {"parent": parent} for name, parent in self.derived.items()}
        return Plan(run, lanes, expected, self.policy.to_wire(), [], known, streams).to_wire()

    def _derived(self, stream: str) -> list[str]:
        return [name for name, parent in self.derived.items() if parent == stream]

    def export(self, message: JsonDict) -> JsonDict:
        at = message["cursor"]["at"]
        assert at == message["segment"], "a cursor must belong to its segment"
        self.exported.add((message["stream"], message["lane"], message["segment"]))
        exhausted = at + 1 >= self.segments
        cursor = {"at": at + 1, **self.cursor(at)}
        return ExportResult(cursor, staged=True, exhausted=exhausted, records=10, pages=1, bytes=500).to_wire()

    def transform(self, message: JsonDict) -> JsonDict:
        where = (message["stream"], message["lane"], message["segment"])
        assert where in self.exported, f"{where} is transformed before it is exported"
        derived = message["derived"]
        assert derived == self._derived(message["stream"])
        self.transformed |= {where, *((name, *where[1:]) for name in derived)}
        rows = self.rows(message["segment"])
        counts = {"staged": 10, "flattened": 6, "rejected": 0, "filtered": 4, "rows": rows}
        counts["json_bytes"] = rows * self.row_bytes
        return TransformResult(
            10, 10, 0, 0, rows, rows * self.row_bytes, derived=dict.fromkeys(derived, counts)
        ).to_wire()

    def upload(self, message: JsonDict) -> JsonDict:
        """A pack that is frozen keeps its membership, whatever is asked for now."""
        stream, number, first, last = (message[name] for name in ("stream", "lane", "first", "last"))
        if (stream, number, first) not in self.packs:
            rows = sent = 0
            for segment in range(first, last + 1):
                there, wanted = self._segment(stream, number, segment, verdicts=message["verdicts"])
                rows, sent = rows + there, sent + wanted
            self.packs[stream, number, first] = UploadResult(
                rows, sent, 0, 0, 1, 1, sent * self.row_bytes, sent, unchanged=rows - sent, last=last
            ).to_wire()
        return self.packs[stream, number, first]

    def _segment(self, stream: str, number: int, segment: int, *, verdicts: bool) -> tuple[int, int]:
        """Rows of a segment, and those of them that are sent."""
        if number == TOMBSTONE_LANE:
            assert self.judged[stream] == set(range(self.parts)), f"{stream}'s tombstones are sent before all is judged"
            assert set(self.uploaded) == self.transformed, "tombstones are sent before everything else has been"
            self.buried[stream, segment] += 1
            return self._gone(segment), self._gone(segment)
        where = (stream, number, segment)
        assert where in self.transformed, f"{where} is uploaded before it is transformed"
        assert not verdicts or len(self.judged[stream]) == self.parts, f"{where} is sent before it is judged"
        self.uploaded[where] += 1
        rows = self.rows(segment)
        return rows, min(rows, self.changed(segment)) if verdicts else rows

    def _gone(self, part: int) -> int:
        return self.gone // self.parts + (part < self.gone % self.parts)

    def diff(self, message: JsonDict) -> JsonDict:
        """One part's share of the stream's keys."""
        stream, part, parts = message["stream"], message["part"], message["parts"]
        ours = {where for where in self.everything if where[0] == stream}
        assert ours <= self.transformed, "a stream is judged before all of it is there"
        assert parts == self.parts
        self.judged.setdefault(stream, set()).add(part)
        rows = sum(self.rows(segment) for _, _, segment in ours) if part == 0 else 0
        known = self.known // parts + (part < self.known % parts)
        gone = self._gone(part)
        tombstones = gone if message["proven"] else gone // 2
        return DiffResult(rows, rows, 0, 0, 0, rows, gone, tombstones, known).to_wire()

    def close_run(self, message: JsonDict) -> JsonDict:
        self.close = message
        status = "failed" if message["failed"] else "incomplete" if message["reasons"] else "complete"
        return {"v": 1, "status": status, "cancelled": message["cancelled"], "reasons": message["reasons"]}


@dataclass
class Episode:
    """One replay: the SDK's input, its answer (the whole list of actions), when."""

    name: str
    instance: str
    execution: int
    body: str
    answer: str
    at: datetime


@dataclass
class Instance:
    """An orchestration instance of the simulation."""

    name: str
    id: str
    parent: tuple[str, int, int] | None
    execution: int = 0
    past: list[Any] = field(default_factory=list)
    new: list[Any] = field(default_factory=list)
    ended: bool = False


class OrchestrationFailedError(Exception):
    """The root instance failed."""


def answer_of(name: str, body: str) -> tuple[str | None, Exception | None]:
    """What the SDK answers to one episode's body, or the exception that carries its state."""
    try:
        return df.Orchestrator.create(BODIES[name])(body), None
    except Exception as error:
        if OUT_OF_PROC_LABEL not in str(error):
            raise
        return None, error


class Drive:
    """A discrete-event simulation of a task hub.

    `twice`: each comes again a little later. `kill_at`: at that event the worker is lost with what it was
    doing: an activity that it ran, an episode that it replayed; both are done again by the next worker.
    """

    def __init__(
        self,
        plant: Plant,
        start: datetime = EPOCH,
        seconds: Callable[[str], float] = lambda _: 1.0,
        *,
        twice: bool = False,
        lose: Callable[[str, int], bool] = lambda *_: False,
        kill_at: int = 0,
    ) -> None:
        """`seconds`: how long an activity takes. `lose(orchestrator, nth)`: whether that instance fails without having run."""
        self.kill_at, self.events = kill_at, 0
        self.plant, self.now, self.start, self.seconds, self.twice, self.lose = (
            plant,
            start,
            start,
            seconds,
            twice,
            lose,
        )
        self.queue: list[tuple[datetime, int, str, int, Callable[[], Any]]] = []
        self.numbers = itertools.count()
        self.instances: dict[str, Instance] = {}
        self.episodes: list[Episode] = []
        self.statuses: list[JsonDict] = []
        self.longest: Counter[str] = Counter()
        self.largest = 0
        self.largest_payload = 0
        self.started: Counter[str] = Counter()
        self.continued: Counter[str] = Counter()
        self.outcome: Any = None
        self.failure: str | None = None

    def run(self, name: str, value: Any, limit: int = 60_000, until: int = 0) -> Any:
        """The result of the orchestrator; raises OrchestrationFailedError with what it failed of. `until`: after so many events the hub is gone for good; None."""
        self._start(name, json.dumps(value), None)
        for _ in range(limit):
            if not self.queue:
                break
            if until and self.events >= until:
                return None
            self._next()
        else:
            raise AssertionError(f"no end after {limit} events, at {self.now - self.start}")
        if self.failure is not None:
            raise OrchestrationFailedError(self.failure)
        assert self.instances["0"].ended, "the orchestration is stuck: nothing is due and it has not ended"
        return self.outcome

    def load(self, mode: str = "full", until: int = 0, *, allow_deletes: bool = False) -> Any:
        """Run a load of the plant."""
        request = LoadRequest("plant-1", "plant", mode, self.start.isoformat(), [], allow_deletes)
        return self.run(LOAD, {"request": request.to_wire()}, until=until)

    def _later(self, at: datetime, instance: Instance, make: Callable[[], Any]) -> None:
        heapq.heappush(self.queue, (max(at, self.now), next(self.numbers), instance.id, instance.execution, make))

    def _payload(self, what: str, text: str | None) -> None:
        check_payload(what, text)
        self.largest_payload = max(self.largest_payload, len(text or ""))

    def _start(self, name: str, text: str, parent: tuple[str, int, int] | None) -> None:
        self._payload(f"input of {name}", text)
        instance = Instance(name, str(len(self.instances)), parent)
        self.instances[instance.id] = instance
        self.started[name] += 1
        if self.lose(name, self.started[name]):
            instance.ended = True
            self._tell(instance, None, "the worker was lost")
            return
        self._later(self.now, instance, lambda: _started(name, text, instance.id))

    def _next(self) -> None:
        at, _, instance_id, execution, make = heapq.heappop(self.queue)
        self.now = at
        instance = self.instances[instance_id]
        if instance.ended or instance.execution != execution:
            return
        self.events += 1
        killed = self.events == self.kill_at
        event = make()
        event.timestamp.FromDatetime(self.now)
        begin = pb.HistoryEvent(eventId=-1, orchestratorStarted=pb.OrchestratorStartedEvent())
        begin.timestamp.FromDatetime(self.now)
        instance.new = [begin, event]
        if killed:
            self._replay(instance)
            self._later(self.now + timedelta(seconds=30), instance, make)
            return
        self._episode(instance)

    def _replay(self, instance: Instance) -> tuple[str, JsonDict]:
        """What the SDK is given for the instance's next episode, and the state that it answers."""
        request = pb.OrchestratorRequest(instanceId=instance.id, pastEvents=instance.past, newEvents=instance.new)
        body = context_json(request, instance.parent[0] if instance.parent else None)
        return body, parse_state(*answer_of(instance.name, body))

    def _episode(self, instance: Instance) -> None:
        body, state = self._replay(instance)
        self.largest = max(self.largest, len(body))
        self.episodes.append(
            Episode(instance.name, instance.id, instance.execution, body, json.dumps(state["actions"]), self.now)
        )
        actions, status = Replay(instance.id, instance.name, state, KNOWN).run(instance.past, instance.new)
        if status is not None:
            check_custom_status(status)
            self.statuses.append(json.loads(status))
        done = pb.HistoryEvent(eventId=-1, orchestratorCompleted=pb.OrchestratorCompletedEvent())
        scheduled = [_scheduled(action) for action in actions if not action.HasField("completeOrchestration")]
        for event in (*scheduled, done):
            event.timestamp.FromDatetime(self.now)
        instance.past += [*instance.new, *scheduled, done]
        self.longest[instance.name] = max(self.longest[instance.name], len(instance.past))
        for action in actions:
            self._act(instance, action)

    def _act(self, instance: Instance, action: Any) -> None:
        kind = action.WhichOneof("orchestratorActionType")
        if kind == "scheduleTask":
            task = action.scheduleTask
            self._later(
                self.now + timedelta(seconds=self.seconds(task.name)),
                instance,
                lambda: self._activity(instance, action.id, task.name, task.input.value),
            )
        elif kind == "createSubOrchestration":
            sub = action.createSubOrchestration
            self._start(sub.name, sub.input.value, (instance.id, instance.execution, action.id))
        elif kind == "createTimer":
            fire_at = action.createTimer.fireAt
            self._later(fire_at.ToDatetime(UTC), instance, lambda: _fired(action.id, fire_at))
        else:
            self._complete(instance, action.completeOrchestration)

    def _activity(self, instance: Instance, task_id: int, name: str, text: str) -> Any:
        event = pb.HistoryEvent(eventId=-1)
        try:
            message = json.loads(json.loads(text)) if text.startswith('"') else json.loads(text)
            event.taskCompleted.result.value = json.dumps(self.plant(name, message))
            event.taskCompleted.taskScheduledId = task_id
        except AssertionError:
            raise
        except Exception as error:  # noqa: BLE001 - what the script raises fails the activity
            event.taskFailed.taskScheduledId = task_id
            event.taskFailed.failureDetails.errorMessage = f"Activity function '{name}' failed:  {error}"
        if self.twice:
            copy = pb.HistoryEvent()
            copy.CopyFrom(event)
            self._later(self.now + timedelta(seconds=0.5), instance, lambda: copy)
        return event

    def _complete(self, instance: Instance, done: Any) -> None:
        if done.orchestrationStatus == pb.ORCHESTRATION_STATUS_CONTINUED_AS_NEW:
            self._payload(f"input of {instance.name} as it continues", done.result.value)
            self.continued[instance.name] += 1
            instance.execution += 1
            instance.past = []
            text = done.result.value
            self._later(self.now, instance, lambda: _started(instance.name, text, instance.id))
            return
        instance.ended = True
        self._payload(f"output of {instance.name}", done.result.value)
        failed = done.orchestrationStatus == pb.ORCHESTRATION_STATUS_FAILED
        self._tell(instance, done.result.value, done.failureDetails.errorMessage if failed else None)

    def _tell(self, instance: Instance, result: str | None, failure: str | None) -> None:
        if instance.parent is None:
            self.outcome, self.failure = json.loads(result) if result and failure is None else None, failure
            return
        parent_id, execution, task_id = instance.parent
        event = pb.HistoryEvent(eventId=-1)
        if failure is None:
            event.subOrchestrationInstanceCompleted.taskScheduledId = task_id
            event.subOrchestrationInstanceCompleted.result.value = result or "null"
        else:
            event.subOrchestrationInstanceFailed.taskScheduledId = task_id
            event.subOrchestrationInstanceFailed.failureDetails.errorMessage = failure
        parent = self.instances[parent_id]
        assert parent.execution == execution, "a parent waits for its children before it continues as new"
        self._later(self.now, parent, lambda: event)


def _started(name: str, text: str, instance_id: str) -> Any:
    event = pb.HistoryEvent(eventId=-1)
    event.executionStarted.name = name
    event.executionStarted.input.value = json.dumps(text) if not text.startswith('"') else text
    event.executionStarted.orchestrationInstance.instanceId = instance_id
    return event


def _fired(timer_id: int, fire_at: Any) -> Any:
    return pb.HistoryEvent(eventId=-1, timerFired=pb.TimerFiredEvent(timerId=timer_id, fireAt=fire_at))


def _scheduled(action: Any) -> Any:
    event = pb.HistoryEvent(eventId=action.id)
    kind = action.WhichOneof("orchestratorActionType")
    if kind == "scheduleTask":
        event.taskScheduled.name = action.scheduleTask.name
        event.taskScheduled.input.CopyFrom(action.scheduleTask.input)
    elif kind == "createSubOrchestration":
        event.subOrchestrationInstanceCreated.name = action.createSubOrchestration.name
        event.subOrchestrationInstanceCreated.instanceId = "child"
        event.subOrchestrationInstanceCreated.input.CopyFrom(action.createSubOrchestration.input)
    else:
        event.timerCreated.fireAt.CopyFrom(action.createTimer.fireAt)
    return event


@pytest.fixture
def plant() -> type[Plant]:
    """The class Plant."""
    return Plant


@pytest.fixture
def drive() -> type[Drive]:
    """The class Drive."""
    return Drive


@pytest.fixture
def policy() -> Policy:
    """The policy of a Plant unless it is given another."""
    return POLICY


@pytest.fixture
def replay_answer() -> Callable[[str, str], str]:
    """The SDK's list of actions for one episode's body, as JSON."""

    def again(name: str, body: str) -> str:
        return json.dumps(parse_state(*answer_of(name, body))["actions"])

    return again
