"""Closing a run: the ledger from the blobs, what makes a run incomplete, orphans, the manifest, the watermark."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

import activities.orphans
from activities.orphans import count_orphans
from contracts import TryAgain
from local.products.faults import BrokenPage, Faults
from local.products.synthetic import Inventory, SyntheticStream
from local.relations import of_inventory
from sentinel.ingestion import Answer
from staging import unsettled_name, watermark_name
from transforms.identity import keys

INVENTORY = Inventory(assets=40, findings=60, big_output_share=0.0, tenable_orphan_share=0.2)
STREAMS = INVENTORY.streams()


def made_by(product: str, kind: str) -> SyntheticStream:
    """A stream of the inventory."""
    return STREAMS[product, kind]


def watermark(run: Any) -> Any:
    return run.staging.find_json(watermark_name(run.run.source))


def test_a_complete_run_adds_up_and_moves_the_watermark(bench: Any, ingestion: Any, emulator: Any) -> None:
    """From source to workspace: the manifest's figures are those of the inventory and of the tables."""
    run = bench("tenable", INVENTORY, sink=ingestion)
    manifest = run.load()
    assert manifest["status"] == "complete", manifest["reasons"]
    totals = manifest["totals"]
    assert totals["exported"] == totals["staged"] == totals["flattened"] == 100
    related = len(of_inventory(INVENTORY, "tenable"))
    assert totals["rows"] == totals["accepted"] == 100 + related > 100
    assert totals["rejected"] == totals["dead_lettered"] == totals["possibly_repeated"] == 0
    for table, count in (("CAASM_Assets_CL", 40), ("CAASM_Findings_CL", 60), ("CAASM_Relationships_CL", related)):
        query = f"{table} | where EntitySnapshotId == '{run.run.run_id}' | count"
        assert emulator.kql(query).json()["tables"][0]["rows"] == [[count]]
    assert run.staging.find_json(run.names.manifest) == manifest
    assert run.staging.summary(run.names.manifest)["totals"] == totals
    streams = {
        "assets": {"parts": 1, "gone_rule": "dropped", "key_hash": "xxh3", "keys": 40},
        "relations": {"parts": 1, "gone_rule": "dropped", "key_hash": "xxh3", "keys": related},
        "vulnerabilities": {"parts": 1, "gone_rule": "dropped", "key_hash": "xxh3", "keys": 60},
    }
    mark = {"v": 1, "run_id": run.run.run_id, "up_to": run.run.started_at, "mode": "full", "streams": streams}
    assert watermark(run) == mark
    *of_tables, of_runs = run.sink.posted
    assert manifest["requests"] == len(of_tables)
    assert manifest["bytes_sent"] == sum(map(len, of_tables))
    assert [row["SourceStream"] for row in json.loads(of_runs)] == ["assets", "vulnerabilities", "relations"]


def test_an_index_that_an_older_version_wrote_is_committed_as_such(bench: Any) -> None:
    """The watermark says by which hash its keys were cut into parts; of those that do not say it, none is claimed."""
    run = bench("device42", INVENTORY)
    plan = run.open("full")
    run.ship(plan)
    name = run.names.index("devices", 0)
    content, summary = run.staging.read(name), run.staging.summary(name)
    del summary["key_hash"]
    run.staging.delete(name)
    run.staging.create(name, content, summary)
    run.close(expected=plan.expected)
    assert {stream: of["key_hash"] for stream, of in watermark(run)["streams"].items()} == {
        "devices": None,
        "relations": "xxh3",
    }


def test_closing_twice_gives_the_same(bench: Any) -> None:
    """The manifest is computed from the same blobs, the watermark is moved once."""
    run = bench("device42", INVENTORY)
    first = run.load()
    assert run.close() == {**first, "notes": []}
    assert watermark(run)["run_id"] == run.run.run_id


