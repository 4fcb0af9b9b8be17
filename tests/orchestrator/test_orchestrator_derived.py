"""Derived streams in virtual time: staged with their parent, sent when it is done, judged and buried as any other; kills at many events."""

from __future__ import annotations

import json
from typing import Any

import pytest

import contracts
from contracts import TOMBSTONE_LANE, TRANSFORM, UPLOAD, JsonDict
from orchestrator.lane_state import PACK_SEGMENTS

DERIVED = {"relations": "assets"}
STOP = contracts.stop(contracts.Stop("403 from the DCR", "give the identity its role"))


def small(plant: Any, **more: Any) -> Any:
    """The smallest plant that goes through every phase: two parts, changes and deletions."""
    return plant({"assets": 1}, 2, known=600_000, gone=3, derived=DERIVED, **more)


def packs(p: Any, stream: str) -> list[JsonDict]:
    """The uploads of a stream's own rows."""
    called = [message for name, message in p.calls if name == UPLOAD and message["stream"] == stream]
    return [message for message in called if message["lane"] != TOMBSTONE_LANE]


@pytest.mark.parametrize("mode", ["full", "delta"])
def test_a_derived_stream_is_staged_sent_judged_and_buried(plant: Any, drive: Any, mode: str) -> None:
    """Every segment of it once, though nobody exports or transforms it by itself; its counts add up to its parent's records."""
    p = plant({"assets": 2, "findings": 1}, known=1_200_000, gone=7, derived=DERIVED)
    driven = drive(p)
    assert driven.load(mode)["status"] == "complete"
    assert set(p.uploaded) == p.everything
    assert set(p.uploaded.values()) == {1}
    assert {message["stream"] for name, message in p.calls if name == TRANSFORM} == {"assets", "findings"}
    assert p.buried == {(name, part): 1 for name in ("assets", "findings", "relations") for part in range(3)}
    counts = p.close["counts"]["relations"]
    assert counts["exported"] == counts["staged"] == counts["flattened"] + counts["filtered"] == 100
    assert counts["rows"] == counts["accepted"] + counts.get("unchanged", 0) == 100
    assert counts["deleted"] == 7
    assert p.close["totals"].get("relations") is None
    assert all(message["verdicts"] == (mode == "delta") for message in packs(p, "relations"))


def test_the_status_has_a_derived_stream_from_the_start_and_counts_records_once(plant: Any, drive: Any) -> None:
    """What is staged shows while its parent is read; the rate is of records that the source gave."""
    p = plant({"assets": 1}, 30, derived=DERIVED)
    driven = drive(p)
    driven.load()
    loading = [status for status in driven.statuses if status["phase"] == "loading"][1:-1]
    assert all("relations" in status["streams"] for status in loading)
    assert any(0 < status["streams"]["relations"]["staged"] < 300 for status in loading)
    assert any(status["streams"]["relations"]["lanes"] == 0 for status in loading)
    for status in driven.statuses[1:]:
        records = status["streams"]["assets"]["exported"]
        assert status["rate"] == pytest.approx(records / status["elapsed_s"], abs=0.06)


@pytest.mark.parametrize("row_bytes", [1, 50, 5_000], ids=["small rows", "usual", "a pack each"])
def test_packs_of_a_derived_stream_are_of_the_usual_size(plant: Any, drive: Any, policy: Any, row_bytes: int) -> None:
    """By the average of its segments: no upload takes much more than a pack, none is split further than it must."""
    p = plant({"assets": 1}, 70, derived=DERIVED, row_bytes=row_bytes)
    driven = drive(p)
    assert driven.load()["status"] == "complete"
    sizes = [message["last"] - message["first"] + 1 for message in packs(p, "relations")]
    fitting = max(1, min(PACK_SEGMENTS, policy.pack_bytes // (10 * row_bytes)))
    assert set(sizes[:-1]) == {fitting}
    assert sum(sizes) == 70
    assert max(driven.longest.values()) < 500, driven.longest
    assert max(len(json.dumps(message)) for name, message in p.calls if name in {TRANSFORM, UPLOAD}) < 1024


def test_a_parent_that_failed_sends_nothing_that_is_derived(plant: Any, drive: Any) -> None:
    """The run fails; what is staged is sent by the run that takes it up."""
    p = plant(
        {"assets": 1}, 3, derived=DERIVED, script=lambda name, _, nth: STOP if name == UPLOAD and nth == 1 else None
    )
    with pytest.raises(Exception, match="failed"):
        drive(p).load()
    assert packs(p, "relations") == []
    p.script = lambda *_: None
    assert drive(p).load()["status"] == "complete"
    assert set(p.uploaded) == p.everything


@pytest.mark.parametrize("mode", ["full", "delta"])
def test_a_worker_that_is_lost_changes_nothing(plant: Any, drive: Any, mode: str) -> None:
    """At every third event the worker goes: the same end, each pack once."""
    calm = small(plant)
    driven = drive(calm)
    manifest = driven.load(mode)
    for event in range(1 + (mode == "delta"), driven.events + 1, 3):
        p = small(plant)
        assert drive(p, kill_at=event).load(mode) == manifest, event
        assert (p.uploaded, p.buried, p.close) == (calm.uploaded, calm.buried, calm.close), event


@pytest.mark.parametrize("mode", ["full", "delta"])
def test_a_run_whose_hub_is_lost_is_taken_up(plant: Any, drive: Any, mode: str) -> None:
    """At every third event the hub goes for good; the load under the same name comes to the same and sends nothing again."""
    calm = small(plant)
    driven = drive(calm)
    manifest = driven.load(mode)
    for event in range(1 + (mode == "delta"), driven.events, 3):
        p = small(plant)
        assert drive(p).load(mode, until=event) is None
        assert drive(p).load(mode) == manifest, event
        assert (p.uploaded, p.buried) == (calm.uploaded, calm.buried), event
        assert p.close["counts"] == calm.close["counts"], event


def test_a_run_of_the_version_before_goes_on(plant: Any, drive: Any) -> None:
    """Its plan and its states know of nothing derived, and its messages have no such field."""
    p = plant({"assets": 1}, 3)
    request = {"run_id": "r", "source": "plant", "mode": "full", "started_at": "2026-03-01T12:00:00+00:00"}
    opened = p.open_run(request)
    lanes = [{name: value for name, value in lane.items() if name != "derived"} for lane in opened["lanes"]]
    states = [
        {
            "stream": "assets",
            "lane": 0,
            "cursor": {"at": 1},
            "segment": 1,
            "transforming": [0],
            "counts": {"exported": 10},
        }
    ]
    p.exported.add(("assets", 0, 0))
    work = {"request": {**request, "v": 1}, "plan": {**opened, "lanes": lanes}, "states": states, "turn": 1}
    assert drive(p).run("load", work)["status"] == "complete"
    assert set(p.uploaded) == p.everything
