"""Orchestrates a run: open it, give its streams turn after turn, close it.

1. `open_run` decides the lanes; nothing else is known beforehand.
2. A turn runs every stream side by side for some seconds; between turns the run knows all lanes' states and sets its custom status. Turns grow,
   so that progress shows at once and long runs pay nothing for it. No `task_any`: the SDK's 1.x replay punishes windows
   (docs/adr/0003-turns.md).
3. Every `TURNS_PER_EXECUTION` turns, or when its history is full, the run continues as new with the lanes' states, which is all there is to know.
4. When the lanes are done, derived streams get lanes, of which everything is staged; a full load sends it.
   When those are done, `compare` judges the keys: a delta then sends what has changed, and when all that has been accepted every load sends tombstones for what is gone.
5. `close_run` always runs, also for a run that failed or was cancelled. Invariant: a run ends with a manifest, or says why it could not write one.
"""

from __future__ import annotations

from collections.abc import Generator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from contracts import CLOSE_RUN, OPEN_RUN, STREAM, CloseRequest, JsonDict, LoadRequest, Plan, Policy, Run
from orchestrator.compare import bury, compare
from orchestrator.history import History
from orchestrator.insist import SHORT_WAITS_S, insist, said
from orchestrator.lane_state import LaneState
from orchestrator.status import status

if TYPE_CHECKING:
    from azure.durable_functions import DurableOrchestrationContext

TURNS_PER_EXECUTION: Final = 12
TURN_GROWTH: Final = 1.5
LONGEST_GROWTH_TURNS: Final = 40
"""Turns after which turns no longer grow: 1.5 to the power of 40 is months, to the power of 1,751 no float."""

BROKEN_TURNS: Final = 5
"""How many turns in a row may end without an answer before the run is given up."""


class LoadFailedError(Exception):
    """The load failed; the text says why and what to do."""


def load(context: DurableOrchestrationContext) -> Generator[Any, Any, JsonDict | None]:
    """Load a source; the manifest. Input: {request} at first, then {request, plan, states, turn, broken, diffs} as it continues."""
    work: JsonDict = context.get_input()
    history = History()
    request = LoadRequest.from_wire(work["request"])
    if "plan" not in work:
        shown = status(request, "opening", None, [], context.current_utc_datetime)
        context.set_custom_status(shown)
        answer = yield from insist(context, OPEN_RUN, request.to_wire(), shown, history)
        if "stop" in answer:
            return (yield from _close(context, request, None, [], [said(answer)], history))
        work = {**work, "plan": answer, "states": [LaneState.start(lane).wire() for lane in answer["lanes"]], "turn": 0}
    plan = Plan.from_wire(work["plan"])
    states: list[JsonDict] = work["states"]
    turn: int = work["turn"]
    broken: int = work.get("broken", 0)
    for _ in range(TURNS_PER_EXECUTION):
        if history.full:
            break
        states = branched(states)
        if all(LaneState.of(state).finished for state in states):
            diffs: JsonDict = work.get("diffs", {})
            failed = any(lane.failed or lane.export_failed for lane in map(LaneState.of, states))
            if not failed and (not diffs or diffs.get("comparing")):
                shown = status(request, "comparing", plan, states, context.current_utc_datetime)
                context.set_custom_status(shown)
                states, diffs = yield from compare(
                    context, plan, states, diffs, shown, history, allow_deletes=request.allow_deletes
                )
            elif not failed and diffs.get("bury"):
                states, diffs = bury(states, diffs)
            else:
                return (yield from _close(context, request, plan, states, [], history, diffs))
            work = {**work, "diffs": diffs}
            continue
        phase = "sending" if "diffs" in work else "loading"
        context.set_custom_status(status(request, phase, plan, states, context.current_utc_datetime))
        try:
            states = yield from _turn(context, plan, states, turn, history)
            broken = 0
        except Exception as error:  # noqa: BLE001 - the SDK raises a failed sub-orchestration as a bare Exception
            # The states are those of the turn's begin; what was done meanwhile is found by the steps themselves.
            broken += 1
            if broken > BROKEN_TURNS:
                states = [{**state, "failed": True} for state in states]
                told = [f"the orchestration broke: {str(error)[:300]}"]
                return (yield from _close(context, request, plan, states, told, history, work.get("diffs")))
            history.waited()
            # Whatever broke it gets time to recover; without it six turns would be over in a second.
            yield context.create_timer(context.current_utc_datetime + timedelta(seconds=SHORT_WAITS_S[broken]))
        turn += 1
    context.continue_as_new({**work, "states": states, "turn": turn, "broken": broken})
    return None


