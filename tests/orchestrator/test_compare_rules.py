"""When a load may call something gone: never on doubt, never more than the guard's share, and what is refused is said."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from contracts import TOMBSTONE_LANE, DiffResult, Plan, Policy, Run
from orchestrator.compare import bury, compare
from orchestrator.history import History
from orchestrator.lane_state import LaneState

POLICY = Policy(1000, 2, 1.0, 60.0, 600.0, 2.0, 60.0, delete_share=0.1)
ADDS_UP = {"exported": 95, "staged": 95, "flattened": 95, "rows": 95, "accepted": 95}
GONE = DiffResult(rows=95, keys=95, duplicates=0, created=0, updated=0, unchanged=95, gone=5, tombstones=5, known=100)


def _compared(
    stability: str,
    result: DiffResult = GONE,
    *,
    mode: str = "full",
    whole: bool = True,
    allow: bool = False,
    beside: dict[str, int] | None = None,
    lacking: tuple[str, ...] = (),
    before: dict[str, Any] | None = None,
    **lane: Any,
) -> tuple[list[LaneState], Any, list[Any]]:
    """States, comparison and the diff requests of a run of one stream whose parts all give `result`; `beside`: what another stream's lane counted.

    `lacking`: what the answers do not have; `before`: the comparison as far as it was.
    """
    run = Run("r", "device42", mode, "2026-03-01T00:00:00+00:00", base="b").to_wire()
    streams = {"devices": {"whole": whole, "stability": stability, "table": "CAASM_Assets_CL"}}
    plan = Plan(run, [], {}, POLICY.to_wire(), known={"devices": 100}, streams=streams)
    counts = {**ADDS_UP, **lane.pop("counts", {})}
    given = {"total": 95, "first_total": 95, **lane}
    state = LaneState("devices", 0, {}, segment=4, exhausted=True, counts=counts, **given)
    asked: list[Any] = []
    lanes = [state]
    if beside is not None:
        streams["others"] = {"whole": True, "stability": "snapshot", "table": "CAASM_Assets_CL"}
        lanes.append(LaneState("others", 0, {}, segment=4, exhausted=True, counts={**ADDS_UP, **beside}))
    context = SimpleNamespace(
        call_activity=lambda _name, message: asked.append(message), set_custom_status=lambda _: None
    )
    steps = compare(context, plan, [lane.wire() for lane in lanes], before or {}, {}, History(), allow_deletes=allow)
    answer = None
    try:
        while True:
            steps.send(answer)
            answer = {key: value for key, value in result.to_wire().items() if key not in lacking}
    except StopIteration as end:
        _, diffs = end.value
        states, _ = bury(*end.value)
    return [LaneState.of(wire) for wire in states], diffs, asked


def _tombstones(states: list[LaneState]) -> bool:
    return any(state.lane == TOMBSTONE_LANE for state in states)


@pytest.mark.parametrize("stability", ["snapshot", "counted"])
def test_a_proven_export_deletes_what_did_not_come(stability: str) -> None:
    """A snapshot, or a total that was the same all along and is what came."""
    states, diffs, asked = _compared(stability)
    assert asked[0]["proven"]
    assert (_tombstones(states), diffs["streams"]["devices"]["gone_rule"], diffs["notes"]) == (True, "dropped", [])


def test_page_numbers_prove_nothing_and_wait_for_a_second_run() -> None:
    """The diff is told; what it calls gone for the second time is deleted, the rest is noted."""
    states, diffs, asked = _compared("none", replace(GONE, tombstones=2))
    assert not asked[0]["proven"]
    assert (_tombstones(states), diffs["streams"]["devices"]["gone_rule"]) == (True, "suspects")
    assert "3 known subjects did not come" in diffs["notes"][0]


@pytest.mark.parametrize(
    ("stability", "change", "says"),
    [
        ("counted", {"total": 96}, "total moved"),
        ("counted", {"first_total": 96}, "total moved"),
        ("counted", {"total": None, "first_total": None}, "total moved"),
        ("snapshot", {"counts": {"flattened": 94, "rejected": 1}}, "1 records were rejected"),
        ("snapshot", {"counts": {"cut_short": 1}}, "1 lanes did not reach the end"),
        ("snapshot", {"counts": {"staged": 94}}, "95 records exported, 94 staged"),
        ("snapshot", {"counts": {"flattened": 94}}, "94 flattened, rejected or filtered"),
        ("snapshot", {"counts": {"accepted": 94}}, "95 rows, 94 accepted or dead-lettered"),
        ("snapshot", {"beside": {"failed_pages": 1}}, "others is not complete: 1 pages could not be read"),
        ("snapshot", {"beside": {"cut_short": 2}}, "others is not complete: 2 lanes did not reach the end"),
        ("snapshot", {"counts": {"failed_pages": 2}}, "2 pages could not be read"),
        ("snapshot", {"whole": False}, "only what has changed"),
    ],
    ids=[
        "last total",
        "first total",
        "no total",
        "rejected",
        "cut short",
        "not staged",
        "not flattened",
        "not sent",
        "unreadable beside",
        "cut short beside",
        "unreadable",
        "partial",
    ],
)
def test_nothing_is_deleted_on_doubt(stability: str, change: dict[str, Any], says: str) -> None:
    """Each doubt keeps every key, and is said."""
    states, diffs, _ = _compared(stability, **change)
    assert not _tombstones(states)
    assert diffs["streams"]["devices"]["gone_rule"] == "kept"
    assert says in diffs["notes"][0]


def test_records_that_came_twice_are_a_doubt_where_nothing_else_is_known() -> None:
    """With page numbers a repeated record shows that the inventory moved; in an export job it shows nothing."""
    twice = replace(GONE, duplicates=1)
    assert not _tombstones(_compared("none", twice)[0])
    assert _tombstones(_compared("snapshot", twice)[0])


def test_rejects_of_another_stream_are_no_doubt() -> None:
    """A run with rejects is complete; only the stream that has them may have a subject that did not become a row."""
    states, _, _ = _compared("snapshot", beside={"flattened": 90, "rejected": 5})
    assert [state.stream for state in states if state.lane == TOMBSTONE_LANE] == ["devices"]


def test_a_dead_letter_is_no_doubt() -> None:
    """What the destination refused was exported all the same."""
    assert _tombstones(_compared("snapshot", counts={"accepted": 90, "dead_lettered": 5})[0])


def test_nothing_known_and_nothing_gone_is_no_division_by_zero() -> None:
    """A first run: no index, no tombstones, no note."""
    first = DiffResult(95, 95, 0, 95, 0, 0, 0, 0, 0)
    states, diffs, _ = _compared("snapshot", first)
    assert (_tombstones(states), diffs["notes"], diffs["streams"]["devices"]["gone_rule"]) == (False, [], "dropped")


@pytest.mark.parametrize(("gone", "allow", "deletes"), [(10, False, True), (11, False, False), (11, True, True)])
def test_the_guard_refuses_more_than_its_share(gone: int, allow: bool, deletes: bool) -> None:
    """A tenth is not more than a tenth; the flag lifts the guard for one run."""
    states, diffs, _ = _compared("snapshot", replace(GONE, gone=gone, tombstones=gone), allow=allow)
    assert _tombstones(states) == deletes
    assert deletes or "refused to delete 11 of 100" in diffs["notes"][0]


def test_a_delta_sends_every_segment_by_its_verdicts() -> None:
    """The lanes that exported and transformed now send; a full load's have sent already."""
    (lane, *_), _, _ = _compared("snapshot", mode="delta")
    assert (lane.sending, lane.verdicts, lane.finished) == ([0, 4], True, False)
    assert _compared("snapshot")[0][0].sending is None


