"""The upload path (encode, cut, compress, send) against `LogsIngestionClient.upload(list)` and other connectors' batching, on the same rows.

Invariant: every way sends every row, with the same members, through the SDK's client to the same emulator, which is a process of its own and takes what the service
may take (1 MB compressed); only batching, encoding and compression differ. CPU time is that of the whole sending process, of the best of several
rounds, in each of which the ways take turns. Run in a process of its own, `python -m bench.upload`, because the app reads its settings once.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import contracts
from bench.load import inventory
from bench.stages import STEPS, Activities, BareStack, activities_of, walk
from bench.tracing import Trace
from contracts import JsonDict, LoadRequest, Plan, Run
from local.sentinel.process import LoopbackCredential, start_server
from local.stack import DCR, ROOT

SHAPES: Final = {
    "cycognito_issues": ("cycognito", "issues"),
    "device42_devices": ("device42", "devices"),
    "tenable_findings": ("tenable", "vulnerabilities"),
}

ROWS: Final = 60_000
ROUNDS: Final = 5

Rows = list[JsonDict]

NO_LIMITS: Final = ("--limit", "wire", "--requests-per-minute", "0", "--bytes-per-minute", "0")
NO_QUOTA: Final = {"DCR_REQUESTS_PER_MINUTE": "0", "DCR_BYTES_PER_MINUTE": "0"}
"""Our way alone would sleep at a rule's quota, and whoever was asleep finds nothing of his in the caches."""


def measure(rows: int = ROWS, rounds: int = ROUNDS, say: Callable[[str], None] = lambda _: None) -> JsonDict:
    """The `upload` part: each shape's figures under `shapes`; above them the rates of the shape with the lowest ratio, and the requests of all together."""
    shapes = {}
    for name, (source, stream) in SHAPES.items():
        shapes[name] = compare(source, stream, rows, rounds)
        say(f"{name}: {shapes[name]['ratio']} times the rows per CPU second of the SDK's list path")
    return summary(shapes) | {"at": datetime.now(UTC).isoformat(timespec="seconds")}


def summary(shapes: dict[str, JsonDict]) -> JsonDict:
    """The figures of all shapes in one: see `measure`."""
    worst = min(shapes, key=lambda name: float(shapes[name]["ratio"]))
    rates = ("ours_rows_per_cpu_s", "sdk_rows_per_cpu_s", "ratio", "ratio_given_dicts")
    counts = ("requests_ours", "requests_fewest", "requests_wire", "requests_sdk")
    together = {
        name: sum(shape[name] for shape in shapes.values())
        if all(shape[name] is not None for shape in shapes.values())
        else None
        for name in counts
    }
    return {"worst": worst, **{name: shapes[worst][name] for name in rates}, **together, "shapes": shapes}


def compare(source: str, stream: str, rows: int, rounds: int) -> JsonDict:
    """A shape's figures, measured in a process of its own beside an emulator and blob storage. Raises CalledProcessError when it breaks."""
    with tempfile.TemporaryDirectory(prefix="caasm-bench-") as directory:
        server = start_server(Path(directory) / "rows", "--dcr", DCR, *NO_LIMITS)
        try:
            with BareStack(Path(directory), inventory(rows), dce=server.url) as stack:
                said = subprocess.run(
                    [sys.executable, "-m", "bench.upload", source, stream, str(rounds)],
                    cwd=ROOT,
                    env=stack.environment() | NO_QUOTA | {"POLARS_MAX_THREADS": "1"},
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                ).stdout
        finally:
            server.stop()
    found: JsonDict = json.loads(said)
    return found


# ------------------------------------------------------------------------------------------------ ways to send


