"""A DCR's quota: a token bucket of requests and of bytes that all senders of a worker to that DCR draw from, and the pause that a 429 puts on them all.

Invariant: over any span of time t no more than rate * (t + burst) is granted of either, in the order of asking; after `pause` nothing is granted until it is
over, what was granted and not yet used is void, and the bucket begins again empty, so that the senders do not come back all at once. What was owed for
longer than the pause is still owed, void or not: who was waiting asks again behind it, which is slower, never faster, than the rate.
The rates are the service's limits a minute (12,000 requests, 2 GB: Azure Monitor limits, Logs Ingestion API) times this instance's share and `MARGIN`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

MARGIN: Final = 0.95
"""The part of the quota that is used: clocks differ, and with the burst a minute may see 61 seconds' worth."""

BURST_S: Final = 1.0
"""Seconds of the rate that may be sent at once after a lull."""


@dataclass(frozen=True, slots=True)
class Turn:
    """When to send: in `wait_s` seconds, if `granted` and no pause came meanwhile (`epoch` is still the governor's)."""

    wait_s: float
    epoch: int
    granted: bool


class Governor:
    """The two buckets of one DCR; a rate of 0 is no limit. Safe from any number of threads.

    A bucket is kept as the time at which it will be full again (the generic cell rate algorithm), so asking costs no more than a comparison
    and nobody has to fill anything.
    """

    def __init__(
        self,
        requests_per_minute: float = 0.0,
        bytes_per_minute: float = 0.0,
        *,
        burst_s: float = BURST_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._request_s = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._byte_s = 60.0 / bytes_per_minute if bytes_per_minute else 0.0
        self._burst_s = burst_s
        self._clock = clock
        self._lock = threading.Lock()
        self._full_at = [float("-inf")] * 2
        self._paused_until = float("-inf")
        self.epoch = 0

    def reserve(self, body_bytes: int, within_s: float) -> Turn:
        """The turn of one request of so many (uncompressed) bytes. One that would come later than `within_s` is not granted and costs nothing."""
        with self._lock:
            now = self._clock()
            start = max(now, self._paused_until, *(full_at - self._burst_s for full_at in self._full_at))
            if start - now > within_s:
                return Turn(start - now, self.epoch, granted=False)
            for bucket, cost_s in enumerate((self._request_s, body_bytes * self._byte_s)):
                self._full_at[bucket] = max(self._full_at[bucket], start) + cost_s
            return Turn(start - now, self.epoch, granted=True)

    def pause(self, seconds: float) -> None:
        """Grant nothing for so long; a pause that is already longer stays."""
        with self._lock:
            until = self._clock() + seconds
            if until <= self._paused_until:
                return
            self._paused_until = until
            # Full only a burst later: after the pause the first request goes and the others follow at the rate. What is owed for longer stays owed.
            if self._request_s or self._byte_s:
                self._full_at = [max(full_at, until + self._burst_s) for full_at in self._full_at]
            self.epoch += 1
