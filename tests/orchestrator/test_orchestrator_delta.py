"""Deltas and deletions in virtual time: what is judged, sent and buried, in which order; sizes that stay within bounds; kills at every event."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import contracts
from contracts import CLOSE_RUN, DIFF, EXPORT, OPEN_RUN, TOMBSTONE_LANE, UPLOAD, LanePlan, Policy
from local.durable.limits import PAYLOAD_BYTES
from orchestrator.lane_state import PACK_SEGMENTS, LaneState

STOP = contracts.stop(contracts.Stop("another load of this source was committed meanwhile", "start the load again"))
CANCELLED = contracts.stop(contracts.Cancelled("the run was cancelled"))
BUSY = contracts.again("503 from storage")


def answering(answer: Any, when: Callable[[str, Any], bool], times: int = 10**9) -> Callable[..., Any]:
    """A script that gives one answer, or raises it, to the first `times` calls for which `when(activity, message)` holds."""
    left = [times]

    def script(called: str, message: Any, nth: int) -> Any:
        if not left[0] or not when(called, message):
            return None
        left[0] -= 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    return script


def burial(called: str, message: Any) -> bool:
    """An upload of tombstones."""
    return called == UPLOAD and message["lane"] == TOMBSTONE_LANE


def failed_with(driven: Any, mode: str = "delta") -> str:
    """What the load fails of."""
    with pytest.raises(Exception, match="failed") as raised:
        driven.load(mode)
    assert type(raised.value).__name__ == "OrchestrationFailedError"
    return str(raised.value)


def within_bounds(p: Any, driven: Any) -> None:
    """Histories under 500 events and messages under 1 KB; the drive itself refuses what is over a task hub's limits."""
    assert max(driven.longest.values()) < 500, driven.longest
    plans = {OPEN_RUN, CLOSE_RUN}
    assert max(len(json.dumps(message)) for name, message in p.calls if name not in plans) < 1024


@pytest.mark.parametrize("mode", ["full", "delta"])
def test_what_is_gone_is_buried_last_and_once(plant: Any, drive: Any, mode: str) -> None:
    """Every segment is sent once, then every part's tombstones once (the plant refuses any other order); the close knows what was decided."""
    p = plant(known=1_200_000, gone=7)
    driven = drive(p)
    assert driven.load(mode)["status"] == "complete"
    assert set(p.uploaded) == p.everything
    assert set(p.uploaded.values()) == {1}
    assert p.judged == {"assets": {0, 1, 2}, "findings": {0, 1, 2}}
    assert p.buried == {(name, part): 1 for name in p.lanes for part in range(3)}
    assert [p.close["diffs"][name]["tombstones"] for name in p.lanes] == [7, 7]
    assert {p.close["diffs"][name]["gone_rule"] for name in p.lanes} == {"dropped"}
    assert [p.close["counts"][name]["deleted"] for name in p.lanes] == [7, 7]
    assert p.close["diffs"]["assets"].keys() == {*contracts.DiffResult.__dataclass_fields__, "parts", "gone_rule"}
    phases = list(dict.fromkeys(status["phase"] for status in driven.statuses))
    assert phases == ["opening", "loading", "comparing", "sending", "closing", "complete"]


def test_a_delta_sends_only_what_its_verdicts_say(plant: Any, drive: Any) -> None:
    """Rows are those of the export, accepted those that have changed, and the rest is unchanged."""
    p = plant({"assets": 2}, 40, changed=lambda segment: segment % 3)
    assert drive(p).load("delta")["status"] == "complete"
    counts = p.close["counts"]["assets"]
    assert (counts["rows"], counts["accepted"], counts["unchanged"]) == (800, 78, 722)
    uploads = [message for name, message in p.calls if name == UPLOAD]
    assert all(message["verdicts"] for message in uploads)
    assert max(message["last"] - message["first"] + 1 for message in uploads) == PACK_SEGMENTS


