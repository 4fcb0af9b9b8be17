"""Compares a run with the last complete one, stream by stream and part by part, and decides what may be called gone.

Invariant: nothing is deleted on doubt. Tombstones are only sent for a stream that was exported whole, of which no record was rejected and no page unreadable, whose paging
shows no sign of having skipped or repeated records, and for no more than the guard's share; where the paging can prove nothing, a key must
be missing from two complete runs in a row. What is refused is said in the run's notes.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

from contracts import DIFF, TOMBSTONE_LANE, DiffRequest, JsonDict, Plan, Policy
from orchestrator.insist import insist, said
from orchestrator.lane_state import LaneState

if TYPE_CHECKING:
    from azure.durable_functions import DurableOrchestrationContext

KEYS_PER_PART: Final = 1_000_000
"""Keys that one diff activity holds: about 200 MB with the base's beside them."""

_SUMMED: Final = ("rows", "keys", "duplicates", "created", "updated", "unchanged", "gone", "tombstones", "known")


def compare(
    context: DurableOrchestrationContext, plan: Plan, states: list[JsonDict], shown: JsonDict, *, allow_deletes: bool
) -> Generator[Any, Any, tuple[list[JsonDict], JsonDict]]:
    """The lanes' states with what they have to send now, and the comparison: {streams: {name: sums, parts, gone_rule}, notes}."""
    policy = Policy.from_wire(plan.policy)
    lanes = [LaneState.of(state) for state in states]
    streams: dict[str, JsonDict] = {}
    notes: list[str] = []
    for name, of in plan.streams.items():
        mine = [lane for lane in lanes if lane.stream == name]
        counted = _counted(of["stability"], mine)
        rows = sum(lane.counts.get("rows", 0) for lane in mine)
        parts = max(1, -(-max(rows, plan.known.get(name, 0)) // KEYS_PER_PART))
        proven = of["stability"] == "snapshot" or (of["stability"] == "counted" and counted)
        sums = dict.fromkeys(_SUMMED, 0)
        for part in range(parts):
            message = DiffRequest(plan.run, name, part, parts, whole=of["whole"], proven=proven)
            answer = yield from insist(context, DIFF, message.to_wire(), shown)
            if "stop" in answer:
                mine[0].failed = True
                mine[0].cancelled = bool(answer.get("cancelled"))
                mine[0].reasons.append(f"{name}: {said(answer)}")
                return [lane.wire() for lane in lanes], {"streams": {}, "notes": notes}
            sums = {key: sums[key] + answer[key] for key in _SUMMED}
        doubt = _doubt(of, mine, sums, counted=counted)
        rule = _rule(name, sums, doubt, notes, policy, proven=proven, allow_deletes=allow_deletes)
        streams[name] = {**sums, "parts": parts, "gone_rule": rule}
        if plan.run["mode"] == "delta":
            for lane in mine:
                lane.sending, lane.verdicts = [0, lane.segment], True
        if sums["tombstones"] and rule != "kept":
            lanes.append(LaneState.send(name, TOMBSTONE_LANE, parts, verdicts=False))
    return [lane.wire() for lane in lanes], {"streams": streams, "notes": notes}


def _counted(stability: str, lanes: list[LaneState]) -> bool:
    """Whether the source's total was the same in every answer of every lane, and is what came."""
    totals = {total for lane in lanes for total in (lane.first_total, lane.total) if total is not None}
    exported = sum(lane.counts.get("exported", 0) for lane in lanes)
    return stability == "counted" and totals == {exported}


def _doubt(of: JsonDict, lanes: list[LaneState], sums: dict[str, int], *, counted: bool) -> str:
    """Why the run may not have seen every record of the stream, or an empty text."""
    if not of["whole"]:
        return "only what has changed was exported"
    troubles = {
        "cut_short": "lanes did not reach the end of their data",
        "failed_pages": "pages could not be read",
        "rejected": "records were rejected",
    }
    for count, what in troubles.items():
        number = sum(lane.counts.get(count, 0) for lane in lanes)
        if number:
            return f"{number} {what}"
    if of["stability"] == "counted" and not counted:
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
