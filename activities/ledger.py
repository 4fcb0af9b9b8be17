"""The ledger of a run: what was exported, what became of it, and whether it adds up.

Invariant: it is computed from the summaries of the blobs that exist, never from what somebody meant to do; in records,
exported = staged = flattened + rejected + filtered; in rows, rows = accepted + dead-lettered + unchanged; in tombstones, those that the run decided on (the
comparison says how many) = accepted + dead-lettered. A ledger that does not add up says where.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from contracts import TOMBSTONE_LANE, JsonDict
from staging import Listed, Names

COUNTS = (
    "exported",
    "staged",
    "flattened",
    "rejected",
    "filtered",
    "rows",
    "accepted",
    "unchanged",
    "deleted",
    "dead_lettered",
    "possibly_repeated",
    "orphans",
)
"""The figures of a stream, in the order in which they are shown."""

RECORDS = COUNTS[:5]
"""Those that count records; the others count rows, tombstones and findings."""


@dataclass(slots=True)
class StreamLedger:
    """One stream's figures; `reasons`: why records, rows or pages were set aside, with how often (the commonest of each segment)."""

    exported: int = 0
    staged: int = 0
    flattened: int = 0
    rejected: int = 0
    filtered: int = 0
    rows: int = 0
    accepted: int = 0
    unchanged: int = 0
    deleted: int = 0
    dead_lettered: int = 0
    possibly_repeated: int = 0
    orphans: int = 0
    duplicates: int = 0
    created: int = 0
    updated: int = 0
    tombstones: int = 0
    tombstones_refused: int = 0
    pages: int = 0
    failed_pages: int = 0
    unknown_severity: int = 0
    truncated: int = 0
    lenient: int = 0
    requests: int = 0
    chunks: int = 0
    json_bytes: int = 0
    bytes_exported: int = 0
    bytes_sent: int = 0
    bytes_wire: int = 0
    segments: int = 0
    finished_lanes: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def to_wire(self) -> JsonDict:
        """The figures as JSON; the reasons most frequent first, at most 20."""
        wire: JsonDict = {name: getattr(self, name) for name in self.__slots__ if name != "reasons"}
        return wire | {"reasons": dict(self.reasons.most_common(20))}

    def gaps(self, stream: str) -> list[str]:
        """What does not add up, in words."""
        found = []
        if self.exported != self.staged:
            found.append(f"{stream}: {self.exported} records exported, {self.staged} read back from staging")
        settled = self.flattened + self.rejected + self.filtered
        if self.staged != settled:
            found.append(f"{stream}: {self.staged} records staged, {settled} flattened, rejected or filtered")
        answered = self.accepted + self.dead_lettered + self.unchanged
        if self.rows != answered:
            found.append(f"{stream}: {self.rows} rows, {answered} accepted, dead-lettered or unchanged")
        if self.tombstones != self.deleted + self.tombstones_refused:
            found.append(
                f"{stream}: {self.tombstones} tombstones, {self.deleted + self.tombstones_refused} accepted or dead-lettered"
            )
        if self.failed_pages:
            found.append(f"{stream}: {self.failed_pages} pages could not be read; what they held is not known")
        return found


_FROM_ROWS = ("json_bytes", "flattened", "rejected", "filtered", "rows", "unknown_severity", "truncated", "lenient")
_FROM_RECEIPTS = (
    "accepted",
    "unchanged",
    "dead_lettered",
    "possibly_repeated",
    "requests",
    "chunks",
    "bytes_sent",
    "bytes_wire",
)


def compute(
    blobs: Iterable[Listed], names: Names, streams: Iterable[str], parents: Mapping[str, str] | None = None
) -> dict[str, StreamLedger]:
    """The ledgers of a run's streams from the listing of its blobs. One pass; memory is a few counters a stream.

    `parents`: of each derived stream the one whose records it is made of; what that one exported is what this one has to account for.
    """
    ledgers = {stream: StreamLedger() for stream in streams}
    for blob in blobs:
        kind, _, rest = blob.name.removeprefix(names.prefix).partition("/")
        stream, _, lane = rest.partition("/")
        if stream not in ledgers or not blob.summary:
            continue
        ledger, summary = ledgers[stream], blob.summary
        if lane.startswith(f"{TOMBSTONE_LANE}/"):
            _add_tombstones(ledger, kind, summary)
        elif kind == "raw":
            _add(ledger, summary, {"records": "exported", "pages": "pages", "failed_pages": "failed_pages"})
            ledger.bytes_exported += summary["bytes"]
            ledger.segments += 1
            ledger.finished_lanes += summary["exhausted"] and not summary.get("cut_short", False)
        elif kind == "rows":
            _add(ledger, summary, {"records": "staged"} | {name: name for name in _FROM_ROWS})
        elif kind == "receipts":
            _add(ledger, {"unchanged": 0} | summary, {name: name for name in _FROM_RECEIPTS})
        ledger.reasons.update(summary.get("reasons", {}))
    for name, parent in (parents or {}).items():
        ledgers[name].exported = ledgers[parent].exported
    return ledgers


def _add_tombstones(ledger: StreamLedger, kind: str, summary: JsonDict) -> None:
    """Tombstones are no rows of the export: they count as deleted, and for the traffic."""
    if kind == "receipts":
        traffic = ("dead_lettered", "possibly_repeated", "requests", "chunks", "bytes_sent", "bytes_wire")
        _add(ledger, summary, {"accepted": "deleted", **{name: name for name in traffic}})
        ledger.rows += summary["dead_lettered"]
        ledger.tombstones_refused += summary["dead_lettered"]


def _add(ledger: StreamLedger, summary: JsonDict, counts: dict[str, str]) -> None:
    for given, name in counts.items():
        setattr(ledger, name, getattr(ledger, name) + summary[given])
