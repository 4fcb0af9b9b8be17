"""Opening a run: what can be refused is refused here, and the plan is written once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from activities.open_run import MOST_UNSETTLED
from contracts import Plan, Stop, TryAgain
from local.products.synthetic import Inventory
from staging import unsettled_name, watermark_name

INVENTORY = Inventory(assets=40, findings=50)


def test_a_stream_or_source_that_is_not_there_is_refused_with_those_that_are(bench: Any) -> None:
    """Before anything is written."""
    run = bench("cycognito")
    with pytest.raises(Stop, match="cycognito has no stream 'hosts': use some of domains, web_apps, ip_ranges, issues"):
        run.open(streams=["domains", "hosts"])
    run.run = replace(run.run, source="nothere")
    with pytest.raises(Stop, match="no source 'nothere': use one of cycognito, device42, tenable"):
        run.open()
    assert list(run.staging.list("")) == []


def test_a_source_without_settings_is_refused(bench: Any) -> None:
    """What the reader's maker says comes out."""

    def unset(_: str) -> Any:
        raise Stop("tenable is not configured", "set TENABLE_ACCESS_KEY")

    run = bench("tenable")
    run.deps = replace(run.deps, reader=unset)
    with pytest.raises(Stop, match="not configured: set TENABLE_ACCESS_KEY"):
        run.open()


def test_a_plan_has_the_lanes_of_every_stream_in_order(bench: Any) -> None:
    """Streams one lane each by declaration; a setting asks for more where the paging can."""
    run = bench("cycognito", INVENTORY)
    plan = run.open(streams=["issues", "domains"])
    assert [(lane["stream"], lane["lane"]) for lane in plan.lanes] == [("domains", 0), ("issues", 0)]
    assert len(bench("cycognito", INVENTORY, lanes=3).open(streams=["domains"]).lanes) == 1
    other = bench("device42", INVENTORY, lanes=2, page_records=20).open()
    assert ([lane["lane"] for lane in other.lanes], other.expected) == ([0, 1], {"devices": 40})
    assert bench("device42", INVENTORY, lanes=4).open().expected == {"devices": 40}
    assert len(bench("tenable", INVENTORY, lanes=4).open().lanes) == 2


def test_a_plan_is_written_once(bench: Any) -> None:
    """A second copy gives the first's plan and asks the source nothing, even if the source has changed since."""
    run = bench("device42", INVENTORY, lanes=2)
    first = run.open()
    asked = run.simulator.stats.requests
    run.budget(lanes=7)
    assert run.open() == first
    assert run.simulator.stats.requests == asked


def test_an_answer_that_is_no_product_s_stops_with_the_url_s_setting(bench: Any, listen: Any, reply: Any) -> None:
    """A proxy's page with status 200 in front of the API."""
    run = bench("device42", url=listen(lambda _: reply(b"<html>")).url, lanes=2)
    with pytest.raises(Stop, match="check DEVICE42_URL"):
        run.open()


def test_a_source_that_is_out_is_tried_again_and_one_that_is_not_there_stops(
    bench: Any, listen: Any, reply: Any
) -> None:
    """The first request tells them apart."""
    with pytest.raises(TryAgain, match="answered 503"):
        bench("device42", url=listen(lambda _: reply(status=503)).url, lanes=2).open()
    with pytest.raises(Stop, match="check DEVICE42_URL"):
        bench("device42", url=listen(lambda _: reply(sent=-1)).url, lanes=2).open()


def test_a_delta_without_a_complete_run_becomes_full_and_says_so(bench: Any) -> None:
    """Also where the product cannot say what has changed, and where the last complete run left no index."""
    run = bench("tenable", INVENTORY)
    plan = run.open("delta")
    assert (plan.run["mode"], plan.run["since"]) == ("full", None)
    assert plan.notes == ["delta became full: no complete run to compare with"]
    other = bench("device42", INVENTORY)
    mark = {"v": 1, "run_id": "older", "up_to": "2026-11-19T10:00:00.000000+00:00", "mode": "full"}
    other.staging.swap_json(watermark_name("device42"), lambda _: mark)
    plan = other.open("delta")
    assert (plan.run["mode"], plan.run["since"], plan.run["base"]) == ("full", None, "older")
    assert (plan.notes, plan.known) == (["delta became full: no complete run to compare with"], {})


def test_a_delta_of_a_source_that_cannot_say_what_has_changed_is_exported_whole(bench: Any) -> None:
    """It stays a delta: what has changed is found by comparing. Nothing is sent as it is exported."""
    run = bench("device42", INVENTORY)
    of = {"parts": 2, "gone_rule": "dropped", "keys": 40}
    mark = {
        "v": 1,
        "run_id": "earlier",
        "up_to": "2026-11-19T10:00:00.000000+00:00",
        "streams": {"devices": of, "relations": of},
    }
    run.staging.swap_json(watermark_name("device42"), lambda _: mark)
    plan = run.open("delta")
    assert (plan.run["mode"], plan.run["since"], plan.run["base"]) == ("delta", None, "earlier")
    assert plan.known == {"devices": 40, "relations": 40}
    how = {"whole": True, "stability": "counted"}
    assert plan.streams == {
        "devices": {**how, "table": "CAASM_Assets_CL"},
        "relations": {**how, "table": "CAASM_Relationships_CL", "parent": "devices"},
    }
    assert [lane["derived"] for lane in plan.lanes] == [["relations"]] * len(plan.lanes)
    assert [lane["uploads"] for lane in plan.lanes] == [False] * len(plan.lanes)


