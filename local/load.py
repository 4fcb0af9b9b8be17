"""Runs a load through the app's own HTTP API and follows it by Durable's status, as any client in Azure would.

Invariant: nothing of the app is called but over HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from local.outcome import Outcome
from local.stack import Stack

JsonDict = dict[str, Any]

FINISHED = {"Completed", "Failed", "Terminated", "Canceled"}

POLL_S = 0.25


def run_load(stack: Stack, source: str, mode: str, on_progress: Callable[[JsonDict], None]) -> Outcome:
    """Start a load, report its custom status as it changes, and return what it came to."""
    app = stack.parts["app"].url
    before = _usage(stack)
    begun = time.monotonic()
    code, answer = stack.call("POST", f"{app}/api/loads", {"source": source, "mode": mode})
    if code != 202:
        reason = f"{answer['error']}: {answer['remedy']}" if answer else f"the app answered {code}"
        return Outcome(run_id="", source=source, mode=mode, status="failed", reasons=[reason])
    run_id = answer["run_id"]
    seen: JsonDict | None = None
    while True:
        stack.check()
        _, state = stack.call("GET", answer["statusQueryGetUri"])
        if state["customStatus"] and state["customStatus"] != seen:
            seen = state["customStatus"]
            on_progress(seen)
        if state["runtimeStatus"] in FINISHED:
            break
        time.sleep(POLL_S)
    wall_s = time.monotonic() - begun
    after = _usage(stack)
    code, manifest = stack.call("GET", f"{app}/api/loads/{run_id}")
    manifest = manifest if code == 200 else {}
    reasons = manifest.get("reasons") or ([str(state["output"])] if state["runtimeStatus"] != "Completed" else [])
    return Outcome(
        run_id=run_id,
        source=source,
        mode=manifest.get("mode", mode),
        status=manifest.get("status", "failed") if state["runtimeStatus"] == "Completed" else "failed",
        manifest=manifest,
        reasons=reasons,
        wall_s=wall_s,
        cpu_s=after["cpu_s"] - before["cpu_s"],
        peak_memory_mb=after["peak_memory_mb"],
    )


def _usage(stack: Stack) -> JsonDict:
    usage: JsonDict = stack.call("GET", f"{stack.parts['app'].url}/admin/host/usage")[1]
    return usage