def test_the_guard_refuses_and_says_so(plant: Any, drive: Any) -> None:
    """Half of what is known would go: everything else is done, nothing is buried, the note names the flag, which lifts the guard."""
    p = plant(known=100, gone=50)
    assert drive(p).load("delta")["status"] == "complete"
    assert not p.buried
    assert {of["gone_rule"] for of in p.close["diffs"].values()} == {"kept"}
    assert all("refused to delete 50 of 100" in note and '"allow_deletes": true' in note for note in p.close["notes"])
    assert len(p.close["notes"]) == 2
    lifted = plant(known=100, gone=50)
    drive(lifted).load("delta", allow_deletes=True)
    assert lifted.buried == {(name, 0): 1 for name in lifted.lanes}


@pytest.mark.parametrize("answer", [STOP, CANCELLED], ids=["stop", "cancelled"])
def test_a_comparison_that_stops_sends_and_buries_nothing(plant: Any, drive: Any, answer: Any) -> None:
    """The first stream was judged, the second cannot be: nothing of the first is sent or deleted either, and the close is told no comparison."""
    script = answering(answer, lambda name, message: name == DIFF and message["stream"] == "findings")
    p = plant(known=100, gone=5, script=script)
    driven = drive(p)
    if answer is STOP:
        assert "findings: another load of this source was committed meanwhile: start" in failed_with(driven)
    else:
        assert driven.load("delta")["cancelled"]
    assert not p.uploaded
    assert not p.buried
    assert p.close["diffs"] == {}
    assert (p.close["failed"], p.close["cancelled"]) == (True, answer is CANCELLED)


def test_nothing_is_buried_when_not_everything_was_sent(plant: Any, drive: Any) -> None:
    """One lane's rows are refused: the run fails, and a run that is not complete deletes nothing."""
    script = answering(STOP, lambda name, message: name == UPLOAD and message["stream"] == "findings")
    p = plant(known=100, gone=5, script=script)
    failed_with(drive(p))
    assert {stream for stream, _, _ in p.uploaded} == {"assets"}
    assert not p.buried


def test_tombstones_that_are_refused_fail_the_run(plant: Any, drive: Any) -> None:
    """The reason is the run's; everything else had been sent."""
    p = plant(known=100, gone=5, script=answering(STOP, burial))
    assert "committed meanwhile" in failed_with(drive(p), "full")
    assert set(p.uploaded) == p.everything


@pytest.mark.parametrize("trouble", [BUSY, OSError("the worker was lost")], ids=["again", "broken"])
@pytest.mark.parametrize(
    "when",
    [
        lambda name, message: name == DIFF,
        lambda name, message: name == UPLOAD and message["verdicts"],
        burial,
        lambda name, message: name == CLOSE_RUN,
    ],
    ids=["diff", "verdicts", "tombstones", "close"],
)
def test_trouble_in_any_phase_is_waited_out(plant: Any, drive: Any, when: Any, trouble: Any) -> None:
    """Three times in a row: the run takes longer and comes to the same."""
    calm, p = plant(known=100, gone=5), plant(known=100, gone=5, script=answering(trouble, when, 3))
    assert drive(p).load("delta") == drive(calm).load("delta")
    assert (p.uploaded, p.buried, p.close) == (calm.uploaded, calm.buried, calm.close)


def test_a_comparison_that_never_succeeds_is_given_up_after_half_an_hour(plant: Any, drive: Any) -> None:
    """The run fails with what it waited for; meanwhile its status has shown it."""
    p = plant(known=100, gone=5, script=answering(BUSY, lambda name, message: name == DIFF))
    driven = drive(p)
    assert "503 from storage: when that is mended, start the load again" in failed_with(driven)
    assert timedelta(minutes=25) < driven.now - driven.start < timedelta(minutes=35)
    assert any(
        status["phase"] == "comparing" and status["trouble"] == ["503 from storage"] for status in driven.statuses
    )
    assert not p.uploaded


