"""Orchestrates a stream for one turn: its unfinished lanes, side by side.

Invariant: a lane that fails without an answer keeps the state that it had at the turn's begin; its steps are idempotent, so the next turn finds
what was done and goes on.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from contracts import LANE, JsonDict
from orchestrator.lane_state import LaneState

if TYPE_CHECKING:
    from azure.durable_functions import DurableOrchestrationContext


def stream(context: DurableOrchestrationContext) -> Generator[Any, Any, list[JsonDict]]:
    """Run every unfinished lane for a turn; the lanes' states. Input: {run, policy, states, until}."""
    work: JsonDict = context.get_input()
    states: list[JsonDict] = work["states"]
    going = [at for at, state in enumerate(states) if not LaneState.of(state).finished]
    shared = {name: work[name] for name in ("run", "policy", "until")}
    tasks = [context.call_sub_orchestrator(LANE, {**shared, "state": states[at]}) for at in going]
    ended = yield context.task_all(tasks)
    for at, state in zip(going, ended, strict=True):
        states[at] = state
    return states