def as_dicts(frame: Any) -> Rows:
    """The rows as the SDK takes them: a list of dictionaries, times as text, without what is null."""
    from polars import selectors

    texts = frame.with_columns(selectors.datetime().dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ"))
    return [{name: value for name, value in row.items() if value is not None} for row in texts.iter_rows(named=True)]


def by_count(rows: Sequence[JsonDict], count: int) -> Iterator[Sequence[JsonDict]]:
    """Batches of so many rows."""
    return (rows[at : at + count] for at in range(0, len(rows), count))


def by_count_and_bytes(rows: Sequence[JsonDict], count: int, limit: int) -> Iterator[bytes]:
    """JSON arrays of at most `count` rows and `limit` bytes, as a connector builds them that encodes each row once and does not compress."""
    batch: list[bytes] = []
    size = 2
    for row in rows:
        text = json.dumps(row).encode()
        if batch and (len(batch) == count or size + len(text) + 1 > limit):
            yield b"[" + b",".join(batch) + b"]"
            batch, size = [], 2
        batch.append(text)
        size += len(text) + 1
    if batch:
        yield b"[" + b",".join(batch) + b"]"


class Ours:
    """What the upload activity does between reading rows and writing receipts, with the app's own dependencies."""

    def __init__(self, frames: Sequence[Any], run: Run, table: str, mode: str) -> None:
        import function_app
        from settings import PACK_BYTES

        self._frames, self._run, self._table, self._mode = frames, run, table, mode
        self.deps = function_app._deps()  # noqa: SLF001 - the composition root has no other door, and its clients are to be measured
        self._pack_bytes = PACK_BYTES
        self.fewest = self.json_bytes = 0

    def one_at_a_time(self) -> Ours:
        """The same, with one request in flight."""
        other = copy(self)
        other.deps = replace(self.deps, sending=replace(self.deps.sending, in_flight=1))
        return other

    def __call__(self) -> None:
        """Send all rows, pack by pack."""
        from sentinel import packing

        limit = self.deps.budgets.body_limit_bytes
        self.json_bytes = 0
        whole: list[packing.Chunk] = []
        for press in self._packs(limit):
            self._send(press)
            whole += press.chunks
            self.json_bytes += press.taken
        self.fewest = packing.fewest_requests(whole, limit)

    def _packs(self, limit: int) -> Iterator[Any]:
        from activities.rows import portions
        from sentinel import text
        from sentinel.packing import Press, WirePress
        from sentinel.tables import BY_NAME

        kind = WirePress if self._mode == "wire" else Press
        press = kind(limit)
        for at, frame in enumerate(self._frames):
            for some in portions(frame):
                sent = text.texts(some, BY_NAME[self._table])
                press.add(memoryview(sent.content), (sent.ends[1:] - 1).to_list())
            if at + 1 == len(self._frames) or press.taken >= self._pack_bytes:
                press.finish()
                yield press
                press = kind(limit)

    def _send(self, press: Any) -> None:
        from sentinel.ingestion import Part

        sender = self.deps.sender(self.deps.destinations[0], self._table, self._run)
        sender.wire = lambda _, chunk: press.wires[chunk.start][1]
        refused: list[Any] = []
        parts = [Part(chunk) for chunk in press.chunks]
        sender.send(b"", parts, lambda sent: None if sent.accepted else refused.append(sent), refused.append)
        if refused:
            raise RuntimeError(f"not all rows were taken: {refused[0]}")


# ------------------------------------------------------------------------------------------------ the process that sends


def _frames(source: str, stream: str, activities: Activities) -> tuple[Run, str, list[Any]]:
    """The run, the table's name, and the rows of a stream as frames, exported and flattened as a transform does."""
    import function_app
    from activities import parquet
    from staging import Names
    from transforms.registry import TRANSFORMS
    from transforms.rows import Envelope, flatten

    now = datetime.now(UTC).isoformat(timespec="microseconds")
    request = LoadRequest(f"bench-{source}", source, "full", now, [stream])
    plan = Plan.from_wire(activities[contracts.OPEN_RUN](request.to_wire()))
    run = Run.from_wire(plan.run)
    staging = function_app._deps().staging  # noqa: SLF001 - see Ours
    envelope = Envelope(run.run_id, datetime.fromisoformat(run.started_at), "Snapshot")
    frames = []
    for state in walk(plan, stream, activities, uploads=False):
        for segment in range(state.segment):
            content = staging.read(Names(source, run.run_id).raw(stream, state.lane, segment))
            for _, _, group in parquet.groups(content):
                rows = flatten(TRANSFORMS[source, stream], group.collect()["record"], envelope).rows
                frames.append(rows.drop("_record"))
    return run, plan.streams[stream]["table"], frames


def _cost(rounds: int, work: Callable[[], object]) -> float:
    """CPU seconds of the best of some rounds."""
    spent = []
    for _ in range(rounds):
        begun = time.process_time()
        work()
        spent.append(time.process_time() - begun)
    return min(spent)


def _steps(ours: Ours, rows: int) -> dict[str, float]:
    """CPU microseconds a row of each step of our way, one request at a time."""
    trace = Trace()
    with trace.watching(STEPS), trace.part("ours"):
        ours.one_at_a_time()()
    return {
        ("the rest of it" if step == "ours" else step): round(1e6 * s / rows, 2)
        for (_, step), s in trace.seconds.items()
    }


class _Emulator:
    """What the emulator has taken since it was last asked."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._seen: JsonDict = {}
        self.since()

    def since(self) -> JsonDict:
        """Requests, rows, bytes on the wire, and bodies over the documented limit before compression."""
        import urllib3

        stats = urllib3.request("GET", f"{self._url}/_control/stats").json()
        over = sum(count for edge, count in stats["body_sizes"].items() if int(edge.removeprefix("<=")) > 1_048_576)
        now = {
            "requests": stats["accepted_requests"],
            "rows": sum(stats["rows"].values()),
            "wire_mb": stats["bytes_wire"] / 1e6,
            "over_limit": over,
        }
        gone = {name: value - self._seen.get(name, 0) for name, value in now.items()}
        self._seen = now
        return gone


@dataclass(slots=True)
class _Taken:
    """What the emulator took of one way in all rounds, and the CPU seconds of the best."""

    cpu_s: float = math.inf
    rows: int = 0
    requests: int = 0
    wire_mb: float = 0.0
    over_limit: int = 0

    def add(self, cpu_s: float, taken: JsonDict) -> None:
        """One more round."""
        self.cpu_s = min(self.cpu_s, cpu_s)
        self.rows += taken["rows"]
        self.requests += taken["requests"]
        self.wire_mb += taken["wire_mb"]
        self.over_limit += taken["over_limit"]


def run(source: str, stream: str, rounds: int, environment: dict[str, str], activities: Activities) -> JsonDict:
    """A shape's figures: rows per CPU second, requests and bytes on the wire of each way to send the same rows."""
    from azure.monitor.ingestion import LogsIngestionClient

    of_run, table, frames = _frames(source, stream, activities)
    rows = [row for frame in frames for row in as_dicts(frame)]
    endpoint, rule = environment["INGESTION_ENDPOINT"], environment["DCR_IMMUTABLE_ID"]
    client = LogsIngestionClient(endpoint, LoopbackCredential())
    dcr_stream = _stream_of(table)
    emulator = _Emulator(endpoint)

    def post(batches: Iterable[Any]) -> None:
        for batch in batches:
            client.upload(rule, dcr_stream, batch, enforce_https=False)

    ours = Ours(frames, of_run, table, "raw")
    ways: dict[str, Callable[[], object]] = {
        "ours": ours,
        "ours_wire": Ours(frames, of_run, table, "wire"),
        "sdk": lambda: post([rows]),
        "100_rows": lambda: post(by_count(rows, 100)),
        "200_rows_900_kb": lambda: post(map(io.BytesIO, by_count_and_bytes(rows, 200, 900_000))),
    }
    taken = {name: _Taken() for name in ways}
    # In turn, so that all of them have had the machine's good moments.
    for _ in range(rounds):
        for name, work in ways.items():
            taken[name].add(_cost(1, work), emulator.since())
    found: dict[str, JsonDict] = {}
    for name, of in taken.items():
        if of.rows != rounds * len(rows):
            raise RuntimeError(f"{name}: {of.rows} rows were taken of {rounds} times {len(rows)}")
        found[name] = {
            "rows_per_cpu_s": round(len(rows) / of.cpu_s),
            "requests": round(of.requests / rounds),
            "wire_mb": round(of.wire_mb / rounds, 2),
            "requests_over_limit": round(of.over_limit / rounds),
        }
    dicts_s = _cost(rounds, lambda: [as_dicts(frame) for frame in frames])
    return line(found, len(rows), ours.json_bytes, ours.fewest, dicts_s) | {"ours_us_per_row": _steps(ours, len(rows))}


def line(ways: dict[str, JsonDict], rows: int, json_bytes: int, fewest: int, dicts_s: float) -> JsonDict:
    """A shape's figures. `ratio`: both from the staged rows, so the SDK's list is made first; `ratio_given_dicts`: the SDK is given the list."""
    given = ways["sdk"]["rows_per_cpu_s"]
    from_rows = rows / (rows / given + dicts_s)
    ours = ways["ours"]["rows_per_cpu_s"]
    return {
        "rows": rows,
        "json_bytes_per_row": round(json_bytes / rows, 1),
        "ours_rows_per_cpu_s": ours,
        "sdk_rows_per_cpu_s": round(from_rows),
        "ratio": round(ours / from_rows, 2),
        "ratio_given_dicts": round(ours / given, 2),
        "requests_ours": ways["ours"]["requests"],
        "requests_fewest": fewest,
        "requests_wire": ways["ours_wire"]["requests"] if "ours_wire" in ways else None,
        "requests_sdk": ways["sdk"]["requests"],
        "ways": ways,
    }


def _stream_of(table: str) -> str:
    from sentinel.tables import BY_NAME

    return BY_NAME[table].stream


def main() -> None:
    """Measure the shape named on the command line on the stack of the environment; its figures as JSON on stdout."""
    import os

    parser = argparse.ArgumentParser(prog="python -m bench.upload", description=__doc__)
    parser.add_argument("source")
    parser.add_argument("stream")
    parser.add_argument("rounds", type=int)
    options = parser.parse_args()
    print(json.dumps(run(options.source, options.stream, options.rounds, dict(os.environ), activities_of(ROOT))))


if __name__ == "__main__":
    main()
