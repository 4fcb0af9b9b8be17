"""What a run does in virtual time: who is called, how long it waits, when it gives up, how it ends, how long histories get."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

import contracts
from contracts import CLOSE_RUN, EXPORT, OPEN_RUN, TRANSFORM, UPLOAD, Policy

CANCELLED = contracts.stop(contracts.Cancelled("the run was cancelled"))
STOP = contracts.stop(contracts.Stop("403 from the source", "renew the key"))


def script_for(name: str, answer: Any, since: int = 1, until: int = 10**9) -> Any:
    """A script for the nth calls of one activity; an exception is raised."""

    def script(called: str, message: Any, nth: int) -> Any:
        if called != name or not since <= nth <= until:
            return None
        if isinstance(answer, Exception):
            raise answer
        return answer

    return script


def failed_with(driven: Any) -> str:
    """What the load fails of."""
    with pytest.raises(Exception, match="failed") as raised:
        driven.load()
    assert type(raised.value).__name__ == "OrchestrationFailedError"
    return str(raised.value)


def test_every_segment_goes_through_once(plant: Any, drive: Any) -> None:
    """All is well: each segment is exported, transformed and uploaded once, the counts add up, the run is complete."""
    p = plant()
    manifest = drive(p).load()
    assert manifest["status"] == "complete"
    assert p.exported == p.transformed == set(p.uploaded) == p.everything
    assert set(p.uploaded.values()) == {1}
    counts = p.close["counts"]["assets"]
    assert (counts["exported"], counts["rows"], counts["accepted"]) == (100, 100, 100)


@pytest.mark.parametrize("rows", [20, 100], ids=["a pack each", "five packs each"])
def test_the_three_stages_overlap(plant: Any, drive: Any, rows: int) -> None:
    """With an upload a segment, n segments take n + 2 steps and not 3 n."""
    p = plant({"assets": 1}, 20, rows=lambda _: rows)
    driven = drive(p)
    driven.load()
    assert driven.now - driven.start <= timedelta(seconds=20 + 2 + 3)  # opening, comparing and closing take one each


def test_four_hundred_segments_keep_histories_short(plant: Any, drive: Any) -> None:
    """400 segments: no history passes 500 events, and no episode's input grows with the run."""
    p = plant({"assets": 1}, 400)
    driven = drive(p)
    assert driven.load()["status"] == "complete"
    assert set(p.uploaded) == p.everything
    assert driven.continued["lane"] > 5
    assert max(driven.longest.values()) < 500, driven.longest
    assert driven.largest < 200_000


def test_completions_one_by_one_keep_histories_short(plant: Any, drive: Any, policy: Policy) -> None:
    """The worst case, every completion an episode of its own: a lane's 12 steps stay below 200 events."""
    p = plant({"assets": 1}, 80, replace(policy, first_turn_s=120.0), rows=lambda _: 20)
    driven = drive(p, seconds=lambda name: {EXPORT: 1.0, TRANSFORM: 0.4, UPLOAD: 1.3}.get(name, 1.0))
    assert driven.load()["status"] == "complete"
    assert 100 < driven.longest["lane"] < 200


def test_the_run_continues_as_new_with_what_it_knows(plant: Any, drive: Any, policy: Policy) -> None:
    """More than twelve turns: the load continues as new, and nothing is lost or done twice."""
    p = plant({"assets": 2}, 60, replace(policy, longest_turn_s=2.0))
    driven = drive(p)
    assert driven.load()["status"] == "complete"
    assert driven.continued["load"] >= 2
    assert set(p.uploaded) == p.everything
    assert set(p.uploaded.values()) == {1}


def test_a_long_run_of_short_turns_does_not_overflow(plant: Any, drive: Any, policy: Policy) -> None:
    """Turn 1,800 is as long as turn 20, where its length as a power would be no float."""
    p = plant({"assets": 1}, 3, replace(policy, longest_turn_s=2.0))
    opened = p.open_run({"run_id": "r", "source": "plant", "mode": "full", "started_at": "2026-03-01T12:00:00+00:00"})
    from orchestrator.lane_state import LaneState

    states = [LaneState.start(lane).wire() for lane in opened["lanes"]]
    request = contracts.LoadRequest("r", "plant", "full", "2026-03-01T12:00:00+00:00").to_wire()
    driven = drive(p)
    assert (
        driven.run("load", {"request": request, "plan": opened, "states": states, "turn": 1800})["status"] == "complete"
    )


