"""CPU time told apart by function: on a clock that the test moves."""

from __future__ import annotations

import itertools

import pytest

from bench import stages
from bench.tracing import Trace, find


class Clock:
    """Tells the seconds that the test has let pass."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_part_does_not_count_what_its_inner_parts_count() -> None:
    """Outer 1 + 4, inner 2, and what passes outside of every part is nobody's."""
    clock = Clock()
    trace = Trace(clock)
    clock.now += 50
    with trace.part("upload"):
        clock.now += 1
        with trace.part("encode"):
            clock.now += 2
        clock.now += 4
    clock.now += 50
    assert dict(trace.seconds) == {("upload", "upload"): 5, ("upload", "encode"): 2}
    assert dict(trace.calls) == {("upload", "upload"): 1, ("upload", "encode"): 1}


def test_the_same_step_is_counted_for_the_activity_that_takes_it() -> None:
    """A blob read of the export and one of the upload are two lines."""
    clock = Clock()
    trace = Trace(clock)
    for activity in ("export", "upload", "upload"):
        with trace.part(activity), trace.part("blob read"):
            clock.now += 1
    assert trace.seconds["export", "blob read"] == 1
    assert trace.seconds["upload", "blob read"] == 2
    assert trace.calls["upload", "blob read"] == 2


def test_a_part_that_raises_is_counted_and_closed() -> None:
    """What follows it is not counted for it."""
    clock = Clock()
    trace = Trace(clock)

    def broken() -> None:
        with trace.part("export"):
            clock.now += 3
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    clock.now += 5
    assert dict(trace.seconds) == {("export", "export"): 3}


def test_watching_replaces_functions_only_while_it_lasts() -> None:
    """Functions and methods are found by name, called as before, and put back; absent ones are told."""
    trace = Trace(iter(itertools.count()).__next__)
    original = stages.lines
    with trace.watching({"bench.stages:lines": "lines", "bench.stages:gone": "gone"}) as absent, trace.part("all"):
        assert stages.lines is not original
        assert stages.lines("s", "t", {"bytes": 1, "bytes_sent": 1, "exported": 1}, Trace()) == []
    assert absent == ["bench.stages:gone"]
    assert stages.lines is original
    assert trace.calls["all", "lines"] == 1


def test_every_function_that_the_stages_watch_is_there() -> None:
    """A function that was renamed would silently count for whoever calls it."""
    assert [place for place in stages.STEPS if find(place) is None] == []


def test_lines_of_stages_share_out_the_whole() -> None:
    """In the order of the activities, dearest step first; shares add up to one."""
    clock = Clock()
    trace = Trace(clock)
    for activity, step, cpu_s in (("upload", "send", 1), ("export", "HTTP", 2), ("export", "split", 5)):
        with trace.part(activity), trace.part(step):
            clock.now += cpu_s
    found = stages.lines("s", "t", {"bytes": 16_000_000, "bytes_sent": 8_000_000, "exported": 10}, trace)
    timed = [(line["activity"], line["step"], line["share"]) for line in found if line["cpu_s"]]
    assert timed == [("export", "split", 0.625), ("export", "HTTP", 0.25), ("upload", "send", 0.125)]
    assert found[0]["source_mb_per_cpu_s"] == 3.2