def test_rejects_and_dead_letters_add_up_too(bench: Any) -> None:
    """A record that is no row and a row that is refused are in the ledger with their reasons; the run is complete."""
    run = bench("device42", INVENTORY)
    run.open()
    made = made_by("device42", "assets")
    run.stage("devices", [*(made.record(i) for i in range(10)), b'{"name":"no id"}', b"[1]"])
    run.transform("devices")
    bad = run.rows("devices")["AssetId"][3]
    run.sink.refuse = lambda body: Answer(400, "bad") if bad.encode() in body else None
    run.upload("devices")
    run.upload("relations")
    manifest = run.close()
    ledger = manifest["streams"]["devices"]
    assert (ledger["exported"], ledger["flattened"], ledger["rejected"]) == (12, 10, 2)
    assert (ledger["rows"], ledger["accepted"], ledger["dead_lettered"]) == (10, 9, 1)
    assert manifest["status"] == "complete", manifest["reasons"]
    assert ledger["reasons"] == {
        "no identifier: the record cannot be told apart": 1,
        "not a JSON object but an array": 1,
        "400 from the DCR: bad": 1,
    }


def test_what_is_missing_is_named_step_by_step(bench: Any) -> None:
    """Exported but not transformed, transformed but not uploaded, a lane that has not ended: each has its words, none moves the watermark."""
    run = bench("cycognito", INVENTORY)
    run.open(streams=["domains", "issues"])
    made = made_by("cycognito", "findings_issues")
    run.stage("issues", [made.record(i) for i in range(10)], exhausted=False)
    assert run.close()["reasons"] == [
        "domains: 1 of 1 lanes did not reach the end of their data",
        "issues: 10 records exported, 0 read back from staging",
        "issues: 1 of 1 lanes did not reach the end of their data",
    ]
    run.transform("issues")
    manifest = run.close()
    assert "issues: 10 rows, 0 accepted, dead-lettered or unchanged" in manifest["reasons"]
    assert manifest["status"] == "incomplete"
    run.upload("issues")
    counts = {"issues": {"exported": 11, "rows": 10, "accepted": 10}}
    manifest = run.close(counts)
    assert manifest["reasons"] == [
        "domains: 1 of 1 lanes did not reach the end of their data",
        "issues: 1 of 1 lanes did not reach the end of their data",
        "issues: the lanes counted 11 exported, the blobs say 10",
    ]
    assert watermark(run) is None


def test_a_page_that_was_not_read_makes_the_run_incomplete(bench: Any) -> None:
    """Everything else adds up, and still nobody knows what it held."""
    run = bench("cycognito", INVENTORY)
    run.simulator.page_cap = 20
    run.simulator.set_faults(Faults(break_page=[BrokenPage("/v1/issues", 1, "null")]))
    manifest = run.load()
    assert manifest["status"] == "incomplete"
    assert manifest["reasons"] == ["issues: 1 pages could not be read; what they held is not known"]
    assert any(reason.startswith("page 1: ") for reason in manifest["streams"]["issues"]["reasons"])
    assert watermark(run) is None


def test_an_export_job_that_failed_makes_the_run_incomplete(bench: Any) -> None:
    """The lane ended before its data did."""
    run = bench("tenable", INVENTORY)
    run.simulator.set_faults(Faults(status_error="tenable vulns"))
    manifest = run.load()
    assert manifest["reasons"] == ["vulnerabilities: 1 of 1 lanes did not reach the end of their data"]
    assert any("ended as ERROR" in reason for reason in manifest["streams"]["vulnerabilities"]["reasons"])


def test_what_the_orchestrators_saw_counts(bench: Any) -> None:
    """Their reasons make a run incomplete, their giving up makes it failed, and both have a manifest."""
    run = bench("device42", INVENTORY)
    run.load()
    other = bench("device42", INVENTORY, started_at="2026-11-21T10:00:00.000000+00:00")
    other.load()
    assert watermark(run)["run_id"] == other.run.run_id
    manifest = run.close(reasons=["cancelled by a user"], cancelled=True)
    assert (manifest["status"], manifest["cancelled"]) == ("incomplete", True)
    assert run.close(failed=True)["status"] == "failed"
    unopened = bench("device42")
    manifest = unopened.close(failed=True, reasons=["device42 is not configured"])
    assert (manifest["status"], manifest["reasons"]) == ("failed", ["device42 is not configured"])
    assert unopened.staging.find_json(unopened.names.manifest) == manifest
    assert watermark(run)["run_id"] == other.run.run_id


