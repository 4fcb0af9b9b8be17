"""Day after day: full and delta loads of a living inventory, under faults; after every complete run the view is the inventory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from local.products.synthetic import Inventory
from local.relations import Relation, of_inventory

ASSETS, FINDINGS, SEED = 2000, 1500, 3
SHARES = {"created": 0.01, "changed": 0.02, "deleted": 0.01, "touched": 0.3}
TRUTH = Inventory(ASSETS, FINDINGS, seed=SEED, **SHARES)

KINDS = {
    "device42": {"devices": "assets"},
    "cycognito": {
        "domains": "assets_domain",
        "web_apps": "assets_webapp",
        "ip_ranges": "assets_iprange",
        "issues": "findings_issues",
    },
}

FAULTS = {"seed": 21, "rate": 0.08, "kinds": ["429", "503", "drop", "drop-mid-body", "expired-token"]}
SINK_FAULTS = {"seed": 22, "rate": 0.08, "kinds": ["429", "503", "drop-before", "drop-after", "expired-token"]}


@pytest.fixture(scope="module")
def stack(stack_of: Callable[..., Any]) -> Any:
    shares = [word for name, share in SHARES.items() for word in (f"--{name}", str(share))]
    sizes = {"EXPORT_SEGMENT_BYTES": "1048576", "UPLOAD_PACK_BYTES": "2097152", "UPLOAD_BODY_LIMIT_BYTES": "100000"}
    return stack_of("--assets", str(ASSETS), "--findings", str(FINDINGS), "--seed", str(SEED), *shares, **sizes)


@pytest.fixture
def runs(stack: Any) -> Iterator[Any]:
    stack.faults("products", FAULTS)
    stack.faults("sentinel", SINK_FAULTS)
    yield stack
    stack.faults("products", {})
    stack.faults("sentinel", {})


def _on(runs: Any, day: int) -> None:
    code, answer = runs.stack.call("POST", f"{runs.stack.parts['products'].url}/_control/day", {"day": day})
    assert code == 200, answer


def _view(runs: Any, table: str, stream: str) -> dict[str, tuple[Any, ...]]:
    """What the exactly-once view has of a stream, by original id: the newest row of each key, without the gone."""
    key = "AssetId" if table == "CAASM_Assets_CL" else "FindingId"
    rows = runs.query(
        f"{table} | where SourceStream == '{stream}' | summarize arg_max(TimeGenerated, *) by {key} | where EntityIsDeleted != true"
        " | project EntityOriginalId, EntitySnapshotId"
    )
    assert len({row[0] for row in rows}) == len(rows)
    return {str(row[0]): row for row in rows}


def _relations(runs: Any) -> dict[str, Relation]:
    """What `CAASM_Relationships` answers, by original id."""
    rows = runs.query(
        "CAASM_Relationships | where EntityVendor == 'Device42' | project EntityOriginalId, FromId, FromName, DvcIpAddr, RelationshipType, OriginalRelationshipType, ToType, ToId, ToName, Attributes"
    )
    found = {row[0]: Relation(*(text or None for text in row[1:9]), tuple(row[9] or ())) for row in rows}
    assert len(found) == len(rows)
    return found


def _table(kind: str) -> str:
    return "CAASM_Findings_CL" if kind.startswith("findings") else "CAASM_Assets_CL"


def test_the_view_of_a_counted_source_is_the_inventory_after_every_run(runs: Any) -> None:
    """Device42 names a total: full, then deltas over several days, deletions and re-creations included, under faults."""
    deleted = 0
    for day, mode in ((0, "full"), (1, "delta"), (2, "delta"), (5, "delta"), (6, "full"), (9, "delta")):
        _on(runs, day)
        outcome = runs.load("device42", mode)
        assert (outcome.status, outcome.mode) == ("complete", mode), outcome.reasons
        assert set(_view(runs, "CAASM_Assets_CL", "devices")) == set(TRUTH.on(day).ids("device42", "assets")), (
            f"day {day}"
        )
        assert _relations(runs) == of_inventory(TRUTH.on(day)), f"day {day}"
        ledger = outcome.streams["relations"]
        assert (ledger["exported"], ledger["rejected"]) == (outcome.streams["devices"]["exported"], 0)
        assert 0 < ledger["filtered"] < ledger["exported"]
        deleted += ledger["deleted"]
    assert deleted, "no relation was deleted: the test would show less"


def test_a_delta_sends_exactly_what_has_changed(runs: Any) -> None:
    """Created and changed rows and tombstones, to the row; what was only touched is not sent, and the note says what was saved."""
    _on(runs, 20)
    assert runs.load("device42", "full").status == "complete"
    _on(runs, 21)
    changes = TRUTH.changes(20, 21, "device42", "assets")
    ledger = (outcome := runs.load("device42", "delta")).streams["devices"]
    assert ledger["accepted"] == len(changes.created) + len(changes.changed)
    assert (ledger["created"], ledger["updated"], ledger["deleted"]) == tuple(
        len(part) for part in (changes.created, changes.changed, changes.deleted)
    )
    assert ledger["unchanged"] == ledger["rows"] - ledger["accepted"]
    assert changes.touched, "nothing was only touched: the test would show nothing"
    assert any("that saved about" in note for note in outcome.manifest["notes"])


def test_page_numbers_delete_what_two_complete_runs_did_not_have(runs: Any) -> None:
    """Without a total one absence proves nothing: the note says so, and the next run without it deletes."""
    _on(runs, 30)
    assert runs.load("cycognito", "full").status == "complete"
    _on(runs, 31)
    gone = TRUTH.changes(30, 31, "cycognito", "assets_domain").deleted
    outcome = runs.load("cycognito", "delta")
    assert gone
    assert outcome.streams["domains"]["deleted"] == 0
    assert any("domains" in note and "did not come" in note for note in outcome.manifest["notes"])
    outcome = runs.load("cycognito", "delta")
    assert outcome.status == "complete"
    assert outcome.streams["domains"]["deleted"] == len(gone)
    for stream, kind in KINDS["cycognito"].items():
        assert set(_view(runs, _table(kind), stream)) == set(TRUTH.on(31).ids("cycognito", kind)), stream


def test_tenable_deltas_export_only_what_has_changed(runs: Any) -> None:
    """The product's own filter: far fewer records than the inventory, and after a full load the view is the inventory."""
    _on(runs, 40)
    assert runs.load("tenable", "full").status == "complete"
    before = set(_view(runs, "CAASM_Assets_CL", "assets"))
    assert before == set(TRUTH.on(40).ids("tenable_io", "assets"))
    _on(runs, 41)
    outcome = runs.load("tenable", "delta")
    assert outcome.status == "complete"
    assert outcome.streams["assets"]["exported"] < ASSETS
    outcome = runs.load("tenable", "full")
    assert (outcome.status, outcome.reasons) == ("complete", [])
    assert set(_view(runs, "CAASM_Assets_CL", "assets")) == set(TRUTH.on(41).ids("tenable_io", "assets"))
    assert set(_view(runs, "CAASM_Findings_CL", "vulnerabilities")) == {
        _lowered(name) for name in TRUTH.on(41).ids("tenable_io", "findings_vulns")
    }


