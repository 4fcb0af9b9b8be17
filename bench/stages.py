"""The stages of a load apart: its activities as they are bound, called one after the other in one process, without the durable engine.

Invariant: the steps are those that a lane would take (the lane's own state decides), with one request in flight, so every CPU second of the process
belongs to one step. Run in a process of its own, `python -m bench.stages`, because the app reads its settings once.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self
from unittest.mock import patch

import contracts
from bench.load import inventory
from bench.tracing import Trace, find
from contracts import DiffRequest, JsonDict, LoadRequest, Plan, Policy
from local.durable.functions import Function, load
from local.stack import ROOT, Stack
from orchestrator.compare import KEYS_PER_PART
from orchestrator.lane_state import LaneState

STEPS: Final = {
    "sources.reader:Reader.fetch": "HTTP",
    "sources.reader:Reader._readable": "split the envelope",
    "activities.export:_Group.take": "records to Arrow",
    "activities.parquet:Blob.add": "Parquet write",
    "activities.parquet:Frames.add": "Parquet write",
    "activities.rows:_Bodies.content": "rows segment",
    "activities.rows:Staged.lines": "unpack the ends of segments",
    "activities.parquet:of_frame": "Parquet write",
    "polars:read_parquet": "Parquet read",
    "transforms.rows:decode": "decode the declared fields",
    "transforms.rows:_flattened": "flatten",
    "transforms.rows:conform": "conform to the table",
    "transforms.rows:_prepared": "flatten",
    "activities.rows:keys": "keys and hashes",
    "activities.rows:texts": "encode NDJSON",
    "sentinel.text:texts": "encode NDJSON",
    "sentinel.packing:Press._add": "cut",
    "sentinel.packing:WirePress._cut": "cut and compress (wire mode)",
    "sentinel.packing:compress": "compress",
    "sentinel.packing:digest": "digests",
    "sentinel.ingestion:LogsIngestionSink.post": "send",
    "staging:Staging.find": "blob read",
    "staging:Staging.create": "blob write",
    "staging:Staging.summary": "blob look-ups",
    "staging:Staging.exists": "blob look-ups",
    "staging:Staging.list": "blob look-ups",
    "staging:Staging.append": "receipts",
    "staging:Staging.log": "receipts",
    "staging:Staging.describe": "receipts",
}
"""Functions that are watched, and what they do. What is left of an activity is its own line."""

ACTIVITIES: Final = (contracts.EXPORT, contracts.TRANSFORM, contracts.UPLOAD, contracts.DIFF)

OTHER: Final = "the rest of it"

IMPORTED: Final = ("activities.export", "activities.transform", "activities.upload", "activities.diff", "azure.storage.blob", "azure.monitor.ingestion")  # fmt: skip


Activities = Mapping[str, Callable[[JsonDict], JsonDict]]


class BareStack(Stack):
    """A stack without the app."""

    def start_app(self) -> None:
        """Start nothing."""


def measure(source: str, assets: int, say: Callable[[str], None] = lambda _: None) -> list[JsonDict]:
    """The lines of `stages` of a source: one per stream, activity and step. Raises CalledProcessError when the process breaks."""
    with (
        tempfile.TemporaryDirectory(prefix="caasm-bench-") as directory,
        BareStack(Path(directory), inventory(assets)) as stack,
    ):
        environment = stack.environment() | {
            "UPLOAD_IN_FLIGHT": "1",
            "POLARS_MAX_THREADS": "1",
            f"{source.upper()}_RELATIONS": "false",
        }
        said = subprocess.run(
            [sys.executable, "-m", "bench.stages", source],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
    lines: list[JsonDict] = json.loads(said)
    say(f"{source}: stages of {assets:,} assets and as many findings")
    return lines


def run(source: str, activities: Activities) -> list[JsonDict]:
    """Load every stream of the source by itself, and tell where the CPU time went. Raises RuntimeError when a step does not succeed."""
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    plan = Plan.from_wire(activities[contracts.OPEN_RUN](LoadRequest(f"bench-{source}", source, "full", now).to_wire()))
    found: list[JsonDict] = []
    for stream in dict.fromkeys(lane["stream"] for lane in plan.lanes):
        trace = Trace()
        # A transform encodes beside what it flattens, a comparison reads ahead; a trace only tells apart what follows each other.
        with trace.watching(STEPS), ExitStack() as inline:
            for module in ("activities.transform", "activities.rows", "staging"):
                inline.enter_context(patch(f"{module}.ThreadPoolExecutor", _Inline))
            states = walk(plan, stream, _traced(activities, trace))
            _compare(stream, states, plan, _traced(activities, trace))
        counts = {name: sum(state.counts[name] for state in states) for name in ("exported", "bytes", "bytes_sent")}
        found += lines(source, stream, counts, trace)
    return found


class _Inline:
    """In place of a pool of threads: what is submitted is done at once."""

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, work: Callable[..., Any], *args: Any) -> Future[Any]:
        """The future of what is done already."""
        done: Future[Any] = Future()
        done.set_result(work(*args))
        return done


def _traced(activities: Activities, trace: Trace) -> Activities:
    def traced(name: str, call: Callable[[JsonDict], JsonDict]) -> Callable[[JsonDict], JsonDict]:
        def inner(message: JsonDict) -> JsonDict:
            with trace.part(name):
                return call(message)

        return inner

    return {name: traced(name, call) for name, call in activities.items()}


def walk(plan: Plan, stream: str, activities: Activities, *, uploads: bool = True) -> list[LaneState]:
    """Take the steps of a stream's lanes, one lane after the other; their final states. Raises RuntimeError when one does not succeed."""
    lanes = [lane | {"uploads": uploads} for lane in plan.lanes if lane["stream"] == stream]
    states = [LaneState.start(lane) for lane in lanes]
    for state in states:
        _finish(state, plan, activities)
    return states


