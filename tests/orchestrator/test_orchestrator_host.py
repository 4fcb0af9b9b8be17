"""The orchestrators on the local durable engine, with threads and real time: the same runs as in virtual time."""

from __future__ import annotations

import inspect
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import azure.durable_functions as df
import pytest

import contracts
from contracts import Policy
from local.durable.host import Host
from orchestrator.lane import lane
from orchestrator.load import load
from orchestrator.stream import stream


def _form(message: dict) -> dict:  # type: ignore[type-arg]  # the Functions worker reads the bare annotation
    return message


def app_of(plant: Any) -> df.DFApp:
    """A function app with the real orchestrators and the plant's activities."""
    app = df.DFApp()
    for name, orchestrator in ((contracts.LOAD, load), (contracts.STREAM, stream), (contracts.LANE, lane)):
        app.orchestration_trigger(context_name="context", orchestration=name)(orchestrator)
    for name in contracts.ACTIVITIES:

        def activity(message: dict, name: str = name) -> dict:  # type: ignore[type-arg]  # see _form
            answer: dict[str, Any] = plant(name, message)
            return answer

        bound = activity
        bound.__name__ = name
        bound.__signature__ = inspect.signature(_form)  # type: ignore[attr-defined]  # the default above is no binding
        app.activity_trigger(input_name="message", activity=name)(bound)
    return app


@pytest.mark.parametrize("trouble", [False, True], ids=["all is well", "with troubles"])
def test_a_run_on_the_engine_is_complete(plant: Any, policy: Policy, trouble: bool) -> None:
    """Three lanes on real threads: complete, each segment uploaded once, histories short; with and without failing activities."""

    def script(name: str, message: Any, nth: int) -> Any:
        if trouble and nth % 7 == 3:
            raise OSError("the worker was lost")
        if trouble and nth % 5 == 2:
            return contracts.again("busy", 0.01)
        return None

    quick = replace(
        policy, first_wait_s=0.01, longest_wait_s=0.05, first_turn_s=0.2, longest_turn_s=0.5, give_up_after_s=60
    )
    p = plant({"assets": 2, "findings": 1}, 12, quick, script if trouble else (lambda *_: None))
    started_at = datetime.now(UTC).isoformat()
    request = contracts.LoadRequest("plant-1", "plant", "full", started_at).to_wire()
    with Host(functions=app_of(p), config={}) as host:
        ended = host.run(contracts.LOAD, {"request": request}, timeout_s=60)
        usage = host.usage()
    assert ended["runtimeStatus"] == "Completed", ended
    assert ended["output"]["status"] == "complete"
    assert ended["customStatus"]["streams"]["assets"]["accepted"] == 240
    assert set(p.uploaded) == p.everything
    assert set(p.uploaded.values()) == {1}
    assert usage["history_events_max"] < 500
