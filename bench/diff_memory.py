"""`python -m bench.diff_memory --keys 10000000`: what comparing two runs of so many keys takes of memory and time, part by part, as JSON.

Invariant: the activity is the app's own, on blobs that are read from and written to Azurite, in a process that has done nothing else; what it compares is
invented here (staging ten million rows as transforms do takes longer than judging them), in the form, the sizes and the parts that a run would give.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

# As in function_app; polars reads it at import, also in the processes that are started here.
os.environ.setdefault("POLARS_MAX_THREADS", "1")

from local.azurite import Azurite
from orchestrator.compare import parts_of

SOURCE: Final = "device42"
STREAM: Final = "devices"
BASE: Final = "base"
RUN: Final = "run"
STARTED_AT: Final = "2026-11-20T10:00:00.000000+00:00"
ROWS_PER_SEGMENT: Final = 10_000
"""About what a segment of 16 MiB holds of records like CyCognito's."""

CREATED, UPDATED, GONE = 0.01, 0.02, 0.01

JsonDict = dict[str, Any]


def main() -> None:
    """Stage a base and a run that differs from it, judge both, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=10_000_000)
    parser.add_argument(
        "--key-bytes", type=int, default=45, help="length of a key; 45 is a UUID behind the source's name"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Azurite(Path(folder)) as blobs:
        connection = blobs.connection_string
        gone = int(arguments.keys * GONE)
        created = int(arguments.keys * CREATED)
        _alone(stage, connection, BASE, 0, arguments.keys, arguments.key_bytes)
        _alone(stage, connection, RUN, gone, arguments.keys + created, arguments.key_bytes)
        parts = parts_of(arguments.keys, arguments.keys)
        first = _alone(judge, connection, BASE, None, parts)
        second = _alone(judge, connection, RUN, BASE, parts)
    print(json.dumps({"keys": arguments.keys, "parts": parts, "first_run": first, "next_run": second}, indent=1))


def _alone(work: Callable[..., JsonDict], *arguments: Any) -> JsonDict:
    """Do the work in a process of its own, so that its peak is of nothing else."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def stage(connection: str, run_id: str, first: int, last: int, key_bytes: int) -> JsonDict:
    """Stage the keys `first` to `last` as transforms would: segments of key, part and hash; a run's hashes differ from the base's for some."""
    import polars as pl

    from activities import parquet
    from staging import Names

    staging = _staging(connection)
    names = Names(SOURCE, run_id)
    for segment, begin in enumerate(range(first, last, ROWS_PER_SEGMENT)):
        ids = pl.int_range(begin, min(last, begin + ROWS_PER_SEGMENT), eager=True)
        moved = ids.hash(1) % 1000 < (UPDATED * 1000 if run_id == RUN else 0)
        # Identifiers of products do not compress: half of this one is a digest.
        text = ids.hash(2).cast(pl.String).str.zfill(20) + ids.cast(pl.String)
        key = f"{SOURCE}:" + text.str.zfill(max(1, key_bytes - len(SOURCE) - 1))
        frame = pl.DataFrame({"key": key, "key_hash": ids.hash(3), "hash": ids.hash(4) + moved.cast(pl.UInt64)})
        staging.create(names.keys(STREAM, 0, segment), parquet.of_frame(frame), {})
    return {}


def judge(connection: str, run_id: str, base: str | None, parts: int) -> JsonDict:
    """Compare every part, one after the other as a run does, and let the run be what the next is compared with."""
    import activities.close_run
    import activities.export
    import activities.upload  # noqa: F401 - a worker has them all in memory
    from activities.diff import diff
    from activities.index import KEY_HASH
    from contracts import DiffRequest, Run
    from staging import watermark_name

    staging = _staging(connection)
    run = Run(run_id, SOURCE, "delta", STARTED_AT, None, base).to_wire()
    idle = _peak_bytes()
    sums: dict[str, int] = {}
    walls, cpus, peaks = [], [], []
    for part in range(parts):
        wall, cpu = time.perf_counter(), time.process_time()
        result = diff(DiffRequest(run, STREAM, part, parts, whole=True, proven=True), _deps(staging)).to_wire()
        walls.append(round(time.perf_counter() - wall, 2))
        cpus.append(round(time.process_time() - cpu, 2))
        peaks.append(_mb(_peak_bytes()))
        sums = {name: sums.get(name, 0) + number for name, number in result.items() if name != "v"}
    mark = {
        "run_id": run_id,
        "streams": {STREAM: {"parts": parts, "gone_rule": "dropped", "key_hash": KEY_HASH, "keys": sums["keys"]}},
    }
    staging.put_json(watermark_name(SOURCE), mark, {})
    return {
        **sums,
        "idle_mb": _mb(idle),
        "peak_mb": peaks[-1],
        "peak_mb_after_part": peaks,
        "wall_s_of_part": walls,
        "cpu_s_of_part": cpus,
        "wall_s": round(sum(walls), 1),
        "cpu_s": round(sum(cpus), 1),
    }


def _staging(connection: str) -> Any:
    from azure.storage.blob import ContainerClient

    from staging import Staging

    sizes: JsonDict = {"max_single_put_size": 256 * 1024 * 1024, "max_single_get_size": 256 * 1024 * 1024}
    staging = Staging(ContainerClient.from_connection_string(connection, "bench", **sizes))
    staging.ensure()
    return staging


def _deps(staging: Any) -> Any:
    """What diff takes of the app's dependencies: the staging area; it reads no product and sends nothing."""
    from activities.deps import Budgets, Deps
    from sentinel.ingestion import Budget

    def no_reader(name: str) -> Any:
        raise AssertionError(f"{name} is read")

    return Deps(staging, no_reader, (), Budgets(0, 0.0, 0.0, 0, 0, 0), Budget())


def _peak_bytes() -> int:
    """The most memory that this process has had; on Linux its own, where rusage counts what its parent had before."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def _mb(size: int) -> int:
    return round(size / 1e6)


if __name__ == "__main__":
    main()