def _finish(state: LaneState, plan: Plan, activities: Activities) -> None:
    policy = Policy.from_wire(plan.policy)
    while not state.finished:
        now = datetime.now(UTC)
        due = state.due(plan.run, policy, now)
        if not due:
            wake = state.wake(now)
            if wake is None:
                raise RuntimeError(f"{state.stream}: nothing is due and nothing is waited for")
            time.sleep((wake - now).total_seconds())
        for name, message in due:
            state.take(name, message, activities[name](message), policy, datetime.now(UTC))
    if state.failed or state.export_failed:
        raise RuntimeError(f"{state.stream}: {state.reasons}")


def _compare(stream: str, states: list[LaneState], plan: Plan, activities: Activities) -> None:
    parts = max(1, -(-sum(state.counts["rows"] for state in states) // KEYS_PER_PART))
    for part in range(parts):
        answer = activities[contracts.DIFF](
            DiffRequest(plan.run, stream, part, parts, whole=True, proven=True).to_wire()
        )
        if "stop" in answer or "again" in answer:
            raise RuntimeError(f"{stream}: {answer}")


def lines(source: str, stream: str, counts: Mapping[str, int], trace: Trace) -> list[JsonDict]:
    """A line per activity and step, dearest first within its activity. `share`: of the stream's CPU time."""
    source_mb = counts["bytes"] / 1e6
    whole = sum(trace.seconds.values())
    order = [*ACTIVITIES]
    found = []
    for (activity, step), cpu_s in sorted(trace.seconds.items(), key=lambda item: (order.index(item[0][0]), -item[1])):
        found.append(
            {
                "source": source,
                "stream": stream,
                "activity": activity,
                "step": OTHER if step == activity else step,
                "records": counts["exported"],
                "source_mb": round(source_mb, 2),
                "json_mb": round(counts["bytes_sent"] / 1e6, 2),
                "calls": trace.calls[activity, step],
                "cpu_s": round(cpu_s, 4),
                "share": round(cpu_s / whole, 4),
                "source_mb_per_cpu_s": round(source_mb / cpu_s, 1) if cpu_s else None,
            }
        )
    return found


def activities_of(directory: Path) -> Activities:
    """The app's activities as they are bound, by name, with everything imported that they import when they are called."""
    app = load(directory)
    for module in IMPORTED:
        importlib.import_module(module)
    return {name: _caller(function) for name, function in app.durable["activity"].items()}


def _caller(function: Function) -> Callable[[JsonDict], JsonDict]:
    return lambda message: function.call(**{function.trigger.name: message})


def main() -> None:
    """Measure the source named on the command line on the stack of the environment; the lines as JSON on stdout."""
    parser = argparse.ArgumentParser(prog="python -m bench.stages", description=__doc__)
    parser.add_argument("source")
    source = parser.parse_args().source
    activities = activities_of(ROOT)
    absent = [place for place in STEPS if find(place) is None]
    if absent:
        print(f"bench.stages watches what is not there any more: {', '.join(absent)}", file=sys.stderr)
    print(json.dumps(run(source, activities)))


if __name__ == "__main__":
    main()