def test_a_turn_that_is_over_before_it_begins_still_takes_a_step(plant: Any, drive: Any, policy: Policy) -> None:
    """A queue slower than a turn is long: lanes get on all the same."""
    p = plant({"assets": 1}, 3)
    lane = {"stream": "assets", "lane": 0, "cursor": {"at": 0}}
    run = contracts.Run("r", "plant", "full", "2026-03-01T12:00:00+00:00").to_wire()
    work = {"run": run, "policy": policy.to_wire(), "state": lane, "until": "2026-03-01T11:00:00+00:00"}
    state = drive(p).run("lane", work)
    assert state["segment"] == 1


def test_again_with_a_wait_is_waited_for(plant: Any, drive: Any) -> None:
    """A Retry-After of 700 s is a timer of 700 s, during which the run costs a handful of episodes."""
    p = plant({"assets": 1}, 3, script=script_for(EXPORT, contracts.again("429", 700.0), 2, 2))
    driven = drive(p)
    assert driven.load()["status"] == "complete"
    assert timedelta(seconds=700) < driven.now - driven.start < timedelta(seconds=715)
    assert len(driven.episodes) < 60


def test_again_without_a_wait_backs_off(plant: Any, drive: Any) -> None:
    """Five times again: waits of 2, 4, 8, 16 and 32 s."""
    p = plant({"assets": 1}, 1, script=script_for(EXPORT, contracts.again("503"), 1, 5))
    driven = drive(p)
    assert driven.load()["status"] == "complete"
    waited = (driven.now - driven.start).total_seconds()
    assert 62 + 6 <= waited <= 62 + 12


@pytest.mark.parametrize("asked", [1e15, float("inf")], ids=["years", "infinity"])
def test_an_absurd_wait_is_a_day_at_most(plant: Any, drive: Any, asked: float) -> None:
    """A Retry-After that is no date from now does not break the lane."""
    p = plant({"assets": 1}, 2, script=script_for(EXPORT, contracts.again("429", asked), 2, 2))
    driven = drive(p)
    assert driven.load()["status"] == "complete"
    assert timedelta(days=1) < driven.now - driven.start < timedelta(days=1, minutes=1)


def test_a_step_that_never_succeeds_is_given_up(plant: Any, drive: Any) -> None:
    """An upload that is always told to come back is given up after half an hour; the run says so, and how to go on."""
    p = plant({"assets": 1}, 5, script=script_for(UPLOAD, contracts.again("503 from the DCR")))
    driven = drive(p)
    text = failed_with(driven)
    assert "503 from the DCR (tried for" in text
    assert "start the load again" in text
    assert timedelta(seconds=1800) < driven.now - driven.start < timedelta(seconds=1800 + 330)
    assert p.close["failed"]


def test_stop_in_export_drains_the_rest(plant: Any, drive: Any) -> None:
    """A source that refuses half-way: what it gave is still flattened and sent, then the run has failed."""
    p = plant({"assets": 1}, 9, script=script_for(EXPORT, STOP, 6))
    text = failed_with(drive(p))
    assert "403 from the source: renew the key" in text
    assert len(p.exported) == 5
    assert set(p.uploaded) == p.transformed == p.exported
    assert p.close["failed"]
    assert not p.close["cancelled"]


def test_stop_in_upload_ends_the_lane_and_spares_the_others(plant: Any, drive: Any) -> None:
    """A refused upload ends its own lane at once; the other stream is loaded to its end."""

    def script(name: str, message: Any, nth: int) -> Any:
        return STOP if name == UPLOAD and message["stream"] == "assets" else None

    p = plant({"assets": 1, "findings": 1}, 6, script=script)
    failed_with(drive(p))
    assert {where for where in p.everything if where[0] == "findings"} == set(p.uploaded)
    assert sum(name == UPLOAD and message["stream"] == "assets" for name, message in p.calls) == 1


def test_stop_in_open_run_still_closes(plant: Any, drive: Any) -> None:
    """A run that could not be opened leaves a manifest that says why."""
    p = plant(script=script_for(OPEN_RUN, STOP))
    assert "403 from the source: renew the key" in failed_with(drive(p))
    assert p.close["reasons"] == ["403 from the source: renew the key"]
    assert p.close["failed"]
    assert not p.exported


def test_a_cancelled_run_ends_well(plant: Any, drive: Any) -> None:
    """Cancelled in every activity from some time on: the run ends as completed, its status says cancelled, and it has a manifest."""
    p = plant(script=lambda name, message, nth: CANCELLED if name in {EXPORT, UPLOAD} and nth > 3 else None)
    driven = drive(p)
    manifest = driven.load()
    assert manifest["cancelled"]
    assert driven.statuses[-1]["phase"] == "cancelled"
    assert p.close["cancelled"]


