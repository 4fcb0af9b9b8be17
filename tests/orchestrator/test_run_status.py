"""The custom status of a run: small, honest, no negative numbers."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts import LanePlan, LoadRequest, Plan, Policy, Run
from local.durable.limits import CUSTOM_STATUS_BYTES, check_custom_status
from orchestrator.lane_state import LaneState
from orchestrator.status import status

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
REQUEST = LoadRequest("tenable-20260301T000000Z-abcdef", "tenable", "full", BEGIN.isoformat())
POLICY = Policy(1, 1, 1.0, 1.0, 1.0, 1.0, 1.0).to_wire()


def a_lane(stream: str, lane: int = 0, **changes: Any) -> LaneState:
    """A lane's state with some fields set."""
    state = LaneState.start(LanePlan(stream, lane, {}).to_wire())
    for name, value in changes.items():
        setattr(state, name, value)
    return state


def shown(lanes: list[LaneState], expected: dict[str, int | None], after_s: float, **more: Any) -> dict[str, Any]:
    """The status of a loading run so long after its start."""
    plan = Plan(
        Run(REQUEST.run_id, "tenable", "full", REQUEST.started_at).to_wire(),
        [LanePlan(lane.stream, lane.lane, {}).to_wire() for lane in lanes],
        expected,
        POLICY,
    )
    wires = [lane.wire() for lane in lanes]
    return status(REQUEST, more.pop("phase", "loading"), plan, wires, BEGIN + timedelta(seconds=after_s), **more)


@pytest.mark.parametrize(
    "letter", ["x", "\u4e2d", "\N{PILE OF POO}", "\x00", '"', "\n"], ids=["x", "cjk", "astral", "nul", "quote", "line"]
)
def test_it_fits_with_ten_streams_and_the_longest_reasons(letter: str) -> None:
    """Ten streams of eight lanes in trouble, with reasons as long as answers allow, in letters that JSON escapes: under 16 KB of UTF-16."""
    lanes = []
    for stream in range(10):
        for n in range(8):
            counts = dict.fromkeys(
                ("exported", "staged", "flattened", "rows", "accepted", "bytes", "bytes_sent"), 10**12
            )
            failing = {"export": {"since": BEGIN.isoformat(), "tries": 1, "reason": letter * 600}}
            lanes.append(
                a_lane(f"a_long_stream_name_{stream}", n, counts=counts, failing=failing, reasons=[letter * 1200] * 3)
            )
    manifest = {"reasons": [letter * 4000] * 50}
    for more in ({}, {"manifest": manifest}):
        text = json.dumps(shown(lanes, {}, 1000, **more))
        check_custom_status(text)
        assert len(text.encode("utf-16-le")) <= CUSTOM_STATUS_BYTES
        assert letter.encode("unicode_escape").decode()[:2] in text or letter in text or "\\" in text


def test_figures_are_the_lanes_sums() -> None:
    """Two lanes of a stream, one done: their counts together, one of two done."""
    done = a_lane("assets", 0, counts={"exported": 30, "rows": 20}, exhausted=True)
    going = a_lane("assets", 1, counts={"exported": 20, "rows": 10})
    figures = shown([done, going], {"assets": 100}, 10)
    stream = figures["streams"]["assets"]
    assert (stream["exported"], stream["rows"], stream["lanes"], stream["lanes_done"]) == (50, 30, 2, 1)
    assert figures["rate"] == 5.0
    assert figures["elapsed_s"] == 10.0


def test_the_end_is_estimated_from_what_unfinished_streams_lack() -> None:
    """50 of 100 in 10 s: 10 s more; a finished stream that gave less than promised does not count."""
    going = a_lane("assets", counts={"exported": 50})
    assert shown([going], {"assets": 100}, 10)["estimated_end_at"] == (BEGIN + timedelta(seconds=20)).isoformat()
    short = a_lane("findings", counts={"exported": 50}, exhausted=True)
    assert (
        shown([going, short], {"assets": 100, "findings": 900}, 10)["estimated_end_at"]
        == (BEGIN + timedelta(seconds=15)).isoformat()
    )


@pytest.mark.parametrize(
    ("total", "after_s"),
    [(None, 10.0), (10**18, 10.0), (2**63, 1e-6), (-1, 10.0)],
    ids=["unknown", "absurd", "no time yet", "minus one"],
)
def test_no_estimate_where_there_is_none(total: int | None, after_s: float) -> None:
    """No total, or an absurd one: no estimate, and no error."""
    lane = a_lane("assets", counts={"exported": 1}, total=total)
    figures = shown([lane], {"assets": None}, after_s)
    if total != 2**63:
        assert figures["estimated_end_at"] is None
    assert figures["streams"]["assets"]["expected"] in {total, None}
    assert total != -1 or figures["streams"]["assets"]["expected"] is None


def test_no_number_is_negative_when_clocks_disagree() -> None:
    """A starter whose clock is ahead, and more records than promised."""
    lane = a_lane("assets", counts={"exported": 120}, total=-1)
    for after_s in (-30.0, 0.0, 30.0):
        figures = shown([lane], {"assets": 100}, after_s)
        numbers = [figures["elapsed_s"], figures["rate"], *figures["streams"]["assets"].values()]
        assert all(number is None or number >= 0 for number in numbers)
    over = shown([a_lane("assets", counts={"exported": 120})], {"assets": 100}, 60)
    assert datetime.fromisoformat(over["estimated_end_at"]) == BEGIN + timedelta(seconds=60)


def test_nothing_is_estimated_outside_of_loading() -> None:
    """While opening and when closed there is no end to estimate."""
    assert status(REQUEST, "opening", None, [], BEGIN)["estimated_end_at"] is None
    assert (
        shown([a_lane("assets", counts={"exported": 5})], {"assets": 10}, 5, phase="complete")["estimated_end_at"]
        is None
    )