@pytest.mark.parametrize(
    ("lanes", "segments", "known"),
    [
        ({f"stream_{n}": 8 for n in range(3)}, 4, 1_000_000),
        ({f"stream_{n}": 1 for n in range(10)}, 40, 2_000_000),
        ({f"stream_{n}": 64 for n in range(3)}, 1, 100),
    ],
    ids=["3 streams of 8 lanes", "10 streams", "3 streams of 64 lanes"],
)
def test_sizes_stay_within_bounds(
    plant: Any, drive: Any, policy: Policy, lanes: dict[str, int], segments: int, known: int
) -> None:
    """Short turns, one completion an episode: many turns, many parts, many lanes; complete, and nothing grows beyond its bound."""
    long = {"cursor": lambda at: {"page": 10**9 + at, "step": 64, "last": "0123456789abcdef"}}
    p = plant(lanes, segments, replace(policy, longest_turn_s=2.0), known=known, gone=known // 50, **long)
    driven = drive(p, seconds=lambda name: {EXPORT: 1.1, UPLOAD: 1.7}.get(name, 0.6))
    assert driven.load("delta")["status"] == "complete"
    assert set(p.uploaded) == p.everything
    assert set(p.uploaded.values()) == {1}
    assert sum(p.buried.values()) == len(lanes) * p.parts
    within_bounds(p, driven)
    assert driven.continued["load"] > 0 or len(lanes) == 3
    assert driven.largest_payload < PAYLOAD_BYTES // 4


def test_fifty_parts_that_each_take_three_tries_stay_within_bounds(plant: Any, drive: Any) -> None:
    """The comparison goes over several executions, judges every part, and forgets nothing on the way."""
    seen: set[tuple[str, int, int]] = set()

    def script(name: str, message: Any, nth: int) -> Any:
        if name != DIFF:
            return None
        tries = next(n for n in range(4) if (message["stream"], message["part"], n) not in seen)
        seen.add((message["stream"], message["part"], tries))
        return BUSY if tries < 2 else None

    p = plant({"assets": 1, "findings": 1}, 2, known=12_500_000, gone=123, script=script)
    driven = drive(p)
    assert driven.load("delta")["status"] == "complete"
    assert p.judged == {name: set(range(25)) for name in p.lanes}
    assert [(of["known"], of["gone"], of["parts"]) for of in p.close["diffs"].values()] == [(12_500_000, 123, 25)] * 2
    assert driven.continued["load"] > 1
    within_bounds(p, driven)


def test_no_execution_passes_its_bound_when_every_step_is_tried_to_the_last(plant: Any, drive: Any) -> None:
    """Opening, comparing and closing each succeed at the eleventh try, behind turns that break: 500 events are not reached."""
    tries: dict[str, int] = {}

    def script(name: str, message: Any, nth: int) -> Any:
        if name not in {OPEN_RUN, DIFF, CLOSE_RUN} or message.get("stream", "stream_9") != "stream_9":
            return None
        tries[name] = tries.get(name, 0) + 1
        return BUSY if tries[name] % 11 else None

    p = plant({f"stream_{n}": 1 for n in range(10)}, 2, known=2_000_000, gone=100, script=script)
    driven = drive(p, lose=lambda name, nth: name == "stream" and nth in {5, 15, 35})
    assert driven.load("delta")["status"] == "complete"
    assert tries == {OPEN_RUN: 11, DIFF: 4 * 11, CLOSE_RUN: 11}
    within_bounds(p, driven)


def test_the_states_of_640_lanes_in_trouble_fit_a_task_hub(policy: Policy) -> None:
    """Ten streams of 64 lanes, each with full queues, holds, counts, and the longest reasons: what the run continues with is under 1 MB."""
    states = []
    for stream in range(10):
        for n in range(64):
            cursor = {"page": 10**9, "step": 64, "last": "0123456789abcdef", "skipped": 1}
            lane = LaneState.start(LanePlan(f"web_applications_{stream}", n, cursor).to_wire())
            lane.segment, lane.transforming, lane.total, lane.first_total = 10**5, [10**5 - 1, 10**5], 10**8, 10**8
            lane.ready = [[10**5 + at, 24 * 2**20, 10**4] for at in range(2)]
            names = ("exported", "bytes", "failed_pages", "cut_short", "staged", "flattened", "rejected", "filtered")
            more = ("rows", "accepted", "dead_lettered", "possibly_repeated", "requests", "bytes_sent", "unchanged")
            lane.counts = dict.fromkeys((*names, *more), 10**9)
            lane.take(
                EXPORT,
                {},
                contracts.stop(contracts.Stop("x" * 600, "y" * 600)),
                policy,
                datetime(2026, 3, 1, tzinfo=UTC),
            )
            lane.take(UPLOAD, {}, contracts.again("z" * 600), policy, datetime(2026, 3, 1, tzinfo=UTC))
            states.append(lane.wire())
    size = len(json.dumps({"states": states}))
    assert 640 * 800 < size < PAYLOAD_BYTES


def test_a_state_says_only_what_is_not_usual() -> None:
    """Whatever of it is set comes back; what is as at the start takes no room."""
    fresh = LaneState.start(LanePlan("assets", 0, {}).to_wire())
    assert fresh.wire() == {"stream": "assets", "lane": 0}
    assert LaneState.of(fresh.wire()) == fresh
    used = LaneState("assets", 1, {"at": 1}, 3, ready=[[1, 2, 3]], uploads=False, sending=[0, 3], holds={"upload": "x"})
    assert LaneState.of(json.loads(json.dumps(used.wire()))) == used


@pytest.mark.filterwarnings("ignore:Potential duplicate Task completion")
def test_completions_that_come_twice_change_nothing_in_a_delta(plant: Any, drive: Any) -> None:
    """At-least-once delivery of results in every phase: the same calls, in the same order."""
    once, twice = plant(known=1_200_000, gone=7), plant(known=1_200_000, gone=7)
    assert drive(once).load("delta") == drive(twice, twice=True).load("delta")
    assert once.calls == twice.calls


def small(plant: Any) -> Any:
    """The smallest plant that goes through every phase: two parts, changes and deletions."""
    return plant({"assets": 1}, 2, known=600_000, gone=3)


@pytest.mark.parametrize("mode", ["full", "delta"])
def test_a_worker_that_is_lost_at_any_event_changes_nothing(plant: Any, drive: Any, mode: str) -> None:
    """At each event of the run in turn the worker goes, with the activity or the episode that it had done: the same end, each pack once."""
    calm = small(plant)
    driven = drive(calm)
    manifest = driven.load(mode)
    for event in range(1, driven.events + 1):
        p = small(plant)
        killed = drive(p, kill_at=event)
        assert killed.load(mode) == manifest, event
        assert (p.uploaded, p.buried, p.close) == (calm.uploaded, calm.buried, calm.close), event
        assert killed.events > driven.events - len(calm.calls), event


@pytest.mark.parametrize("mode", ["full", "delta"])
def test_a_run_whose_hub_is_lost_at_any_event_is_taken_up(plant: Any, drive: Any, mode: str) -> None:
    """At each event in turn the hub goes for good; the load that is started under the same name comes to the same and sends nothing again."""
    calm = small(plant)
    driven = drive(calm)
    manifest = driven.load(mode)
    for event in range(1, driven.events):
        p = small(plant)
        assert drive(p).load(mode, until=event) is None
        assert drive(p).load(mode) == manifest, event
        assert (p.uploaded, p.buried) == (calm.uploaded, calm.buried), event
        assert p.close["diffs"] == calm.close["diffs"], event
        assert p.close["counts"] == calm.close["counts"], event
