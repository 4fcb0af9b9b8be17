"""Compares a run with the last complete one, stream by stream and part by part, and decides what may be called gone.

Invariant: nothing is deleted on doubt. Tombstones are only sent by a run of which every lane of every stream reached the end of its data and adds up, for a stream that was
exported whole, of which no record was rejected, whose paging shows no sign of having skipped or repeated records, and for no more than the guard's share; where the paging
can prove nothing, a key must be missing from two complete runs in a row. What is refused is said in the run's notes.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

from contracts import DIFF, TOMBSTONE_LANE, DiffRequest, JsonDict, Plan, Policy
from orchestrator.history import History
from orchestrator.insist import insist, said
from orchestrator.lane_state import REASON_LENGTH, LaneState

if TYPE_CHECKING:
    from azure.durable_functions import DurableOrchestrationContext

KEYS_PER_PART: Final = 500_000
"""Keys that one diff activity holds, with the base's beside them: bench/diff_memory.py says what memory that takes."""

_SUMMED: Final = (
    "rows",
    "keys",
    "duplicates",
    "created",
    "updated",
    "unchanged",
    "gone",
    "tombstones",
    "known",
    "doubted",
)


def compare(
    context: DurableOrchestrationContext,
    plan: Plan,
    states: list[JsonDict],
    diffs: JsonDict,
    shown: JsonDict,
    history: History,
    *,
    allow_deletes: bool,
) -> Generator[Any, Any, tuple[list[JsonDict], JsonDict]]:
    """The lanes' states and how far the comparison is: {streams: {name: sums, parts, gone_rule}, notes, bury}, with `comparing` while it is not done.

    It ends early when the history is full, and goes on from what it gave. `bury`: [stream, segments] of the tombstones that are to be sent when everything else has
    been. A part that stops fails the run before anything was decided.
    """
    lanes = [LaneState.of(state) for state in states]
    streams: dict[str, JsonDict] = dict(diffs.get("streams", {}))
    for name, of in plan.streams.items():
        mine = [lane for lane in lanes if lane.stream == name]
        parts = parts_of(_counted(mine, "rows"), plan.known.get(name, 0))
        sums = streams.setdefault(name, {**dict.fromkeys(_SUMMED, 0), "parts": parts, "done": 0})
        while sums["done"] < parts:
            if history.full:
                return states, {"streams": streams, "notes": [], "bury": [], "comparing": True}
            message = DiffRequest(plan.run, name, sums["done"], parts, whole=of["whole"], proven=_proven(of, mine))
            answer = yield from insist(context, DIFF, message.to_wire(), shown, history)
            if "stop" in answer:
                mine[0].failed = True
                mine[0].cancelled = bool(answer.get("cancelled"))
                mine[0].reasons.append(f"{name}: {said(answer)}"[:REASON_LENGTH])
                return [lane.wire() for lane in lanes], {"streams": {}, "notes": [], "bury": []}
            # What an older version has answered or summed up does not have every figure.
            summed = {key: sums.get(key, 0) + answer.get(key, 0) for key in _SUMMED}
            sums.update(summed, done=sums["done"] + 1)
    return _decided(plan, lanes, streams, allow_deletes=allow_deletes)


def bury(states: list[JsonDict], diffs: JsonDict) -> tuple[list[JsonDict], JsonDict]:
    """The states with a lane for each stream's tombstones, and the comparison without them."""
    lanes = [LaneState.send(name, TOMBSTONE_LANE, segments, verdicts=False).wire() for name, segments in diffs["bury"]]
    return [*states, *lanes], {**diffs, "bury": []}


