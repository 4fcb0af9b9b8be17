"""The custom status of a run: small, constant in size, the same figures for every stream.

Invariant: pure; at most 16 KB of UTF-16 as the Durable extension demands, because its size depends on the number of streams only.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Final

from contracts import JsonDict, LoadRequest, Plan
from orchestrator.lane_state import LaneState

_SHOWN = (
    "exported",
    "staged",
    "flattened",
    "rows",
    "accepted",
    "rejected",
    "unchanged",
    "dead_lettered",
    "bytes",
    "bytes_sent",
)


LONGEST_ESTIMATE_S: Final = 365 * 86_400.0
"""An end further away than a year is no estimate (a source may name any total)."""


def status(
    request: LoadRequest,
    phase: str,
    plan: Plan | None,
    states: list[JsonDict],
    now: datetime,
    manifest: JsonDict | None = None,
) -> JsonDict:
    """What a user sees of a run: phase, per stream the figures so far, rate in records per second, started, estimated end."""
    lanes = [LaneState.of(state) for state in states]
    expected = plan.expected if plan is not None else {}
    streams: dict[str, JsonDict] = {}
    for lane in lanes:
        stream = streams.setdefault(lane.stream, _nothing(expected.get(lane.stream)))
        for name in _SHOWN:
            stream[name] += lane.counts.get(name, 0)
        stream["lanes"] += 1
        stream["lanes_done"] += lane.finished
        stream["expected"] = _count(lane.total) if lane.total is not None else stream["expected"]
    # What is derived has no lanes of its own before its parent's are done.
    for lane in lanes:
        for name, counts in lane.derived.items():
            stream = streams.setdefault(name, _nothing(None))
            for count in _SHOWN:
                stream[count] += counts.get(count, 0)
            stream["exported"] += lane.counts.get("exported", 0)
    elapsed_s = max(0.0, (now - datetime.fromisoformat(request.started_at)).total_seconds())
    done = sum(lane.counts.get("exported", 0) for lane in lanes if not lane.parent)
    rate = done / elapsed_s if elapsed_s > 0 else 0.0
    trouble = [f"{lane.stream}: {failing['reason']}" for lane in lanes for failing in lane.failing.values()]
    reasons = manifest["reasons"] if manifest is not None else [reason for lane in lanes for reason in lane.reasons]
    return {
        "phase": phase,
        "run_id": request.run_id,
        "source": request.source,
        "mode": plan.run["mode"] if plan is not None else request.mode,
        "started_at": request.started_at,
        "elapsed_s": round(elapsed_s, 1),
        "rate": round(rate, 1),
        "estimated_end_at": _end(streams, rate, now) if phase == "loading" else None,
        "streams": streams,
        "trouble": [_fitting(text, 200) for text in trouble[:3]],
        "reasons": [_fitting(text, 400) for text in reasons[:3]],
    }


def _nothing(expected: int | None) -> JsonDict:
    """The figures of a stream of which nothing is known but how many records it may have."""
    return {**dict.fromkeys(_SHOWN, 0), "lanes": 0, "lanes_done": 0, "expected": _count(expected)}


def _end(streams: dict[str, JsonDict], rate: float, now: datetime) -> str | None:
    going = [stream for stream in streams.values() if stream["lanes_done"] < stream["lanes"]]
    if rate <= 0 or any(stream["expected"] is None for stream in going):
        return None
    left_s = sum(max(0, stream["expected"] - stream["exported"]) for stream in going) / rate
    return (now + timedelta(seconds=left_s)).isoformat(timespec="seconds") if left_s <= LONGEST_ESTIMATE_S else None


def _count(total: int | None) -> int | None:
    """A source's total, unless it cannot be one: some say -1 for "I do not know"."""
    return total if total is not None and total >= 0 else None


def _fitting(text: str, room: int) -> str:
    """The beginning of the text whose JSON takes at most `room` characters: an escaped one can take twelve."""
    text = text[:room]
    while len(json.dumps(text)) > room + 2:
        text = text[: len(text) - max(1, (len(json.dumps(text)) - room) // 12)]
    return text