@pytest.mark.parametrize(
    ("whole", "says"), [(True, "counts as gone"), (False, "stays in doubt")], ids=["whole", "partial"]
)
def test_subjects_in_doubt_are_said(whole: bool, says: str) -> None:
    """They are sent again or deleted although nothing of them has changed: the ledger says why."""
    _, diffs, _ = _compared("snapshot", replace(GONE, updated=3, doubted=3), whole=whole)
    said = "devices: 3 subjects were in doubt, because loads before this one sent rows and did not end complete: "
    assert diffs["notes"][0].startswith(said)
    assert diffs["notes"][0].endswith(f"what did not come {says}")
    assert diffs["streams"]["devices"]["doubted"] == 3


@pytest.mark.parametrize("mine", [0, 2], ids=["answer of the older", "sums of the older"])
def test_a_comparison_of_an_older_version_goes_on(mine: int) -> None:
    """Its answers, and what it has summed up, do not count what was in doubt."""
    summed = dict.fromkeys(GONE.to_wire().keys() - {"v", "doubted"}, 0)
    before = {"streams": {"devices": {**summed, "parts": 1, "done": 0}}, "comparing": True}
    lacking = () if mine else ("doubted",)
    _, diffs, asked = _compared("snapshot", replace(GONE, doubted=mine), before=before, lacking=lacking)
    assert len(asked) == 1
    assert (diffs["streams"]["devices"]["known"], diffs["streams"]["devices"]["doubted"]) == (100, mine)
    assert len(diffs["notes"]) == bool(mine)
