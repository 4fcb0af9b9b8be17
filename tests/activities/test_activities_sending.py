"""What a comparison lets through: uploads by verdicts, tombstones and their dead letters, the index's guards, and who may commit."""

from __future__ import annotations

import json
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from contracts import TOMBSTONE_LANE, Stop, TryAgain
from local.products.synthetic import Inventory
from sentinel.ingestion import Answer
from staging import Names, watermark_name

BEFORE = Inventory(assets=40, findings=0, big_output_share=0.0)
AFTER = Inventory(assets=30, findings=0, big_output_share=0.0)


def ids(bodies: list[bytes]) -> list[str]:
    """The assets of what was accepted, without the ledger's rows."""
    return [row["AssetId"] for body in bodies for row in json.loads(body) if "AssetId" in row]


def watermark(run: Any) -> Any:
    return run.staging.find_json(watermark_name(run.run.source))


def later(bench: Any, inventory: Inventory = AFTER, day: int = 21, **more: Any) -> Any:
    """A run some days after the first."""
    return bench("device42", inventory, started_at=f"2026-11-{day}T10:00:00.000000+00:00", **more)


@pytest.fixture
def judged(bench: Any) -> Any:
    """A delta behind a full load of 40 devices, of which 10 are gone; compared, nothing sent yet; and its plan."""
    bench("device42", BEFORE).load()
    run = later(bench, body_limit_bytes=4_096)
    plan = run.open("delta")
    run.lane("devices", 0, plan.lanes[0]["cursor"])
    run.compare(plan, parts=3)
    return run


def test_a_delta_of_the_same_rows_sends_none_and_counts_them(judged: Any) -> None:
    """All 30 are unchanged; a second call says the same; tombstones of three parts are one pack."""
    result = judged.upload("devices", verdicts=True)
    assert (result.rows, result.accepted, result.unchanged, result.requests) == (30, 0, 30, 0)
    assert judged.upload("devices", verdicts=True) == result
    judged.upload("relations", verdicts=True)
    judged.bury()
    assert len(ids(judged.sink.accepted)) == 10
    assert set(Counter(ids(judged.sink.accepted)).values()) == {1}
    manifest = judged.close()
    assert manifest["status"] == "complete", manifest["reasons"]
    devices = manifest["streams"]["devices"]
    assert (devices["deleted"], devices["unchanged"]) == (10, 30)


def test_verdicts_pick_rows_not_segments(bench: Any) -> None:
    """Two of three segments have changed rows; these are sent, with the records that they came from."""
    records = [json.dumps({"device_id": n, "name": f"host-{n}"}).encode() for n in range(12)]
    first = bench("device42", lanes=1)
    plan = first.open()
    for segment in range(3):
        first.stage("devices", records[4 * segment : 4 * segment + 4], segment, exhausted=segment == 2)
        first.transform("devices", segment)
    first.compare(plan)
    first.upload("devices", 0, 2)
    assert first.close()["status"] == "complete"
    run = bench("device42", started_at="2026-11-21T10:00:00.000000+00:00", lanes=1)
    plan = run.open("delta")
    for changed in (1, 3, 10):
        records[changed] = json.dumps({"device_id": changed, "name": f"renamed-{changed}"}).encode()
    for segment in range(3):
        run.stage("devices", records[4 * segment : 4 * segment + 4], segment, exhausted=segment == 2)
        run.transform("devices", segment)
    run.compare(plan, parts=4)
    run.sink.refuse = lambda body: Answer(400, "no") if b"renamed-10" in body else None
    result = run.upload("devices", 0, 2, verdicts=True)
    assert (result.rows, result.accepted, result.dead_lettered, result.unchanged) == (12, 2, 1, 9)
    assert ids(run.sink.accepted) == ["device42:1", "device42:3"]
    [letter] = run.table(run.names.dead_letters("devices", 0, 0, 2)).to_pylist()
    assert (letter["segment"], letter["record"]) == (2, records[10])


def test_a_tombstone_that_is_refused_is_a_dead_letter_and_adds_up(judged: Any) -> None:
    """Nine are deleted, one is set aside with its reason and no record; the ledger adds up, the run is complete."""
    judged.upload("devices", verdicts=True)
    judged.upload("relations", verdicts=True)
    gone = judged.rows("devices", 0, TOMBSTONE_LANE)["AssetId"][0]
    judged.sink.refuse = lambda body: Answer(400, "bad row") if gone in ids([body]) else None
    judged.bury()
    manifest = judged.close()
    ledger = manifest["streams"]["devices"]
    assert manifest["status"] == "complete", manifest["reasons"]
    assert (ledger["tombstones"], ledger["deleted"], ledger["tombstones_refused"], ledger["dead_lettered"]) == (
        10,
        9,
        1,
        1,
    )
    assert ledger["rows"] == ledger["accepted"] + ledger["dead_lettered"] + ledger["unchanged"]
    [letter] = judged.table(judged.names.dead_letters("devices", TOMBSTONE_LANE, 0, 2)).to_pylist()
    assert (json.loads(letter["row"])["AssetId"], letter["record"], letter["status"]) == (gone, b"", 400)


