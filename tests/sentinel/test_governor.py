"""The DCR's quota under a clock of the test's own: what is granted in any span of time, and what a pause does."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sentinel.governor import Governor


class Clock:
    """Seconds that only the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@settings(max_examples=200, deadline=None)
@given(
    asks=st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 0.5)), min_size=20, max_size=120),
    pauses=st.lists(st.tuples(st.integers(0, 119), st.floats(0.1, 3)), max_size=3),
)
# What was owed for a large body was forgiven by a pause that was shorter.
@example(asks=[(5000, 0.0)] * 3 + [(1, 0.0)] * 17, pauses=[(2, 0.1)])
def test_no_span_of_time_sees_more_than_the_rate_and_the_burst(
    asks: list[tuple[int, float]], pauses: list[tuple[int, float]]
) -> None:
    """Requests and bytes alike, and nothing within a pause; what a pause made void is asked for again."""
    clock = Clock()
    governor = Governor(600, 60_000, burst_s=0.5, clock=clock)
    paused = dict(pauses)
    sent: list[tuple[float, int]] = []
    for nth, (size, later) in enumerate(asks):
        clock.now += later
        if nth in paused:
            governor.pause(paused[nth])
            resumed = clock.now + paused[nth]
            assert governor.reserve(1, paused[nth] / 2).granted is False
            assert governor.reserve(size, 1e9).wait_s >= resumed - clock.now - 1e-6
        turn = governor.reserve(size, 1e9)
        assert turn.granted
        clock.now += turn.wait_s
        sent.append((clock.now, size))
    for first, (begin, _) in enumerate(sent):
        for last in range(first, len(sent)):
            span = sent[last][0] - begin
            assert last - first <= (span + 0.5) * 10 + 1e-6
            # The last one is let in when there is room, whatever its size.
            assert sum(size for _, size in sent[first:last]) <= (span + 0.5) * 1000 + 1e-6


def test_a_turn_that_would_come_too_late_costs_nothing() -> None:
    """Who does not wait takes no room from the others."""
    clock = Clock()
    governor = Governor(60, burst_s=0.0, clock=clock)
    assert governor.reserve(1, 0.0).wait_s == 0.0
    for _ in range(50):
        late = governor.reserve(1, 0.5)
        assert (late.granted, late.wait_s) == (False, pytest.approx(1.0))
    assert governor.reserve(1, 2.0).wait_s == pytest.approx(1.0)


def test_a_pause_makes_turns_void_and_is_never_shortened() -> None:
    """Its epoch tells those who sleep; afterwards requests come one by one, not all at once."""
    clock = Clock()
    governor = Governor(60, burst_s=1.0, clock=clock)
    waiting = [governor.reserve(1, 99.0) for _ in range(4)]
    governor.pause(10.0)
    governor.pause(3.0)
    assert all(turn.epoch != governor.epoch for turn in waiting)
    assert [governor.reserve(1, 99.0).wait_s for _ in range(3)] == pytest.approx([10.0, 11.0, 12.0])


def test_without_rates_only_a_pause_holds() -> None:
    """No limit is set: any number at once, until the service asks for peace."""
    clock = Clock()
    governor = Governor(clock=clock)
    assert {governor.reserve(10**9, 0.0).wait_s for _ in range(1000)} == {0.0}
    governor.pause(2.0)
    assert not governor.reserve(1, 1.0).granted
    clock.now += 2.0
    assert governor.reserve(1, 0.0).granted
