"""What a load came to, as the command line reports it: the ledger per stream, traffic, times, memory.

Invariant: the figures are those of the run's manifest; only wall time, CPU time and memory are measured here, of the app's process alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from activities.ledger import COUNTS

JsonDict = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One load. `status`: complete, incomplete or failed. `chaos`: what was done to it on purpose (local/durable/chaos.py), None for nothing."""

    run_id: str
    source: str
    mode: str
    status: str
    manifest: JsonDict = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_mb: float = 0.0
    chaos: JsonDict | None = None

    @property
    def streams(self) -> dict[str, JsonDict]:
        """The ledger of each stream."""
        found: dict[str, JsonDict] = self.manifest.get("streams", {})
        return found

    def to_json(self) -> JsonDict:
        """The object that `--json` writes."""
        return {
            "run_id": self.run_id,
            "source": self.source,
            "mode": self.mode,
            "status": self.status,
            "streams": {name: {count: ledger[count] for count in COUNTS} for name, ledger in self.streams.items()},
            "requests": self.manifest.get("requests", 0),
            "bytes_exported": self.manifest.get("bytes_exported", 0),
            "bytes_sent": self.manifest.get("bytes_sent", 0),
            "bytes_wire": self.manifest.get("bytes_wire", 0),
            "fill": self.manifest.get("fill", 0.0),
            "wall_s": round(self.wall_s, 3),
            "cpu_s": round(self.cpu_s, 3),
            "peak_memory_mb": round(self.peak_memory_mb, 1),
            "reasons": self.reasons,
            "notes": self.manifest.get("notes", []),
            "rejected_for": {name: ledger["reasons"] for name, ledger in self.streams.items() if ledger["reasons"]},
            **({"chaos": self.chaos} if self.chaos is not None else {}),
        }
