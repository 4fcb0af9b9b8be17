"""What crosses the durable boundary: names of orchestrators and activities, the messages between them, and the error tree.

Invariant: a message is a frozen dataclass here and a plain dict with a schema version on the wire, holds names and counts and never a
record or a secret, and stays under 1 KB (a turn's state: a few KB). A field may be added with a default; none is renamed or retyped while
instances run. Standard library only: orchestrators import this module.
"""

from __future__ import annotations

import dataclasses
import traceback
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Self

SCHEMA_VERSION: Final = 1

LOAD: Final = "load"
STREAM: Final = "stream"
LANE: Final = "lane"
ORCHESTRATORS: Final = (LOAD, STREAM, LANE)

OPEN_RUN: Final = "open_run"
EXPORT: Final = "export"
TRANSFORM: Final = "transform"
UPLOAD: Final = "upload"
DIFF: Final = "diff"
CLOSE_RUN: Final = "close_run"
ACTIVITIES: Final = (OPEN_RUN, EXPORT, TRANSFORM, UPLOAD, DIFF, CLOSE_RUN)

MODES: Final = ("full", "delta")

JsonDict = dict[str, Any]


# ------------------------------------------------------------------------------------------------ errors


class CaasmError(Exception):
    """What this app raises on purpose; `reason` says what failed, `remedy` what to do about it. Neither ever holds a secret."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(f"{reason}: {remedy}" if remedy else reason)
        self.reason = reason
        self.remedy = remedy


class TryAgain(CaasmError):
    """The step can succeed later without anybody's help: the orchestrator waits on a durable timer and calls it again.

    `progressed`: part of the work is done, and the next call goes on behind it; so nothing is failing, however often that happens.
    """

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.progressed = False


class Stop(CaasmError):
    """The step cannot succeed until somebody changes something; trying again is useless."""


class Cancelled(Stop):
    """The run was cancelled; raised between two units of work, so that what was done stays consistent."""


def let_go(error: BaseException) -> None:
    """Clear the frames that an exception of Azure's SDK went through: where it was raised stays known, not with what.

    They hold it in a circle, and behind them the frames of all who called, with the segment that these had in hand, until the garbage collector comes by.
    """
    pending: list[object] = [error]
    seen: set[int] = set()
    while pending:
        one = pending.pop()
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            traceback.clear_frames(one.__traceback__)
            # The transport's exception is no cause of the SDK's, but a field of it.
            pending += [one.__cause__, one.__context__, getattr(one, "inner_exception", None)]


# ------------------------------------------------------------------------------------------------ messages


class Message:
    """A frozen dataclass that goes over the wire as a dict with a schema version."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def to_wire(self) -> JsonDict:
        """The message as plain JSON values, with its schema version under `v`."""
        return {"v": SCHEMA_VERSION, **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}}

    @classmethod
    def from_wire(cls, wire: JsonDict) -> Self:
        """The message that `to_wire` gave; fields of a newer sender are left out, absent ones take their default."""
        if wire.get("v", SCHEMA_VERSION) > SCHEMA_VERSION:
            raise Stop(
                f"{cls.__name__} of schema {wire['v']!r} reached code that knows {SCHEMA_VERSION}",
                "an instance of a newer version is running; deploy that version again, or terminate the instance",
            )
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in wire.items() if k in known})


@dataclass(frozen=True, slots=True)
class LoadRequest(Message):
    """Start of a run. `started_at`: ISO 8601 UTC; fixed by the starter, it is the TimeGenerated of every row and the upper bound of a delta."""

    run_id: str
    source: str
    mode: str
    started_at: str
    streams: list[str] = field(default_factory=list)
    allow_deletes: bool = False


@dataclass(frozen=True, slots=True)
class Run(Message):
    """What every activity of a run needs to know about it. `since`: ISO 8601 UTC, set when the source filters what has changed itself.

    `base`: the last complete run, whose index this one is compared with.
    """

    run_id: str
    source: str
    mode: str
    started_at: str
    since: str | None = None
    base: str | None = None


@dataclass(frozen=True, slots=True)
class Policy(Message):
    """The budgets that orchestrators need; settings, copied into the plan because an orchestrator reads no environment.

    `pack_bytes`: estimated JSON bytes that make an upload worth starting. `staged_ahead`: segments that may wait for transform or upload
    before the export pauses. `first_wait_s`, `longest_wait_s`: exponential backoff of durable timers. `give_up_after_s`: how long one
    step may fail without a success in between. `first_turn_s`, `longest_turn_s`: how long lanes run between two updates of the status.
    `longest_export_wait_s`: how long a source may prepare an export without giving a page. `delete_share`: the share of a stream's known
    subjects that one run may call gone.
    """

    pack_bytes: int
    staged_ahead: int
    first_wait_s: float
    longest_wait_s: float
    give_up_after_s: float
    first_turn_s: float
    longest_turn_s: float
    longest_export_wait_s: float = 21_600.0
    delete_share: float = 0.1


