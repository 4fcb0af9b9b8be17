"""At-least-once delivery, on purpose: activities that run again, run twice at once, answer late or never, and a worker that is killed.

Invariant: what happens to a delivery follows from (seed, function, input, how often that was delivered) alone, so a seed does the same again as
far as threads allow; not from ids of instances, which the engine makes from the time. Every delivery reaches the engine at least once, unless the
process is killed first. What happens is written down before, a JSON line each, so that a killed worker's successor counts on and does not
meet the same end again.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, Final

Span = tuple[float, float]

LOG_SUFFIX: Final = ".chaos.jsonl"
"""A journal's chaos is written down beside it."""

KILLS: Final = ("before", "during", "after")

PASSING: Final = frozenset({"run", "run_id", "started_at"})
"""Fields of an input object that are others in every run: without them two runs of one seed are alike."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Shares of deliveries that something happens to, and for how long in seconds (uniform in the span; `kill_s` by its logarithm).

    `repeat`: runs again after it succeeded. `twins`: two copies at once. `lose`: the completion is lost and the activity runs again.
    `delay`: the completion comes late. `kill`: the process ends before it, within `kill_s` of its start, or before its completion is stored.
    """

    repeat: float = 0.15
    twins: float = 0.10
    lose: float = 0.08
    delay: float = 0.20
    kill: float = 0.08
    delay_s: Span = (0.0, 2.0)
    visibility_s: Span = (1.0, 3.0)
    kill_s: Span = (0.002, 0.5)


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to one delivery. `does`: once, repeat, twins or lose; `first`: whether a repeat hands over its first result at once."""

    does: str
    first: bool
    delay_s: float
    visibility_s: float
    kill: str
    kill_s: float


def told(name: str, text: str) -> str:
    """A short name of what an activity is told to do: the function and a digest of its JSON input, without what passes."""
    value = json.loads(text or "null")
    if isinstance(value, dict):
        value = {key: value[key] for key in value if key not in PASSING}
    return f"{name}-{sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]}"


def drawn(seed: int, work: str, attempt: int, rates: Rates) -> Fate:
    """The fate of delivery number `attempt` (from 0) of some work; a pure function."""
    random = Random(f"{seed}/{work}/{attempt}")
    which, late, killed = random.random(), random.random() < rates.delay, random.random() < rates.kill
    does = "once"
    for kind in ("repeat", "twins", "lose"):
        share = getattr(rates, kind)
        if which < share:
            does = kind
            break
        which -= share
    first, delay_s, visibility_s = (
        random.random() < 0.5,
        random.uniform(*rates.delay_s),
        random.uniform(*rates.visibility_s),
    )
    kill, soonest, latest = random.choice(KILLS), *rates.kill_s
    kill_s = soonest * (latest / soonest) ** random.random()
    return Fate(does, first, delay_s if late else 0.0, visibility_s, kill if killed else "", kill_s)


def _end_of_process() -> None:
    # Nothing is flushed, closed or told to anybody: as when memory runs out, or a machine is taken away.
    os.kill(os.getpid(), signal.SIGKILL)


class Chaos:
    """A Deliver. `kills`: how often this process may still be killed, at most once as it is; `log`: where it is written down."""

    def __init__(
        self,
        seed: int,
        rates: Rates | None = None,
        *,
        kills: int = 0,
        log: Path | None = None,
        kill: Callable[[], None] = _end_of_process,
    ) -> None:
        """Go on from `log`, when it is there. `kill` is what a kill does, for tests that want to live."""
        self._seed, self._rates, self._kills, self._log, self._kill = seed, rates or Rates(), kills, log, kill
        self._lock = threading.Lock()
        lines = read_log(log) if log is not None else []
        self._attempts = Counter(line["work"] for line in lines if "work" in line)

    def deliver(self, request: Any, run: Callable[[], Any], complete: Callable[[Any], None]) -> None:
        """Run the activity as its fate has it, and hand over at least one response; returns when every copy of it has ended."""
        fate = self._fate(request)
        if fate.kill == "during":
            timer = threading.Timer(fate.kill_s, self._end, ["during"])
            timer.daemon = True
            timer.start()

        def late(response: Any) -> None:
            if fate.delay_s:
                time.sleep(fate.delay_s)
            if fate.kill == "after":
                self._end("after")
            complete(response)

        if fate.kill == "before":
            self._end("before")
        if fate.does == "repeat":
            self._repeat(run, late, first=fate.first)
        elif fate.does == "twins":
            _twins(run, late)
        else:
            if fate.does == "lose":
                run()
                time.sleep(fate.visibility_s)
            late(run())

    @staticmethod
    def _repeat(run: Callable[[], Any], complete: Callable[[Any], None], *, first: bool) -> None:
        if first:
            # The orchestration goes on while the activity runs a second time.
            complete(run())
            run()
        else:
            run()
            complete(run())

    def _fate(self, request: Any) -> Fate:
        work = told(request.name, request.input.value)
        with self._lock:
            attempt = self._attempts[work]
            self._attempts[work] += 1
            fate = drawn(self._seed, work, attempt, self._rates)
            # Written for every delivery: the next process must know how often this one was tried.
            line = {"work": work, "attempt": attempt, "does": fate.does}
            self._write(line | ({"delay_s": round(fate.delay_s, 3)} if fate.delay_s else {}))
        return fate

    def _end(self, point: str) -> None:
        with self._lock:
            if self._kills <= 0:
                return
            self._kills -= 1
            self._write({"kill": point})
        self._kill()

    def _write(self, line: dict[str, Any]) -> None:
        if self._log is not None:
            with self._log.open("a") as log:
                log.write(json.dumps(line) + "\n")


def _twins(run: Callable[[], Any], complete: Callable[[Any], None]) -> None:
    """Two copies at once; the first to finish hands its response over."""
    lock, handed = threading.Lock(), False

    def copy() -> None:
        nonlocal handed
        response = run()
        with lock:
            late, handed = handed, True
        if not late:
            complete(response)

    with ThreadPoolExecutor(1, "activity-twin") as pool:
        other = pool.submit(copy)
        copy()
        other.result()


def read_log(log: Path) -> list[dict[str, Any]]:
    """The lines of a log; none when there is no log. A line is one write, so a kill leaves it whole or not there."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def tally(log: Path) -> dict[str, int]:
    """What a log says has happened: deliveries, kills, repeats (activities that ran more than once on one delivery), delays."""
    lines = read_log(log)
    does = Counter(line.get("does") for line in lines)
    return {
        "deliveries": sum("work" in line for line in lines),
        "kills": sum("kill" in line for line in lines),
        "repeats": does["repeat"] + does["twins"] + does["lose"],
        "reruns": does["repeat"],
        "twins": does["twins"],
        "lost": does["lose"],
        "delays": sum("delay_s" in line for line in lines),
    }
