"""Whole runs against a DCR's quota, through several DCRs, and into a sink that is slow: the run sits at the limit, and nothing piles up."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from azure.storage.blob import ContainerClient

from staging import Staging

ASSETS = 1500
PER_MINUTE = 1500.0

LONG_ENOUGH = 8
"""Looks at an export that pauses, after which the sink is fast again."""


class Watch:
    """Samples of a part's statistics while a run is going on: (seconds, statistics)."""

    def __init__(self, look: Callable[[], Any]) -> None:
        self._look = look
        self.seen: list[tuple[float, Any]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self.seen.append((time.monotonic(), self._look()))

    def rate(self, count: Callable[[Any], int]) -> float:
        """How much a second came while the middle of it came, so that neither begin nor end counts."""
        last = count(self.seen[-1][1])
        middle = [(at, count(stats)) for at, stats in self.seen if 0.2 * last <= count(stats) <= 0.9 * last]
        (begin, few), (end, many) = middle[0], middle[-1]
        return (many - few) / (end - begin)


def watched_load(runs: Any) -> tuple[Any, Watch]:
    """A load under the quota, and what the emulator saw of it."""
    runs.stack.call(
        "POST", f"{runs.stack.urls['sentinel']}/_control/quota", {"requests_per_minute": PER_MINUTE, "window_s": 20}
    )
    with Watch(lambda: runs.stats("sentinel")) as watch:
        outcome = runs.load("cycognito")
    assert outcome.status == "complete", outcome.reasons
    return outcome, watch


def test_a_run_sits_at_the_quota_without_a_storm_of_429(stack_of: Callable[..., Any]) -> None:
    """Four streams at once, all through one DCR: at least 90 % of what it allows, and hardly a request refused."""
    runs = stack_of(
        "--assets", str(ASSETS), "--findings", str(ASSETS), UPLOAD_BODY_LIMIT_BYTES="8192", DCR_REQUESTS_PER_MINUTE=str(PER_MINUTE)
    )  # fmt: skip
    _, watch = watched_load(runs)
    stats = runs.stats("sentinel")
    assert stats["accepted_requests"] > 300
    assert stats["statuses"].get("429", 0) <= 8
    assert 0.9 * PER_MINUTE / 60 <= watch.rate(lambda seen: seen["accepted_requests"]) <= PER_MINUTE / 60


def test_two_dcrs_share_the_load_and_carry_twice_as_much(stack_of: Callable[..., Any]) -> None:
    """A list of DCRs is one destination: every row once, each DCR about half of the requests, each within its own quota."""
    runs = stack_of(
        "--assets", str(ASSETS), "--findings", str(ASSETS), UPLOAD_BODY_LIMIT_BYTES="8192", DCR_REQUESTS_PER_MINUTE=str(PER_MINUTE), dcr="dcr-a,dcr-b"
    )  # fmt: skip
    outcome, watch = watched_load(runs)
    ids = runs.ids(outcome.run_id, "CAASM_Assets_CL")
    assert len(set(ids)) == len(ids) == ASSETS
    stats = runs.stats("sentinel")
    assert set(stats["rules"]) == {"dcr-a", "dcr-b"}
    assert max(stats["rules"].values()) <= 1.2 * min(stats["rules"].values())
    assert stats["statuses"].get("429", 0) <= 8
    assert watch.rate(lambda seen: seen["accepted_requests"]) >= 1.3 * PER_MINUTE / 60


class Ahead:
    """What a lane has staged and has no receipt for: bytes of rows as the app estimates them, and segments of records that are no rows yet."""

    def __init__(self, staging: Staging, without: str) -> None:
        names = re.compile(r"runs/[^/]+/([^/]+)/(raw|rows|receipts)/[^/]+/000/0*(\d+)(?:-(\d+))?\.")
        found = [(match, blob.summary) for blob in staging.list("runs/") if (match := names.match(blob.name))]
        found = [(match, summary) for match, summary in found if match[1] != without]
        # An upload that is under way has a log without a summary.
        sent_to = max((int(match[4]) for match, summary in found if match[2] == "receipts" and summary), default=-1)
        rows = {int(match[3]): summary["json_bytes"] for match, summary in found if match[2] == "rows"}
        self.untransformed = sum(match[2] == "raw" and int(match[3]) not in rows for match, _ in found)
        self.rows = sum(size for segment, size in rows.items() if segment > sent_to)
        self.largest = max(rows.values(), default=0)


def test_a_slow_sink_slows_the_export_and_not_the_memory(stack_of: Callable[..., Any]) -> None:
    """A pack takes several uploads while the source would give everything at once: what is staged ahead gets to where the export pauses and not beyond
    what docs/configuration.md says; the load completes, and the app needs no more memory than for a sink that is fast."""
    assets, pack, staged_ahead = 700, 131_072, 2
    runs = stack_of(
        "--assets", str(assets), "--findings", "0", LANES="1", PAGE_RECORDS="50", EXPORT_SEGMENT_BYTES="65536", UPLOAD_PACK_BYTES=str(pack),
        STAGED_AHEAD=str(staged_ahead), UPLOAD_BODY_LIMIT_BYTES="32768", UPLOAD_IN_FLIGHT="1", UPLOAD_SECONDS="1", FIRST_WAIT_SECONDS="0.5",
    )  # fmt: skip
    fast = runs.load("device42")
    assert fast.status == "complete", fast.reasons
    paused: list[bool] = []

    def look() -> Ahead:
        looked = Ahead(staging, fast.run_id)
        paused.append(looked.rows >= 2 * pack)
        if sum(paused) == LONG_ENOUGH:
            runs.faults("sentinel", {})
        return looked

    runs.faults("sentinel", {"seed": 1, "rate": 1.0, "kinds": ["slow"], "slow_s": 0.6})
    with ContainerClient.from_connection_string(runs.stack.connection_string, "caasm") as container:
        staging = Staging(container)
        with Watch(look) as watch:
            slow = runs.load("device42")
    assert slow.status == "complete", slow.reasons
    ids = runs.ids(slow.run_id, "CAASM_Assets_CL")
    assert len(set(ids)) == len(ids) == assets
    seen = [looked for _, looked in watch.seen]
    assert sum(paused) >= LONG_ENOUGH
    largest = max(looked.largest for looked in seen)
    assert max(looked.rows + looked.untransformed * largest for looked in seen) <= 2 * pack + staged_ahead * largest
    assert max(looked.untransformed for looked in seen) <= staged_ahead
    assert slow.peak_memory_mb <= 1.15 * fast.peak_memory_mb
