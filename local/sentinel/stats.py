"""What the emulator has seen since it started, for benches and tests: requests on the event loop, their rows when they are decoded."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from local.sentinel.decode import Received
from local.sentinel.flows import Flow
from local.sentinel.rules import Counts

_EDGES = (1_024, 16_384, 131_072, 524_288, 917_504, 996_147, 1_027_605, 1_048_576, 8_388_608, 52_428_800)
"""Upper ends of the body-size classes, in bytes; 996,147 is 95 % and 1,027,605 is 98 % of the 1 MB limit."""


class Stats:
    """Counters of requests, bytes, rows and of what the column rules changed. `rules`: accepted requests by the rule's immutable id."""

    def __init__(self) -> None:
        self.rules: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._rows: Counter[str] = Counter()
        self._changes = Counts()
        self._sizes: Counter[int] = Counter()
        self._bytes_body = 0
        self._bytes_wire = 0
        self._largest = 0
        self._accepted = 0
        self._fast = 0
        self._undecodable = 0
        self._lock = threading.Lock()

    def answered(self, status: int | str) -> None:
        """Count an ingestion request by its status, or by how its connection was dropped."""
        self._statuses[str(status)] += 1

    def accepted(self, *, body: int, wire: int) -> None:
        """Count a body that was taken, whether or not the client was told so."""
        self._accepted += 1
        self._bytes_body += body
        self._bytes_wire += wire
        self._largest = max(self._largest, body)
        self._sizes[next((edge for edge in _EDGES if body <= edge), _EDGES[-1] + 1)] += 1

    def ingested(self, flow: Flow, received: Received | None) -> None:
        """Count the rows of a body, once they are decoded; from any thread."""
        with self._lock:
            if received is None:
                self._undecodable += 1
                return
            self._rows[flow.table.name] += received.batch.num_rows
            self._fast += received.fast
            counts = received.counts
            self._changes.dropped += counts.dropped
            self._changes.nulled += counts.nulled
            self._changes.cut += counts.cut
            self._changes.time_replaced += counts.time_replaced
            self._changes.filtered += counts.filtered

    def summary(self) -> dict[str, Any]:
        """All counters as one JSON object; body sizes are decompressed bytes, `body_sizes` counts bodies up to each size."""
        return {
            "requests": self._statuses.total(),
            "accepted_requests": self._accepted,
            "fast_path_requests": self._fast,
            "undecodable_requests": self._undecodable,
            "rules": dict(self.rules),
            "statuses": dict(self._statuses),
            "bytes_body": self._bytes_body,
            "bytes_wire": self._bytes_wire,
            "rows": dict(self._rows),
            "columns_dropped": dict(self._changes.dropped),
            "values_nulled": dict(self._changes.nulled),
            "values_cut": dict(self._changes.cut),
            "time_replaced": self._changes.time_replaced,
            "rows_filtered": self._changes.filtered,
            "largest_body": self._largest,
            "body_sizes": {f"<={edge}": count for edge, count in sorted(self._sizes.items())},
        }