def test_a_delta_after_a_version_that_derived_nothing_becomes_full(bench: Any) -> None:
    """The last complete run has no index of the derived stream."""
    run = bench("device42", INVENTORY)
    of = {"parts": 1, "gone_rule": "dropped", "keys": 40}
    mark = {"v": 1, "run_id": "earlier", "up_to": "2026-11-19T10:00:00.000000+00:00", "streams": {"devices": of}}
    run.staging.swap_json(watermark_name("device42"), lambda _: mark)
    plan = run.open("delta")
    assert (plan.run["mode"], plan.known) == ("full", {"devices": 40})


def test_relations_that_are_left_out_are_in_no_plan(bench: Any) -> None:
    """The plan says so, of the streams that are loaded; a delta goes on without their index, and is full when they are wanted again."""
    run = bench("cycognito", INVENTORY)
    run.deps = replace(run.deps, without_relations=frozenset({"cycognito", "device42"}))
    plan = run.open(streams=["domains", "issues"])
    assert ([*plan.streams], [lane["derived"] for lane in plan.lanes]) == (["domains", "issues"], [[], []])
    assert plan.left_out == ["domain_relations"]
    assert plan.notes == ["domain_relations left out: CYCOGNITO_RELATIONS is false"]
    run = bench("device42", INVENTORY)
    of = {"parts": 1, "gone_rule": "dropped", "keys": 40}
    mark = {"v": 1, "run_id": "earlier", "up_to": "2026-11-19T10:00:00.000000+00:00", "streams": {"devices": of}}
    run.staging.swap_json(watermark_name("device42"), lambda _: mark)
    wanted, run.deps = run.deps, replace(run.deps, without_relations=frozenset({"device42"}))
    plan = run.open("delta")
    assert (plan.run["mode"], plan.known) == ("delta", {"devices": 40})
    again = bench("device42", INVENTORY)
    again.deps = replace(wanted, reader=again.deps.reader)
    plan = again.open("delta")
    assert (plan.run["mode"], plan.left_out) == ("full", [])


def test_a_delta_begins_an_hour_before_the_watermark(bench: Any) -> None:
    """Both the run and the lanes have it; a clock that stands before the watermark waits."""
    run = bench("tenable", INVENTORY, started_at="2026-11-20T10:00:00.000000+00:00")
    of = {"parts": 1, "gone_rule": "dropped", "keys": 40}
    mark = {
        "v": 1,
        "run_id": "earlier",
        "up_to": "2026-11-19T10:00:00.000000+00:00",
        "mode": "full",
        "streams": {"assets": of, "vulnerabilities": of, "relations": of},
    }
    run.staging.swap_json(watermark_name("tenable"), lambda _: mark)
    plan = run.open("delta")
    assert plan.run["mode"] == "delta"
    assert plan.run["since"] == "2026-11-19T09:00:00+00:00"
    assert [plan.streams[name]["whole"] for name in ("assets", "vulnerabilities")] == [False, False]
    assert {lane["cursor"]["since"] for lane in plan.lanes} == {"2026-11-19T09:00:00+00:00"}
    late = bench("tenable", INVENTORY, started_at="2026-11-19T09:00:00.000000+00:00")
    with pytest.raises(TryAgain, match="clock"):
        late.open("delta")


def test_a_container_that_is_not_there_is_made(bench: Any, blob_service: Any) -> None:
    """The first run of all makes it; an account that refuses stops with the role that is missing."""
    from staging import Staging

    run = bench("cycognito")
    missing = blob_service.get_container_client("made-by-open-run")
    run.deps = replace(run.deps, staging=Staging(missing))
    run.open()
    assert missing.exists()


def test_a_plan_names_the_runs_that_were_not_committed_and_those_of_them_that_have_ended(bench: Any) -> None:
    """Only what has ended has sent everything that it ever will."""
    ended, going, run = (bench("device42", INVENTORY) for _ in range(3))
    ended.open()
    ended.close(failed=True)
    going.open()
    plan = run.open()
    assert plan.unsettled == [ended.run.run_id, going.run.run_id]
    assert plan.ended == [ended.run.run_id]
    assert run.open() == plan


def test_a_plan_of_an_older_version_names_none_that_had_ended() -> None:
    """It is read all the same; nothing is taken as ended."""
    wire = Plan({}, [], {}, {}, unsettled=["earlier"], ended=["earlier"]).to_wire()
    del wire["ended"]
    assert (Plan.from_wire(wire).unsettled, Plan.from_wire(wire).ended) == (["earlier"], [])


def test_runs_that_are_too_many_to_be_considered_are_said(bench: Any) -> None:
    """How many were dropped since the last commit, what follows of it and what helps; also by a copy that comes after a crash."""
    run = bench("device42", INVENTORY)
    earlier = [f"run {n}" for n in range(MOST_UNSETTLED)]
    run.staging.put_json(unsettled_name("device42"), {"runs": dict.fromkeys(earlier, 0)}, {})
    assert run.open().notes == []
    second = bench("device42", INVENTORY)
    plan = second.open()
    assert plan.unsettled == [*earlier[1:], run.run.run_id]
    (note,) = plan.notes
    assert note.startswith("1 loads that sent rows and did not end complete are too long ago")
    assert "until a full load renews every row" in note
    second.staging.delete(second.names.plan)
    assert second.open().notes == [note]
    third = bench("device42", INVENTORY)
    assert third.open().notes[0].startswith("2 loads ")
    third.ship(third.open())
    manifest = third.close()
    assert manifest["status"] == "complete"
    assert third.open().notes[0] in manifest["notes"]
    assert bench("device42", INVENTORY, started_at="2026-11-21T10:00:00.000000+00:00").open().notes == []
