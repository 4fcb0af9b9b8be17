"""Orchestrates a lane for one turn: a three-stage pipeline whose steps are yielded together.

1. Each step yields what is due in one `task_all`: export of segment n, transform of n-1, upload of what is packed.
2. An answer is a fact: a result, "again" (with how long to wait) or "stop". Waiting is a durable timer, and only for what is held.
3. After `STEPS_PER_EXECUTION` steps the lane continues as new, so that its history stays short whatever the inventory's size.
4. At the end of the turn it returns its state; the run starts it again from there. Invariant: the state alone says what is left to do.
"""

from __future__ import annotations

from collections.abc import Generator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from contracts import JsonDict, Policy
from orchestrator.lane_state import LaneState

if TYPE_CHECKING:
    from azure.durable_functions import DurableOrchestrationContext

STEPS_PER_EXECUTION: Final = 12
"""A step is up to 12 history events (three activities, their completions, three episodes): 12 steps stay below 200 events. Each answer replays all of them."""


def lane(context: DurableOrchestrationContext) -> Generator[Any, Any, JsonDict | None]:
    """Take steps until the turn is over (`until`) or the lane is finished; the lane's state. Input: {run, policy, state, until}."""
    work: JsonDict = context.get_input()
    policy = Policy.from_wire(work["policy"])
    state = LaneState.of(work["state"])
    until = datetime.fromisoformat(work["until"])
    for step in range(STEPS_PER_EXECUTION):
        now = context.current_utc_datetime
        # At least one step a turn: under load a turn can be over before the lane begins, and none would ever get anywhere.
        if state.finished or (step and now >= until):
            return state.wire()
        due = state.due(work["run"], policy, now)
        if not due:
            wake = state.wake(now)
            if wake is None or wake >= until:
                return state.wire()
            yield context.create_timer(wake)
            continue
        try:
            answers = yield context.task_all([context.call_activity(name, message) for name, message in due])
        except Exception as error:  # noqa: BLE001 - the SDK raises a failed activity as a bare Exception
            state.broke([name for name, _ in due], str(error)[:300], policy, context.current_utc_datetime)
            continue
        for (name, message), answer in zip(due, answers, strict=True):
            state.take(name, message, answer, policy, context.current_utc_datetime)
    context.continue_as_new({**work, "state": state.wire()})
    return None
