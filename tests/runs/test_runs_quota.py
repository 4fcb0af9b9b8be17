"""Whole runs against a DCR's quota, through several DCRs, and into a sink that is slow: the run sits at the limit, and nothing piles up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Self

ASSETS = 1500
PER_MINUTE = 1500.0


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


def test_a_run_sits_at_the_quota_without_a_storm_of_429(stack_of: Callable[..., Any]) -> None:
    """Four streams at once, all through one DCR: at least 90 % of what it allows, and hardly a request refused."""
    runs = stack_of(
        "--assets", str(ASSETS), "--findings", str(ASSETS), UPLOAD_BODY_LIMIT_BYTES="8192", DCR_REQUESTS_PER_MINUTE=str(PER_MINUTE)
    )  # fmt: skip
    runs.stack.call(
        "POST", f"{runs.stack.urls['sentinel']}/_control/quota", {"requests_per_minute": PER_MINUTE, "window_s": 20}
    )
    with Watch(lambda: runs.stats("sentinel")) as watch:
        outcome = runs.load("cycognito")
    assert outcome.status == "complete", outcome.reasons
    stats = runs.stats("sentinel")
    assert stats["accepted_requests"] > 300
    assert stats["statuses"].get("429", 0) <= 8
    assert 0.9 * PER_MINUTE / 60 <= watch.rate(lambda seen: seen["accepted_requests"]) <= PER_MINUTE / 60


def test_two_dcrs_share_the_load_and_carry_twice_as_much(stack_of: Callable[..., Any]) -> None:
    """A list of DCRs is one destination: every row once, each DCR about half of the requests, each within its own quota."""
    runs = stack_of(
        "--assets", str(ASSETS), "--findings", str(ASSETS), UPLOAD_BODY_LIMIT_BYTES="8192", DCR_REQUESTS_PER_MINUTE=str(PER_MINUTE), dcr="dcr-a,dcr-b"
    )  # fmt: skip
    runs.stack.call(
        "POST", f"{runs.stack.urls['sentinel']}/_control/quota", {"requests_per_minute": PER_MINUTE, "window_s": 20}
    )
    with Watch(lambda: runs.stats("sentinel")) as watch:
        outcome = runs.load("cycognito")
    assert outcome.status == "complete", outcome.reasons
    ids = runs.ids(outcome.run_id, "CAASM_Assets_CL")
    assert len(set(ids)) == len(ids) == ASSETS
    stats = runs.stats("sentinel")
    assert set(stats["rules"]) == {"dcr-a", "dcr-b"}
    assert max(stats["rules"].values()) <= 1.2 * min(stats["rules"].values())
    assert stats["statuses"].get("429", 0) <= 8
    assert watch.rate(lambda seen: seen["accepted_requests"]) >= 1.3 * PER_MINUTE / 60


def test_a_sink_that_is_full_holds_the_export_and_the_memory(stack_of: Callable[..., Any]) -> None:
    """429 for a while: the source is asked no further ahead than what may be staged, and the app needs no more memory than for a load that flows."""
    segment = 1_048_576
    sizes = {"EXPORT_SEGMENT_BYTES": str(segment), "UPLOAD_PACK_BYTES": str(segment)}
    runs = stack_of("--assets", "24000", "--findings", "0", LANES="1", **sizes)
    flowing = runs.load("device42")
    assert flowing.status == "complete", flowing.reasons
    each = flowing.manifest["bytes_exported"] / 24_000
    runs.faults("sentinel", {"seed": 1, "rate": 1.0, "kinds": ["429"], "retry_after_s": 1})
    back = threading.Timer(8.0, lambda: runs.faults("sentinel", {}))
    back.start()
    with Watch(lambda: runs.api("GET", "/api/loads")[1]["running"]) as watch:
        held = runs.load("device42")
    back.join()
    assert held.status == "complete", held.reasons
    progress = [(running and running[0]["progress"]) or {} for _, running in watch.seen]
    devices = [seen["streams"]["devices"] for seen in progress if "devices" in seen.get("streams", {})]
    ahead = max(stream["exported"] - stream["accepted"] for stream in devices)
    # Rows are a third as long as records: two packs of rows, and what waits for its transform.
    assert 2 * segment <= ahead * each <= 10 * segment
    assert held.peak_memory_mb <= 1.15 * flowing.peak_memory_mb
