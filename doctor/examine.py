"""Runs checks side by side, each within its own time and all within a budget.

Invariant: it ends in time whatever a check does: what has not answered by then is a finding of its own. A check that breaks is one too, and keeps no
other from being made.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from doctor.findings import Finding, Report, published, wrong

CHECK_S: Final = 20.0
"""The longest that one check may take: a few requests, each with a timeout below it."""


@dataclass(frozen=True, slots=True)
class Check:
    """Something to look at. `work` gives its findings as it makes them; those that came before it was late or broke count."""

    name: str
    work: Callable[[], Iterable[Finding]]
    longest_s: float = CHECK_S


def examine(
    checks: Sequence[Check],
    budget_s: float,
    redact: Callable[[str], str],
    clock: Callable[[], float] = time.monotonic,
) -> Report:
    """The report of all checks, in their order, after at most `budget_s` seconds.

    A thread that is late is left to end by itself, by the timeouts of its own requests; it holds up nothing, not even the end of the process.
    """
    begun = clock()
    done: queue.SimpleQueue[int] = queue.SimpleQueue()
    found: list[list[Finding]] = [[] for _ in checks]
    waiting = set(range(len(checks)))
    for number, check in enumerate(checks):
        threading.Thread(target=_make, args=(check, found[number], number, done), daemon=True).start()
    while waiting:
        elapsed_s = clock() - begun
        late = {number for number in waiting if elapsed_s >= min(checks[number].longest_s, budget_s)}
        waiting -= late
        for number in late:
            # A copy: the thread may still add to its own list.
            found[number] = [
                *found[number],
                wrong("check.late", checks[number].name, f"no answer in {elapsed_s:.0f} s"),
            ]
        if waiting:
            next_s = min(budget_s, *(checks[number].longest_s for number in waiting)) - (clock() - begun)
            try:
                waiting.discard(done.get(timeout=max(0.0, next_s)))
            except queue.Empty:
                continue
    listed = [finding for findings in found for finding in findings]
    return Report(published(listed, redact), clock() - begun)


def _make(check: Check, found: list[Finding], number: int, done: queue.SimpleQueue[int]) -> None:
    try:
        for finding in check.work():
            found.append(finding)  # noqa: PERF402 - one by one: what came before it breaks or is late counts
    except Exception as error:  # noqa: BLE001 - a fault of ours must not look like health
        found.append(wrong("check.broke", check.name, f"{type(error).__name__}: {error}"))
    finally:
        done.put(number)