def test_tombstones_that_were_not_sent_leave_the_run_incomplete(judged: Any) -> None:
    """The comparison decided on ten: a run that forgot them does not commit."""
    before = watermark(judged)
    judged.upload("devices", verdicts=True)
    manifest = judged.close()
    assert manifest["status"] == "incomplete"
    assert "devices: 10 tombstones, 0 accepted or dead-lettered" in manifest["reasons"]
    assert watermark(judged) == before


def test_what_a_guard_kept_is_known_to_the_next_run(bench: Any, judged: Any) -> None:
    """Refused deletions stay in the index, and are gone again for the next run, which may bury them."""
    judged.diffs["devices"]["gone_rule"] = "kept"
    judged.diffs["relations"]["gone_rule"] = "kept"
    judged.upload("devices", verdicts=True)
    judged.upload("relations", verdicts=True)
    assert judged.close()["status"] == "complete"
    assert watermark(judged)["streams"]["devices"]["keys"] == 40
    run = later(bench, day=22)
    assert run.load("delta")["streams"]["devices"]["deleted"] == 10
    assert watermark(run)["streams"]["devices"]["keys"] == 30


@pytest.mark.parametrize("rule", ["kept", "suspects"])
def test_an_index_that_lost_a_blob_stops_with_a_way_out(bench: Any, rule: str, container: Any) -> None:
    """Whether the keys or those that were kept: what is not there is never taken for nothing."""
    bench("device42", BEFORE).load()
    second = later(bench)
    second.load("delta", rule=rule)
    names = Names("device42", second.run.run_id)
    for name in (names.gone("devices", 0), names.index("devices", 0)):
        container.delete_blob(name)
        run = later(bench, day=22)
        with pytest.raises(Stop, match=r"is gone, a part of the last complete run's index: .*delete .*watermark"):
            run.load("delta")


def test_of_two_runs_that_compared_with_the_same_base_one_commits(bench: Any) -> None:
    """The other is incomplete, says why, and leaves the winner's watermark."""
    bench("device42", BEFORE).load()
    runs = [later(bench, day=day) for day in (21, 22)]
    for run in runs:
        plan = run.open("delta")
        run.ship(plan)
    manifests: dict[str, Any] = {}
    both = threading.Barrier(2)

    def close(run: Any) -> None:
        both.wait(10)
        for _ in range(5):
            with suppress(TryAgain):
                manifests[run.run.run_id] = run.close()
                return

    closers = [threading.Thread(target=close, args=(run,)) for run in runs]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join(30)
    by_status = {manifest["status"]: run_id for run_id, manifest in manifests.items()}
    assert sorted(by_status) == ["complete", "incomplete"]
    assert watermark(runs[0])["run_id"] == by_status["complete"]
    assert "another load of this source was committed meanwhile" in manifests[by_status["incomplete"]]["reasons"][0]


def test_two_closers_of_one_run_give_one_commit_and_the_same_manifest(bench: Any) -> None:
    """At-least-once delivery of the last step: both end complete, or one waits and then does."""
    run = later(bench, BEFORE)
    run.ship(run.open())
    both = threading.Barrier(2)
    manifests: list[Any] = []

    def close() -> None:
        both.wait(10)
        for _ in range(5):
            with suppress(TryAgain):
                manifests.append(run.close())
                return

    closers = [threading.Thread(target=close) for _ in range(2)]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join(30)
    assert [manifest["status"] for manifest in manifests] == ["complete", "complete"]
    assert manifests[0]["totals"] == manifests[1]["totals"]
    assert watermark(run)["run_id"] == run.run.run_id


def test_a_watermark_that_the_same_run_moved_already_is_no_race(bench: Any) -> None:
    """The commit was written and its answer lost: closing again sees its own run, and is complete."""
    run = later(bench, BEFORE)
    run.ship(run.open())
    real = run.staging

    class Lost:
        """Staging whose conditional write succeeds and is not answered."""

        def __getattr__(self, verb: str) -> Any:
            return getattr(real, verb)

        def swap_json(self, at: str, change: Any) -> Any:
            real.swap_json(at, change)
            raise TryAgain("no answer")

    alive = run.deps
    run.deps = replace(alive, staging=Lost())
    with pytest.raises(TryAgain, match="no answer"):
        run.close()
    run.deps = alive
    assert run.close()["status"] == "complete"
