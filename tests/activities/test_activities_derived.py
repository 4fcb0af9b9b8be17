"""Streams that are derived of others: staged with them, once, and then compared, sent, buried and counted like any other."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from contracts import JsonDict, TryAgain
from local.products.synthetic import Inventory
from local.relations import all_related
from sentinel.ingestion import Answer
from staging import Staging, watermark_name


def device(number: int, **more: Any) -> JsonDict:
    """A device with a host, and more."""
    return {"id": number, "name": f"host-{number}", "virtual_host_name": f"hv-{number % 2}", **more}


def texts(devices: list[JsonDict]) -> list[bytes]:
    return [json.dumps(one).encode() for one in devices]


def staged(bench: Any, devices: list[list[JsonDict]], day: int = 20, mode: str = "full", **budgets: Any) -> Any:
    """A run whose lane has these segments, transformed; and its plan."""
    run = bench("device42", started_at=f"2026-11-{day}T10:00:00.000000+00:00", lanes=1, **budgets)
    plan = run.open(mode)
    for segment, records in enumerate(devices):
        run.stage("devices", texts(records), segment, exhausted=segment == len(devices) - 1)
        run.transform("devices", segment)
    return run, plan


def sent(run: Any, plan: Any, last: int) -> JsonDict:
    """Everything that is due is compared and sent; the manifest."""
    run.compare(plan)
    for stream in plan.streams:
        run.upload(stream, 0, last, verdicts=run.run.mode == "delta")
    run.bury()
    manifest: JsonDict = run.close()
    return manifest


def relations(bodies: list[bytes]) -> dict[str, bool]:
    """What was accepted of relations: original id → whether it is gone."""
    rows = [row for body in bodies for row in json.loads(body) if "RelationshipId" in row]
    assert len({row["RelationshipId"] for row in rows}) == len(rows)
    return {row["EntityOriginalId"]: row["EntityIsDeleted"] for row in rows}


def test_relations_come_go_and_change_with_the_records_that_name_them(bench: Any) -> None:
    """Full: all of them. Delta: those that are new or say something else, and tombstones of those that are gone, with their device or alone."""
    before = [device(n, customer="A", customer_id=1) for n in range(6)]
    run, plan = staged(bench, [before[:4], before[4:]])
    manifest = sent(run, plan, 1)
    assert manifest["status"] == "complete", manifest["reasons"]
    assert relations(run.sink.accepted) == dict.fromkeys(all_related(before), False)
    after = [*before[1:], device(7)]
    after[0] = device(1, customer="B", customer_id=2)
    after[1] = device(2, customer="A", customer_id=1, name="renamed")
    after[2] = device(3)
    run, plan = staged(bench, [after[:3], after[3:]], day=21, mode="delta")
    manifest = sent(run, plan, 1)
    assert manifest["status"] == "complete", manifest["reasons"]
    was, now = all_related(before), all_related(after)
    changed = {key for key in now if was.get(key) != now[key]}
    gone = was.keys() - now.keys()
    assert relations(run.sink.accepted) == dict.fromkeys(changed, False) | dict.fromkeys(gone, True)
    assert len(gone) == 4
    ledger = manifest["streams"]["relations"]
    assert (ledger["accepted"], ledger["unchanged"], ledger["deleted"]) == (len(changed), len(now) - len(changed), 4)
    index = run.staging.find_json(watermark_name("device42"))["streams"]
    assert (index["devices"]["keys"], index["relations"]["keys"]) == (6, len(now))


def test_the_ledger_accounts_for_every_record_of_the_parent(bench: Any) -> None:
    """Flattened where there is a relation, filtered where there is none, rejected where the asset is; the totals count a record once."""
    run, plan = staged(bench, [[device(1), {"id": 2}, {"name": "nobody"}, device(3, customer="A", customer_id=1)]])
    manifest = sent(run, plan, 0)
    assert manifest["status"] == "complete", manifest["reasons"]
    ledger = manifest["streams"]["relations"]
    counts = ("exported", "staged", "flattened", "filtered", "rejected", "rows", "accepted")
    assert [ledger[name] for name in counts] == [4, 4, 2, 1, 1, 3, 3]
    assert [manifest["totals"][name] for name in counts] == [4, 4, 3, 0, 1, 6, 6]
    assert ledger["reasons"] == {"no identifier: the record cannot be told apart": 1}


def test_rows_that_are_missing_leave_the_run_incomplete(bench: Any) -> None:
    """A derived stream that was not sent, or not staged, is named, and nothing is committed."""
    run, plan = staged(bench, [[device(1)]])
    run.compare(plan)
    run.upload("devices")
    assert run.close()["reasons"] == ["relations: 1 rows, 0 accepted, dead-lettered or unchanged"]
    run.staging.delete(run.names.rows("relations", 0, 0))
    assert "relations: 1 records exported, 0 read back from staging" in run.close()["reasons"]
    assert run.staging.find_json(watermark_name("device42")) is None


def test_a_transform_that_broke_off_anywhere_is_done_again_to_the_same(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sees the parent's rows sees the relations, after any of the writes that a lost worker had done."""
    whole, _ = staged(bench, [[device(n) for n in range(5)]])
    first, rows = whole.transform("devices"), whole.rows("relations")
    assert first.derived["relations"]["rows"] == rows.height == 5
    written = Staging.create
    for nth in range(1, 5):
        run = bench("device42", lanes=1)
        run.open()
        run.stage("devices", texts([device(n) for n in range(5)]))
        left = [nth]

        def breaking(self: Staging, *what: Any, left: list[int] = left, **how: Any) -> JsonDict:
            left[0] -= 1
            if left[0] == 0:
                raise TryAgain("lost")
            return written(self, *what, **how)

        monkeypatch.setattr(Staging, "create", breaking)
        with pytest.raises(TryAgain, match="lost"):
            run.transform("devices")
        assert run.staging.summary(run.names.rows("devices", 0, 0)) is None
        assert run.transform("devices").derived == first.derived
        assert run.rows("relations").drop("EntitySnapshotId").equals(rows.drop("EntitySnapshotId"))
        assert run.table(run.names.keys("relations", 0, 0)).num_rows == 5