def test_totals_that_differ_and_move_are_noted(bench: Any) -> None:
    """A total that the source named wrongly makes no run incomplete: it is a note."""
    run = bench("device42", INVENTORY)
    run.load()
    notes = run.close(expected={"devices": 41}, totals={"devices": 43})["notes"]
    assert notes == [
        "devices: the source named a total of 41, it gave 40 records",
        "devices: the source named a total of 43, it gave 40 records",
        "devices: the source's total moved from 41 to 43 while it was read",
    ]


def unsettled(run: Any) -> dict[str, int]:
    """The runs that may have sent what no index knows: {run id: commits since}."""
    found: dict[str, int] = run.staging.find_json(unsettled_name(run.run.source))["runs"]
    return found


def test_a_run_that_moved_no_watermark_stays_in_doubt(bench: Any) -> None:
    """Its clock stood before the last one's: no index knows what it sent, nor what those before it had sent."""
    late = bench("device42", INVENTORY, started_at="2026-11-20T12:00:00.000000+00:00")
    broken, early, later = (
        bench("device42", INVENTORY, started_at=f"2026-11-20T{hour}:00:00.000000+00:00") for hour in (10, 11, 13)
    )
    late.load()
    broken.open()
    broken.close(failed=True)
    assert early.load()["status"] == "complete"
    assert list(unsettled(early)) == [broken.run.run_id, early.run.run_id]
    later.load()
    assert unsettled(later) == {}


@pytest.mark.parametrize("commits", [0, 1])
def test_a_run_that_ended_after_the_next_was_opened_is_considered_once_more(commits: int, bench: Any) -> None:
    """What it sent after that one had looked at its keys nobody would know, however many were committed meanwhile; one that had ended before is done with."""
    before, meanwhile, run, later = (
        bench("device42", INVENTORY, started_at=f"2026-11-20T1{hour}:00:00.000000+00:00") for hour in range(4)
    )
    before.open()
    before.close(failed=True)
    meanwhile.open()
    plan = run.open()
    runs = unsettled(run) | {meanwhile.run.run_id: commits}
    run.staging.put_json(unsettled_name("device42"), {"runs": runs}, {})
    run.ship(plan)
    meanwhile.close(failed=True)
    assert run.close()["status"] == "complete"
    assert unsettled(run) == {meanwhile.run.run_id: commits + 1}
    assert later.open().unsettled == [meanwhile.run.run_id]


def test_a_run_that_never_ends_is_considered_twice_however_often_a_close_is_repeated(bench: Any) -> None:
    """A second copy of a close counts no second commit."""
    killed, first, second = (
        bench("device42", INVENTORY, started_at=f"2026-11-20T1{hour}:00:00.000000+00:00") for hour in range(3)
    )
    killed.open()
    first.load()
    first.close()
    assert unsettled(first) == {killed.run.run_id: 1}
    second.load()
    assert unsettled(second) == {}
    assert second.staging.find_json(second.names.plan)["unsettled"] == [killed.run.run_id]


def test_the_watermark_only_goes_forward(bench: Any) -> None:
    """A run that began earlier and is closed later leaves it; the same run may close again."""
    late = bench("device42", INVENTORY, started_at="2026-11-20T12:00:00.000000+00:00")
    early = bench("device42", INVENTORY, started_at="2026-11-20T11:59:59.999999+00:00")
    assert late.load()["status"] == "complete"
    assert early.load()["status"] == "complete"
    assert watermark(late)["run_id"] == late.run.run_id
    later = bench("device42", INVENTORY, started_at="2026-11-20T12:00:00.000001+00:00")
    later.load()
    assert watermark(late)["run_id"] == later.run.run_id


def test_a_run_of_some_streams_moves_no_watermark(bench: Any) -> None:
    """It says nothing about the others."""
    run = bench("cycognito", INVENTORY)
    assert run.load(streams=["domains", "issues"])["status"] == "complete"
    assert watermark(run) is None