def parts_of(rows: int, known: int) -> int:
    """In how many parts a run of so many rows is compared with an index of so many keys."""
    return max(1, -(-max(rows, known) // KEYS_PER_PART))


def _decided(
    plan: Plan, lanes: list[LaneState], streams: dict[str, JsonDict], *, allow_deletes: bool
) -> tuple[list[JsonDict], JsonDict]:
    """What the comparison of all streams comes to: a delta's lanes send by verdicts, tombstones are sent or refused."""
    policy = Policy.from_wire(plan.policy)
    diffs: JsonDict = {"streams": {}, "notes": [], "bury": []}
    gaps = {name: _gap([lane for lane in lanes if lane.stream == name], plan.run["mode"]) for name in plan.streams}
    for name, of in plan.streams.items():
        mine = [lane for lane in lanes if lane.stream == name]
        sums = {key: number for key, number in streams[name].items() if key != "done"}
        elsewhere = next((f"{other} is not complete: {gap}" for other, gap in gaps.items() if gap), "")
        doubt = gaps[name] or _doubt(of, mine, sums) or elsewhere
        if doubted := sums.get("doubted", 0):
            diffs["notes"].append(
                f"{name}: {doubted} subjects were in doubt, because loads before this one sent rows and did not end complete: what came of them "
                f"counts as updated and is sent again, what did not come {'counts as gone' if of['whole'] else 'stays in doubt'}"
            )
        if moved := _moved(mine):
            # A note of its own: nothing may be gone.
            diffs["notes"].append(
                f"{name}: the inventory moved {moved} times while it was read; pages overlap, so that nothing is missing"
            )
        rule = _rule(name, sums, doubt, diffs["notes"], policy, proven=_proven(of, mine), allow_deletes=allow_deletes)
        diffs["streams"][name] = {**sums, "gone_rule": rule}
        if plan.run["mode"] == "delta":
            for lane in mine:
                lane.sending, lane.verdicts = [0, lane.segment], True
        if sums["tombstones"] and rule != "kept":
            diffs["bury"].append([name, sums["parts"]])
    return [lane.wire() for lane in lanes], diffs


def _counted(lanes: list[LaneState], *names: str) -> int:
    return sum(lane.counts.get(name, 0) for lane in lanes for name in names)


def _proven(of: JsonDict, lanes: list[LaneState]) -> bool:
    """Whether the paging shows that every record came: an export job, or a total that was the same in every answer and is what came."""
    if of["stability"] != "counted":
        return bool(of["stability"] == "snapshot")
    totals = {total for lane in lanes for total in (lane.first_total, lane.total) if total is not None}
    return totals == {_counted(lanes, "exported")}


def _moved(lanes: list[LaneState]) -> int:
    """How often pages were found shifted (sources/overlapping.py)."""
    return sum(lane.cursor.get("moved", 0) for lane in lanes)


def _gap(lanes: list[LaneState], mode: str) -> str:
    """Why the stream, and with it the run, will not be complete, or an empty text."""
    for count, what in (
        ("cut_short", "lanes did not reach the end of their data"),
        ("failed_pages", "pages could not be read"),
    ):
        if number := _counted(lanes, count):
            return f"{number} {what}"
    exported, staged = _counted(lanes, "exported"), _counted(lanes, "staged")
    settled = _counted(lanes, "flattened", "rejected", "filtered")
    if not exported == staged == settled:
        return f"{exported} records exported, {staged} staged, {settled} flattened, rejected or filtered"
    rows, answered = _counted(lanes, "rows"), _counted(lanes, "accepted", "dead_lettered")
    return f"{rows} rows, {answered} accepted or dead-lettered" if mode == "full" and rows != answered else ""


def _doubt(of: JsonDict, lanes: list[LaneState], sums: dict[str, int]) -> str:
    """Why a complete run may not have seen every record of the stream, or an empty text."""
    if not of["whole"]:
        return "only what has changed was exported"
    if rejected := _counted(lanes, "rejected"):
        return f"{rejected} records were rejected"
    if moved := _moved(lanes):
        return f"the inventory moved {moved} times while it was read"
    if of["stability"] == "counted" and not _proven(of, lanes):
        return "the source's total moved while it was read, or is not what came"
    if of["stability"] != "snapshot" and sums["duplicates"]:
        # A record that came twice took the place of one that did not come, also where the total is right.
        return f"{sums['duplicates']} records came twice: the inventory moved while it was read"
    return ""


def _rule(
    name: str, sums: dict[str, int], doubt: str, notes: list[str], policy: Policy, *, proven: bool, allow_deletes: bool
) -> str:
    if doubt:
        if sums["gone"]:
            notes.append(f"{name}: {sums['gone']} known subjects did not come and are not deleted: {doubt}")
        return "kept"
    share = sums["tombstones"] / sums["known"] if sums["known"] else 0.0
    if share > policy.delete_share and not allow_deletes:
        notes.append(
            f"{name}: refused to delete {sums['tombstones']} of {sums['known']} known subjects ({share:.0%}, more than {policy.delete_share:.0%}): "
            'if they are really gone, start the load with "allow_deletes": true'
        )
        return "kept"
    waiting = sums["gone"] - sums["tombstones"]
    if waiting:
        notes.append(
            f"{name}: {waiting} known subjects did not come; they are deleted when the next complete load has none of them either"
        )
    return "dropped" if proven else "suspects"
