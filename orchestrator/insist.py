"""Calling one activity until it answers: what the run does for its own steps, outside of lanes.

Invariant: every call ends with a result or a stop; trouble is waited out on durable timers, half an hour in all.
"""

from __future__ import annotations

from collections.abc import Generator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from contracts import JsonDict
from orchestrator.history import History
from orchestrator.lane_state import LONGEST_HOLD_S

if TYPE_CHECKING:
    from azure.durable_functions import DurableOrchestrationContext

SHORT_WAITS_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 600.0)
"""How long the run waits between tries of its own activities, half an hour in all; and, from the second on, after broken turns."""


def insist(
    context: DurableOrchestrationContext, name: str, message: JsonDict, shown: JsonDict, history: History
) -> Generator[Any, Any, JsonDict]:
    """Call an activity until it answers with a result or a stop; after the last wait its trouble is a stop.

    `shown`: the run's custom status, in which the trouble is shown while it is waited for.
    """
    trouble = ""
    for wait_s in (*SHORT_WAITS_S, 0.0):
        history.waited()
        try:
            answer: JsonDict = yield context.call_activity(name, message)
        except Exception as error:  # noqa: BLE001 - the SDK raises a failed activity as a bare Exception
            answer = {"again": str(error)[:300], "retry_after_s": 0.0}
        if "again" not in answer:
            return answer
        trouble = answer["again"]
        context.set_custom_status({**shown, "trouble": [trouble[:200]]})
        if wait_s:
            delay = timedelta(seconds=min(LONGEST_HOLD_S, max(wait_s, answer["retry_after_s"])))
            history.waited()
            yield context.create_timer(context.current_utc_datetime + delay)
    return {"stop": trouble, "remedy": "when that is mended, start the load again"}


def said(answer: JsonDict) -> str:
    return f"{answer['stop']}: {answer['remedy']}" if answer.get("remedy") else str(answer["stop"])