def test_an_activity_that_breaks_once_is_taken_again(plant: Any, drive: Any) -> None:
    """A lost worker: task_all raises, the steps beside it are taken again too, and each row is still sent once."""
    p = plant({"assets": 1}, 6, script=script_for(TRANSFORM, OSError("the worker was lost"), 2, 2))
    assert drive(p).load()["status"] == "complete"
    assert set(p.uploaded) == p.everything
    assert set(p.uploaded.values()) == {1}


def test_an_export_that_breaks_always_does_not_take_the_upload_with_it(plant: Any, drive: Any) -> None:
    """Only the step at fault is given up: what was exported before is sent."""
    p = plant({"assets": 1}, 9, rows=lambda _: 20, script=script_for(EXPORT, MemoryError("out of memory"), 6))
    assert "out of memory" in failed_with(drive(p))
    assert len(p.exported) == 5
    assert set(p.uploaded) == p.exported


def test_an_expired_hold_of_a_step_without_room_does_not_spin(plant: Any, drive: Any) -> None:
    """An export that asked for a pause and then has no room, beside an upload that waits: the lane sleeps instead of polling."""

    def script(name: str, message: Any, nth: int) -> Any:
        if name == UPLOAD and nth <= 2:
            return contracts.again("429", 600.0)
        if name == EXPORT:
            return {**p.export(message), "wait_s": 1.5}
        return None

    p = plant({"assets": 1}, 9, rows=lambda _: 20, script=script)
    driven = drive(p)
    assert driven.load()["status"] == "complete"
    assert len(driven.episodes) < 250
    assert driven.continued["lane"] <= 2


@pytest.mark.filterwarnings("ignore:Potential duplicate Task completion")
def test_completions_that_come_twice_change_nothing(plant: Any, drive: Any) -> None:
    """At-least-once delivery of results: the same run."""
    once, twice = plant(), plant()
    first, second = drive(once).load(), drive(twice, twice=True).load()
    assert first == second
    assert once.calls == twice.calls


def test_six_broken_turns_in_a_row_give_the_run_up(plant: Any, drive: Any) -> None:
    """Sub-orchestrations that always fail: five are borne, with time between them, the sixth ends the run with its reason."""
    p = plant()
    driven = drive(p, lose=lambda name, nth: name == "stream")
    assert "the orchestration broke: the worker was lost" in failed_with(driven)
    assert driven.now - driven.start > timedelta(seconds=60)
    assert p.close["failed"]


def test_a_good_turn_forgives_the_broken_ones(plant: Any, drive: Any, policy: Policy) -> None:
    """Four of five lanes' turns are lost: the run takes longer and is complete, each segment sent once."""
    p = plant({"assets": 1}, 30, replace(policy, longest_turn_s=2.0))
    driven = drive(p, lose=lambda name, nth: name == "lane" and nth % 5 != 0)
    assert driven.load()["status"] == "complete"
    assert set(p.uploaded) == p.everything
    assert set(p.uploaded.values()) == {1}


@pytest.mark.parametrize("trouble", [contracts.again("storage is out"), OSError("lost")], ids=["again", "broken"])
def test_close_run_is_tried_again(plant: Any, drive: Any, trouble: Any) -> None:
    """Three tries fail; the fourth writes the manifest."""
    p = plant(script=script_for(CLOSE_RUN, trouble, 1, 3))
    assert drive(p).load()["status"] == "complete"
    assert sum(name == CLOSE_RUN for name, _ in p.calls) == 4


def test_a_run_that_cannot_be_closed_says_so(plant: Any, drive: Any) -> None:
    """Storage that stays out for half an hour: the run fails with that."""
    p = plant(script=script_for(CLOSE_RUN, contracts.again("storage is out")))
    driven = drive(p)
    assert "storage is out" in failed_with(driven)
    assert driven.now - driven.start > timedelta(minutes=25)


def test_messages_and_statuses_stay_small(plant: Any, drive: Any) -> None:
    """Every activity's message is under 1 KB and every custom status under 16 KB of UTF-16."""
    p = plant({f"stream_{n}": 2 for n in range(10)}, 12)
    driven = drive(p)
    driven.load()
    assert all(len(json.dumps(message)) < 1024 for name, message in p.calls if name != CLOSE_RUN)
    assert all(len(json.dumps(status).encode("utf-16-le")) <= 16_384 for status in driven.statuses)
    assert max(driven.longest.values()) < 500 + 88, driven.longest


def test_the_status_grows_with_the_run(plant: Any, drive: Any) -> None:
    """The first figures show after the first short turn, and what is exported never goes back."""
    driven = drive(plant({"assets": 2}, 30))
    driven.load()
    assert [status["phase"] for status in driven.statuses][:2] == ["opening", "loading"]
    exported = [status["streams"].get("assets", {}).get("exported", 0) for status in driven.statuses]
    assert exported == sorted(exported)
    assert exported[-1] == 600
    assert len(set(exported)) >= 4
