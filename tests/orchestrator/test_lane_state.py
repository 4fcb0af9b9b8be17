"""A lane's state as a machine: whatever the answers, each segment goes through once, in bounds, and never gets stuck."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import (
    EXPORT,
    TRANSFORM,
    UPLOAD,
    Cancelled,
    ExportResult,
    JsonDict,
    LanePlan,
    Policy,
    Run,
    Stop,
    TransformResult,
    UploadResult,
    again,
    stop,
)
from orchestrator.lane_state import PACK_SEGMENTS, LaneState

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
RUN = Run("tenable-20260301T000000Z-abcdef", "tenable", "full", BEGIN.isoformat()).to_wire()


def a_policy(**changes: Any) -> Policy:
    """A policy of small numbers."""
    numbers: dict[str, Any] = {
        "pack_bytes": 100,
        "staged_ahead": 2,
        "first_wait_s": 1.0,
        "longest_wait_s": 60.0,
        "give_up_after_s": 600.0,
        "first_turn_s": 2.0,
        "longest_turn_s": 60.0,
    }
    return Policy(**{**numbers, **changes})


class Walk:
    """Drives a state with answers until it has finished; checks what must hold at every step."""

    def __init__(self, policy: Policy, sizes: list[int], answers: list[str]) -> None:
        self.policy, self.sizes, self.answers = policy, sizes, answers
        self.state = LaneState.start(LanePlan("assets", 0, {"at": 0}).to_wire())
        self.now = BEGIN
        self.transformed: list[int] = []
        self.uploaded: list[int] = []
        self.steps = 0
        self.widest = 0

    def through_json(self) -> None:
        """The state as the next execution reads it: the same, and small."""
        wire = self.state.wire()
        text = json.dumps(wire)
        self.widest = max(self.widest, len(text))
        self.state = LaneState.of(json.loads(text))
        assert self.state.wire() == wire

    def run(self) -> LaneState:
        """The state when nothing is left to do."""
        while not self.state.finished:
            self.steps += 1
            assert self.steps < 20 * (len(self.sizes) + len(self.answers) + 5), "it does not get on"
            self.through_json()
            due = self.state.due(RUN, self.policy, self.now)
            if not due:
                wake = self.state.wake(self.now)
                assert wake is not None, "stuck: nothing due, nothing held, not finished"
                assert wake > self.now
                self.now = wake
                continue
            self._take(due)
            self._bounds()
        self.through_json()
        return self.state

    def _take(self, due: list[tuple[str, JsonDict]]) -> None:
        kinds = [self.answers.pop() if self.answers else "success" for _ in due]
        self.now += timedelta(seconds=1)
        if "break" in kinds:
            self.state.broke([name for name, _ in due], "lost", self.policy, self.now)
            return
        for (name, message), kind in zip(due, kinds, strict=True):
            self.state.take(name, message, self._answer(name, message, kind), self.policy, self.now)

    def _answer(self, name: str, message: JsonDict, kind: str) -> JsonDict:
        if kind == "again":
            return again("503", 3.0)
        if kind == "stop":
            return stop(Stop("403", "a role"))
        if kind == "cancel":
            return stop(Cancelled("cancelled"))
        return {EXPORT: self._export, TRANSFORM: self._transform, UPLOAD: self._upload}[name](message, kind)

    def _export(self, message: JsonDict, kind: str) -> JsonDict:
        at = message["cursor"]["at"]
        assert at == message["segment"]
        if kind == "wait":
            return ExportResult({"at": at}, staged=False, exhausted=False, wait_s=5.0).to_wire()
        wait_s = 2.0 if kind == "pause" else 0.0
        exhausted = at + 1 >= len(self.sizes)
        return ExportResult({"at": at + 1}, staged=True, exhausted=exhausted, records=1, wait_s=wait_s).to_wire()

    def _transform(self, message: JsonDict, _kind: str) -> JsonDict:
        self.transformed.append(message["segment"])
        size = self.sizes[message["segment"]]
        return TransformResult(1, 1, 0, 0, int(size > 0), size).to_wire()

    def _upload(self, message: JsonDict, _kind: str) -> JsonDict:
        pack = range(message["first"], message["last"] + 1)
        assert set(pack) <= set(self.transformed)
        assert len([segment for segment in pack if self.sizes[segment]]) <= PACK_SEGMENTS
        self.uploaded += [segment for segment in pack if self.sizes[segment]]
        rows = sum(self.sizes[segment] > 0 for segment in pack)
        return UploadResult(rows, rows, 0, 0, 1, 1, 1, 1).to_wire()

    def _bounds(self) -> None:
        assert len(self.state.transforming) <= self.policy.staged_ahead
        assert len(self.state.ready) < 2 * PACK_SEGMENTS + self.policy.staged_ahead
        # The formula of docs/configuration.md. An export starts below two packs (or two segments); then at most what may be staged ahead is added.
        largest = max(self.sizes)
        staged = sum(size for _, size, _ in self.state.ready) + sum(self.sizes[at] for at in self.state.transforming)
        assert staged <= max(2 * self.policy.pack_bytes, largest) + self.policy.staged_ahead * largest


KINDS = [*["success"] * 8, *["again"] * 6, "break", "break", "wait", "wait", "pause", "pause", "stop", "cancel"]


@settings(max_examples=250, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 30, 99, 100, 101, 450]), min_size=1, max_size=40),
    answers=st.lists(st.sampled_from(KINDS), max_size=80),
    staged_ahead=st.integers(1, 4),
    give_up_after_s=st.sampled_from([0.0, 20.0, 600.0]),
)
def test_every_segment_goes_through_once_or_the_lane_failed(
    sizes: list[int], answers: list[str], staged_ahead: int, give_up_after_s: float
) -> None:
    """For any answers: what was exported is transformed and uploaded once, in order; only a failed lane leaves something behind."""
    walk = Walk(a_policy(staged_ahead=staged_ahead, give_up_after_s=give_up_after_s), sizes, list(answers))
    state = walk.run()
    assert walk.transformed == list(range(len(walk.transformed)))
    with_rows = [segment for segment in walk.transformed if sizes[segment]]
    assert walk.uploaded == with_rows[: len(walk.uploaded)]
    if not state.failed:
        assert walk.transformed == list(range(state.segment))
        assert walk.uploaded == with_rows
        assert state.export_failed or state.segment == len(sizes)
        assert state.counts.get("accepted", 0) == len(with_rows)
    if state.failed or state.export_failed:
        assert state.reasons
    assert walk.widest < 8192


@pytest.mark.parametrize("size", [0, 1, 99])
def test_the_state_stays_small_however_many_segments(size: int) -> None:
    """3,000 segments that hardly give a row: under 8 KB on the wire throughout."""
    walk = Walk(a_policy(pack_bytes=24 * 1024 * 1024), [size] * 3000, [])
    walk.run()
    assert walk.uploaded == (list(range(3000)) if size else [])
    assert walk.widest < 8192


@pytest.mark.parametrize("staged_ahead", [1, 2, 4])
def test_a_transform_or_an_upload_that_waits_pauses_the_export(staged_ahead: int) -> None:
    """Back-pressure: the export gets ahead of a held transform by what may be staged, and of a held upload by two packs, and no further."""
    policy = a_policy(staged_ahead=staged_ahead)
    for held, most in ((TRANSFORM, staged_ahead), (UPLOAD, 2 + staged_ahead)):
        walk = Walk(policy, [100] * 50, [])
        walk.state.holds[held] = (BEGIN + timedelta(hours=1)).isoformat()
        while due := walk.state.due(RUN, policy, walk.now):
            walk._take(due)
        assert min(staged_ahead, 2) <= walk.state.segment <= most
        assert walk.state.wake(walk.now) == BEGIN + timedelta(hours=1)


def test_reasons_of_every_length_stay_small() -> None:
    """The longest reasons that an answer can carry, in every place that keeps one."""
    state = LaneState.start(LanePlan("assets", 0, {"at": 0}).to_wire())
    policy = a_policy()
    for name in (EXPORT, TRANSFORM, UPLOAD):
        state.take(name, {}, again("x" * 5000), policy, BEGIN)
    for name in (EXPORT, UPLOAD):
        state.take(name, {}, stop(Stop("y" * 5000, "z" * 5000)), policy, BEGIN)
    assert len(json.dumps(state.wire())) < 8192


def test_a_step_is_given_up_only_after_its_time() -> None:
    """Failures count from the first without a success in between."""
    policy, now = a_policy(give_up_after_s=100.0), BEGIN
    state = LaneState.start(LanePlan("assets", 0, {"at": 0}).to_wire())
    for seconds in (0, 50, 99):
        state.take(EXPORT, {}, again("503"), policy, now + timedelta(seconds=seconds))
    assert state.exporting
    success = ExportResult({"at": 0}, staged=False, exhausted=False).to_wire()
    state.take(EXPORT, {"segment": 0}, success, policy, now + timedelta(seconds=99))
    state.take(EXPORT, {}, again("503"), policy, now + timedelta(seconds=150))
    assert state.exporting
    state.take(EXPORT, {}, again("503"), policy, now + timedelta(seconds=250))
    assert state.export_failed
    assert "(tried for 100 s)" in state.reasons[0]


def test_a_step_that_gets_on_is_never_given_up() -> None:
    """A pack that takes longer than an upload may last, again and again, waits the shortest time and fails at no time."""
    policy = a_policy(give_up_after_s=100.0)
    state = LaneState.start(LanePlan("assets", 0, {"at": 0}).to_wire())
    now = BEGIN
    for _ in range(50):
        now += timedelta(seconds=240)
        state.take(UPLOAD, {}, again("the rest follows", progressed=True), policy, now)
        assert state.wake(now) == now + timedelta(seconds=policy.first_wait_s)
    assert not state.failed
    for seconds in (1, 99, 100):
        state.take(UPLOAD, {}, again("503"), policy, now + timedelta(seconds=seconds))
        assert state.failed == (seconds == 100)


def test_backoff_doubles_up_to_its_limit() -> None:
    """1, 2, 4 … 60 s, however often; a longer Retry-After outranks it."""
    policy = a_policy(give_up_after_s=1e9)
    state = LaneState.start(LanePlan("assets", 0, {"at": 0}).to_wire())
    waits = []
    for _ in range(200):
        state.take(EXPORT, {}, again("503"), policy, BEGIN)
        wake = state.wake(BEGIN)
        assert wake is not None
        waits.append((wake - BEGIN).total_seconds())
    assert waits[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert waits[-1] == 60
    state.take(EXPORT, {}, again("503", 90.0), policy, BEGIN)
    assert state.wake(BEGIN) == BEGIN + timedelta(seconds=90)


def test_a_state_of_a_newer_version_is_read() -> None:
    """Fields that this code does not know are left out; absent ones take their default."""
    state = LaneState.of({"stream": "assets", "lane": 1, "cursor": {}, "of_tomorrow": 1})
    assert (state.lane, state.segment, state.alone) == (1, 0, False)
