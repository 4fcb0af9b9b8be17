"""A lane's state: where its export stands, which segments wait for transform and upload, what is held until when, what has been counted.

Invariant: pure and JSON on the wire; every decision follows from the state, the answers and the orchestration's own time, so a replay decides the
same. A segment moves export → transform → rows → upload and is in exactly one place; nothing leaves a queue before its step has succeeded.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from contracts import (
    EXPORT,
    TOMBSTONE_LANE,
    TRANSFORM,
    UPLOAD,
    ExportRequest,
    JsonDict,
    LanePlan,
    Policy,
    TransformRequest,
    UploadRequest,
)

UNBOUNDED_TRIES: Final = 60

PACK_SEGMENTS: Final = 32
"""Segments of one upload at most: what waits for it is part of the state, and segments may be as small as a page."""

REASON_LENGTH, TROUBLE_LENGTH = 400, 200
"""What is kept of a reason, and of what is being waited for: the states of 640 lanes with both stay below the 1 MB that a task hub takes."""

LONGEST_HOLD_S: Final = 86_400.0
"""No answer holds a step longer than a day; one that asks for more is taken for garbage."""


@dataclass(slots=True)
class LaneState:
    """The state of one lane between two steps. `ready`: segments with rows to upload, as [segment, JSON bytes (estimated), rows].

    `derived`: the counts of the streams that its records are rows of as well; they become lanes of their own, with this one's stream as `parent`, when it is
    done. `alone`: steps that were taken together broke; they are taken one by one until one answers, so that the one at fault shows.
    """

    stream: str
    lane: int
    cursor: JsonDict = field(default_factory=dict)
    segment: int = 0
    exhausted: bool = False
    transforming: list[int] = field(default_factory=list)
    ready: list[list[int]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    total: int | None = None
    first_total: int | None = None
    uploads: bool = True
    sending: list[int] | None = None
    verdicts: bool = False
    sent_to: int = -1
    holds: dict[str, str] = field(default_factory=dict)
    failing: dict[str, JsonDict] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    alone: bool = False
    waiting_since: str | None = None
    export_failed: bool = False
    failed: bool = False
    cancelled: bool = False
    derived: dict[str, dict[str, int]] = field(default_factory=dict)
    parent: str = ""

    @classmethod
    def start(cls, wire: JsonDict) -> LaneState:
        """The state of a lane that has not begun."""
        plan = LanePlan.from_wire(wire)
        derived: dict[str, dict[str, int]] = {name: {} for name in plan.derived}
        return cls(plan.stream, plan.lane, plan.cursor, uploads=plan.uploads, derived=derived)

    @classmethod
    def send(cls, stream: str, lane: int, segments: int, *, verdicts: bool) -> LaneState:
        """The state of a lane whose segments are staged and only have to be sent (with `verdicts`: what of them has changed)."""
        return cls(stream, lane, {}, exhausted=True, segment=segments, sending=[0, segments], verdicts=verdicts)

    def branch(self) -> list[LaneState]:
        """The lanes of the derived streams, whose rows are staged; they export what this one did. It has none from then on."""
        lanes = [
            dataclasses.replace(
                LaneState.send(name, self.lane, self.segment, verdicts=False),
                cursor=self.cursor,
                counts={"exported": self.counts.get("exported", 0), **counts},
                total=self.total,
                first_total=self.first_total,
                sending=[0, self.segment] if self.uploads else None,
                parent=self.stream,
            )
            for name, counts in self.derived.items()
        ]
        self.derived = {}
        return lanes

    @classmethod
    def of(cls, wire: JsonDict) -> LaneState:
        """The state that `wire` gave."""
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in wire.items() if name in known})

    def wire(self) -> JsonDict:
        """The state as JSON, without what is as it was at the start: a run's input has the states of all its lanes, hundreds perhaps."""
        usual = dataclasses.asdict(LaneState("", -1, {}))
        return {name: value for name, value in dataclasses.asdict(self).items() if value != usual[name]}

    @property
    def exporting(self) -> bool:
        """Whether there is more to export."""
        return not (self.exhausted or self.export_failed)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do, or nothing can be done."""
        left = self.sending is not None and self.sending[0] < self.sending[1]
        return self.failed or not (self.exporting or self.transforming or self.ready or left)

    def due(self, run: JsonDict, policy: Policy, now: datetime) -> list[tuple[str, JsonDict]]:
        """The steps to take now, at most one of each kind, as (activity, message): the three stages of the pipeline side by side."""
        where: dict[str, Any] = {"run": run, "stream": self.stream, "lane": self.lane}
        steps: list[tuple[str, Any]] = []
        if self.exporting and self._room(policy):
            steps.append((EXPORT, ExportRequest(**where, segment=self.segment, cursor=self.cursor)))
        if self.transforming:
            steps.append(
                (TRANSFORM, TransformRequest(**where, segment=self.transforming[0], derived=list(self.derived)))
            )
        pack = self._pack(policy)
        if pack:
            first, last = pack[0][0], pack[-1][0]
            steps.append((UPLOAD, UploadRequest(**where, first=first, last=last, verdicts=self.verdicts)))
        due = [(name, message.to_wire()) for name, message in steps if not self._held(name, now)]
        return due[:1] if self.alone else due

    def wake(self, now: datetime) -> datetime | None:
        """When the earliest step that is still held may go on; None when none is."""
        return min((at for at in map(datetime.fromisoformat, self.holds.values()) if at > now), default=None)

    def take(self, step: str, message: JsonDict, answer: JsonDict, policy: Policy, now: datetime) -> None:
        """Note the answer of a step."""
        self.alone = False
        if "again" in answer:
            if answer.get("progressed"):
                self.failing.pop(step, None)
            self._again(step, answer["again"], answer["retry_after_s"], policy, now)
        elif "stop" in answer:
            self._stop(step, answer)
        else:
            self.failing.pop(step, None)
            self.holds.pop(step, None)
            {EXPORT: self._exported, TRANSFORM: self._transformed, UPLOAD: self._uploaded}[step](message, answer, now)
            if step == EXPORT:
                self._lose_patience(answer, policy, now)

    def broke(self, steps: list[str], reason: str, policy: Policy, now: datetime) -> None:
        """Note that one of the steps failed without an answer: all are idempotent and are taken again."""
        self.alone = len(steps) > 1 or self.alone
        for step in steps:
            self._again(step, reason, 0.0, policy, now)

    def _room(self, policy: Policy) -> bool:
        # Back-pressure: what is staged ahead of the upload is bounded, so a slow sink slows the export.
        waiting = sum(size for _, size, _ in self.ready)
        short = len(self.transforming) < policy.staged_ahead and len(self.ready) < 2 * PACK_SEGMENTS
        # Segments larger than two packs still overlap with their neighbours' export.
        return short and (waiting < 2 * policy.pack_bytes or len(self.ready) < 2)

    def _pack(self, policy: Policy) -> list[list[int]]:
        """The segments of the next upload: enough to fill requests well, or all that is left."""
        if self.sending is not None:
            first, end = self.sending
            # How large each segment is, is not kept; on average it is this.
            size = 0 if self.verdicts else self.counts.get("json_bytes", 0) // max(1, self.segment)
            most = max(1, min(PACK_SEGMENTS, policy.pack_bytes // max(1, size)))
            return [[segment, 0, 0] for segment in range(first, min(end, first + most))]
        pack: list[list[int]] = []
        size = 0
        for entry in self.ready:
            pack.append(entry)
            size += entry[1]
            if size >= policy.pack_bytes or len(pack) == PACK_SEGMENTS:
                return pack
        return [] if self.exporting or self.transforming else pack

    def _held(self, step: str, now: datetime) -> bool:
        return step in self.holds and datetime.fromisoformat(self.holds[step]) > now

    def _again(self, step: str, reason: str, retry_after_s: float, policy: Policy, now: datetime) -> None:
        failing = self.failing.setdefault(step, {"since": now.isoformat(), "tries": 0})
        failing["tries"] = min(failing["tries"] + 1, UNBOUNDED_TRIES)
        failing["reason"] = reason[:TROUBLE_LENGTH]
        lasted = (now - datetime.fromisoformat(failing["since"])).total_seconds()
        if lasted >= policy.give_up_after_s:
            remedy = "when that is mended, start the load again"
            self._stop(step, {"stop": f"{reason} (tried for {lasted:.0f} s)", "remedy": remedy})
            return
        backoff = min(policy.longest_wait_s, policy.first_wait_s * 2.0 ** (failing["tries"] - 1))
        self.holds[step] = _later(now, max(backoff, retry_after_s))

    def _stop(self, step: str, answer: JsonDict) -> None:
        remedy = answer.get("remedy")
        reason = f"{self.stream}: {answer['stop']}" + (f": {remedy}" if remedy else "")
        self.reasons.append(reason[:REASON_LENGTH])
        self.holds.pop(step, None)
        self.cancelled = self.cancelled or bool(answer.get("cancelled"))
        if step == EXPORT and not self.cancelled:
            # What has been exported is still flattened and sent.
            self.export_failed = True
        else:
            self.failed = True

    def _count(self, **more: int) -> None:
        for name, number in more.items():
            self.counts[name] = self.counts.get(name, 0) + number

    def _exported(self, message: JsonDict, answer: JsonDict, now: datetime) -> None:
        self.cursor = answer["cursor"]
        self.exhausted = answer["exhausted"]
        if answer["total"] is not None:
            self.first_total = self.first_total if self.first_total is not None else answer["total"]
            self.total = answer["total"]
        if answer["staged"]:
            self.transforming.append(message["segment"])
            self.segment = message["segment"] + 1
            self._count(exported=answer["records"], bytes=answer["bytes"], failed_pages=answer["failed_pages"])
            self._count(cut_short=int(answer.get("cut_short", False)))
        if answer["wait_s"] > 0:
            self.holds[EXPORT] = _later(now, answer["wait_s"])

    def _lose_patience(self, answer: JsonDict, policy: Policy, now: datetime) -> None:
        """A source that prepares for ever must not make a load that never ends."""
        if answer["staged"]:
            self.waiting_since = None
            return
        self.waiting_since = self.waiting_since or now.isoformat()
        waited = (now - datetime.fromisoformat(self.waiting_since)).total_seconds()
        if waited >= policy.longest_export_wait_s:
            reason = f"the source prepared its export for {waited:.0f} s without giving a page"
            self._stop(EXPORT, {"stop": reason, "remedy": "look at the job in the product, then start the load again"})

    def _transformed(self, message: JsonDict, answer: JsonDict, now: datetime) -> None:  # noqa: ARG002 - one shape for all
        self.transforming.remove(message["segment"])
        names = ("flattened", "rejected", "filtered", "rows")
        self._count(staged=answer["records"], **{name: answer[name] for name in names})
        for name, counts in answer.get("derived", {}).items():
            known = self.derived.get(name, {})
            self.derived[name] = {count: known.get(count, 0) + number for count, number in counts.items()}
        if answer["rows"] and self.uploads and message["segment"] > self.sent_to:
            self.ready.append([message["segment"], answer["json_bytes"], answer["rows"]])

    def _uploaded(self, message: JsonDict, answer: JsonDict, now: datetime) -> None:  # noqa: ARG002 - one shape for all
        self.sent_to = answer["last"] if answer.get("last", -1) >= 0 else message["last"]
        self.ready = [entry for entry in self.ready if entry[0] > self.sent_to]
        if self.sending is not None:
            self.sending = [self.sent_to + 1, self.sending[1]]
        names = ("accepted", "dead_lettered", "possibly_repeated", "requests", "bytes_sent")
        if self.lane == TOMBSTONE_LANE:
            self._count(deleted=answer["accepted"], requests=answer["requests"], bytes_sent=answer["bytes_sent"])
        else:
            self._count(unchanged=answer.get("unchanged", 0), **{name: answer[name] for name in names})


def _later(now: datetime, seconds: float) -> str:
    # A server's Retry-After ends up here: one of years, or infinity, would be no date.
    return (now + timedelta(seconds=min(LONGEST_HOLD_S, seconds))).isoformat()