def test_a_watermark_that_somebody_replaced_meanwhile_is_looked_at_again(bench: Any) -> None:
    """The conditional write is refused; the next call sees that the race is lost, and leaves the winner's."""
    run = bench("device42", INVENTORY)
    run.load()
    other = bench("device42", INVENTORY, started_at="2026-11-21T10:00:00.000000+00:00")
    name = watermark_name("device42")
    real = other.staging

    class Raced:
        """Staging in which another run is faster by one write."""

        def __getattr__(self, verb: str) -> Any:
            return getattr(real, verb)

        def swap_json(self, at: str, change: Any) -> Any:
            if at != name:
                return real.swap_json(at, change)

            def slow(current: Any) -> Any:
                wanted = change(current)
                real.put_json(at, {**current, "run_id": "faster"}, {})
                return wanted

            return real.swap_json(at, slow)

    alive = other.deps
    other.deps = replace(alive, staging=Raced())
    with pytest.raises(TryAgain, match="replaced by another run"):
        other.load()
    assert real.find_json(name)["run_id"] == "faster"
    other.deps = alive
    manifest = other.close()
    assert manifest["status"] == "incomplete"
    assert "another load of this source was committed meanwhile" in manifest["reasons"][0]
    assert real.find_json(other.names.manifest) == manifest
    assert real.find_json(name)["run_id"] == "faster"


def orphans_by_hand(run: Any, asset_streams: list[str], finding_stream: str) -> int:
    known = {name for stream in asset_streams for name in run.rows(stream)["AssetId"]}
    return sum(name not in known for name in run.rows(finding_stream)["AssetId"].drop_nulls())


@pytest.mark.parametrize("per_pass", [4_000_000, 40, 7])
@pytest.mark.parametrize(
    ("source", "assets", "findings"),
    [("cycognito", ["domains", "web_apps", "ip_ranges"], "issues"), ("tenable", ["assets"], "vulnerabilities")],
)
def test_orphans_are_counted_exactly_in_any_number_of_passes(
    source: str, assets: list[str], findings: str, per_pass: int, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a set of Python would; they are sent, noted, and make no run incomplete."""
    monkeypatch.setattr(activities.orphans, "ASSETS_PER_PASS", per_pass)
    run = bench(source, INVENTORY)
    manifest = run.load()
    expected = orphans_by_hand(run, assets, findings)
    assert expected > 0
    assert manifest["streams"][findings]["orphans"] == expected
    assert manifest["status"] == "complete"
    assert manifest["totals"]["accepted"] == manifest["totals"]["rows"]
    assert (
        f"{findings}: {expected} findings are on assets that the export does not have; they were sent"
        in (manifest["notes"])
    )


def test_orphans_are_not_guessed_without_the_assets(bench: Any) -> None:
    """Findings alone, or a delta: no asset is missing that was not asked for."""
    run = bench("cycognito", INVENTORY)
    assert run.load(streams=["issues"])["streams"]["issues"]["orphans"] == 0
    assert count_orphans(run.staging, [], [], 0) == 0


def test_orphans_that_cannot_be_counted_are_said_to_be(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys segments that an older version staged do not say which asset a finding is about: the ledger does not call that none."""
    run = bench("tenable", INVENTORY)
    monkeypatch.setattr("activities.rows.keys", lambda key, said, about: keys(key, said))
    manifest = run.load()
    assert manifest["streams"]["vulnerabilities"]["orphans"] == 0
    assert [note for note in manifest["notes"] if "were not counted" in note and note.startswith("vulnerabilities: ")]


def test_a_delta_sends_what_has_changed_and_moves_the_watermark(bench: Any) -> None:
    """The run after a complete one asks with the product's own filter."""
    bench("tenable", INVENTORY, started_at="2026-11-20T10:00:00.000000+00:00").load()
    run = bench("tenable", INVENTORY, started_at="2026-11-21T10:00:00.000000+00:00")
    manifest = run.load("delta")
    assert (manifest["mode"], manifest["status"]) == ("delta", "complete")
    assert manifest["since"] == "2026-11-20T09:00:00+00:00"
    assert manifest["totals"]["exported"] < 100
    assert watermark(run)["up_to"] == run.run.started_at


def test_a_manifest_of_many_troubles_stays_small(bench: Any) -> None:
    """Reasons are cut to fifty, and those of a stream to twenty."""
    run = bench("device42", INVENTORY)
    run.load()
    manifest = run.close(reasons=[f"trouble {n}" for n in range(500)])
    assert len(manifest["reasons"]) == 50
    assert len(json.dumps(manifest)) < 20_000