def _lowered(finding: str) -> str:
    head, _, protocol = finding.rpartition("/")
    return f"{head}/{protocol.lower()}"


def _deleting(runs: Any, source: str, mode: str) -> Any:
    """A load that may delete as much as it wants; its output."""
    code, started = runs.api("POST", "/api/loads", {"source": source, "mode": mode, "allow_deletes": True})
    assert code == 202
    status = started["statusQueryGetUri"].removeprefix(runs.stack.parts["app"].url)
    while (state := runs.api("GET", status))[0] == 202:
        time.sleep(0.05)  # the pause between two polls
    return state[1]["output"]


def test_a_guard_refuses_to_delete_more_than_its_share(runs: Any) -> None:
    """A tenth at most: the run says so and deletes nothing, until it is told that it may."""
    _on(runs, 50)
    assert _deleting(runs, "device42", "full")["status"] == "complete"
    _on(runs, 80)
    outcome = runs.load("device42", "delta")
    gone = len(TRUTH.changes(50, 80, "device42", "assets").deleted)
    assert outcome.streams["devices"]["deleted"] == 0
    assert any(f"refused to delete {gone} of" in note for note in outcome.manifest["notes"]), outcome.manifest["notes"]
    assert _deleting(runs, "device42", "delta")["streams"]["devices"]["deleted"] == gone
    assert set(_view(runs, "CAASM_Assets_CL", "devices")) == set(TRUTH.on(80).ids("device42", "assets"))


def test_every_run_is_in_the_runs_table(runs: Any) -> None:
    """One row per stream and run, with the ledger; also of a run that failed."""
    _on(runs, 0)
    runs.faults("products", {"unauthorized": True})
    outcome = runs.load("cycognito", "full")
    assert outcome.status == "failed"
    run_id = outcome.manifest["run_id"]
    rows = runs.query(f"CAASM_Runs_CL | where RunId == '{run_id}' | project RunStatus, tostring(Reasons)")
    assert len(rows) >= 4
    assert all(status == "failed" and "401" in reasons for status, reasons in rows)