def branched(states: list[JsonDict]) -> list[JsonDict]:
    """The states with the lanes of derived streams behind the others, once those are done; what failed sends no more."""
    lanes = [LaneState.of(state) for state in states]
    if any(not lane.finished or lane.failed or lane.export_failed for lane in lanes):
        return states
    more = [own for lane in lanes for own in lane.branch()]
    return [lane.wire() for lane in (*lanes, *more)]


def _turn(
    context: DurableOrchestrationContext, plan: Plan, states: list[JsonDict], turn: int, history: History
) -> Generator[Any, Any, list[JsonDict]]:
    policy = Policy.from_wire(plan.policy)
    now = context.current_utc_datetime
    idle = _idle_until(plan, states, policy, now)
    if idle is not None:
        history.waited()
        yield context.create_timer(idle)
        now = context.current_utc_datetime
    seconds = min(policy.longest_turn_s, policy.first_turn_s * TURN_GROWTH ** min(turn, LONGEST_GROWTH_TURNS))
    shared = {"run": plan.run, "policy": plan.policy, "until": (now + timedelta(seconds=seconds)).isoformat()}
    going = [state for state in states if not LaneState.of(state).finished]
    streams = list(dict.fromkeys(state["stream"] for state in going))
    tasks = [
        context.call_sub_orchestrator(
            STREAM, {**shared, "states": [state for state in going if state["stream"] == name]}
        )
        for name in streams
    ]
    history.waited(len(tasks))
    ended = yield context.task_all(tasks)
    changed = {(state["stream"], state["lane"]): state for group in ended for state in group}
    return [changed.get((state["stream"], state["lane"]), state) for state in states]


def _idle_until(plan: Plan, states: list[JsonDict], policy: Policy, now: datetime) -> datetime | None:
    """When the first lane can go on, if until then none has anything to do."""
    wakes = []
    for wire in states:
        state = LaneState.of(wire)
        if state.finished:
            continue
        wake = state.wake(now)
        if wake is None or state.due(plan.run, policy, now):
            return None
        wakes.append(wake)
    return min(wakes, default=None)


def _close(
    context: DurableOrchestrationContext,
    request: LoadRequest,
    plan: Plan | None,
    states: list[JsonDict],
    told: list[str],
    history: History,
    diffs: JsonDict | None = None,
) -> Generator[Any, Any, JsonDict]:
    lanes = [LaneState.of(state) for state in states]
    reasons = list(dict.fromkeys([*told, *(reason for lane in lanes for reason in lane.reasons)]))
    run = (
        plan.run
        if plan is not None
        else Run(request.run_id, request.source, request.mode, request.started_at).to_wire()
    )
    counts: dict[str, dict[str, int]] = {}
    totals: dict[str, int | None] = {}
    for lane in lanes:
        stream = counts.setdefault(lane.stream, {})
        for name, number in lane.counts.items():
            stream[name] = stream.get(name, 0) + number
        if not lane.parent:
            totals[lane.stream] = lane.total if lane.total is not None else totals.get(lane.stream)
    failed = plan is None or any(lane.failed or lane.export_failed for lane in lanes)
    cancelled = any(lane.cancelled for lane in lanes)
    expected = plan.expected if plan is not None else {}
    message = CloseRequest(
        run=run,
        counts=counts,
        reasons=[reason[:400] for reason in reasons[:12]],
        failed=failed,
        cancelled=cancelled,
        expected=expected,
        totals=totals,
        diffs=(diffs or {}).get("streams", {}),
        notes=(diffs or {}).get("notes", []),
    )
    shown = status(request, "closing", plan, states, context.current_utc_datetime)
    context.set_custom_status(shown)
    manifest = yield from insist(context, CLOSE_RUN, message.to_wire(), shown, history)
    if "stop" in manifest:
        reasons.append(said(manifest))
        failed = True
        manifest = {"status": "failed", "reasons": reasons}
    phase = "cancelled" if cancelled else manifest["status"]
    context.set_custom_status(status(request, phase, plan, states, context.current_utc_datetime, manifest))
    if manifest["status"] == "failed" and not cancelled:
        raise LoadFailedError(f"load {request.run_id} of {request.source} failed: {'; '.join(manifest['reasons'][:5])}")
    return manifest
