"""Whole loads on this machine: the app, blob storage, the emulator and a simulator, each in a process of its own.

Invariant: every load has a stack and a directory of its own, both gone afterwards; what is counted as the app's is its process alone, and a load that is
not complete, or whose counts are not those of the inventory, is no measurement.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench import pace
from bench.machine import busy_s, cpu_s
from local.load import run_load
from local.outcome import Outcome
from local.stack import Stack
from sentinel.packing import BODY_LIMIT_BYTES

JsonDict = dict[str, Any]

SOURCES: Final = ("cycognito", "device42", "tenable")

DCRS: Final = 8
"""Data collection rules that share a load, so that the quota of one, which CyCognito's rows exceed, is not what is measured."""

QUOTA_MB_PER_S: Final = 2000 / 60
"""What one DCR takes: 2 GB a minute (Azure Monitor's service limits)."""


class NotMeasuredError(RuntimeError):
    """The load did not do what was to be measured; the text says what it did instead."""


def inventory(assets: int) -> list[str]:
    """The simulators' arguments for that many assets, and as many findings."""
    return ["--assets", str(assets), "--findings", str(assets), "--seed", "1"]


def measure(
    source: str,
    assets: int,
    say: Callable[[str], None] = lambda _: None,
    *,
    relations: bool = True,
    dcrs: int = DCRS,
) -> JsonDict:
    """A line of `end_to_end`: a full load of `assets` assets and as many findings of a source, with or without `relations`, through `dcrs` rules. Raises NotMeasuredError."""
    begun, before_it = time.monotonic(), pace.measure()
    settings = {f"{source.upper()}_RELATIONS": str(relations).lower()}
    with tempfile.TemporaryDirectory(prefix="caasm-bench-") as directory:
        rules = ",".join(f"dcr-{rule:032x}" for rule in range(dcrs))
        with Stack(Path(directory), inventory(assets), app_settings=settings, dcr=rules) as stack:
            before, usage = _cpu(stack), stack.call_app("GET", "/admin/host/usage")[1]
            machine = _Machine()
            outcome = run_load(stack, source, "full", lambda _: None)
            foreign = machine.foreign_share(
                outcome.cpu_s + sum(_cpu(stack)[name] - before[name] for name in before if name != "app")
            )
            after, used = _cpu(stack), stack.call_app("GET", "/admin/host/usage")[1]
            engine_s = used["engine_cpu_s"] - usage["engine_cpu_s"]
            others = {name: round(after[name] - before[name], 2) for name in after if name != "app"}
            log = stack.parts["app"].tail()
        line = _line(outcome, assets, engine_s, used["history_events_max"], others, log, relations=relations) | {
            "dcrs": dcrs,
            "foreign_share": foreign,
            "pace": round((before_it + pace.measure()) / 2, 1),
        }
    say(f"{source} {assets:,}: {line['source_mb_per_app_cpu_s']} MB/CPU s, {time.monotonic() - begun:.0f} s in all")
    return line


class _Machine:
    """What else the machine did since it was made."""

    def __init__(self) -> None:
        self._begun, self._own_s, self._busy_s = time.monotonic(), time.process_time(), busy_s()

    def foreign_share(self, ours_s: float) -> float | None:
        """The share of all cores that was used by others than this process and those that used `ours_s` seconds; None where nobody knows."""
        now = busy_s()
        if now is None or self._busy_s is None:
            return None
        foreign_s = now - self._busy_s - ours_s - (time.process_time() - self._own_s)
        cores = os.cpu_count() or 1
        return round(max(0.0, foreign_s) / (cores * (time.monotonic() - self._begun)), 3)


def _cpu(stack: Stack) -> dict[str, float]:
    return {name: cpu_s(pid) for name, pid in stack.pids.items()}


def _line(
    outcome: Outcome,
    assets: int,
    engine_s: float,
    events: int,
    others: dict[str, float],
    log: str,
    *,
    relations: bool,
) -> JsonDict:
    if outcome.status != "complete":
        raise NotMeasuredError(f"the load of {outcome.source} was {outcome.status}: {outcome.reasons}\n{log}")
    records = outcome.manifest["totals"]["exported"]
    rows = sum(stream["accepted"] for stream in outcome.streams.values())
    manifest = outcome.manifest
    source_mb, json_mb = manifest["bytes_exported"] / 1e6, manifest["bytes_sent"] / 1e6
    return {
        "source": outcome.source,
        "assets": assets,
        "relations": relations,
        "records": records,
        "rows": rows,
        "wall_s": round(outcome.wall_s, 2),
        "source_mb": round(source_mb, 2),
        "json_mb": round(json_mb, 2),
        "source_mb_per_s": round(source_mb / outcome.wall_s, 1),
        "json_mb_per_s": round(json_mb / outcome.wall_s, 1),
        "of_dcr_quota": round(json_mb / outcome.wall_s / QUOTA_MB_PER_S, 3),
        "records_per_s": round(records / outcome.wall_s),
        "app_cpu_s": round(outcome.cpu_s, 2),
        "source_mb_per_app_cpu_s": round(source_mb / outcome.cpu_s, 1),
        "app_cpu_us_per_record": round(1e6 * outcome.cpu_s / records, 1),
        "engine_cpu_s": round(engine_s, 3),
        "engine_share": round(engine_s / outcome.cpu_s, 4),
        "other_cpu_s": others,
        "requests": manifest["requests"],
        "requests_fewest": fewest(manifest),
        "fill": manifest["fill"],
        "wire_mb": round(manifest["bytes_wire"] / 1e6, 2),
        "peak_memory_mb": round(outcome.peak_memory_mb, 1),
        "history_events_max": events,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def fewest(manifest: JsonDict) -> int:
    """The fewest requests that could carry each stream's bytes, if rows could be split: a lower bound, per stream, which no request spans."""
    return sum(-(-stream["bytes_sent"] // BODY_LIMIT_BYTES) for stream in manifest["streams"].values())
