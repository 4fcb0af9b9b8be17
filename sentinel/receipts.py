"""Receipts of a pack: what was tried, what the service answered, and so what is left to send and what may have been sent twice.

Invariant: a pack's log only grows. A part of it (a byte range of the pack's NDJSON) is settled once a line says that it was accepted or refused, and a
settled part is never sent again. A try that has no end in the log (a crash, or a copy that is still at it) leaves everything that was
unsettled in doubt: it is sent again and counted as possibly repeated. So is what one copy settled while another may have sent it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sentinel.ingestion import Part, Sent
from sentinel.packing import Chunk, Lines, Range

Line = dict[str, Any]


def opened(attempt: str) -> Line:
    """The line before the first request of a try."""
    return {"try": attempt}


def settled(attempt: str, sent: Sent, digest: str, run_id: str) -> Line:
    """The line of a part that was accepted (204) or refused."""
    return {
        "part": [sent.chunk.start, sent.chunk.end],
        "rows": sent.chunk.rows,
        "bytes": sent.chunk.body_bytes,
        "wire": sent.wire_bytes,
        "xxh3": digest,
        "status": sent.status,
        "reason": sent.reason,
        "tries": sent.tries,
        "ambiguous": sent.ambiguous,
        "by": attempt,
        "run": run_id,
    }


def closed(attempt: str, in_doubt: Iterable[Part], requests: int, body_bytes: int, wire_bytes: int) -> Line:
    """The line at the end of a try, with the parts whose fate it does not know and what it sent in all."""
    doubts = [[part.chunk.start, part.chunk.end] for part in in_doubt]
    return {"end": attempt, "doubts": doubts, "requests": requests, "body_bytes": body_bytes, "wire_bytes": wire_bytes}


@dataclass(slots=True)
class Receipts:
    """What the log of a pack says."""

    accepted: list[Range] = field(default_factory=list)
    refused: dict[Range, Line] = field(default_factory=dict)
    ambiguous: list[Range] = field(default_factory=list)
    doubts: list[Range] = field(default_factory=list)
    all_in_doubt: bool = False
    requests: int = 0
    body_bytes: int = 0
    wire_bytes: int = 0
    chunks: int = 0

    @classmethod
    def of(cls, lines: Sequence[Line], own: str = "") -> Receipts:
        """Read a log, oldest line first. `own`: the try that reads it, which is in no doubt about itself.

        A try must write its `opened` line before it reads what is left: of two copies, the later one then always sees the other.
        """
        receipts = cls()
        running: dict[str, int] = {}
        settled_by: list[tuple[str, Range]] = []
        for line in lines:
            if "try" in line:
                if line["try"] != own:
                    running[line["try"]] = len(settled_by)
            elif "end" in line:
                running.pop(line["end"], None)
                receipts.doubts += [(low, high) for low, high in line["doubts"]]
                receipts.requests += line["requests"]
                receipts.body_bytes += line["body_bytes"]
                receipts.wire_bytes += line["wire_bytes"]
            else:
                receipts._settle(line)
                if line["status"] == 204:
                    settled_by.append((line["by"], (line["part"][0], line["part"][1])))
        receipts.all_in_doubt = bool(running)
        # What a try gave up in doubt, or may have sent before it crashed, and a copy of it settled.
        receipts.ambiguous += [part for _, part in settled_by if _overlaps(receipts.doubts, part)]
        for attempt, opened_at in running.items():
            receipts.ambiguous += [part for by, part in settled_by[opened_at:] if by != attempt]
        return receipts

    def _settle(self, line: Line) -> None:
        part: Range = (line["part"][0], line["part"][1])
        if line["status"] != 204:
            self.refused[part] = line
            return
        # Accepted by two copies of the activity: the rows are there twice.
        if line["ambiguous"] or _overlaps(self.accepted, part):
            self.ambiguous.append(part)
        self.accepted.append(part)
        self.chunks += 1

    def left(self, lines: Lines, chunks: Sequence[Chunk]) -> list[Part]:
        """The parts of `chunks` that no line settles, with whether they are in doubt; a chunk's place decides its DCR, so that is the same each time."""
        settled_ranges = merged([*self.accepted, *self.refused])
        parts = []
        for door, chunk in enumerate(chunks):
            for low, high in _gaps((chunk.start, chunk.end), settled_ranges):
                doubt = self.all_in_doubt or _overlaps(self.doubts, (low, high))
                left = (
                    chunk if (low, high) == (chunk.start, chunk.end) else Chunk(low, high, rows_in(lines, (low, high)))
                )
                parts.append(Part(left, doubt, door))
        return parts


def rows_in(lines: Lines, part: Range) -> int:
    """How many rows a byte range of the NDJSON holds."""
    return lines.count(b"\n", *part) + 1


def merged(ranges: Iterable[Range]) -> list[Range]:
    """The ranges without overlaps, in order; ranges that only touch stay apart, as a newline stands between them."""
    out: list[Range] = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], high))
        else:
            out.append((low, high))
    return out


def _overlaps(ranges: Iterable[Range], part: Range) -> bool:
    return any(low < part[1] and part[0] < high for low, high in ranges)


def _gaps(whole: Range, taken: Sequence[Range]) -> list[Range]:
    """What of `whole` is not taken; one byte (the newline) lies between two neighbours."""
    gaps = []
    at = whole[0]
    for low, high in taken:
        if high <= whole[0] or low >= whole[1]:
            continue
        if low > at:
            gaps.append((at, low - 1))
        at = high + 1
    if at < whole[1]:
        gaps.append((at, whole[1]))
    return gaps
