"""A source that prepares its export for ever does not make a load that never ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from contracts import EXPORT, ExportResult, LanePlan, Policy
from orchestrator.lane_state import LaneState

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
POLICY = Policy(1000, 2, 1.0, 60.0, 600.0, 2.0, 60.0, longest_export_wait_s=100.0)
WAITING = ExportResult({"job": "a"}, staged=False, exhausted=False, wait_s=2.0).to_wire()
STAGED = ExportResult({"job": "a"}, staged=True, exhausted=False, records=1, pages=1, bytes=10).to_wire()


def _waiting(state: LaneState, seconds: float) -> None:
    state.take(EXPORT, {"segment": state.segment}, WAITING, POLICY, BEGIN + timedelta(seconds=seconds))


def test_a_lane_gives_up_on_an_export_that_never_gives_a_page() -> None:
    """After the configured wait the lane fails with a reason; not a second earlier."""
    state = LaneState.start(LanePlan("assets", 0, {}).to_wire())
    _waiting(state, 0)
    _waiting(state, 99)
    assert not state.export_failed
    _waiting(state, 100)
    assert state.export_failed
    assert state.finished
    assert "prepared its export for 100 s without giving a page" in state.reasons[0]


def test_a_page_in_between_starts_the_patience_anew() -> None:
    """What counts is the time without any page, not the time of the whole export."""
    state = LaneState.start(LanePlan("assets", 0, {}).to_wire())
    _waiting(state, 0)
    state.take(EXPORT, {"segment": 0}, STAGED, POLICY, BEGIN + timedelta(seconds=90))
    _waiting(state, 95)
    _waiting(state, 190)
    assert not state.export_failed