@dataclass(frozen=True, slots=True)
class LanePlan(Message):
    """One lane of a stream: where it starts. `cursor` is the paging kind's own small JSON state. `derived`: streams that its records are rows of as well."""

    stream: str
    lane: int
    cursor: JsonDict
    uploads: bool = True
    derived: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Plan(Message):
    """What `open_run` decided: the run, its lanes, the records that the source promises per stream (None: it does not say), budgets.

    `known`: per stream, the keys of the index that the run is compared with. `streams`: per stream how its export is to be taken:
    `whole` (it gives everything there is), `stability` (of its paging), `table`, of a derived stream also `parent`. `unsettled`: earlier runs that may have sent rows which no index knows.
    `ended`: those of them that had ended when this one was opened, so that it sees everything that they sent.
    `left_out`: derived streams that the settings leave out.
    """

    run: JsonDict
    lanes: list[JsonDict]
    expected: dict[str, int | None]
    policy: JsonDict
    notes: list[str] = field(default_factory=list)
    known: dict[str, int] = field(default_factory=dict)
    streams: dict[str, JsonDict] = field(default_factory=dict)
    unsettled: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ExportRequest(Message):
    """Export one segment of a lane, from `cursor` on."""

    run: JsonDict
    stream: str
    lane: int
    segment: int
    cursor: JsonDict


@dataclass(frozen=True, slots=True)
class ExportResult(Message):
    """What one export did. `staged` False: nothing was there to stage yet and `wait_s` says when to look again; the segment is not used up.

    `cut_short`: the lane ended before its data did.
    """

    cursor: JsonDict
    staged: bool
    exhausted: bool
    records: int = 0
    pages: int = 0
    bytes: int = 0
    failed_pages: int = 0
    wait_s: float = 0.0
    total: int | None = None
    cut_short: bool = False


@dataclass(frozen=True, slots=True)
class TransformRequest(Message):
    """Transform one staged segment, and stage beside its rows those of the `derived` streams."""

    run: JsonDict
    stream: str
    lane: int
    segment: int
    derived: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TransformResult(Message):
    """Records read, made into rows, rejected, filtered; the rows; an estimate of their JSON size in bytes. `derived`: the same of each derived stream, with `staged` for what was read."""

    records: int
    flattened: int
    rejected: int
    filtered: int
    rows: int
    json_bytes: int
    unknown_severity: int = 0
    lenient: int = 0
    truncated: int = 0
    derived: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UploadRequest(Message):
    """Upload the rows of the segments `first` to `last` of a lane, both included, packed together; with `verdicts`, only those that changed."""

    run: JsonDict
    stream: str
    lane: int
    first: int
    last: int
    verdicts: bool = False


@dataclass(frozen=True, slots=True)
class UploadResult(Message):
    """Rows of the pack and what became of them; `requests` made, their uncompressed and compressed bytes.

    `last`: the last segment that the pack really has: one that was frozen before keeps its membership, whatever is asked for now.
    """

    rows: int
    accepted: int
    dead_lettered: int
    possibly_repeated: int
    chunks: int
    requests: int
    bytes_sent: int
    bytes_wire: int
    unchanged: int = 0
    last: int = -1


@dataclass(frozen=True, slots=True)
class DiffRequest(Message):
    """Compare one part (of `parts`) of a stream's keys with the index of the run's base."""

    run: JsonDict
    stream: str
    part: int
    parts: int
    whole: bool
    proven: bool


@dataclass(frozen=True, slots=True)
class DiffResult(Message):
    """What one part holds: rows, distinct keys and what they are against the base; keys that are gone, and how many of them are to be deleted.

    `doubted`: keys of which a run that was never committed may have sent another row; they are among those that changed or are gone.
    """

    rows: int
    keys: int
    duplicates: int
    created: int
    updated: int
    unchanged: int
    gone: int
    tombstones: int
    known: int
    doubted: int = 0


@dataclass(frozen=True, slots=True)
class CloseRequest(Message):
    """Close the run: `reasons` are what the orchestrators saw go wrong, `failed` whether they gave up, `counts` what lanes counted.

    `diffs`: per stream the sums of its DiffResults, with `parts` and `gone_rule` (see activities/index.py); empty when nothing was compared.
    """

    run: JsonDict
    counts: dict[str, dict[str, int]]
    reasons: list[str]
    failed: bool
    cancelled: bool
    expected: dict[str, int | None] = field(default_factory=dict)
    totals: dict[str, int | None] = field(default_factory=dict)
    diffs: dict[str, JsonDict] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


TOMBSTONE_LANE: Final = 999
"""The lane whose rows are the tombstones of a stream, one segment a part of its diff."""


# Answers of an activity that are not its result.


def again(reason: str, retry_after_s: float = 0.0, *, progressed: bool = False) -> JsonDict:
    """The answer of a step that wants to be called again later; `progressed` as in `TryAgain`."""
    return {"v": SCHEMA_VERSION, "again": reason[:600], "retry_after_s": retry_after_s, "progressed": progressed}


def stop(error: Stop) -> JsonDict:
    """The answer of a step that cannot succeed."""
    return {
        "v": SCHEMA_VERSION,
        "stop": error.reason[:600],
        "remedy": error.remedy[:600],
        "cancelled": isinstance(error, Cancelled),
    }


def instance_id(source: str) -> str:
    """The orchestration's instance id: one per source, so that a second load of a running source is refused by the task hub itself."""
    return f"load-{source}"