def test_a_message_of_the_version_before_stages_nothing_derived(bench: Any) -> None:
    """Its run does not know of it, and adds up without."""
    from activities.transform import transform
    from contracts import TransformRequest

    run = bench("device42", lanes=1)
    run.open()
    run.stage("devices", texts([device(1)]))
    wire = {"v": 1, "run": run.run.to_wire(), "stream": "devices", "lane": 0, "segment": 0}
    result = transform(TransformRequest.from_wire(wire), run.deps)
    assert (result.rows, result.derived) == (1, {})
    assert run.staging.summary(run.names.rows("relations", 0, 0)) is None


def test_a_relation_that_is_refused_is_a_dead_letter_with_the_record_of_its_device(bench: Any) -> None:
    """Counted, kept with its reason; its neighbours are in the table."""
    records = [device(n) for n in range(4)]
    run, plan = staged(bench, [records])
    run.sink.refuse = lambda body: Answer(400, "bad") if b"device42:2|Runs On" in body else None
    manifest = sent(run, plan, 0)
    ledger = manifest["streams"]["relations"]
    assert (manifest["status"], ledger["accepted"], ledger["dead_lettered"]) == ("complete", 3, 1)
    [letter] = run.table(run.names.dead_letters("relations", 0, 0, 0)).to_pylist()
    assert json.loads(letter["record"]) == records[2]


@pytest.mark.parametrize("streams", [[], ["devices"]], ids=["all", "the parent"])
def test_a_derived_stream_is_loaded_whenever_its_parent_is(bench: Any, streams: list[str]) -> None:
    """So a load of all streams by name moves the watermark too."""
    run = bench("device42", lanes=1)
    plan = run.open(streams=streams)
    assert list(plan.streams) == ["devices", "relations"]
    run.stage("devices", texts([device(1)]))
    run.transform("devices")
    assert sent(run, plan, 0)["status"] == "complete"
    assert run.staging.find_json(watermark_name("device42"))["run_id"] == run.run.run_id


def test_relations_can_be_left_out(bench: Any) -> None:
    """The run is complete and committed without them, nothing is staged of them, and CAASM_Runs_CL says that they are left out and not missing."""
    run = bench("tenable", Inventory(20, 20))
    run.deps = replace(run.deps, without_relations=frozenset({"tenable"}))
    manifest = run.load()
    assert manifest["status"] == "complete", manifest["reasons"]
    assert list(manifest["streams"]) == ["assets", "vulnerabilities"]
    assert (manifest["left_out"], manifest["totals"]["rows"]) == (["relations"], 40)
    assert not [blob.name for blob in run.staging.list(run.names.prefix) if "relations" in blob.name]
    rows = {row["SourceStream"]: row for row in json.loads(run.sink.posted[-1])}
    assert {stream: row["RunStatus"] for stream, row in rows.items()} == {
        "assets": "complete",
        "vulnerabilities": "complete",
        "relations": "left out",
    }
    assert not {"Exported", "Rows", "Accepted"} & rows["relations"].keys()
    mark = run.staging.find_json(watermark_name("tenable"))
    assert (mark["run_id"], list(mark["streams"])) == (run.run.run_id, ["assets", "vulnerabilities"])


def test_a_part_of_the_streams_commits_nothing_though_relations_are_left_out(bench: Any) -> None:
    """What is left out is not what is compared."""
    run = bench("tenable", Inventory(20, 20))
    run.deps = replace(run.deps, without_relations=frozenset({"tenable"}))
    assert run.load(streams=["assets"])["status"] == "complete"
    assert run.staging.find_json(watermark_name("tenable")) is None


def test_relations_of_a_run_that_was_never_committed_are_in_doubt(bench: Any) -> None:
    """It had sent another row of one and a new one: the next delta sends the first again and deletes the second."""
    before = [device(1), device(2)]
    run, plan = staged(bench, [before])
    sent(run, plan, 0)
    lost, _ = staged(bench, [[device(1, name="other"), device(2), device(3)]], day=21, mode="full")
    lost.upload("relations")
    run, plan = staged(bench, [before], day=22, mode="delta")
    assert sent(run, plan, 0)["status"] == "complete"
    assert relations(run.sink.accepted) == {"1|Runs On|Asset|hv-1": False, "3|Runs On|Asset|hv-1": True}
