"""Runs a load through the app's own HTTP API and follows it by Durable's status, as any client in Azure would.

Invariant: nothing of the app is called but over HTTP; an app that is killed and started again on its journal is followed through it, and a load that
its journal has resumed is followed instead of started.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from contracts import instance_id
from local.durable.chaos import tally
from local.outcome import Outcome
from local.stack import Stack

JsonDict = dict[str, Any]

FAILED = {"Failed", "Terminated", "Canceled"}

FINISHED = {"Completed", *FAILED}

POLL_S = 0.25


def run_load(
    stack: Stack,
    source: str,
    mode: str,
    on_progress: Callable[[JsonDict], None],
    *,
    options: JsonDict | None = None,
    asked_at: str = "",
) -> Outcome:
    """Start a load, or go on with the one that the app's journal has; report its custom status as it changes; return what it came to.

    `options`: more fields of the request. `asked_at`: when a command that was killed asked for this very load; if the app has begun it since then, it
    is followed to its end, or taken as it ended, and not started again.
    """
    chaos = _chaos(stack)
    meter = _Meter(stack)
    begun = time.monotonic()
    answer: JsonDict | None = None
    if not (asked_at and _begun_since(stack, source, asked_at)):
        request = {"source": source, "mode": mode, **(options or {})}
        code, answer = stack.call_app("POST", "/api/loads", request)
        if code != 202 and not (code == 409 and stack.journal is not None):
            reason = f"{answer['error']}: {answer['remedy']}" if answer else f"the app answered {code}"
            return Outcome(run_id="", source=source, mode=mode, status="failed", reasons=[reason])
    state = _follow(stack, source, meter, on_progress)
    # A load that was resumed may not have told its id yet when it refused the second start.
    run_id = (answer or {}).get("run_id") or (state["customStatus"] or {}).get("run_id", "")
    wall_s = time.monotonic() - begun
    meter.look()
    code, manifest = stack.call_app("GET", f"/api/loads/{run_id}")
    manifest = manifest if code == 200 else {}
    reasons = manifest.get("reasons") or ([str(state["output"])] if state["runtimeStatus"] != "Completed" else [])
    after = _chaos(stack)
    return Outcome(
        run_id=run_id,
        source=source,
        mode=manifest.get("mode", mode),
        status=manifest.get("status", "failed") if state["runtimeStatus"] == "Completed" else "failed",
        manifest=manifest,
        reasons=reasons,
        wall_s=wall_s,
        cpu_s=meter.cpu_s,
        peak_memory_mb=meter.peak_memory_mb,
        chaos={"seed": stack.chaos, **{name: after[name] - chaos[name] for name in after}} if after else None,
    )


def _begun_since(stack: Stack, source: str, asked_at: str) -> bool:
    """Whether the source's instance was created since then, and did not fail."""
    code, state = stack.call_app("GET", f"/runtime/webhooks/durabletask/instances/{instance_id(source)}")
    return code < 400 and state["createdTime"] >= asked_at and state["runtimeStatus"] not in FAILED


def _follow(stack: Stack, source: str, meter: _Meter, on_progress: Callable[[JsonDict], None]) -> JsonDict:
    """Durable's status of the source's instance once it has finished."""
    seen: JsonDict | None = None
    while True:
        stack.check()
        # Not the link that the start answered with: the app may listen elsewhere by now.
        _, state = stack.call_app("GET", f"/runtime/webhooks/durabletask/instances/{instance_id(source)}")
        if state["customStatus"] and state["customStatus"] != seen:
            seen = state["customStatus"]
            on_progress(seen)
        if state["runtimeStatus"] in FINISHED:
            found: JsonDict = state
            return found
        if stack.most_restarts:
            meter.look()
        time.sleep(POLL_S)


def _chaos(stack: Stack) -> dict[str, int]:
    return tally(stack.chaos_log) if stack.chaos_log is not None else {}


class _Meter:
    """CPU time and peak memory of the app since the meter was made; of one that was killed, as far as it was last looked at."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._seen: dict[int, JsonDict] = {}
        self.look()
        self._before = sum(usage["cpu_s"] for usage in self._seen.values())

    def look(self) -> None:
        """Ask the app."""
        usage: JsonDict = self._stack.call_app("GET", "/admin/host/usage")[1]
        self._seen[usage["pid"]] = usage

    @property
    def cpu_s(self) -> float:
        total: float = sum(usage["cpu_s"] for usage in self._seen.values()) - self._before
        return total

    @property
    def peak_memory_mb(self) -> float:
        return max(float(usage["peak_memory_mb"]) for usage in self._seen.values())
